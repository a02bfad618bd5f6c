"""What stops the keeper from sending on purpose: a pause, another that leads, and breakers."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from keeper.decide.agenda import HoldReason
from keeper.decide.breaker import Breaker
from keeper.facts import Settled, TxKind, VenueId
from keeper.leading import ALONE, Leading
from keeper.ports import Clock

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BrakeRules:
    """From ``[gate]``."""

    paused: bool
    pause_file: Path | None
    reverts_in_a_row_max: int
    breaker_ms: int


class Brakes:
    """While paused no attempt is started or replaced; what is overdue is cancelled.

    While another keeper leads that is left to it, too.
    """

    def __init__(
        self,
        rules: BrakeRules,
        venues: Iterable[VenueId],
        clock: Clock,
        leading: Leading = ALONE,
    ) -> None:
        """Start unpaused by hand, with every breaker closed."""
        self._rules = rules
        self.leading = leading
        self._clock = clock
        self._by_hand = False
        self._breakers = {
            venue: Breaker(rules.reverts_in_a_row_max, rules.breaker_ms) for venue in venues
        }

    def adopt(self, rules: BrakeRules) -> None:
        """Go by other rules; a pause by hand and what breakers have counted stand."""
        self._rules = rules
        for breaker in self._breakers.values():
            breaker.reverts_in_a_row_max = rules.reverts_in_a_row_max
            breaker.open_ms = rules.breaker_ms

    @property
    def paused(self) -> str:
        """Say what pauses the keeper; "" when nothing does."""
        if self._rules.paused:
            return "gate.paused is set in the config"
        file = self._rules.pause_file
        if file is not None and file.exists():
            return f"the file {file} is there"
        return "paused over HTTP" if self._by_hand else ""

    @property
    def resting(self) -> bool:
        """Say whether nothing is started at any venue: paused, or another keeper leads."""
        return bool(self.paused) or self.leading.term is None

    def pause(self, *, on: bool) -> str:
        """Pause or resume by hand, until the process ends; return what still pauses it."""
        self._by_hand = on
        logger.warning("paused by hand" if on else "resumed by hand", still=self.paused)
        return self.paused

    def is_open(self, venue: VenueId) -> bool:
        """Say whether the venue's breaker is open: too many reverts in a row."""
        breaker = self._breakers.get(venue)
        return breaker is not None and breaker.until_ms is not None

    def hold(self, venue: VenueId) -> HoldReason | None:
        """Return why nothing may be sent to the venue now."""
        if self.paused:
            return HoldReason.PAUSED
        if self.leading.term is None:
            return HoldReason.STANDBY
        breaker = self._breakers.get(venue)
        if breaker is not None and not breaker.lets_through(self._clock.wall_ms()):
            return HoldReason.BREAKER_OPEN
        return None

    def sending(self, venue: VenueId) -> None:
        """A first try is sent now."""
        if venue in self._breakers:
            self._breakers[venue].sending()

    def not_sent(self, venue: VenueId) -> None:
        """It came to nothing."""
        if venue in self._breakers:
            self._breakers[venue].ended_without_proof()

    def settled(self, settled: Settled, kind: TxKind | None) -> None:
        """Count an attempt that ended. ``kind``: of the transaction that was included."""
        venue, receipt = settled.attempt.plan.venue, settled.receipt
        breaker = self._breakers.get(venue)
        if breaker is None:
            return
        was_open = self.is_open(venue)
        if receipt is None or kind is TxKind.CANCEL:
            breaker.ended_without_proof()
            return
        breaker.ended(reverted=not receipt.success, now_ms=self._clock.wall_ms())
        if self.is_open(venue) != was_open:
            state = "closed" if was_open else "open"
            logger.warning("breaker", venue=venue, state=state, reverts=breaker.reverts)
