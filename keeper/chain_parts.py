"""The composition root's part about what is read from a chain."""

from collections.abc import Iterable, Mapping
from functools import partial

from keeper.capabilities import BatchKind
from keeper.chain.announcements import ListenRules
from keeper.chain.backfill import Finder, LogReader, ReadRules
from keeper.chain.lanes import Lanes
from keeper.chain.ledger import Ledger
from keeper.chain.proxies import implementations
from keeper.clock import SystemClock
from keeper.collector import leave_alone
from keeper.config import Settings, VenueSettings, find_module
from keeper.config.settings import ChainSettings
from keeper.errors import ConfigError
from keeper.facts import VenueId
from keeper.observe.metrics import Metrics
from keeper.observe.progress import LogProgress
from keeper.optimistic import Optimistic
from keeper.ports import AnyVenue, Rpc
from keeper.quarantine import Quarantine
from keeper.rules import reconcile_rules
from keeper.supervise import Heartbeats
from keeper.watch.desk import Desk
from keeper.watch.intake import Intake
from keeper.watch.reading import Reading
from keeper.watch.reconcile import Reconciler, fields_of
from keeper.watch.snapshot import WarmStart


def build_venue(settings: VenueSettings, rpc: Rpc, chain_id: int) -> AnyVenue:
    """Make a venue by the ``build`` of its kind's module; raises ConfigError for what it is not."""
    venue: AnyVenue = find_module("venues", settings.kind).build(settings.options, rpc, chain_id)
    venue.capabilities.refuse_unsupported(settings.kind)
    if settings.batch_accounts_max > 1 and venue.capabilities.batch is BatchKind.NONE:
        msg = (
            f"venues.batch_accounts_max = {settings.batch_accounts_max}: {settings.kind} "
            f"({settings.id}) pays or binds whoever calls it and has no call for several accounts; "
            "take it out"
        )
        raise ConfigError([msg])
    if settings.optimistic and not isinstance(venue, Optimistic):
        msg = (
            f"venues.optimistic: what a transaction to {settings.kind} ({settings.id}) would do "
            "only a simulation can tell; take it out"
        )
        raise ConfigError([msg])
    if settings.optimistic and settings.batch_accounts_max > 1:
        msg = (
            f"venues.optimistic ({settings.id}): what goes together is simulated; take it out, or "
            "batch_accounts_max"
        )
        raise ConfigError([msg])
    return venue


def build_ledger(settings: Settings) -> Ledger:
    """Make the ledger of a chain's covered blocks."""
    path = settings.keeper.state_dir / f"ledger-{settings.chain.id}.sqlite"
    return Ledger(path, settings.chain.reorg_depth_max)


def build_reading(  # noqa: PLR0913, PLR0917 - wiring
    desks: Mapping[VenueId, Desk],
    finder: Finder,
    ledger: Ledger,
    warm: WarmStart,
    reconciler: Reconciler,
    lanes: Lanes,
    heartbeats: Heartbeats,
    parts: tuple[Quarantine, Metrics, SystemClock],
    chain: ChainSettings,
) -> Reading:
    """Make the loop that reads the venues."""
    quarantine, metrics, clock = parts
    return Reading(
        desks=desks,
        intakes={id_: Intake(desk.venue, chain.reorg_depth_max) for id_, desk in desks.items()},
        discover=finder.find,
        memory=ledger,
        warm=warm,
        reconciler=reconciler,
        submitter=lanes,
        quarantine=quarantine,
        heartbeats=heartbeats,
        telemetry=metrics,
        clock=clock,
        loaded=leave_alone,
    )


def build_reconciler(
    settings: Settings,
    rpc: Rpc,
    desks: Mapping[VenueId, Desk],
    parts: tuple[Quarantine, Metrics, SystemClock],
) -> Reconciler:
    """Make what compares books with the chain; its metrics' labels become known."""
    parts[1].know("field", {name for desk in desks.values() for name in fields_of(desk.venue)})
    return Reconciler(reconcile_rules(settings), partial(implementations, rpc), *parts)


def listen_rules(chain: ChainSettings, venues: Iterable[AnyVenue]) -> ListenRules:
    """Map ``[chain]`` and the venues' contracts to what a websocket is asked for."""
    addresses = [address for venue in venues for address in venue.addresses()]
    return ListenRules(chain.id, chain.head_silence_ms_max, addresses, chain.pending_logs)


def build_readers(
    settings: Settings, rpc: Rpc, ledger: Ledger, metrics: Metrics
) -> tuple[LogReader, Finder]:
    """Make what reads logs by range, and what finds accounts in them."""
    chain = settings.chain
    rules = ReadRules(
        log_range_max=chain.log_range_max,
        log_queries_at_once_max=chain.log_queries_at_once_max,
        log_queries_per_s_max=chain.log_queries_per_s_max,
    )
    reader = LogReader(rpc, rules)
    start_blocks = {venue.id: venue.start_block for venue in settings.venues}
    return reader, Finder(rpc, reader, ledger, start_blocks, metrics, LogProgress())
