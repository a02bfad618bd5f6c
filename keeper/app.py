"""The composition root: settings → parts → loops. The only file that names concrete classes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp
import structlog

from keeper import __version__
from keeper.chain.backfill import Finder, LogReader, ReadRules
from keeper.chain.broadcast import Broadcast
from keeper.chain.endpoints import EndpointRules, Endpoints, Role
from keeper.chain.fees import FeeRules
from keeper.chain.heads import ChainFollower, FollowSettings, announce_heads
from keeper.chain.journal import Journal
from keeper.chain.jsonrpc import JsonRpcClient
from keeper.chain.ledger import Ledger
from keeper.chain.rpc import WATCHER, HttpRpc
from keeper.chain.signer import Signer, load_signer
from keeper.chain.submit import Lane, LaneRules
from keeper.clock import SystemClock
from keeper.config import Settings, VenueSettings, find_module
from keeper.desk import Desk, DeskRules
from keeper.execute import Execution, ExecutionRules
from keeper.facts import VenueId
from keeper.intake import Intake
from keeper.observe.http import Views, serve
from keeper.observe.metrics import Metrics
from keeper.observe.outcomes import publishers
from keeper.observe.progress import LogProgress
from keeper.pipeline import BEAT_S, Pipeline
from keeper.ports import AnyVenue, Broadcaster, PriceSource, Rpc
from keeper.prices.board import FeedRules, PriceBoard
from keeper.quarantine import Quarantine
from keeper.settle import Settlement
from keeper.status import Status
from keeper.supervise import Backoff, Heartbeats, Supervisor, run

logger = structlog.get_logger(__name__)

CONNECTIONS_MAX = 32  # to all endpoints together
PRICES_LIMIT_S = 45.0  # dialling a host that does not answer takes a source tens of seconds
# a chain that comes and goes must be followed again at once, or liquidations are late
RETRYING = Backoff(first_s=0.25, ceiling_s=4.0, healthy_s=15.0)
BEAT_LIMIT_S = 15.0  # a loop beats every second; a slow cycle is tolerated, a stuck one is not


@dataclass(frozen=True)
class Parts:
    """What the loops run on."""

    settings: Settings
    metrics: Metrics
    supervisor: Supervisor
    lane: Lane
    sources: Mapping[str, PriceSource]
    follower: ChainFollower
    pipeline: Pipeline
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


def build_rpc(settings: Settings, session: aiohttp.ClientSession, metrics: Metrics) -> HttpRpc:
    """Make the client of the chain's HTTP endpoints; reads the URLs that are secrets."""
    chain = settings.chain
    rules = EndpointRules(chain.id, chain.probe_ms, chain.head_lag_blocks_max, chain.latency_ms_max)
    client = JsonRpcClient(session, chain.rpc_timeout_ms)
    endpoints = Endpoints(client, rules, SystemClock(), metrics)
    endpoints.add([each.read().get_secret_value() for each in chain.http], Role.READ)
    senders = chain.send or chain.http
    endpoints.add([each.read().get_secret_value() for each in senders], Role.SEND)
    return HttpRpc(endpoints, chain.rpc_attempts_max)


def build_venue(settings: VenueSettings, rpc: Rpc, chain_id: int) -> AnyVenue:
    """Make a venue by the ``build`` of its kind's module."""
    venue: AnyVenue = find_module("venues", settings.kind).build(settings.options, rpc, chain_id)
    return venue


def build_sources(
    settings: Settings, clock: SystemClock, metrics: Metrics
) -> dict[str, PriceSource]:
    """Make every price source by the ``build`` of its kind's module, for the feeds that name it."""
    sources: dict[str, PriceSource] = {}
    for source in settings.sources:
        feeds = [feed.id for feed in settings.feeds if source.name in feed.sources]
        build = find_module("prices", source.kind).build
        sources[source.name] = build(source.options, source.name, feeds, clock, metrics)
    return sources


def _know_labels(settings: Settings, metrics: Metrics, rpc: HttpRpc) -> None:
    metrics.know("feed", [feed.id for feed in settings.feeds])
    metrics.know("source", [source.name for source in settings.sources])
    metrics.know("venue", [venue.id for venue in settings.venues])
    metrics.know("endpoint", [endpoint.label for endpoint in rpc.endpoints.all])


def build_board(settings: Settings, clock: SystemClock) -> PriceBoard:
    """Make the board with every feed's gates."""
    rules = {
        feed.id: FeedRules(
            age_ms_max=feed.age_ms_max,
            future_ms_max=feed.future_ms_max,
            conf_ppm_max=feed.conf_ppm_max,
            change_ppm_max=feed.change_ppm_max,
            sources=feed.sources,
        )
        for feed in settings.feeds
    }
    return PriceBoard(rules, clock)


def _lane(
    settings: Settings,
    rpc: Rpc,
    broadcaster: Broadcaster,
    journal: Journal,
    clock: SystemClock,
    metrics: Metrics,
) -> Lane:
    signer: Signer | None = load_signer(settings.wallet) if settings.wallet else None
    rules = LaneRules(
        chain_id=settings.chain.id,
        confirmations=settings.chain.confirmations,
        replace_after_blocks=settings.fees.replace_after_blocks,
        cost_wei_max=settings.gate.transaction_cost_wei_max,
        fees=FeeRules(
            priority_fee_wei=settings.fees.priority_fee_wei,
            base_fee_headroom_ppm=settings.fees.base_fee_headroom_ppm,
            max_fee_per_gas_wei_max=settings.fees.max_fee_per_gas_wei_max,
            replacement_bump_ppm=settings.fees.replacement_bump_ppm,
        ),
    )
    return Lane(rpc, broadcaster, journal, signer, rules, clock, metrics)


def _following(settings: Settings) -> FollowSettings:
    chain = settings.chain
    return FollowSettings(chain.poll_ms, chain.reorg_depth_max)


def _execution_rules(settings: Settings) -> ExecutionRules:
    gate = settings.gate
    return ExecutionRules(
        head_age_ms_max=settings.chain.head_age_ms_max,
        transaction_cost_wei_max=gate.transaction_cost_wei_max,
        profit_wei_min=gate.profit_wei_min,
        open_attempts_max=gate.open_attempts_max,
        p_win_ppm=gate.p_win_ppm,
        revert_gas=gate.revert_gas,
        gas_limit_factor_ppm=settings.fees.gas_limit_factor_ppm,
        hold_ms=gate.hold_ms,
        native_feed=settings.chain.native_feed,
        watcher=WATCHER,
    )


def _desk_rules(settings: Settings, venue: VenueSettings) -> DeskRules:
    return DeskRules(
        objective=venue.objective,
        solvency_budget_wei=venue.solvency_budget_wei,
        reward_feed=venue.reward_feed,
        backoff_ms_min=settings.gate.backoff_ms_min,
        backoff_ms_max=settings.gate.backoff_ms_max,
        candidates_per_step_max=settings.gate.candidates_per_step_max,
        probe_ms=venue.probe_ms,
    )


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[Parts]:
    """Put the parts together; raises ConfigError, or JournalError when it is in use."""
    metrics = Metrics(__version__)
    path = settings.keeper.state_dir / "journal.sqlite"
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        rpc = build_rpc(settings, session, metrics)
        journal = Journal(path, settings.chain.id, settings.keeper.journal_days_max)
        await stack.enter_async_context(journal)
        ledger = await stack.enter_async_context(_ledger(settings))
        broadcast = Broadcast(rpc.endpoints, settings.chain.rpc_attempts_max, metrics)
        await stack.enter_async_context(broadcast)
        parts = _assemble(settings, metrics, rpc, broadcast, journal, ledger)
        parts.settlement.profit_wei.update(await journal.profit_wei())
        yield parts


def _ledger(settings: Settings) -> Ledger:
    path = settings.keeper.state_dir / f"ledger-{settings.chain.id}.sqlite"
    return Ledger(path, settings.chain.reorg_depth_max)


def _readers(
    settings: Settings, rpc: Rpc, ledger: Ledger, metrics: Metrics
) -> tuple[LogReader, Finder]:
    chain = settings.chain
    rules = ReadRules(
        log_range_max=chain.log_range_max,
        log_queries_at_once_max=chain.log_queries_at_once_max,
        log_queries_per_s_max=chain.log_queries_per_s_max,
    )
    reader = LogReader(rpc, rules)
    start_blocks = {venue.id: venue.start_block for venue in settings.venues}
    return reader, Finder(rpc, reader, ledger, start_blocks, metrics, LogProgress())


def _assemble(
    settings: Settings,
    metrics: Metrics,
    rpc: HttpRpc,
    broadcast: Broadcast,
    journal: Journal,
    ledger: Ledger,
) -> Parts:
    """Wire everything that needs no waiting."""
    _know_labels(settings, metrics, rpc)
    clock = SystemClock()
    heartbeats, quarantine = Heartbeats(clock), Quarantine(clock, metrics)
    board = build_board(settings, clock)
    sources = build_sources(settings, clock, metrics)
    lane = _lane(settings, rpc, broadcast, journal, clock, metrics)
    chain = settings.chain
    parts = board, quarantine, metrics, clock
    desks = {
        each.id: Desk(build_venue(each, rpc, chain.id), _desk_rules(settings, each), *parts)
        for each in settings.venues
    }
    addresses = [address for desk in desks.values() for address in desk.venue.addresses()]
    reader, finder = _readers(settings, rpc, ledger, metrics)
    follower = ChainFollower(rpc, reader, addresses, _following(settings), clock)
    execution = Execution(_execution_rules(settings), lane, board, metrics, clock)
    settlement = Settlement(desks, execution, lane, publishers(sources), metrics)
    pipeline = Pipeline(
        desks=desks,
        intakes={id_: Intake(desk.venue, chain.reorg_depth_max) for id_, desk in desks.items()},
        board=board,
        chain=follower,
        discover=finder.find,
        memory=ledger,
        execution=execution,
        settlement=settlement,
        submitter=lane,
        recover=lane.recover,
        quarantine=quarantine,
        heartbeats=heartbeats,
        telemetry=metrics,
        clock=clock,
        simulations_at_once_max=settings.gate.simulations_at_once_max,
    )
    status = Status(
        settings=settings,
        pipeline=pipeline,
        board=board,
        lane=lane,
        endpoints=rpc.endpoints,
        journal=journal,
        settlement=settlement,
        quarantine=quarantine,
        heartbeats=heartbeats,
        metrics=metrics,
        clock=clock,
    )
    metrics.before_render(status.set_gauges)
    supervisor = Supervisor(metrics, quarantine, heartbeats, RETRYING)
    return Parts(settings, metrics, supervisor, lane, sources, follower, pipeline, status)


def _loops(parts: Parts) -> dict[str, Callable[[], Awaitable[None]]]:
    pipeline, supervisor = parts.pipeline, parts.supervisor
    chain = parts.settings.chain
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "chain": partial(supervisor.run_stream_loop, "chain", pipeline.chain),
        "decide": pipeline.decide,
        "attempt": pipeline.attempt,
        "settle": pipeline.settle,
    }
    for name in loops:
        parts.heartbeats.register(name, BEAT_LIMIT_S)
    slowest_s = chain.poll_ms / 1000 + chain.rpc_attempts_max * chain.rpc_timeout_ms / 1000
    for name in ("chain", "settle", "attempt"):
        parts.heartbeats.register(name, BEAT_LIMIT_S + slowest_s)
    for venue in parts.desks:
        name = f"accounts/{venue}"
        parts.heartbeats.register(name, BEAT_LIMIT_S + slowest_s)
        body = partial(pipeline.accounts, venue)
        loops[name] = partial(supervisor.run_venue_loop, name, venue, body)
    for source in parts.sources.values():
        name = f"prices/{source.name}"
        parts.heartbeats.register(name, PRICES_LIMIT_S)
        loops[name] = partial(pipeline.prices, source)
    parts.heartbeats.register("endpoints", BEAT_LIMIT_S + slowest_s + chain.probe_ms / 1000)
    loops["endpoints"] = partial(
        parts.status.endpoints.watch, partial(parts.heartbeats.beat, "endpoints")
    )
    for number, endpoint in enumerate(chain.ws):
        name = f"ws{number}"
        parts.heartbeats.register(name, BEAT_LIMIT_S + chain.head_silence_ms_max / 1000)
        url = endpoint.read().get_secret_value()
        body = partial(
            announce_heads,
            url,
            chain.id,
            parts.follower.wake,
            chain.head_silence_ms_max,
            partial(parts.heartbeats.beat, name),
        )
        loops[name] = partial(supervisor.run_stream_loop, name, body)
    parts.metrics.know("loop", loops)
    parts.metrics.know("stream", [*loops, *parts.sources])
    return loops


async def run_keeper(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    async with build(settings) as parts:
        if parts.lane.wallet is None:
            logger.warning("dry run: no [wallet] is configured, nothing is signed or sent")
        logger.info(
            "starting",
            version=__version__,
            chain=settings.chain.id,
            wallet=parts.lane.wallet,
            venues=list(parts.desks),
            config=settings.digest[:12],
        )
        loops = _loops(parts)
        views = Views(
            metrics=parts.metrics,
            late=parts.heartbeats.late,
            unready=parts.status.unready,
            status=parts.status.snapshot,
        )
        async with serve(settings.http.host, settings.http.port, views):
            return await run(loops)


def main_loop(settings: Settings) -> int:
    """Run the keeper in a fresh event loop."""
    return asyncio.run(run_keeper(settings))


__all__ = ["BEAT_S", "Parts", "build", "build_sources", "build_venue", "main_loop", "run_keeper"]
