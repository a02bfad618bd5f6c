"""The loops themselves: as tasks side by side, and what each owes the others."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Self

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from keeper.errors import RpcError, RpcFault, TransientError
from keeper.facts import (
    AccountId,
    ChainUpdate,
    Head,
    LiquidationSeen,
    Log,
    Rejected,
    Rejection,
)
from keeper.jobs import Job
from keeper.units import WAD
from keeper.watch import intake as intake_module
from keeper.watch import reading, rivals
from keeper.watch.desk import Desk
from keeper.watch.rivals import report
from tests.fakes import ListedSource
from tests.shell.market import ADDRESS, rival_liquidates, set_account, set_open, set_price
from tests.shell.rig import DESK_RULES, Rig, scripted_rig
from tests.shell.venue import VENUE

ALICE, BOB, CAROL = AccountId("alice"), AccountId("bob"), AccountId("carol")
UNDER = set_account(ALICE, -19_500, eth=10)
SAFE = set_account(ALICE, -17_500, eth=10)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured


class Updates:
    """What the chain loop hears, as a test puts it in. Implements ``pipeline.Chain``."""

    announced = True

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.queue: asyncio.Queue[ChainUpdate | None] = asyncio.Queue()

    async def start(self) -> Head:
        return await self._rig.follower.start()

    async def updates(self) -> AsyncGenerator[ChainUpdate | None]:
        while True:
            yield await self.queue.get()


class Running:
    """All loops as tasks; ``idle`` lets them run until each waits for something."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.updates = Updates(rig)

    async def __aenter__(self) -> Self:
        pipeline = self.rig.pipeline
        pipeline._chain = self.updates
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        loops = {
            "chain": pipeline.chain(),
            "accounts": pipeline.reading.accounts(VENUE),
            "decide": pipeline.decide(),
            "attempt": pipeline.attempt(),
            "settle": pipeline.settle(),
        }
        self.tasks = [self.group.create_task(body, name=name) for name, body in loops.items()]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        await self.group.__aexit__(None, None, None)

    async def idle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def news(self, *, resync: bool = False) -> None:
        await self.updates.queue.put(self.rig.follower.since(resync=resync))
        await self.idle()


@pytest.fixture
def loops() -> Running:
    rig, _ = scripted_rig()
    return Running(rig)


async def test_from_a_block_to_an_attempt(loops: Running) -> None:
    rig = loops.rig
    rig.start(SAFE)
    async with loops:
        await rig.publish()
        await loops.idle()
        assert rig.desk.loaded
        rig.mine(set_price("eth", 1_830 * WAD))
        await rig.publish()
        await loops.news()
        assert rig.why(ALICE) == "in_flight"
    ranges, _, _ = rig.memory.noted[-1]
    assert (ranges[-1].last, ranges[-1].hash) == (rig.chain.head.number, rig.chain.head.hash)


async def test_what_is_touched_while_accounts_are_found_is_read_at_the_newer_head(
    loops: Running,
) -> None:
    """Reading it at the head that was there first would miss the change for good."""
    rig, found = loops.rig, asyncio.Event()
    rig.start(SAFE)
    rig.intake.take()

    async def slowly(_desk: Desk, _head: Head) -> AsyncIterator[list[AccountId]]:
        await found.wait()
        yield [ALICE]

    rig.reading.discover = slowly
    async with loops:
        await rig.publish()
        await loops.idle()
        rig.mine(UNDER)
        await rig.publish()
        await loops.news()
        found.set()
        await loops.idle()
        assert rig.desk.states[ALICE].head == rig.chain.head
        assert rig.why(ALICE) == "in_flight"


@pytest.mark.parametrize("how", ["resync", "overflow"])
async def test_accounts_opened_in_logs_that_were_lost_are_found(
    how: str, loops: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = loops.rig
    rig.start(SAFE)
    async with loops:
        await rig.publish()
        await loops.idle()
        if how == "overflow":
            monkeypatch.setattr(intake_module, "LOGS_MAX", 0)
        rig.mine(set_account(BOB, -19_500, eth=10))
        await rig.publish()
        await loops.news(resync=how == "resync")
        assert rig.why(BOB) == "in_flight"
        assert {ALICE, BOB} <= set(rig.venue.reads[-1]), "and everything was read again"


async def test_an_account_that_the_contract_lists_is_read_although_no_log_names_it(
    loops: Running,
) -> None:
    rig = loops.rig
    rig.start(UNDER)
    rig.intake.take()

    async def nobody(_desk: Desk, _head: Head) -> AsyncIterator[list[AccountId]]:
        yield []

    rig.reading.discover = nobody
    async with loops:
        await rig.publish()
        await loops.idle()
        assert ALICE not in rig.desk.states
        rig.venue.queue = (ALICE,)
        rig.mine()
        await loops.news()
        assert rig.why(ALICE) == "in_flight"
        read = rig.venue.reads.count((ALICE,))
        rig.mine()
        await loops.news()
        assert rig.venue.reads.count((ALICE,)) == read == 1, "known by now"


async def test_an_account_touched_while_it_is_read_is_read_again(loops: Running) -> None:
    rig = loops.rig
    rig.start(SAFE)
    async with loops:
        await rig.publish()
        await loops.idle()
        rig.mine(set_account(ALICE, -17_400, eth=10))
        update = rig.follower.since()
        assert update is not None

        def meanwhile() -> None:
            rig.venue.while_reading = lambda: None
            rig.mine(UNDER)
            newer = rig.follower.since()
            assert newer is not None
            rig.intake.post(newer)

        rig.venue.while_reading = meanwhile
        await loops.updates.queue.put(update)
        await loops.idle()
        await rig.publish()
        await loops.idle()
        assert rig.venue.reads[-2:] == [(ALICE,), (ALICE,)]
        assert rig.desk.states[ALICE].head == rig.chain.head
        assert rig.why(ALICE) == "in_flight"


async def test_what_could_not_be_read_stays_dirty() -> None:
    rig, _ = scripted_rig()
    rig.start(UNDER)
    await rig.publish()
    rig.follow()
    rig.venue.lost = lambda: True
    assert not await rig.read()
    assert rig.intake.everything
    rig.venue.lost = lambda: False
    assert await rig.read()
    await rig.decide()
    await rig.attempt()
    assert rig.why(ALICE) == "in_flight"
    assert not rig.intake.everything


async def test_a_reading_that_fails_half_way_is_repeated_whole() -> None:
    rig, _ = scripted_rig()
    rig.start(UNDER, set_account(BOB, 0))
    await rig.publish()
    rig.follow()
    assert await rig.read()
    rig.mine(UNDER, set_account(BOB, 5))
    rig.follow()
    answers = iter([False, True])  # the market is read, the accounts are not
    rig.venue.lost = lambda: next(answers)
    assert not await rig.read()
    rig.venue.lost = lambda: False
    assert await rig.read()
    assert rig.venue.reads[-1] == (ALICE, BOB)


async def test_of_a_reading_that_fails_half_way_what_was_read_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a node that forgets a block sooner than all is read at it would never let us start."""
    monkeypatch.setattr(reading, "READ_MAX", 1)
    rig, _ = scripted_rig()
    rig.start(UNDER, set_account(BOB, 5))
    rig.follow()
    answers = iter([False, False, False, True])  # probe, market and ALICE are read, BOB is not
    rig.venue.lost = lambda: next(answers)
    assert not await rig.read()
    assert not rig.desk.loaded
    read_at = rig.chain.head
    rig.venue.lost = lambda: False
    rig.mine()
    rig.follow()
    assert await rig.read()
    assert rig.venue.reads == [(ALICE,), (BOB,), (BOB,)]
    await rig.decide()
    heads = rig.desk.states[ALICE].head, rig.desk.states[BOB].head
    assert heads == (read_at, rig.chain.head)
    assert (rig.desk.loaded, rig.desk.read_at) == (True, rig.chain.head)


async def test_an_orphaned_change_is_taken_back() -> None:
    rig, lane = scripted_rig()
    rig.start(SAFE)
    await rig.block()
    await rig.block(UNDER)
    await rig.block()
    assert rig.why(ALICE) == "in_flight"
    assert len(lane.plans) == 1
    rig.chain.orphan(2)
    rig.mine()
    rig.mine()
    rig.mine()
    await rig.publish()
    await rig.turn()
    assert rig.why(ALICE) == "not_under_margined"
    rig.mine()
    rig.follow()
    assert await rig.read()


async def test_everything_is_read_and_probed_when_parameters_change() -> None:
    rig, _ = scripted_rig()
    rig.start(SAFE, set_account(BOB, 1))
    await rig.block()
    assert rig.venue.probes == 1
    await rig.block()
    assert rig.venue.probes == 1
    rig.venue.reads.clear()
    await rig.block(set_open(is_open=False))
    assert rig.venue.probes == 2
    assert not rig.desk.access.open
    assert [set(read) for read in rig.venue.reads] == [{ALICE, BOB}]
    await rig.block(set_open(is_open=True))
    assert rig.desk.access.open


async def test_a_closed_venue_is_watched_and_an_opening_without_an_event_is_noticed(
    logs: list[EventDict],
) -> None:
    rig, lane = scripted_rig()
    rig.chain.state.open = False
    await rig.started(UNDER)
    await rig.tried()
    assert (rig.why(ALICE), lane.plans) == ("venue_closed", [])
    assert rig.counted("keeper_held_total", "venue_closed") == 1
    await rig.block(set_account(BOB, 1))
    assert BOB in rig.desk.states
    number = rig.chain.head.number
    rival = LiquidationSeen(ALICE, "0x" + "cc" * 20, "0x01", number, 5)
    rivals.report(rig.desk, rival, lane, rig.telemetry)
    assert rig.counted("keeper_liquidations_seen_total", "other") == 1
    assert logs[-1]["why_not_us"] == "venue_closed"
    rig.chain.state.open = True
    await rig.block()
    assert not rig.desk.access.open, "nothing tells of it before the venue is asked again"
    rig.clock.advance(DESK_RULES.probe_ms / 1000)
    await rig.block()
    assert len(lane.plans) == 1
    told = [line["event"] for line in logs if str(line["event"]).startswith("venue ")]
    assert told == ["venue closed: watching only", "venue open"]


async def test_a_venue_set_aside_over_its_market_comes_back_when_that_works() -> None:
    rig, _ = scripted_rig()
    await rig.started(SAFE)
    rig.venue.poisoned.add(("factors", VENUE))
    await rig.block()
    assert rig.pipeline._quarantine.is_quarantined(VENUE)
    rig.venue.poisoned.clear()
    await rig.block()
    assert not rig.pipeline._quarantine.is_quarantined(VENUE)


async def test_a_liquidation_by_somebody_else_is_counted_and_explained(
    logs: list[EventDict],
) -> None:
    rig, _ = scripted_rig()
    rig.start(UNDER)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    rig.venue.lost = lambda: True
    await rig.decide()
    await rig.attempt()
    rig.venue.lost = lambda: False
    await rig.block(rival_liquidates(ALICE))
    assert rig.counted("keeper_liquidations_seen_total", "other") == 1
    assert rig.counted("keeper_liquidations_seen_total", "us") == 0
    (line,) = [line for line in logs if line["event"] == "liquidated by somebody else"]
    assert line["why_not_us"] == "simulation_failed"
    assert (line["account"], line["reward_wad"]) == (ALICE, 200 * WAD)
    assert line["log_level"] == "warning"


async def test_another_job_that_was_paid_for_is_no_liquidation_seen(logs: list[EventDict]) -> None:
    rig, _ = scripted_rig()
    await rig.started(UNDER)
    seen = LiquidationSeen(ALICE, "0x" + "0b" * 20, "0x" + "cc" * 32, 1, WAD, Job.SETTLE)
    report(rig.desk, seen, rig.pipeline._submitter, rig.telemetry)
    assert rig.counted("keeper_liquidations_seen_total", "other") == 0
    assert [line for line in logs if line["event"] == "liquidated by somebody else"] == []


async def test_the_accounts_loop_tells_of_liquidations(loops: Running) -> None:
    rig = loops.rig
    rig.start(SAFE)
    async with loops:
        await rig.publish()
        await loops.idle()
        rig.mine(UNDER, rival_liquidates(ALICE))
        await loops.news()
        assert rig.counted("keeper_liquidations_seen_total", "other") == 1


async def test_refused_prices_are_counted_and_go_nowhere() -> None:
    rig, _ = scripted_rig()
    refused = Rejected("main", Rejection.MALFORMED, "", "not JSON")
    await rig.pipeline.prices(ListedSource([refused]))
    await rig.tick("eth", -1)
    await rig.tick("eth", 2_000 * WAD, published_ms=rig.clock.now_ms - 60_000)
    counts = rig.telemetry.counts
    assert counts["keeper_price_rejections_total", "", "main", "malformed"] == 1
    assert counts["keeper_price_rejections_total", "ETH/USD", "main", "not_positive"] == 1
    assert counts["keeper_price_rejections_total", "ETH/USD", "main", "stale"] == 1
    assert len(rig.pipeline._inbox) == 0
    await rig.tick("eth", 2_000 * WAD)
    assert counts["keeper_price_updates_total", "ETH/USD", "main"] == 1
    assert len(rig.pipeline._inbox) == 2, "the price, and that there is one again"
    rig.pipeline._inbox.take()
    await rig.tick("eth", 2_001 * WAD)
    assert len(rig.pipeline._inbox) == 1


async def test_an_endpoint_that_refuses_everything_is_a_lost_connection(loops: Running) -> None:
    class Refusing:
        async def start(self) -> Head:
            raise RpcError(RpcFault.OTHER, "unknown API key")

    loops.rig.pipeline._chain = Refusing()  # type: ignore[assignment]
    with pytest.raises(TransientError, match="unknown API key"):
        await loops.rig.pipeline.chain()
    assert loops.rig.pipeline.chain_trouble == "other: unknown API key"


async def test_trouble_with_the_chain_is_named_until_it_is_over(loops: Running) -> None:
    rig = loops.rig

    class Broken:
        async def start(self) -> Head:
            msg = "connection refused"
            raise TransientError(msg)

        def updates(self) -> AsyncIterator[None]:
            raise AssertionError

    rig.pipeline._chain = Broken()  # type: ignore[assignment]
    with pytest.raises(TransientError):
        await rig.pipeline.chain()
    assert rig.pipeline.chain_trouble == "connection refused"
    async with loops:
        await loops.idle()
        rig.mine()
        await loops.news()
        trouble = rig.pipeline.chain_trouble
        assert trouble == ""


async def test_a_hinted_account_is_read_with_its_block_although_no_log_names_it(
    loops: Running,
) -> None:
    rig = loops.rig
    rig.start(SAFE)
    async with loops:
        await rig.publish()
        await loops.idle()
        number = rig.chain.head.number + 1
        rig.pipeline.hint(Log(ADDRESS, ("touched", ALICE), b"{}", number, "", ""))
        await loops.idle()
        before = rig.desk.states[ALICE]
        assert before.head.number < number, "there is nothing to be read yet"
        rig.mine(set_account(ALICE, 7, eth=1))
        head = rig.chain.head
        await loops.updates.queue.put(ChainUpdate(head, (), covers_from=head.number))
        await loops.idle()
        assert rig.desk.states[ALICE].head.number == number
        assert rig.desk.states[ALICE] != before
        assert rig.telemetry.totals["keeper_hinted_accounts_total", VENUE] == 1
        assert rig.telemetry.totals["keeper_accounts_read_total", VENUE] == 2, (
            "at the start, and now"
        )


async def test_how_late_a_block_was_seen_is_told_and_how(loops: Running) -> None:
    rig = loops.rig
    async with loops:
        rig.mine()
        rig.clock.advance(3)
        head = replace(rig.chain.head, seen_ms=rig.chain.head.timestamp_s * 1000 + 2_500)
        for announced in (True, False):
            loops.updates.announced = announced
            await loops.updates.queue.put(ChainUpdate(head, ()))
            await loops.idle()
            how = "announced" if announced else "polled"
            assert rig.telemetry.seconds["keeper_head_delay_seconds", how] == [2.5]
            assert rig.pipeline.head_how == how


async def test_what_a_reorg_has_replaced_is_taken_out_of_the_ledger() -> None:
    rig, _ = scripted_rig()
    await rig.started()
    rig.mine(set_account("alice", 100))
    rig.follow()
    assert await rig.read()
    replaced = rig.chain.head.number
    rig.chain.orphan(1)
    for _ in range(2):
        rig.mine()
    rig.follow()
    assert await rig.read()
    ranges, touched, cut_from = rig.memory.noted[-1]
    assert cut_from == replaced
    assert [(one.first, one.last) for one in ranges] == [(replaced, rig.chain.head.number)]
    assert "alice" in touched, "it was read again"
    await rig.block()
    assert rig.memory.noted[-1][2] is None, "once"


async def test_a_reorg_is_counted_and_what_it_may_have_settled_is_looked_at() -> None:
    rig, lane = scripted_rig()
    loops = Running(rig)
    async with loops:
        rig.mine()
        await loops.news()
        rig.chain.orphan(1)
        rig.mine()
        rig.mine()
        await loops.news()
        assert rig.telemetry.counts["keeper_reorgs_total",] == 1
        assert lane.reopened_from == [0, rig.chain.head.number - 1]


async def test_nothing_is_settled_before_what_was_in_flight_is_found_again(
    loops: Running,
) -> None:
    rig, asked = loops.rig, 0

    async def recover() -> Sequence[object]:
        nonlocal asked
        asked += 1
        return []

    rig.pipeline._recover = recover
    async with loops:
        await loops.idle()
        rig.mine()
        await loops.news()
        assert asked == 1, "once"


async def test_a_beat_of_every_loop(loops: Running) -> None:
    rig = loops.rig
    async with loops:
        rig.clock.advance(10)
        await rig.tick("eth", 2_000 * WAD)
        rig.mine()
        await loops.news()
        assert {name for name, age in rig.heartbeats.ages().items() if age > 0} <= {
            "attempt",
            "prices/main",
        }


async def test_what_the_ledger_could_not_take_is_given_again(loops: Running) -> None:
    rig = loops.rig
    rig.start(SAFE)
    async with loops:
        await rig.publish()
        await loops.idle()
        rig.memory.full = True
        first = rig.mine(set_account(BOB, 1))
        await loops.news()
        rig.mine()
        await loops.news()
        rig.memory.full = False
        last = rig.mine()
        await loops.news()
    ranges, touched, _ = rig.memory.noted[-1]
    assert [one.first for one in ranges] == [first.number, first.number + 1, last.number]
    assert BOB in touched
