"""Every reason to hold an account back, and the wake that ends it: no account is forgotten."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from structlog.testing import capture_logs

from keeper.decide.agenda import HoldReason
from keeper.execute import REFUSALS
from keeper.facts import AccountId, NotSent, Refused, TxKind
from keeper.units import WAD
from tests.fakes import ScriptedLane
from tests.shell.market import set_account, set_open
from tests.shell.rig import DESK_RULES, EXECUTION_RULES, WALLET, Rig, receipt_of, scripted_rig
from tests.shell.venue import FEEDS

ALICE, BOB = AccountId("alice"), AccountId("bob")
UNDER = set_account(ALICE, -19_500, eth=10)  # equity 500, needs 1,000, pays 200
HUGE = set_account(ALICE, -195_000, eth=100)  # the same ten times over: closed by halves


@dataclass
class Case:
    """An account that is held, and what ends it."""

    rig: Rig
    lane: ScriptedLane
    wake: Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def started(
    rig: Rig, *actions: Callable[..., None], prices: tuple[str, ...] = ("eth", "btc")
) -> None:
    rig.start(*actions)
    for name in prices:
        await rig.tick(name, rig.chain.state.prices()[name])
    rig.follow()
    assert await rig.read()


async def tried(rig: Rig) -> None:
    await rig.decide()
    await rig.attempt()


async def not_liquidatable() -> Case:
    rig, lane = scripted_rig()
    await started(rig, UNDER)
    rig.venue.refusal = Refused("not_liquidatable", "")
    await tried(rig)

    async def next_block() -> None:
        rig.venue.refusal = None
        rig.mine()
        rig.follow()
        await rig.publish()
        assert await rig.read()

    return Case(rig, lane, next_block)


async def no_progress() -> Case:
    rig, lane = scripted_rig()
    rig.chain.state.idle = True
    await started(rig, UNDER)
    await tried(rig)

    async def window_opens() -> None:
        rig.mine(lambda _chain, block: setattr(block.state, "idle", False))
        rig.follow()
        await rig.publish()
        assert await rig.read()

    return Case(rig, lane, window_opens)


async def stale_price() -> Case:
    rig, lane = scripted_rig(pull=True)
    await started(rig, set_account(ALICE, -17_500, eth=10))
    await rig.decide()
    rig.clock.advance(1)
    await rig.tick("eth", 1_800 * WAD)
    rig.clock.advance(16)
    assert await rig.decide() == [], "a price that is too old carries no decision"

    async def price_returns() -> None:
        await rig.tick("eth", 1_790 * WAD)  # nothing else: no block, no time

    return Case(rig, lane, price_returns)


async def stale_head() -> Case:
    rig, lane = scripted_rig()
    await started(rig, UNDER)
    rig.clock.advance(61)
    await rig.publish()
    await tried(rig)

    async def head_comes() -> None:
        rig.mine()
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, head_comes)


async def no_native_price() -> Case:
    rig, lane = scripted_rig()
    await started(rig, set_account(ALICE, -59_000, btc=1), prices=("btc",))
    await tried(rig)

    async def price_comes() -> None:
        await rig.tick("eth", 2_000 * WAD)

    return Case(rig, lane, price_comes)


async def simulation_failed() -> Case:
    rig, lane = scripted_rig()
    await started(rig, UNDER)
    rig.venue.lost = lambda: True
    await tried(rig)

    async def time_passes() -> None:
        rig.venue.lost = lambda: False
        rig.clock.advance(2)

    return Case(rig, lane, time_passes)


async def unprofitable() -> Case:
    rules = replace(EXECUTION_RULES, profit_wei_min=WAD)
    rig, lane = scripted_rig(execution_rules=rules)
    await started(rig, UNDER)
    await tried(rig)

    async def account_grows() -> None:
        rig.mine(HUGE)
        await rig.publish()
        rig.follow()
        assert await rig.read()
        rig.execution.rules = EXECUTION_RULES

    return Case(rig, lane, account_grows)


async def cost_cap() -> Case:
    rig, lane = scripted_rig()
    await started(rig, UNDER)
    fee, lane.fee = lane.fee, None
    await tried(rig)

    async def base_fee_falls() -> None:
        lane.fee = fee
        rig.clock.advance(2)

    return Case(rig, lane, base_fee_falls)


async def open_attempts() -> Case:
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, open_attempts_max=1))
    await started(rig, UNDER, set_account(BOB, -21_400, eth=11))
    await tried(rig)
    (attempt,) = lane.open_attempts
    assert attempt.plan.account == BOB, "the one that pays most goes first"

    async def other_is_settled() -> None:
        lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
        await rig.publish()
        rig.follow()
        assert await rig.read()
        await rig.settle()

    return Case(rig, lane, other_is_settled)


async def attempt_open() -> Case:
    """Cured and nominated again while its transaction is in flight."""
    rig, lane = scripted_rig(pull=True)
    await started(rig, UNDER)
    await tried(rig)
    (attempt,) = lane.open_attempts
    rig.mine(set_account(ALICE, -1_000, eth=10))
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    assert rig.why(ALICE) == "not_under_margined"
    rig.mine(UNDER)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    assert await rig.decide() == [ALICE]
    await rig.attempt()

    async def first_one_ends() -> None:
        rig.mine()
        lane.mine(attempt, None, None)
        await rig.publish()
        rig.follow()
        assert await rig.read()
        await rig.settle()
        rig.clock.advance(1)

    return Case(rig, lane, first_one_ends)


async def backoff() -> Case:
    rig, lane = scripted_rig()
    await started(rig, UNDER)
    await tried(rig)
    (attempt,) = lane.open_attempts
    lane.mine(attempt, receipt_of(rig, attempt, success=False), TxKind.FIRST)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.settle()

    async def time_passes() -> None:
        rig.clock.advance(1)

    return Case(rig, lane, time_passes)


async def state_behind() -> Case:
    rig, lane = scripted_rig()
    await started(rig, HUGE)
    await tried(rig)
    (attempt,) = lane.open_attempts
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
    await rig.settle()

    async def state_is_read() -> None:
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, state_is_read)


async def _not_sent(refusal: NotSent) -> Case:
    rig, lane = scripted_rig()
    await started(rig, UNDER)
    lane.refuse = refusal
    await tried(rig)

    async def time_passes() -> None:
        lane.refuse = None
        rig.clock.advance(2)

    return Case(rig, lane, time_passes)


async def lane_parked() -> Case:
    return await _not_sent(NotSent.LANE_PARKED)


async def send_failed() -> Case:
    return await _not_sent(NotSent.DROPPED)


async def dry_run() -> Case:
    rig, lane = scripted_rig(wallet=None)
    await started(rig, UNDER)
    await tried(rig)
    assert rig.venue.simulated == [ALICE], "a dry run simulates all the same"

    async def time_passes() -> None:
        lane.wallet = WALLET
        rig.clock.advance(2)

    return Case(rig, lane, time_passes)


async def venue_closed() -> Case:
    rig, lane = scripted_rig()
    rig.chain.state.open = False
    await started(rig, UNDER)
    await tried(rig)
    assert rig.venue.simulated == [], "a closed venue is watched, not asked"

    async def venue_opens() -> None:
        rig.mine(set_open(is_open=True))
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, venue_opens)


async def quarantined() -> Case:
    rig, lane = scripted_rig()
    rig.venue.poisoned = {("assess", ALICE)}
    await started(rig, UNDER)
    await tried(rig)

    async def state_changes() -> None:
        rig.venue.poisoned = set()
        rig.mine(UNDER)
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, state_changes)


CASES: dict[HoldReason, Callable[[], Awaitable[Case]]] = {
    HoldReason.NOT_LIQUIDATABLE: not_liquidatable,
    HoldReason.NO_PROGRESS: no_progress,
    HoldReason.STALE_PRICE: stale_price,
    HoldReason.STALE_HEAD: stale_head,
    HoldReason.NO_NATIVE_PRICE: no_native_price,
    HoldReason.SIMULATION_FAILED: simulation_failed,
    HoldReason.UNPROFITABLE: unprofitable,
    HoldReason.COST_CAP: cost_cap,
    HoldReason.OPEN_ATTEMPTS: open_attempts,
    HoldReason.ATTEMPT_OPEN: attempt_open,
    HoldReason.BACKOFF: backoff,
    HoldReason.STATE_BEHIND: state_behind,
    HoldReason.LANE_PARKED: lane_parked,
    HoldReason.SEND_FAILED: send_failed,
    HoldReason.DRY_RUN: dry_run,
    HoldReason.VENUE_CLOSED: venue_closed,
    HoldReason.QUARANTINED: quarantined,
}


@pytest.mark.parametrize("reason", HoldReason)
async def test_held_until_woken_and_then_acted_on(reason: HoldReason) -> None:
    case = await CASES[reason]()
    rig, lane = case.rig, case.lane
    await rig.decide()
    assert rig.why(ALICE) == reason.value
    sent, asked = len(lane.plans), len(rig.venue.simulated)
    assert not rig.desk.agenda.has_due
    await tried(rig)
    assert rig.why(ALICE) == reason.value, "nothing ended it"
    assert len(rig.venue.simulated) == asked, "what is held costs no request"
    if reason not in {HoldReason.BACKOFF, HoldReason.STATE_BEHIND}:  # ends of work, not refusals
        assert rig.counted("keeper_held_total", reason.value) == 1
    await case.wake()
    await tried(rig)
    assert [plan.account for plan in lane.plans[sent:]] == [ALICE]
    assert rig.why(ALICE) == "in_flight"


@pytest.mark.parametrize("said", ["not_liquidatable", "no_progress", "oracle", "unknown", "new"])
async def test_what_the_chain_refuses_becomes_a_hold(said: str) -> None:
    rig, lane = scripted_rig()
    await started(rig, UNDER)
    rig.venue.refusal = Refused(said, "detail")
    await tried(rig)
    expected = REFUSALS.get(said, HoldReason.SIMULATION_FAILED)
    assert rig.why(ALICE) == expected.value
    assert rig.counted("keeper_simulated_total", said) == 1
    disagreed = rig.counted("keeper_disagreements_total", "simulate")
    assert disagreed == (1 if said == "not_liquidatable" else 0)
    assert lane.plans == []


async def test_a_silent_feed_does_not_hold_what_is_under_at_the_contracts_own_price() -> None:
    rig, lane = scripted_rig()
    await started(rig, set_account(ALICE, -59_000, btc=1), prices=("eth",))
    assert rig.board.fresh(FEEDS["btc"], rig.clock.now_ms) is None
    await tried(rig)
    assert [plan.account for plan in lane.plans] == [ALICE]


async def test_a_hold_by_time_ends_even_when_nothing_happens() -> None:
    rig, lane = scripted_rig()
    rig.venue.poisoned = {("assess", ALICE)}
    await started(rig, UNDER)
    await tried(rig)
    rig.venue.poisoned = set()
    rig.clock.advance(59)
    await tried(rig)
    assert rig.why(ALICE) == "quarantined"
    rig.clock.advance(1)
    await rig.tick("eth", 2_000 * WAD)
    await tried(rig)
    assert len(lane.plans) == 1


async def test_simulations_side_by_side_do_not_open_more_attempts_than_allowed() -> None:
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, open_attempts_max=2))
    names = [f"account{number}" for number in range(6)]
    await started(rig, *(set_account(name, -19_500, eth=10) for name in names))
    await rig.decide()
    candidates = rig.pipeline._candidates.take()
    together = asyncio.Barrier(len(names))
    simulate = rig.venue.simulate

    async def slowly(*arguments: object) -> object:
        await together.wait()
        return await simulate(*arguments)  # type: ignore[arg-type]

    rig.venue.simulate = slowly  # type: ignore[method-assign, assignment]
    async with asyncio.TaskGroup() as group:
        for (_, account), nominated in candidates.items():
            group.create_task(rig.execution.attempt(rig.desk, nominated), name=account)
    assert len(lane.plans) == 2
    held = [name for name in names if rig.why(name) == "open_attempts"]
    assert len(held) == 4


async def test_an_attempt_that_ends_while_it_is_sent_does_not_leave_its_account_busy() -> None:
    rig, lane = scripted_rig()
    await started(rig, UNDER)

    def settled_at_once(attempt: object) -> None:
        lane._open.clear()
        rig.desk.settled(ALICE, failed=False, block=rig.chain.head.number)
        assert attempt

    lane.during_submit = settled_at_once
    await tried(rig)
    assert rig.why(ALICE) != "in_flight"
    await tried(rig)
    assert len(lane.plans) >= 2


async def test_candidates_wait_their_turn_and_the_worst_goes_first() -> None:
    rig, _ = scripted_rig(desk_rules=replace(DESK_RULES, candidates_per_step_max=2))
    cash = {"mild": -19_100, "worst": -19_900, "bad": -19_500}
    await started(rig, *(set_account(name, usd, eth=10) for name, usd in cash.items()))
    rig.pipeline._learn()
    now_ms = rig.clock.now_ms
    assert rig.desk.due(now_ms) == ["worst", "bad"]
    assert sorted(await rig.decide()) == ["bad", "mild", "worst"], "the others in the next step"
