"""The composition root: settings → parts → loops. The only file that names concrete classes."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import zip_longest

import aiohttp
import structlog

from keeper import __version__
from keeper.act.brakes import Brakes
from keeper.act.execute import Execution
from keeper.act.settle import Settlement
from keeper.act.tally import Tally
from keeper.chain.announcements import Ears, listen
from keeper.chain.broadcast import Broadcast, BroadcastRules
from keeper.chain.endpoints import Endpoints, Role
from keeper.chain.heads import ChainFollower, FollowSettings
from keeper.chain.journal import Journal
from keeper.chain.jsonrpc import JsonRpcClient
from keeper.chain.lane_rules import LaneParts
from keeper.chain.lanes import Lanes
from keeper.chain.ledger import Ledger
from keeper.chain.relay import Relay, RelayProtocol, load_relay_key
from keeper.chain.rpc import HttpRpc
from keeper.chain.sequencer import NOT_READ, watch_sequencer
from keeper.chain.signer import load_wallets
from keeper.chain_parts import (
    build_ledger,
    build_readers,
    build_reading,
    build_reconciler,
    build_venue,
    listen_rules,
)
from keeper.clock import SystemClock
from keeper.config import Settings, find_module
from keeper.facts import OWN
from keeper.leading import ALONE
from keeper.lease.leadership import Leadership
from keeper.lease_parts import open_leadership
from keeper.observe.http import serve
from keeper.observe.metrics import Metrics
from keeper.observe.notify import Service
from keeper.observe.outcomes import publishers
from keeper.parts import Parts, risk_loops, state_of, views_of
from keeper.pipeline import Pipeline
from keeper.ports import PriceSource, Rpc
from keeper.prices.board import PriceBoard
from keeper.quarantine import Quarantine
from keeper.reload import Reload, Reloading, hang_up
from keeper.rules import (
    brake_rules,
    desk_rules,
    endpoint_rules,
    execution_rules,
    feed_rules,
    lane_rules,
    treasury_rules,
)
from keeper.status import Status
from keeper.supervise import Backoff, Heartbeats, Supervisor, run
from keeper.watch.desk import Desk
from keeper.watch.snapshot import Snapshots, WarmStart

logger = structlog.get_logger(__name__)

CONNECTIONS_MAX = 32  # to all endpoints together
PRICES_LIMIT_S = 45.0  # dialling a host that does not answer takes a source tens of seconds
# a chain that comes and goes must be followed again at once, or liquidations are late
RETRYING = Backoff(first_s=0.25, ceiling_s=4.0, healthy_s=15.0)
SNAPSHOT_LIMIT_S = 120.0  # writing some 100,000 accounts to a slow disk
BEAT_LIMIT_S = 15.0  # a loop beats every second; a slow cycle is tolerated, a stuck one is not


def build_rpc(settings: Settings, session: aiohttp.ClientSession, metrics: Metrics) -> HttpRpc:
    """Make the client of the chain's HTTP endpoints; reads the URLs that are secrets."""
    chain = settings.chain
    client = JsonRpcClient(session, chain.rpc_timeout_ms)
    endpoints = Endpoints(client, endpoint_rules(settings), SystemClock(), metrics)
    endpoints.add([each.read().get_secret_value() for each in chain.http], Role.READ)
    senders = chain.send or chain.http
    endpoints.add([each.read().get_secret_value() for each in senders], Role.SEND)
    relays = [relay.url.read().get_secret_value() for relay in settings.relays]
    endpoints.add(relays, Role.PRIVATE)
    return HttpRpc(endpoints, chain.rpc_attempts_max)


def build_broadcast(settings: Settings, rpc: HttpRpc, metrics: Metrics) -> Broadcast:
    """Make what sends transactions; reads the keys that relays know us by."""
    relays = [
        Relay(
            url=each.url.read().get_secret_value(),
            protocol=RelayProtocol(each.protocol),
            key=load_relay_key(each.signing_key) if each.signing_key else None,
        )
        for each in settings.relays
    ]
    chain = settings.chain
    rules = BroadcastRules(chain.rpc_attempts_max, relays, chain.public_after_blocks)
    return Broadcast(rpc.endpoints, rules, metrics)


def build_sources(
    settings: Settings, clock: SystemClock, metrics: Metrics, rpc: Rpc
) -> dict[str, PriceSource]:
    """Make every price source by the ``build`` of its kind's module, for the feeds that name it."""
    sources: dict[str, PriceSource] = {}
    for source in settings.sources:
        feeds = [feed.id for feed in settings.feeds if source.name in feed.sources]
        build = find_module("prices", source.kind).build
        sources[source.name] = build(source.options, source.name, feeds, clock, metrics, rpc)
    return sources


def _know_labels(settings: Settings, metrics: Metrics, rpc: HttpRpc) -> None:
    metrics.know("feed", [feed.id for feed in settings.feeds])
    metrics.know("source", [source.name for source in settings.sources])
    metrics.know("venue", [*(venue.id for venue in settings.venues), OWN])
    metrics.know("wallet", [wallet.name for wallet in settings.wallets])
    metrics.know("endpoint", [endpoint.label for endpoint in rpc.endpoints.all])


def build_board(settings: Settings, clock: SystemClock) -> PriceBoard:
    """Make the board with every feed's gates."""
    return PriceBoard(feed_rules(settings), clock)


def build_lanes(settings: Settings, session: aiohttp.ClientSession, parts: LaneParts) -> Lanes:
    """Make a lane for every wallet; reads the keys, or raises ConfigError."""
    wallets = load_wallets(settings.wallets, session)
    allowed = {venue.id: venue.wallets for venue in settings.venues}
    return Lanes(wallets, allowed, lane_rules(settings), parts, treasury_rules(settings))


def _following(settings: Settings) -> FollowSettings:
    chain = settings.chain
    return FollowSettings(chain.poll_ms, chain.reorg_depth_max)


@asynccontextmanager
async def build(settings: Settings, metrics: Metrics | None = None) -> AsyncIterator[Parts]:
    """Put the parts together; raises ConfigError, or JournalError when it is in use.

    ``metrics``: for who wants to see each of them.
    """
    metrics = metrics or Metrics(__version__)
    path = settings.keeper.state_dir / "journal.sqlite"
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        rpc = build_rpc(settings, session, metrics)
        journal = Journal(path, settings.chain.id, settings.keeper.journal_days_max)
        await stack.enter_async_context(journal)
        ledger = await stack.enter_async_context(build_ledger(settings))
        broadcast = await stack.enter_async_context(build_broadcast(settings, rpc, metrics))
        leadership = await stack.enter_async_context(open_leadership(settings, metrics))
        lane_parts = LaneParts(rpc, broadcast, journal, SystemClock(), metrics, leadership or ALONE)
        lanes = build_lanes(settings, session, lane_parts)
        _know_labels(settings, metrics, rpc)
        parts = _assemble(settings, metrics, rpc, journal, lanes, ledger, leadership)
        await parts.settlement.learn_past(SystemClock().wall_ms())
        yield parts


def _assemble(  # noqa: PLR0913, PLR0917 - wiring
    settings: Settings,
    metrics: Metrics,
    rpc: HttpRpc,
    journal: Journal,
    lanes: Lanes,
    ledger: Ledger,
    leadership: Leadership | None,
) -> Parts:
    """Wire everything that needs no waiting."""
    clock = SystemClock()
    heartbeats, quarantine = Heartbeats(clock), Quarantine(clock, metrics)
    board = build_board(settings, clock)
    sources = build_sources(settings, clock, metrics, rpc)
    chain = settings.chain
    parts = quarantine, metrics, clock
    desks = {
        each.id: Desk(build_venue(each, rpc, chain.id), desk_rules(settings, each), board, *parts)
        for each in settings.venues
    }
    addresses = [address for desk in desks.values() for address in desk.venue.addresses()]
    reader, finder = build_readers(settings, rpc, ledger, metrics)
    follower = ChainFollower(rpc, reader, addresses, _following(settings), clock)
    brakes = Brakes(brake_rules(settings), desks, clock, leadership or ALONE)
    execution = Execution(execution_rules(settings), lanes, board, metrics, clock, brakes)
    settlement = Settlement(desks, execution, lanes, Tally(journal, metrics), publishers(sources))
    snapshots = Snapshots(settings.keeper.state_dir, chain.id, quarantine)
    warm = WarmStart(rpc, ledger, snapshots)
    reconciler = build_reconciler(settings, rpc, desks, parts)
    reading = build_reading(
        desks, finder, ledger, warm, reconciler, lanes, heartbeats, parts, chain
    )
    pipeline = Pipeline(
        reading=reading,
        board=board,
        chain=follower,
        execution=execution,
        settlement=settlement,
        recover=lanes.recover,
    )
    status = Status(
        settings=settings,
        pipeline=pipeline,
        board=board,
        lanes=lanes,
        endpoints=rpc.endpoints,
        brakes=brakes,
        journal=journal,
        settlement=settlement,
        quarantine=quarantine,
        heartbeats=heartbeats,
        metrics=metrics,
        clock=clock,
        leadership=leadership,
    )
    metrics.before_render(status.set_gauges)
    supervisor = Supervisor(metrics, quarantine, heartbeats, RETRYING)
    return Parts(
        settings, metrics, supervisor, rpc, lanes, sources, follower, pipeline, snapshots, status
    )


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
        body = partial(pipeline.reading.accounts, venue)
        loops[name] = partial(supervisor.run_venue_loop, name, venue, body)
    for source in parts.sources.values():
        name = f"prices/{source.name}"
        parts.heartbeats.register(name, PRICES_LIMIT_S)
        loops[name] = partial(pipeline.prices, source)
    for name, keep in risk_loops(parts).items():
        parts.heartbeats.register(name, BEAT_LIMIT_S)
        loops[name] = partial(keep, partial(parts.heartbeats.beat, name))
    parts.heartbeats.register("snapshots", SNAPSHOT_LIMIT_S)
    loops["snapshots"] = partial(
        parts.snapshots.keep,
        list(parts.desks.values()),
        parts.settings.keeper.snapshot_s,
        partial(parts.heartbeats.beat, "snapshots"),
    )
    parts.heartbeats.register("endpoints", BEAT_LIMIT_S + slowest_s + chain.probe_ms / 1000)
    watch_endpoints = parts.status.endpoints.watch
    loops["endpoints"] = partial(watch_endpoints, partial(parts.heartbeats.beat, "endpoints"))
    leadership, lease = parts.status.leadership, parts.settings.lease
    if leadership is not None:
        parts.heartbeats.register("lease", BEAT_LIMIT_S + 2 * lease.renew_s)
        loops["lease"] = partial(leadership.keep, partial(parts.heartbeats.beat, "lease"))
    if chain.sequencer_feed is not None:
        board = parts.status.board
        board.close(NOT_READ)
        parts.heartbeats.register("sequencer", BEAT_LIMIT_S + slowest_s)
        beat = partial(parts.heartbeats.beat, "sequencer")
        feed, grace_s = chain.sequencer_feed, chain.sequencer_grace_s
        watch = partial(watch_sequencer, parts.rpc, feed, grace_s, board.close, beat)
        loops["sequencer"] = partial(supervisor.run_stream_loop, "sequencer", watch)
    for number, endpoint in enumerate(chain.ws):
        name = f"ws{number}"
        parts.heartbeats.register(name, BEAT_LIMIT_S + chain.head_silence_ms_max / 1000)
        ears = Ears(parts.follower.wake, pipeline.hint, partial(parts.heartbeats.beat, name))
        rules = listen_rules(chain, [desk.venue for desk in parts.desks.values()])
        body = partial(listen, endpoint.read().get_secret_value(), rules, ears)
        loops[name] = partial(supervisor.run_stream_loop, name, body)
    return loops


def _reload(parts: Parts, source: Reloading) -> Reload:
    parts.heartbeats.register("config", BEAT_LIMIT_S)
    return Reload(source, parts.status, partial(parts.heartbeats.beat, "config"))


async def run_keeper(
    all_settings: Sequence[Settings],
    metrics: Metrics | None = None,
    reloading: Sequence[Reloading] = (),
) -> int:
    """Run until SIGTERM or SIGINT, the settings of each chain side by side; return the exit code.

    Chains share the process and nothing else: each has its own parts, journal and HTTP server.
    ``metrics``: those of the only chain. ``reloading``: where the settings of each chain are read
    again on SIGHUP; none: they stand.
    """
    reloads: list[Reload] = []
    async with AsyncExitStack() as stack:
        loops: dict[str, Callable[[], Awaitable[None]]] = {}
        everyone: list[Parts] = []
        for settings, source in zip_longest(all_settings, reloading):
            parts = await stack.enter_async_context(build(settings, metrics))
            own = _loops(parts)
            if source is not None:
                reloads.append(_reload(parts, source))
                own["config"] = reloads[-1].watch
            parts.metrics.know("loop", own)
            parts.metrics.know("stream", [*own, *parts.sources])
            if len(all_settings) > 1:
                id_ = settings.chain.id
                own = {f"{id_}/{name}": _of_chain(id_, body) for name, body in own.items()}
            loops.update(own)
            everyone.append(parts)
        for parts in everyone:
            _announce(parts)
            http = parts.settings.http
            await stack.enter_async_context(serve(http.host, http.port, views_of(parts)))
        service = _service(everyone, reloads)
        if service is not None:
            loops["systemd"] = service.keep
        code = await run(loops, partial(_hang_up, reloads, service) if reloads else None)
        for parts in everyone:
            if parts.status.leadership is not None:
                await parts.status.leadership.give_up()  # nothing is sent any more
        for parts in everyone:
            await parts.snapshots.save_all(list(parts.desks.values()))
        return code


def _service(everyone: Sequence[Parts], reloads: Sequence[Reload]) -> Service | None:
    """Return what tells systemd; None where no unit of Type=notify started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    states = [state_of(parts) for parts in everyone]
    return Service(address, states, lambda: any(reload.pending for reload in reloads))


def _hang_up(reloads: Sequence[Reload], service: Service | None) -> None:
    hang_up(reloads)
    if service is not None:
        service.hang_up()


def _of_chain(id_: int, body: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Let every line that a loop logs tell its chain."""

    async def labelled() -> None:
        structlog.contextvars.bind_contextvars(chain=id_)
        await body()

    return labelled


def _announce(parts: Parts) -> None:
    settings = parts.settings
    if not parts.lanes.wallets:
        logger.warning(
            "dry run: no [[wallets]] is configured, nothing is signed or sent",
            chain=settings.chain.id,
        )
    logger.info(
        "starting",
        version=__version__,
        chain=settings.chain.id,
        wallets={lane.name: lane.address for lane in parts.lanes.lanes},
        venues=list(parts.desks),
        config=settings.digest[:12],
    )


def main_loop(
    all_settings: Sequence[Settings],
    metrics: Metrics | None = None,
    reloading: Sequence[Reloading] = (),
) -> int:
    """Run the keeper in a fresh event loop."""
    return asyncio.run(run_keeper(all_settings, metrics, reloading))


__all__ = [
    "Parts",
    "build",
    "build_sources",
    "build_venue",
    "main_loop",
    "run_keeper",
    "views_of",
]
