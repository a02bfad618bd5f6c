"""What failed as a whole is tried by halves, until the culprit is alone."""

from collections import OrderedDict
from collections.abc import Sequence

from keeper.facts import AccountId, VenueId

ACCOUNTS_MAX = 10_000  # remembered; the one that failed longest ago makes room


class Halves:
    """How many accounts one may go together with, since what it was in has failed."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self._most: OrderedDict[tuple[VenueId, AccountId], int] = OrderedDict()

    def most(self, venue: VenueId, account: AccountId, otherwise: int) -> int:
        """Return in how large a company the account may be tried."""
        return min(otherwise, self._most.get((venue, account), otherwise))

    def failed(self, venue: VenueId, accounts: Sequence[AccountId]) -> None:
        """All of these were in one transaction, and none of it was done."""
        for account in accounts:
            self._most[venue, account] = max(1, len(accounts) // 2)
            self._most.move_to_end((venue, account))
        while len(self._most) > ACCOUNTS_MAX:
            self._most.popitem(last=False)

    def forget(self, venue: VenueId, account: AccountId) -> None:
        """The account is dealt with, whatever became of it."""
        self._most.pop((venue, account), None)
