"""Whether one venue lets us act there, as its probe last said; asked again before long."""

import structlog

from keeper.facts import Probe, VenueId
from keeper.ports import Clock

logger = structlog.get_logger(__name__)


class Access:
    """What the probe of a venue last said. A closed venue is watched, and not acted on."""

    def __init__(self, venue: VenueId, probe_ms: int, clock: Clock) -> None:
        """Know nothing yet: what is unknown counts as closed."""
        self.probe: Probe | None = None
        self._venue = venue
        self.probe_ms = probe_ms
        self._clock = clock
        self._due_ms = 0

    @property
    def open(self) -> bool:
        """Say whether this wallet may liquidate there."""
        return self.probe is not None and self.probe.open

    @property
    def due(self) -> bool:
        """Say whether it is time to ask again."""
        return self._clock.wall_ms() >= self._due_ms

    def learn(self, probe: Probe) -> None:
        """Take what the venue answered now; log it when that opens or closes the venue."""
        before, self.probe = self.probe, probe
        self._due_ms = self._clock.wall_ms() + self.probe_ms
        if before is not None and before.open == probe.open:
            return
        if probe.open:
            logger.info("venue open", venue=self._venue, detail=probe.detail)
        else:
            logger.warning("venue closed: watching only", venue=self._venue, detail=probe.detail)
