"""Which candidate first."""

import heapq
from collections.abc import Hashable
from enum import StrEnum
from typing import Any, Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
SPARE = 16  # entries that are out of date, kept before they are swept out


class Objective(StrEnum):
    """What a venue's liquidations are for."""

    PROFIT = "profit"  # highest expected value first; a loss is never taken
    SOLVENCY = "solvency"  # a venue's own keeper: most bad debt at risk first, within a budget


def priority(
    objective: Objective, *, reward_wad: int, shortfall_wad: int, bad_debt_wad: int
) -> tuple[int, int]:
    """Return a sort key, lower first.

    Before simulation only the venue's own numbers are known, USD wads: the reward it would pay, how
    far equity lies below the requirement, and how far the account is under water already. Gas and
    oracle fee are near equal for all. For solvency, bad debt that is there comes first, then the
    account that is nearest to it.
    """
    if objective is Objective.SOLVENCY:
        return (-bad_debt_wad, -shortfall_wad)
    return (-reward_wad, -shortfall_wad)


class Ranking(Generic[KeyT]):
    """Keys in the order of their ranks, lowest first, each once: of equals the first one put.

    Nothing is sorted anew when one comes or goes, so thousands may stand in it.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._tickets: dict[KeyT, int] = {}  # which of a key's entries counts: the newest
        self._entries: list[tuple[Any, int, KeyT]] = []
        self._ticket = 0

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._tickets)

    def __contains__(self, key: object) -> bool:
        """Say whether the key has a rank."""
        return key in self._tickets

    def put(self, key: KeyT, rank: float | tuple[int, ...]) -> None:
        """Give a key a rank, instead of the one it has."""
        self._ticket += 1
        self._tickets[key] = self._ticket
        heapq.heappush(self._entries, (rank, self._ticket, key))
        if len(self._entries) > 2 * len(self._tickets) + SPARE:
            self._entries = [each for each in self._entries if self._counts(each)]
            heapq.heapify(self._entries)

    def drop(self, key: KeyT) -> None:
        """Take a key out; one that is not there is fine."""
        self._tickets.pop(key, None)

    def pop(self) -> KeyT:
        """Take out the key of the lowest rank. Raises IndexError when there is none."""
        while True:
            entry = heapq.heappop(self._entries)
            if self._counts(entry):
                del self._tickets[entry[2]]
                return entry[2]

    def _counts(self, entry: tuple[Any, int, KeyT]) -> bool:
        return self._tickets.get(entry[2]) == entry[1]
