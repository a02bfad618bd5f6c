"""The nonces of one wallet: which is next, and which below it nothing occupies."""

from collections.abc import Collection


class Nonces:
    """Gives out each nonce once. A gap is given out before a new one: all later ones wait for it.

    A gap comes from a nonce that was given out and then not used, because its transaction could
    not be signed, or because the process died before it was journaled.
    """

    def __init__(self) -> None:
        """Know nothing: ``learn`` comes first."""
        self._next = 0
        self._gaps: set[int] = set()

    @property
    def next(self) -> int:
        """Return the nonce behind all that were given out."""
        return self._next

    @property
    def gaps(self) -> list[int]:
        """Return the nonces that block what is behind them, lowest first."""
        return sorted(self._gaps)

    def learn(self, pending: int, ours: Collection[int]) -> None:
        """Start from the node's count with its pool, and the nonces of our open attempts."""
        self._next = max([pending, *(nonce + 1 for nonce in ours)])
        self._gaps = set(range(pending, self._next)) - set(ours)

    def used(self, count: int) -> None:
        """Take note of the chain's count: all below are consumed, by whomever."""
        self._next = max(self._next, count)
        self._gaps = {gap for gap in self._gaps if gap >= count}

    def free(self, nonces: Collection[int]) -> None:
        """Let these be given out although others have them in flight: ours replace them."""
        self._gaps.update(nonces)

    def others(self, count: int, ours: Collection[int]) -> set[int]:
        """Return which nonces from the chain's count on are in use, and not by ours."""
        return set(range(count, self._next)) - set(ours) - self._gaps

    def take(self) -> int:
        """Give out a nonce."""
        if self._gaps:
            nonce = min(self._gaps)
            self._gaps.discard(nonce)
            return nonce
        self._next += 1
        return self._next - 1

    def give_back(self, nonce: int) -> None:
        """Take back one that surely no endpoint has seen in use."""
        if nonce < self._next:
            self._gaps.add(nonce)
        while self._next - 1 in self._gaps:
            self._next -= 1
            self._gaps.discard(self._next)
