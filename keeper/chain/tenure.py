"""A wallet in this keeper's terms: in each its nonces are learned anew before anything is sent.

Another keeper may have sent from it. What that one has in flight is in no journal of ours, nor is
it known for whom: nothing new is started until those nonces are used up. Those that are not in
time are given out to be used up by us, by a transfer of nothing that replaces what is there.
"""

from collections.abc import Collection

import structlog

from keeper.facts import Head
from keeper.leading import Leading

logger = structlog.get_logger(__name__)


class Tenure:
    """Which term a wallet's nonces were learned in, and which of them others have in flight."""

    def __init__(self, leading: Leading) -> None:
        """Nothing is known in any term yet."""
        self._leading = leading
        self._term: int | None = None
        self._since = 0  # block
        self.inherited: tuple[int, ...] = ()  # nonces that others have in flight, lowest first
        self._freed = False

    @property
    def standby(self) -> bool:
        """Say whether another keeper may send now, and we may not."""
        return self._leading.term is None

    @property
    def leads(self) -> bool:
        """Say whether the wallet may send now."""
        return self._term is not None and self._leading.term == self._term

    @property
    def coming(self) -> int | None:
        """Return the term that the nonces have to be learned for; None: they are."""
        term = self._leading.term
        return term if term != self._term else None

    def begin(self, term: int, others: Collection[int], head: Head) -> None:
        """Send in this term. ``others``: the nonces that are in flight and not ours."""
        self._term, self._since, self._freed = term, head.number, False
        self.inherited = tuple(sorted(others))
        if others:
            logger.warning("in flight, and not ours", nonces=self.inherited)

    def used(self, count: int) -> None:
        """Take note of the chain's count: all nonces below are consumed."""
        self.inherited = tuple(nonce for nonce in self.inherited if nonce >= count)

    def freed(self, blocks: int, head: Head) -> Collection[int]:
        """Return what is in flight of others after that many blocks, once: to be replaced."""
        if self._freed or head.number < self._since + blocks:
            return ()
        self._freed = True
        return self.inherited
