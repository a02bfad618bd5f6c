"""Every reason to hold an account back, and the wake that ends it: no account is forgotten."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from structlog.testing import capture_logs

from keeper.act.spending import Past
from keeper.decide.agenda import HoldReason
from keeper.decide.budget import Limit, Sort, Span, Unit
from keeper.facts import AccountId, NotSent, Outcome, Refused, TxKind
from keeper.jobs import Job
from keeper.units import WAD
from tests.fakes import ScriptedLane
from tests.shell.market import rival_liquidates, set_account, set_open
from tests.shell.rig import (
    BRAKE_RULES,
    DESK_RULES,
    EXECUTION_RULES,
    WALLET,
    Rig,
    receipt_of,
    scripted_rig,
)
from tests.shell.venue import TAKEN_WAD, VENUE

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


async def not_liquidatable() -> Case:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    rig.venue.refusal = Refused("not_liquidatable", "")
    await rig.tried()

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
    await rig.started(UNDER)
    await rig.tried()

    async def window_opens() -> None:
        rig.mine(lambda _chain, block: setattr(block.state, "idle", False))
        rig.follow()
        await rig.publish()
        assert await rig.read()

    return Case(rig, lane, window_opens)


async def stale_price() -> Case:
    rig, lane = scripted_rig(pull=True)
    await rig.started(set_account(ALICE, -17_500, eth=10))
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
    await rig.started(UNDER)
    rig.clock.advance(61)
    await rig.publish()
    await rig.tried()

    async def head_comes() -> None:
        rig.mine()
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, head_comes)


async def no_native_price() -> Case:
    rig, lane = scripted_rig()
    await rig.started(set_account(ALICE, -59_000, btc=1), prices=("btc",))
    await rig.tried()

    async def price_comes() -> None:
        await rig.tick("eth", 2_000 * WAD)

    return Case(rig, lane, price_comes)


async def simulation_failed() -> Case:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    rig.venue.lost = lambda: True
    await rig.tried()

    async def time_passes() -> None:
        rig.venue.lost = lambda: False
        rig.clock.advance(2)

    return Case(rig, lane, time_passes)


async def no_capital() -> Case:
    """Another attempt takes over all that our margin allows."""
    rig, lane = scripted_rig()
    rig.venue.room_wad = TAKEN_WAD
    await rig.started(set_account(BOB, -21_400, eth=11))
    await rig.tried()
    (attempt,) = lane.open_attempts
    rig.mine(UNDER)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.tried()

    async def other_is_settled() -> None:
        lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
        await rig.publish()
        rig.follow()
        assert await rig.read()
        await rig.settle()
        rig.clock.advance(2)

    return Case(rig, lane, other_is_settled)


async def unprofitable() -> Case:
    rules = replace(EXECUTION_RULES, profit_wei_min=WAD)
    rig, lane = scripted_rig(execution_rules=rules)
    await rig.started(UNDER)
    await rig.tried()

    async def account_grows() -> None:
        rig.mine(HUGE)
        await rig.publish()
        rig.follow()
        assert await rig.read()
        rig.execution.weighing.rules = EXECUTION_RULES

    return Case(rig, lane, account_grows)


async def _no_fee(reason: HoldReason) -> Case:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    fee, lane.fee = lane.fee, reason
    await rig.tried()

    async def base_fee_falls() -> None:
        lane.fee = fee
        rig.clock.advance(2)

    return Case(rig, lane, base_fee_falls)


async def cost_cap() -> Case:
    return await _no_fee(HoldReason.COST_CAP)


async def fee_unknown() -> Case:
    return await _no_fee(HoldReason.FEE_UNKNOWN)


async def open_attempts() -> Case:
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, open_attempts_max=1))
    await rig.started(UNDER, set_account(BOB, -21_400, eth=11))
    await rig.tried()
    (attempt,) = lane.open_attempts
    assert attempt.plan.account == BOB, "the one that pays most goes first"

    async def other_is_settled() -> None:
        lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
        await rig.publish()
        rig.follow()
        assert await rig.read()
        await rig.settle()

    return Case(rig, lane, other_is_settled)


async def capacity_in_use() -> Case:
    """Behind another account's attempt in the same market, simulated without seeing it."""
    rig, lane = scripted_rig()
    rig.venue.alone.add(ALICE)
    await rig.started(UNDER, set_account(BOB, -21_400, eth=11))
    await rig.tried()
    (attempt,) = lane.open_attempts
    assert (attempt.plan.account, attempt.plan.uses) == (BOB, ("eth",))

    async def other_is_settled() -> None:
        lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
        await rig.publish()
        rig.follow()
        assert await rig.read()
        await rig.settle()

    return Case(rig, lane, other_is_settled)


async def budget() -> Case:
    """What an earlier attempt has spent leaves the hour."""
    rules = replace(EXECUTION_RULES, limits=(Limit(Sort.GAS, Span.HOUR, Unit.WEI, WAD),))
    rig, lane = scripted_rig(execution_rules=rules)
    past = Past(VENUE, Job.LIQUIDATE, Outcome.REVERTED, rig.clock.now_ms, 0, WAD, None, None)
    rig.execution.spending.note(past)
    await rig.started(UNDER)
    await rig.tried()

    async def an_hour_passes() -> None:
        rig.clock.advance(3_601)
        rig.mine()
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, an_hour_passes)


async def attempt_open() -> Case:
    """Cured and nominated again while its transaction is in flight."""
    rig, lane = scripted_rig(pull=True)
    await rig.started(UNDER)
    await rig.tried()
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
    await rig.started(UNDER)
    await rig.tried()
    (attempt,) = lane.open_attempts
    lane.mine(attempt, receipt_of(rig, attempt, success=False), TxKind.FIRST)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.settle()

    async def time_passes() -> None:
        rig.clock.advance(1)

    return Case(rig, lane, time_passes)


async def halved() -> Case:
    rig, lane = scripted_rig(desk_rules=replace(DESK_RULES, batch_accounts_max=2))
    await rig.started(UNDER, set_account(BOB, -19_500, eth=10))
    await rig.tried()
    (attempt,) = lane.open_attempts
    assert attempt.plan.batch == (ALICE, BOB)
    rig.mine(rival_liquidates(BOB))
    lane.mine(attempt, receipt_of(rig, attempt, success=False), TxKind.FIRST)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.settle()

    async def next_block() -> None:
        rig.mine()
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, next_block)


async def state_behind() -> Case:
    rig, lane = scripted_rig()
    await rig.started(HUGE)
    await rig.tried()
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
    await rig.started(UNDER)
    lane.refuse = refusal
    await rig.tried()

    async def time_passes() -> None:
        lane.refuse = None
        rig.clock.advance(2)

    return Case(rig, lane, time_passes)


async def lane_parked() -> Case:
    return await _not_sent(NotSent.LANE_PARKED)


async def not_signed() -> Case:
    return await _not_sent(NotSent.NOT_SIGNED)


async def no_endpoint() -> Case:
    return await _not_sent(NotSent.NO_ENDPOINT)


async def journal() -> Case:
    return await _not_sent(NotSent.NOT_WRITTEN)


async def send_failed() -> Case:
    return await _not_sent(NotSent.DROPPED)


async def dry_run() -> Case:
    rig, lane = scripted_rig(wallet=None)
    await rig.started(UNDER)
    await rig.tried()
    assert rig.venue.simulated == [ALICE], "a dry run simulates all the same"

    async def time_passes() -> None:
        lane.wallet = WALLET
        rig.clock.advance(2)

    return Case(rig, lane, time_passes)


async def venue_closed() -> Case:
    rig, lane = scripted_rig()
    rig.chain.state.open = False
    await rig.started(UNDER)
    await rig.tried()
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
    await rig.started(UNDER)
    await rig.tried()

    async def state_changes() -> None:
        rig.venue.poisoned = set()
        rig.mine(UNDER)
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, state_changes)


async def paused() -> Case:
    rig, lane = scripted_rig()
    rig.execution.brakes.pause(on=True)
    await rig.started(UNDER)
    await rig.tried()
    assert rig.venue.simulated == []

    async def resumed() -> None:
        rig.execution.brakes.pause(on=False)
        rig.clock.advance(2)

    return Case(rig, lane, resumed)


class Term:
    """A lease that a test gives and takes."""

    term: int | None = None


async def standby() -> Case:
    rig, lane = scripted_rig()
    rig.execution.brakes.leading = term = Term()
    await rig.started(UNDER)
    await rig.tried()

    async def leads() -> None:
        term.term = 1
        rig.pipeline._begin()
        await rig.decide()

    return Case(rig, lane, leads)


async def breaker_open() -> Case:
    rig, lane = scripted_rig()
    for _ in range(BRAKE_RULES.reverts_in_a_row_max):
        rig.execution.brakes._breakers[VENUE].ended(reverted=True, now_ms=rig.clock.now_ms)
    await rig.started(UNDER)
    await rig.tried()

    async def time_passes() -> None:
        rig.clock.advance(BRAKE_RULES.breaker_ms / 1000)
        rig.mine()
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, time_passes)


async def backup_delay() -> Case:
    rules = replace(EXECUTION_RULES, backup_delay_blocks=2)
    rig, lane = scripted_rig(execution_rules=rules)
    await rig.started(UNDER)
    await rig.tried()
    for _ in range(2):
        assert rig.why(ALICE) == "backup_delay"
        rig.mine()
        await rig.publish()
        rig.follow()
        assert await rig.read()
        await rig.tried()
        if lane.plans:
            break
    assert len(lane.plans) == 1, "sent at the second block after the first look"
    rig, lane = scripted_rig(execution_rules=rules)
    await rig.started(UNDER)
    await rig.tried()

    async def blocks_pass() -> None:
        for _ in range(2):
            rig.mine()
        await rig.publish()
        rig.follow()
        assert await rig.read()

    return Case(rig, lane, blocks_pass)


async def candidate_expired() -> Case:
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, candidate_ms_max=500))
    await rig.started(UNDER)
    await rig.decide()
    rig.clock.advance(1)  # in the queue for simulations
    await rig.attempt()

    async def time_passes() -> None:
        rig.clock.advance(2)

    return Case(rig, lane, time_passes)


async def suspect() -> Case:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    rig.desk.suspect = "for a test"
    rig.mine(set_account(ALICE, -19_400, eth=10))
    rig.chain.blocks[-1].logs.clear()
    rig.follow()
    await rig.publish()
    await rig.tried()

    async def it_is_read() -> None:
        assert await rig.read()

    return Case(rig, lane, it_is_read)


CASES: dict[HoldReason, Callable[[], Awaitable[Case]]] = {
    HoldReason.NOT_LIQUIDATABLE: not_liquidatable,
    HoldReason.NO_PROGRESS: no_progress,
    HoldReason.STALE_PRICE: stale_price,
    HoldReason.STALE_HEAD: stale_head,
    HoldReason.NO_NATIVE_PRICE: no_native_price,
    HoldReason.SIMULATION_FAILED: simulation_failed,
    HoldReason.NO_CAPITAL: no_capital,
    HoldReason.UNPROFITABLE: unprofitable,
    HoldReason.COST_CAP: cost_cap,
    HoldReason.BUDGET: budget,
    HoldReason.FEE_UNKNOWN: fee_unknown,
    HoldReason.OPEN_ATTEMPTS: open_attempts,
    HoldReason.CAPACITY_IN_USE: capacity_in_use,
    HoldReason.ATTEMPT_OPEN: attempt_open,
    HoldReason.BACKOFF: backoff,
    HoldReason.HALVED: halved,
    HoldReason.STATE_BEHIND: state_behind,
    HoldReason.LANE_PARKED: lane_parked,
    HoldReason.NOT_SIGNED: not_signed,
    HoldReason.NO_ENDPOINT: no_endpoint,
    HoldReason.SEND_FAILED: send_failed,
    HoldReason.JOURNAL: journal,
    HoldReason.DRY_RUN: dry_run,
    HoldReason.VENUE_CLOSED: venue_closed,
    HoldReason.QUARANTINED: quarantined,
    HoldReason.PAUSED: paused,
    HoldReason.STANDBY: standby,
    HoldReason.BREAKER_OPEN: breaker_open,
    HoldReason.BACKUP_DELAY: backup_delay,
    HoldReason.CANDIDATE_EXPIRED: candidate_expired,
    HoldReason.SUSPECT: suspect,
}


@pytest.mark.parametrize("reason", HoldReason)
async def test_held_until_woken_and_then_acted_on(reason: HoldReason) -> None:
    case = await CASES[reason]()
    rig, lane = case.rig, case.lane
    await rig.decide()
    assert rig.why(ALICE) == reason.value
    sent, asked = len(lane.plans), len(rig.venue.simulated)
    assert not rig.desk.agenda.has_due
    await rig.tried()
    assert rig.why(ALICE) == reason.value, "nothing ended it"
    assert len(rig.venue.simulated) == asked, "what is held costs no request"
    if reason not in {HoldReason.BACKOFF, HoldReason.STATE_BEHIND}:  # ends of work, not refusals
        assert rig.counted("keeper_held_total", reason.value) == 1
    await case.wake()
    await rig.tried()
    assert [plan.account for plan in lane.plans[sent:]] == [ALICE]
    assert rig.why(ALICE) == "in_flight"
