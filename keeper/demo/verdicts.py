"""The judge's bookkeeping, pure: from what the contract said in each block to the counts."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class Episode:
    """An account that stayed liquidatable for two blocks. Blocks by number; None: not happened."""

    account: int
    first: int
    second: int
    liquidated: int | None = None
    cured: int | None = None  # no longer liquidatable, and nobody had liquidated it


@dataclass(frozen=True, slots=True)
class Liquidation:
    """One ``Liquidated`` event; ``reward`` and ``closed_notional`` in USD wads."""

    account: int
    liquidator: str
    block: int
    tx_hash: str
    reward: int
    closed_notional: int
    full: bool


class Verdicts:
    """Feed it every block once, in order."""

    def __init__(self) -> None:
        """Start before the first block."""
        self.blocks = 0
        self.due: set[int] = set()  # accounts liquidatable for a block or liquidated within one
        self.episodes: list[Episode] = []
        self.late: Counter[int] = Counter()  # blocks late -> liquidations
        self.last_liquidation: int | None = None
        self._streaks: dict[int, tuple[int, int]] = {}  # account -> (first true block, how many)

    def block(
        self,
        number: int,
        liquidatable: Collection[int],
        liquidated: Collection[int],
        opening: Collection[int] = (),
    ) -> None:
        """Take in a block: who is liquidatable after it, who was liquidated in it.

        ``opening``: those of the liquidated that were still liquidatable when the block began. For
        an account that was so after the block before, this is its second block in a row.
        """
        self.blocks += 1
        self.due.update(liquidatable, liquidated)
        for account in set(liquidated):
            first, length = self._streaks.pop(account, (number, 0))
            if length == 1 and account in opening:
                self.episodes.append(Episode(account, first, number))
            self.late[number - first] += 1
            self.last_liquidation = number
            for episode in self._waiting(account):
                episode.liquidated = number
        for account in [known for known in self._streaks if known not in liquidatable]:
            del self._streaks[account]
            for episode in self._waiting(account):
                episode.cured = episode.cured or number
        for account in liquidatable:
            first, length = self._streaks.get(account, (number, 0))
            self._streaks[account] = (first, length + 1)
            if length == 1:
                self.episodes.append(Episode(account, first, number))

    def _waiting(self, account: int) -> list[Episode]:
        return [
            episode
            for episode in self.episodes
            if episode.account == account and episode.liquidated is None
        ]

    @property
    def pending(self) -> set[int]:
        """Accounts that are liquidatable after the last block, one true block included."""
        return set(self._streaks)

    @property
    def standing(self) -> set[int]:
        """Accounts that have been liquidatable for two blocks or more and still are."""
        return {account for account, (_, length) in self._streaks.items() if length > 1}

    @property
    def liquidatable(self) -> set[int]:
        """Accounts that ever were liquidatable."""
        return {episode.account for episode in self.episodes}

    @property
    def missed(self) -> set[int]:
        """Accounts that were liquidatable and have not been liquidated since, so far."""
        return {episode.account for episode in self.episodes if episode.liquidated is None}

    @property
    def escaped(self) -> int:
        """How often an account was liquidatable and cured before anybody liquidated it."""
        return sum(episode.cured is not None for episode in self.episodes)

    @property
    def cured(self) -> set[int]:
        """Those of the missed that are not liquidatable any more."""
        return self.missed - self.standing
