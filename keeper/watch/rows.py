"""A venue's accounts as rows of its two books, compiled one at a time or many at once."""

from collections.abc import Callable, Mapping, Sequence

from keeper.facts import AccountId, AccountState, MarketState
from keeper.margin import MarginBook, Row
from keeper.ports import AnyVenue
from keeper.quarantine import Guard

Compiled = dict[AccountId, Row | None]


class Rows:
    """Both books, and which of their rows have to be compiled again."""

    def __init__(self, venue: AnyVenue, guard: Callable[[AccountId], Guard]) -> None:
        """Start empty; ``guard`` sets an account aside with which there is a bug."""
        self.lead: MarginBook[AccountId] = MarginBook([])
        self.chain: MarginBook[AccountId] = MarginBook([])
        self.expired: set[AccountId] = set()  # a price has left their envelope
        self.outdated: dict[AccountId, None] = {}  # compiled with other parameters, oldest first
        self._venue = venue
        self._guard = guard

    def put(self, state: AccountState, market: MarketState) -> None:
        """Have rows that are exact at the present prices of each book."""
        account = state.account
        self._is_new(account)
        for book in (self.lead, self.chain):
            _put(book, account, self._venue.compile(state, market, book.values))

    def put_all(self, states: Sequence[AccountState], market: MarketState) -> list[AccountId]:
        """Have rows of all these, and return the accounts that no bug has set aside.

        Several times as fast as one at a time. A row is exact where it was compiled, and holds
        inside its envelope: one does for both books if the prices of both are inside.
        """
        for state in states:
            self._is_new(state.account)
        lead = self._compiled(states, market, self.lead.values)
        values = self.chain.values
        apart = [
            state
            for state in states
            if (row := lead.get(state.account)) is not None and not row.holds_at(values)
        ]
        others = self._compiled(apart, market, values)
        failed = {state.account for state in apart}.difference(others)
        lead = {account: row for account, row in lead.items() if account not in failed}
        chain = lead | others
        try:
            _put_many(self.lead, lead)
            _put_many(self.chain, chain)
        except KeyError:  # a row on a factor that the venue has not listed: whose?
            return [account for account in lead if self._put_alone(account, lead, chain)]
        return list(lead)

    def _is_new(self, account: AccountId) -> None:
        self.expired.discard(account)
        self.outdated.pop(account, None)

    def _compiled(
        self, states: Sequence[AccountState], market: MarketState, values: Mapping[str, float]
    ) -> Compiled:
        """Compile accounts at these values, without those that a bug sets aside."""
        rows: Compiled = {}
        for state in states:
            with self._guard(state.account):
                rows[state.account] = self._venue.compile(state, market, values)
        return rows

    def _put_alone(self, account: AccountId, lead: Compiled, chain: Compiled) -> bool:
        with self._guard(account):
            _put(self.lead, account, lead[account])
            _put(self.chain, account, chain[account])
            return True
        return False


def _put(book: MarginBook[AccountId], account: AccountId, row: Row | None) -> None:
    """Put a row; an account without one leaves the book."""
    if row is not None:
        book.put(account, row)
    elif account in book:
        book.drop(account)


def _put_many(book: MarginBook[AccountId], rows: Compiled) -> None:
    book.put_many({account: row for account, row in rows.items() if row is not None})
    for account, row in rows.items():
        if row is None and account in book:
            book.drop(account)
