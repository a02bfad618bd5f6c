"""Ways to look at what a key of config.toml does, through the composition root's own mapping."""

import asyncio
import contextlib
import copy
import json
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from keeper.act.spending import Past
from keeper.app import (
    Parts,
    _loops,
    build,
    build_board,
    build_broadcast,
    build_lanes,
    build_rpc,
    build_sources,
    views_of,
)
from keeper.batching import accounts_of
from keeper.chain.announcements import ListenRules
from keeper.chain.backfill import Finder
from keeper.chain.broadcast import Broadcast
from keeper.chain.fees import read_tip
from keeper.chain.journal import Journal
from keeper.chain.lane_rules import LaneParts
from keeper.chain.lanes import Lanes
from keeper.chain.rpc import HttpRpc
from keeper.chain.signer import RemoteSigner, Wallet
from keeper.chain.submit import Lane
from keeper.clock import SystemClock
from keeper.config import Settings
from keeper.decide.economics import Fee, Spend
from keeper.errors import RpcError, TransientError
from keeper.facts import (
    AccountId,
    Attempt,
    Call,
    FeedId,
    Head,
    Outcome,
    Receipt,
    Refused,
    Rejected,
    Step,
    Tick,
)
from keeper.jobs import Job
from keeper.observe.http import serve
from keeper.observe.metrics import Metrics
from keeper.prices.board import PriceBoard
from keeper.reload import adopt, adopt_deciding
from keeper.rules import (
    brake_rules,
    desk_rules,
    endpoint_rules,
    execution_rules,
    feed_rules,
    lane_rules,
)
from keeper.units import GWEI, WAD
from keeper.watch.reconcile import ReconcileRules
from tests.fakes import CountingTelemetry, ManualClock, NoRpc, ScriptedLane
from tests.shell.market import set_account
from tests.shell.rig import Rig, in_flight, scripted_rig
from tests.shell.venue import VENUE

ALICE, BOB, CAROL = (AccountId(name) for name in ("alice", "bob", "carol"))
UNDER = set_account(ALICE, -19_500, eth=10)  # liquidating it pays 200 USD
BASE = """
[chain]
id = 31337
http = ["http://127.0.0.1:1"]
native_feed = "ETH/USD"

[[sources]]
kind = "mqtt"
name = "main"
host = "127.0.0.1"

[[sources]]
kind = "mqtt"
name = "spare"
host = "127.0.0.1"

[[feeds]]
id = "ETH/USD"
sources = ["main"]

[[feeds]]
id = "BTC/USD"
sources = ["main"]

[[venues]]
kind = "demo_market"
id = "perps"
address = "0x00000000000000000000000000000000000000aa"
"""

TOKEN = "opensesame"  # noqa: S105 - of a file made by the test
Look = Callable[[Settings], Awaitable[object]]
Keys = Mapping[str, object]


def text_of(keys: Keys) -> str:
    """Return BASE with these keys set."""
    tables: dict[str, Any] = copy.deepcopy(tomllib.loads(BASE))
    for path, value in keys.items():
        name, _, key = path.partition(".")
        if not key:
            tables[name] = value
            continue
        table = tables.setdefault(name, [{}] if name in {"wallets", "relays"} else {})
        (table[0] if isinstance(table, list) else table)[key] = value
    lines = []
    for name, table in tables.items():
        for each in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {literal(value)}" for key, value in each.items()]
    return "\n".join(lines)


def literal(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


# --- with what it was started ---------------------------------------------------------------------

_BEFORE: ContextVar[Settings | None] = ContextVar("before", default=None)


@contextlib.contextmanager
def started_with(settings: Settings) -> Iterator[None]:
    """Let every part be made of these settings, and take over those that a look is given."""
    token = _BEFORE.set(settings)
    try:
        yield
    finally:
        _BEFORE.reset(token)


# --- what deciding does ---------------------------------------------------------------------------


def rig_for(settings: Settings) -> tuple[Rig, ScriptedLane]:
    before = _BEFORE.get()
    first = before or settings
    rig, lane = scripted_rig(
        desk_rules=desk_rules(first, first.venues[0]),
        execution_rules=execution_rules(first),
        brake_rules=brake_rules(first),
    )
    if before:
        adopt_deciding(rig.pipeline, settings)
    return rig, lane


async def attempted(settings: Settings) -> tuple[Rig, ScriptedLane]:
    rig, lane = rig_for(settings)
    await rig.started(UNDER)
    await rig.tried()
    return rig, lane


async def why(settings: Settings) -> object:
    rig, _ = await attempted(settings)
    return rig.why(ALICE)


async def why_beside_a_file(settings: Settings) -> object:
    folder = settings.keeper.state_dir.parent
    (folder / "pause").touch()
    return await why(settings)


def why_after(reverts: int, rested_ms: int) -> Look:
    async def looked(settings: Settings) -> object:
        rig, _ = rig_for(settings)
        await rig.started(UNDER)
        for _ in range(reverts):
            breaker = rig.execution.brakes._breakers[VENUE]
            breaker.ended(reverted=True, now_ms=rig.clock.now_ms - rested_ms)
        await rig.tried()
        return rig.why(ALICE)

    return looked


async def why_a_second_later(settings: Settings) -> object:
    rig, _ = rig_for(settings)
    await rig.started(UNDER)
    await rig.decide()
    rig.clock.advance(1)
    await rig.attempt()
    return rig.why(ALICE)


async def answer_to_a_pause(settings: Settings) -> object:
    async with (
        build(settings) as parts,
        serve("127.0.0.1", 0, views_of(parts)) as port,
        aiohttp.ClientSession() as session,
    ):
        url, headers = f"http://127.0.0.1:{port}/api/v1/pause", {"Authorization": f"Bearer {TOKEN}"}
        async with session.post(url, headers=headers) as answer:
            return answer.status, parts.status.brakes.paused


async def why_at_a_loss(settings: Settings) -> object:
    """Gas costs 0.012 native tokens, the reward is 0.01."""
    rig, lane = rig_for(settings)
    lane.fee = Fee(65 * GWEI, 60 * GWEI)
    await rig.started(set_account(ALICE, -1_950, eth=1))
    await rig.tried()
    return rig.why(ALICE)


async def why_two_seconds_after_the_head(settings: Settings) -> object:
    rig, _ = rig_for(settings)
    await rig.started(UNDER)
    rig.clock.advance(2)
    await rig.tried()
    return rig.why(ALICE)


async def probed_again_after_ms(settings: Settings) -> object:
    """Return how long a venue is left unasked without an event; None: more than ten blocks."""
    rig, _ = rig_for(settings)
    await rig.started(UNDER)
    started_ms = rig.clock.now_ms
    for _ in range(10):
        await rig.block()
        if rig.venue.probes > 1:
            return rig.clock.now_ms - started_ms
    return None


def planned(look: Callable[[Rig, ScriptedLane], object]) -> Look:
    async def looked(settings: Settings) -> object:
        return look(*await attempted(settings))

    return looked


def revert_gas(rig: Rig, lane: ScriptedLane) -> int:
    assert isinstance(lane.fee, Fee)
    per_gas = lane.fee.paid_at(rig.chain.head.base_fee_wei)
    return lane.plans[0].expected.revert_cost_wei // per_gas


def learned(outcome: Outcome) -> Look:
    """Look at p(win) and the gas of a lost race after a thousand attempts that ended so."""

    async def looked(settings: Settings) -> object:
        rig, _ = rig_for(settings)
        now_ms = rig.clock.now_ms
        for _ in range(1_000):
            past = Past(VENUE, Job.LIQUIDATE, outcome, now_ms, 0, 0, None, 10**7)
            rig.execution.spending.note(past)
        odds = rig.execution.spending.odds(VENUE)
        return odds.p_win_ppm, odds.revert_gas

    return looked


async def simulated_after_three_won(settings: Settings) -> object:
    rig, _ = rig_for(settings)
    for _ in range(3):
        past = Past(VENUE, Job.LIQUIDATE, Outcome.WON, rig.clock.now_ms, 10**17, 0, None, 10**5)
        rig.execution.spending.note(past)
    await rig.started(UNDER)
    await rig.tried()
    return rig.venue.simulated


async def attempts_of_three(settings: Settings) -> object:
    rig, lane = rig_for(settings)
    await rig.started(*(set_account(name, -19_500, eth=10) for name in (ALICE, BOB, CAROL)))
    await rig.tried()
    return len(lane.plans)


async def accounts_of_the_first_attempt(settings: Settings) -> object:
    rig, lane = rig_for(settings)
    await rig.started(*(set_account(name, -19_500, eth=10) for name in (ALICE, BOB, CAROL)))
    await rig.tried()
    return accounts_of(lane.plans[0])


async def due_of_three(settings: Settings) -> object:
    rig, _ = rig_for(settings)
    await rig.started(*(set_account(name, -19_500, eth=10) for name in (ALICE, BOB, CAROL)))
    rig.pipeline._learn()
    return len(rig.desk.due(rig.clock.now_ms))


async def simulations_at_once(settings: Settings) -> object:
    rig, _ = rig_for(settings)
    running = 0

    async def simulate(*_: object) -> None:
        nonlocal running
        running += 1
        await asyncio.Event().wait()

    rig.venue.simulate = simulate  # type: ignore[method-assign, assignment]
    await rig.started(*(set_account(str(number), -19_500, eth=10) for number in range(5)))
    await rig.decide()
    task = asyncio.create_task(rig.pipeline.attempt())
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return running


async def held_ms(settings: Settings) -> object:
    rig, _ = rig_for(settings)
    rig.venue.refusal = Refused("unknown", "")
    await rig.started(UNDER)
    await rig.tried()
    return (rig.desk.agenda.next_wake_ms() or 0) - rig.clock.now_ms


def backed_off_ms(failures: int) -> Look:
    async def looked(settings: Settings) -> object:
        rig, _ = await attempted(settings)
        for _ in range(failures):
            rig.desk.settled(ALICE, failed=True, block=rig.chain.head.number)
        until_ms = max(until for until, _, _ in rig.desk.agenda._by_time)
        return until_ms - rig.clock.now_ms

    return looked


async def first_of_two(settings: Settings) -> object:
    """Bob pays more, Alice is deeper under."""
    rig, lane = rig_for(settings)
    await rig.started(set_account(ALICE, -19_990, eth=10), set_account(BOB, -23_000, eth=12))
    await rig.tried()
    return lane.plans[0].account


# --- what the lane does ---------------------------------------------------------------------------


@asynccontextmanager
async def lanes_for(settings: Settings) -> AsyncIterator[Lanes]:
    async with (
        Journal(settings.keeper.state_dir / "journal.sqlite", settings.chain.id) as journal,
        aiohttp.ClientSession() as session,
    ):
        metrics = Metrics("1")
        rpc = build_rpc(settings, session, metrics)
        broadcast = build_broadcast(settings, rpc, metrics)
        parts = LaneParts(rpc, broadcast, journal, SystemClock(), metrics)
        before = _BEFORE.get()
        lanes = build_lanes(before or settings, session, parts)
        if before:
            balances_wei_min = {each.name: each.balance_wei_min for each in settings.wallets}
            lanes.adopt(lane_rules(settings), balances_wei_min)
        for lane in lanes.lanes:
            lane.tenure.begin(1, (), head())  # as once the chain has told the nonces
        yield lanes


@asynccontextmanager
async def lane_for(settings: Settings) -> AsyncIterator[Lane]:
    """Yield the first wallet's lane, or a watched one where there is none."""
    async with lanes_for(settings) as lanes:
        watched = Wallet("watched", "0x", None)
        yield lanes.lanes[0] if lanes.lanes else Lane(watched, lanes._rules, lanes._parts)


def head(number: int = 10, base_fee_wei: int = 1) -> Head:
    return Head(number, f"{number:#x}", f"{number - 1:#x}", 1_700_000_000, base_fee_wei, 0)


def first_fee(base_fee_wei: int, tip_wei: int | None = None) -> Look:
    """Look at the fee of what is worth a thousandth of a token and takes 100,000 gas."""

    async def looked(settings: Settings) -> object:
        async with lanes_for(settings) as lanes:
            lanes._tip_wei = tip_wei
            spend = Spend(WAD // 1_000, 100_000, 150_000, 0)
            venue = settings.venues[0].id
            fee = lanes.first_fee(venue, head(base_fee_wei=base_fee_wei), spend)
            return (fee.max_fee_wei, fee.priority_fee_wei) if isinstance(fee, Fee) else fee.value

    return looked


async def rollup_asked(settings: Settings) -> object:
    """Say whether a data fee is asked for: there is nobody to answer."""
    async with lanes_for(settings) as lanes:
        step = Step(Job.LIQUIDATE, Call("0x" + "11" * 20, b""), 1)
        return await lanes.data_fees([step])


async def percentile_asked(settings: Settings) -> object:
    async with lanes_for(settings) as lanes:
        asked: list[object] = []

        class Asked:
            async def call(self, method: str, params: object) -> object:
                asked.extend([method, params])
                return {"reward": [], "gasUsedRatio": []}

        fees = lanes._rules.fees
        if fees.needs_tip(head()):
            await read_tip(Asked(), head(), fees)  # type: ignore[arg-type]
        return asked


async def flying(lane: Lane) -> Attempt:
    """Return an attempt at 2 and 1 gwei, signed at block 100, that the lane has in flight."""
    _, _, attempt = await in_flight()
    attempt = replace(attempt, wallet=lane.address)
    lane._open[attempt.id] = attempt
    return attempt


async def replacement_fee(settings: Settings) -> object:
    async with lane_for(settings) as lane:
        fee = lane.replacement_fee(await flying(lane), head(), Spend(WAD, 200_000, 300_000, 0))
        return (fee.max_fee_wei, fee.priority_fee_wei) if fee else None


async def blocks_until_overdue(settings: Settings) -> object:
    async with lane_for(settings) as lane:
        signed_at = (await flying(lane)).transactions[-1].block
        return next(n for n in range(99) if lane.overdue(head(signed_at + n)))


async def blocks_until_settled(settings: Settings) -> object:
    async with lane_for(settings) as lane:
        attempt = await flying(lane)
        tx_hash = attempt.transactions[-1].hash
        receipt = Receipt(tx_hash, 100, "0x64", True, 1, 1, ())  # noqa: FBT003 - its status
        raw = (await signed_with(lane)).raw
        signed = (replace(attempt.transactions[-1], raw=raw),)
        attempt = replace(attempt, transactions=signed)
        receipts = {tx_hash: receipt}
        return next(
            n for n in range(99) if lane._inclusion.mined(attempt, head(99 + n), 0, receipts)
        )


async def signed_with(lane: Lane) -> Any:  # noqa: ANN401 - a signed transaction
    attempt = await flying(lane)
    kind = attempt.transactions[-1].kind
    return await lane._sign(attempt, attempt.plan.call, 21_000, Fee(2, 1), head(), kind)


async def chain_signed_for(settings: Settings) -> object:
    async with lane_for(settings) as lane:
        raw = (await signed_with(lane)).raw
        return TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["chainId"]


async def wallet(settings: Settings) -> object:
    async with lanes_for(settings) as lanes:
        return next(iter(lanes.wallets), None)


async def wallet_names(settings: Settings) -> object:
    async with lanes_for(settings) as lanes:
        return [lane.name for lane in lanes.lanes]


async def wallets_of_the_venue(settings: Settings) -> object:
    async with lanes_for(settings) as lanes:
        own = lanes.wallets_of(settings.venues[0].id)
        return [lane.name for lane in lanes.lanes if lane.address in own]


async def signer_of(settings: Settings) -> object:
    async with lane_for(settings) as lane:
        return repr(lane.wallet.signer).removesuffix(")").partition("//")[2]


async def signer_timeout_s(settings: Settings) -> object:
    async with lane_for(settings) as lane:
        assert isinstance(lane.wallet.signer, RemoteSigner)
        return lane.wallet.signer._timeout.total


async def parked_with_one_token(settings: Settings) -> object:
    async with lane_for(settings) as lane:
        lane._head, lane.balance_wei = head(), WAD
        return lane.parked


def board_for(settings: Settings, clock: ManualClock) -> PriceBoard:
    before = _BEFORE.get()
    board = build_board(before or settings, clock)  # type: ignore[arg-type]
    if before:
        board.adopt(feed_rules(settings))
    return board


# --- what the other parts do ----------------------------------------------------------------------


def part(look: Callable[[Parts], object]) -> Look:
    async def looked(settings: Settings) -> object:
        before = _BEFORE.get()
        async with build(before or settings) as parts:
            if before:
                adopt(parts.status, settings)
            return look(parts)

    return looked


def rpc_part(look: Callable[[HttpRpc], object]) -> Look:
    async def looked(settings: Settings) -> object:
        before = _BEFORE.get()
        async with aiohttp.ClientSession() as session:
            rpc = build_rpc(before or settings, session, Metrics("1"))
            if before:
                rpc.endpoints.rules = endpoint_rules(settings)
            return look(rpc)

    return looked


def state_of(*, lag: int = 0, latency_ms: float = 1.0) -> Callable[[HttpRpc], object]:
    def looked(rpc: HttpRpc) -> object:
        (endpoint,) = rpc.endpoints.all
        endpoint.lag, endpoint.latency_ms = lag, latency_ms
        return rpc.endpoints.state(endpoint).value

    return looked


def broadcast_part(look: Callable[[Broadcast], object]) -> Look:
    async def looked(settings: Settings) -> object:
        async with aiohttp.ClientSession() as session:
            metrics = Metrics("1")
            return look(build_broadcast(settings, build_rpc(settings, session, metrics), metrics))

    return looked


def relay_method(broadcast: Broadcast) -> object:
    (relay,) = broadcast._rules.relays
    return relay.request("0x", 1)[0]


def relay_address(broadcast: Broadcast) -> object:
    (relay,) = broadcast._rules.relays
    return relay.key and relay.key.address


async def requests_of_a_call(settings: Settings) -> object:
    telemetry = CountingTelemetry()
    async with aiohttp.ClientSession() as session:
        rpc = build_rpc(settings, session, telemetry)  # type: ignore[arg-type]
        with pytest.raises(RpcError):
            await rpc.call("eth_chainId")
    return telemetry.counts.total()


def listening(parts: Parts) -> ListenRules:
    """Return what the first websocket is asked for."""
    (body,) = [loop for name, loop in _loops(parts).items() if name == "ws0"]
    rules: ListenRules = body.args[1].args[1]  # type: ignore[attr-defined]
    return rules


def finder(parts: Parts) -> Finder:
    """Return what finds accounts."""
    found: Finder = parts.pipeline.reading.discover.__self__  # type: ignore[attr-defined]
    return found


async def queries_at_once(settings: Settings) -> object:
    async with build(settings) as parts:
        return len(finder(parts)._reader._wave([range(100)] * 100))


def reconciling(parts: Parts) -> ReconcileRules:
    return parts.pipeline.reading.reconciler.rules


def blocks_remembered(parts: Parts) -> object:
    (intake,) = parts.pipeline.intakes.values()
    return intake._depth


def folder_of_the_journal(parts: Parts) -> object:
    return parts.status.journal._path.parent.name


def folder_of_the_ledger(parts: Parts) -> object:
    return finder(parts)._ledger._path.parent.name


def seconds_between_snapshots(parts: Parts) -> object:
    return _loops(parts)["snapshots"].args[1]  # type: ignore[attr-defined]


def folder_of_the_snapshots(parts: Parts) -> object:
    (desk,) = parts.desks.values()
    return parts.snapshots.path(desk).parent.name


def addresses(parts: Parts) -> object:
    (desk,) = parts.desks.values()
    return list(desk.venue.addresses())


def priced(*changes: Keys, later_ms: int = 0) -> Look:
    """Say what the board makes of the last of these ticks, or whether it still stands later.

    Before them comes a good one at 2,000 USD.
    """

    async def looked(settings: Settings) -> object:
        clock = ManualClock()
        board = board_for(settings, clock)
        said = ""
        every: tuple[Keys, ...] = ({}, *changes)
        for number, change in enumerate(every):
            values: dict[str, Any] = {
                "feed": FeedId("ETH/USD"),
                "source": "main",
                "price_wad": 2_000 * WAD,
                "published_ms": clock.now_ms,
                "received_ms": clock.now_ms,
                "received_ns": clock.now_ns,
                "sequence": number,
            }
            made = board.offer(Tick(**(values | dict(change))))
            refused = [each for each in made if isinstance(each, Rejected)]
            said = refused[0].reason.value if refused else "taken"
            clock.advance(0.001)
        if not later_ms:
            return said
        clock.advance(later_ms / 1000)
        return "fresh" if board.fresh(FeedId("ETH/USD"), clock.now_ms) else "too old"

    return looked


def fused(*given: Keys, feed: str = "ETH/USD") -> Look:
    """Say which price in USD a feed has after these ticks of ETH/USD, or None."""

    async def looked(settings: Settings) -> object:
        clock = ManualClock()
        board = board_for(settings, clock)
        for values in given:
            tick = Tick(FeedId("ETH/USD"), "main", 0, clock.now_ms, clock.now_ms, clock.now_ns)
            board.offer(replace(tick, **values))  # type: ignore[arg-type]
        price = board.fresh(FeedId(feed), clock.now_ms)
        return price and price.price_wad / WAD

    return looked


CONNACK_UNAVAILABLE = bytes([0x20, 2, 0, 3])
AHEAD_MS = ManualClock().now_ms + 500


def greeting(look: Callable[[bytes], object]) -> Look:
    """Look at the variable part of the CONNECT packet with which the source greets its broker."""

    async def looked(settings: Settings) -> object:
        greeted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, length = await reader.readexactly(2)
            greeted.set_result(await reader.readexactly(length))
            writer.write(CONNACK_UNAVAILABLE)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            first = settings.sources[0]
            options = first.options.model_copy(update={"port": port})
            sources = (first.model_copy(update={"options": options}),)
            changed = settings.model_copy(update={"sources": sources})
            source = build_sources(changed, SystemClock(), Metrics("1"), NoRpc())["main"]
            with contextlib.suppress(TransientError):
                await source.check()
            return look(await greeted)

    return looked


def keepalive_s(greeted: bytes) -> int:
    return int.from_bytes(greeted[8:10])


def client_id(greeted: bytes) -> str:
    return greeted[12 : 12 + int.from_bytes(greeted[10:12])].decode()
