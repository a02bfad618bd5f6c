"""What a chain's loops run on, and what the HTTP server shows of it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keeper import __version__
from keeper.act.settle import Settlement
from keeper.chain.heads import ChainFollower
from keeper.chain.journal_read import Wanted, page
from keeper.chain.lanes import Lanes
from keeper.config import Settings
from keeper.explain import Explainer
from keeper.facts import VenueId
from keeper.observe.api import Reads
from keeper.observe.http import Views
from keeper.observe.metrics import Metrics
from keeper.observe.notify import ChainState
from keeper.observe.tls import server_tls
from keeper.pipeline import Pipeline
from keeper.ports import PriceSource, Rpc
from keeper.risk.gauges import RiskGauges
from keeper.risk.reader import RiskReader
from keeper.status import Status
from keeper.supervise import Heartbeats, Supervisor
from keeper.watch.desk import Desk
from keeper.watch.snapshot import Snapshots


@dataclass(frozen=True)
class Parts:
    """What the loops run on. ``settings``: those of the start; ``status`` has those in effect."""

    settings: Settings
    metrics: Metrics
    supervisor: Supervisor
    rpc: Rpc
    lanes: Lanes
    sources: Mapping[str, PriceSource]
    follower: ChainFollower
    pipeline: Pipeline
    snapshots: Snapshots
    status: Status

    @property
    def settlement(self) -> Settlement:
        """Return what follows attempts to their end."""
        return self.status.settlement

    @property
    def heartbeats(self) -> Heartbeats:
        """Return when each loop was last seen alive."""
        return self.supervisor.heartbeats

    @property
    def desks(self) -> Mapping[VenueId, Desk]:
        """Return the venues' accounts and decisions."""
        return self.pipeline.desks

    @cached_property
    def risk(self) -> RiskReader:
        """Return what works accounts out at other prices."""
        status = self.status
        return RiskReader(self.desks, status.board, status.quarantine, status.clock)


def risk_loops(parts: Parts) -> dict[str, Callable[[Callable[[], None]], Awaitable[None]]]:
    """Return the loops that work out risk; each takes what shows that it lives."""
    gauges = RiskGauges(parts.risk, parts.metrics, parts.status.clock)
    return {"risk": gauges.keep, "map": parts.risk.draw_maps}


def _reads(parts: Parts) -> Reads:
    explainer = Explainer(parts.desks, parts.status.quarantine, parts.status.clock)

    def config() -> Mapping[str, object]:
        return parts.status.settings.show()  # those in effect then

    async def attempts(filters: Mapping[str, Any], offset: int, limit: int) -> Mapping[str, object]:
        path = parts.settings.keeper.state_dir / "journal.sqlite"
        return await asyncio.to_thread(page, path, Wanted(**filters), offset, limit)

    return Reads(
        accounts=explainer.nearest,
        candidates=explainer.candidates,
        account=explainer.account,
        attempts=attempts,
        config=config,
        stress=parts.risk.stress,
        liquidation_map=parts.risk.liquidation_map,
    )


def state_of(parts: Parts) -> ChainState:
    """Return what systemd is told of a chain."""
    status = parts.status
    return ChainState(
        parts.settings.chain.id, parts.heartbeats.late, status.unready, status.summary
    )


def views_of(parts: Parts) -> Views:
    """Return what the HTTP server shows; reads token and certificate, or raises ConfigError."""
    token = parts.settings.http.token
    return Views(
        version=__version__,
        metrics=parts.metrics,
        late=parts.heartbeats.late,
        unready=parts.status.unready,
        standby=lambda: parts.status.standby,
        status=parts.status.snapshot,
        reads=_reads(parts),
        pause=parts.status.brakes.pause,
        token=token.read() if token else None,
        tls=server_tls(parts.settings.http),
    )
