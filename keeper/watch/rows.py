"""A venue's accounts as rows of its two books, compiled one at a time or many at once."""

from collections.abc import Callable, Sequence

from keeper.facts import AccountId, AccountState, MarketState
from keeper.margin import MarginBook, Row
from keeper.ports import AnyVenue
from keeper.quarantine import Guard

Compiled = tuple[AccountId, Row | None]


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
        lead: list[Compiled] = []
        chain: list[Compiled] = []
        at_lead, at_chain = self.lead.values, self.chain.values
        for state in states:
            self._is_new(state.account)
            with self._guard(state.account):
                row = self._venue.compile(state, market, at_lead)
                shared = row is None or row.holds_at(at_chain)
                other = row if shared else self._venue.compile(state, market, at_chain)
                lead.append((state.account, row))
                chain.append((state.account, other))
        try:
            _put_many(self.lead, lead)
            _put_many(self.chain, chain)
        except KeyError:  # a row on a factor that the venue has not listed: whose?
            pairs = zip(lead, chain, strict=True)
            return [own[0] for own, other in pairs if self._put_pair(own, other)]
        return [account for account, _ in lead]

    def _is_new(self, account: AccountId) -> None:
        self.expired.discard(account)
        self.outdated.pop(account, None)

    def _put_pair(self, lead: Compiled, chain: Compiled) -> bool:
        with self._guard(lead[0]):
            _put(self.lead, *lead)
            _put(self.chain, *chain)
            return True
        return False


def _put(book: MarginBook[AccountId], account: AccountId, row: Row | None) -> None:
    """Put a row; an account without one leaves the book."""
    if row is not None:
        book.put(account, row)
    elif account in book:
        book.drop(account)


def _put_many(book: MarginBook[AccountId], rows: Sequence[Compiled]) -> None:
    book.put_many({account: row for account, row in rows if row is not None})
    for account, row in rows:
        if row is None and account in book:
            book.drop(account)
