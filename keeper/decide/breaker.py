"""Stops a venue whose transactions revert one after the other, and tries it again with one."""

from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """Closed, until so many transactions in a row have reverted; then open for a time.

    After that it lets one through (half-open): if that succeeds it is closed again, if it reverts
    it stays open for another time.
    """

    reverts_in_a_row_max: int
    open_ms: int
    reverts: int = 0  # in a row
    until_ms: int | None = None  # while open: when one may try
    trying: bool = False  # one is in flight

    def lets_through(self, now_ms: int) -> bool:
        """Say whether a transaction may be sent."""
        return self.until_ms is None or (now_ms >= self.until_ms and not self.trying)

    def sending(self) -> None:
        """One is sent now."""
        self.trying = self.until_ms is not None

    def ended(self, *, reverted: bool, now_ms: int) -> None:
        """One was included: it reverted, or it did what it was for."""
        self.trying = False
        if not reverted:
            self.reverts, self.until_ms = 0, None
            return
        self.reverts += 1
        if self.reverts >= self.reverts_in_a_row_max:
            self.until_ms = now_ms + self.open_ms

    def ended_without_proof(self) -> None:
        """One was not sent, or was cancelled: another may try in its place."""
        self.trying = False
