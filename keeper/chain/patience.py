"""Since when a wallet's attempts are waited for, and which have waited long enough."""

from keeper.facts import Attempt, Head


class Patience:
    """An attempt is waited for since its newest transaction, or since it was in flight again."""

    def __init__(self) -> None:
        """Wait for all alike."""
        self._stale: set[str] = set()  # decided by another process: perhaps never sent
        self._reopened: dict[str, int] = {}  # attempt → head that showed its block gone

    def distrust(self, attempt: Attempt) -> None:
        """Call an attempt overdue, whatever the block, until its next transaction."""
        self._stale.add(attempt.id)

    def reopen(self, attempt: Attempt, head: Head) -> None:
        """Wait for an attempt from this head on."""
        self._reopened[attempt.id] = head.number

    def renew(self, attempt: Attempt) -> None:
        """Wait for its newest transaction only; or for nothing, when it is over."""
        self._stale.discard(attempt.id)
        self._reopened.pop(attempt.id, None)

    def was_reopened_at(self, attempt: Attempt, head: Head) -> bool:
        """Say whether this head showed that its block is gone."""
        return self._reopened.get(attempt.id) == head.number

    def is_stale(self, attempt: Attempt) -> bool:
        """Say whether it is overdue whatever the block."""
        return attempt.id in self._stale

    def is_over(self, attempt: Attempt, blocks: int, head: Head) -> bool:
        """Say whether it was waited for that many blocks; never, without a transaction."""
        if not attempt.transactions:
            return False
        since = max(attempt.transactions[-1].block, self._reopened.get(attempt.id, 0))
        return since + blocks <= head.number
