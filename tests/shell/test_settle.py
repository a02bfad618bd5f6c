"""From an open attempt to its settled outcome: judged once, valued right, replaced or cancelled."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from msgspec import structs
from structlog.testing import capture_logs
from structlog.typing import EventDict

from keeper.decide.economics import Fee
from keeper.errors import RpcFault, TransientRpcError
from keeper.facts import (
    OWN,
    AccountId,
    Attempt,
    Call,
    Head,
    Log,
    Outcome,
    Receipt,
    Settled,
    TxKind,
    VenueId,
)
from keeper.jobs import Gain, Job
from keeper.units import GWEI, WAD
from tests.fakes import ScriptedBooks, ScriptedLane
from tests.shell.market import GAS, REVERT_GAS, UPDATE_FEE_WEI, place_order, set_account
from tests.shell.rig import WALLET, Rig, in_flight, receipt_of, scripted_rig
from tests.shell.venue import VENUE

ALICE, BOB = AccountId("alice"), AccountId("bob")
UNDER = set_account(ALICE, -19_500, eth=10)  # pays 200 USD: 0.1 ETH at 2,000
REWARD_WAD = 200 * WAD


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured


@pytest.fixture(autouse=True)
def _quiet(logs: list[EventDict]) -> None:
    assert logs == []


async def settled(
    rig: Rig, lane: ScriptedLane, attempt: Attempt, receipt: Receipt | None, kind: TxKind | None
) -> Settled:
    lane.mine(attempt, receipt, kind)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.settle()
    (done,) = lane.closed
    return done


def lines(logs: list[EventDict]) -> list[EventDict]:
    return [line for line in logs if line["event"] == "attempt"]


async def test_won(logs: list[EventDict]) -> None:
    rig, lane, attempt = await in_flight()
    receipt = receipt_of(rig, attempt)
    done = await settled(rig, lane, attempt, receipt, TxKind.FIRST)
    assert (done.outcome, done.reward_wad, done.detail) == (Outcome.WON, REWARD_WAD, "")
    assert done.reward_wei == WAD // 10
    assert done.cost_wei == receipt.cost_wei == GAS * 2 * GWEI
    assert rig.published == [done]
    assert list(rig.settlement.tally.recent) == [done]
    assert rig.settlement.tally.profit_wei == {VENUE: done.reward_wei - done.cost_wei}
    assert rig.settlement.tally.outcomes == {"won": 1}
    totals = rig.telemetry.totals
    assert totals["keeper_attempts_total", VENUE, "won"] == 1
    assert totals["keeper_reward_wei_total", VENUE] == done.reward_wei
    assert totals["keeper_gas_spent_wei_total", VENUE] == done.cost_wei
    assert totals["keeper_oracle_fee_wei_total", VENUE] == 0
    (line,) = lines(logs)
    assert line["outcome"] == "won"
    assert line["log_level"] == "info"
    told = {
        "venue": VENUE,
        "account": ALICE,
        "id": attempt.id,
        "wallet": WALLET,
        "nonce": attempt.nonce,
    }
    told |= {"tx": receipt.tx_hash, "block": receipt.block_number, "gas_used": GAS}
    told |= {"reward_wei": done.reward_wei, "cost_wei": done.cost_wei, "transactions": 1}
    told |= {"expected_wei": attempt.plan.expected.expected_wei}
    assert {name: line[name] for name in told} == told
    assert rig.counted("keeper_liquidations_seen_total", "us") == 1
    await rig.block()
    assert len(lines(logs)) == 1, "one line an attempt"
    assert rig.why(ALICE) == "not_under_margined"


async def test_what_was_counted_is_taken_back_when_its_block_is_gone() -> None:
    rig, lane, attempt = await in_flight()
    parts = {Gain.TRADE: 5 * WAD, Gain.FEE: -45 * WAD}
    rig.venue.gains = lambda _logs, _wallet: parts  # type: ignore[attr-defined]
    done = await settled(rig, lane, attempt, receipt_of(rig, attempt), TxKind.FIRST)
    tally, spending = rig.settlement.tally, rig.pipeline.execution.spending
    spent = spending.left(())
    first = rig.chain.orphan(1)
    rig.chain.pool.clear()
    for number in (first, first - 3, first - 1):
        rig.settlement.reorged(number)
    lane.orphaned, lane.mined = [attempt], []
    books: ScriptedBooks = tally._books  # type: ignore[assignment]
    books.profits = {VENUE: 7}
    await rig.settle()
    assert lane.reopened_from == [0, first - 3], "once at the start, once now"
    assert (list(tally.recent), tally.outcomes["won"]) == ([], 0)
    assert tally.profit_wei == {VENUE: 7}, "as the journal has it by then"
    assert rig.telemetry.gauges["keeper_gains_usd", VENUE, "fee"] == 0.0
    totals = rig.telemetry.totals
    assert totals["keeper_reopened_attempts_total", VENUE, "won"] == 1
    assert totals["keeper_taken_back_wei_total", VENUE, "loss"] == -done.reward_wei > 0
    assert totals["keeper_taken_back_wei_total", VENUE, "cost"] == done.cost_wei
    assert all(
        left > spent[limit]  # type: ignore[operator]
        for limit, left in spending.left(()).items()
        if left is not None
    )
    lane.closed.clear()
    again = await settled(rig, lane, attempt, receipt_of(rig, attempt), TxKind.FIRST)
    assert list(tally.recent) == [again]
    assert tally.outcomes["won"] == 1
    assert tally.profit_wei == {VENUE: 7 + again.reward_wei - again.cost_wei}
    await rig.settle()
    assert lane.reopened_from[2:] == [first], "when it was followed, and no more"


async def test_a_chain_that_cannot_be_asked_is_asked_again_before_anything_is_settled() -> None:
    rig, lane, attempt = await in_flight()

    async def gone(_first: int, _head: Head) -> Sequence[Attempt]:
        raise TransientRpcError(RpcFault.UNREACHABLE, "gone")

    known, lane.reopen = lane.reopen, gone  # type: ignore[method-assign, assignment]
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
    with pytest.raises(TransientRpcError):
        await rig.settlement.on_head(rig.chain.head)
    assert lane.closed == []
    lane.reopen = known  # type: ignore[method-assign]
    await rig.settlement.on_head(rig.chain.head)
    assert lane.reopened_from == [0]
    assert len(lane.closed) == 1


async def test_what_a_transaction_left_us_with_is_its_reward(logs: list[EventDict]) -> None:
    """A venue that hands over positions says so itself, and it may be a loss."""
    rig, lane, attempt = await in_flight()
    parts = {Gain.TRADE: 5 * WAD, Gain.FEE: -45 * WAD}
    rig.venue.gains = lambda _logs, wallet: parts if wallet == WALLET else {}  # type: ignore[attr-defined]
    receipt = receipt_of(rig, attempt)
    done = await settled(rig, lane, attempt, receipt, TxKind.FIRST)
    assert (done.outcome, done.gains, done.reward_wad) == (Outcome.WON, parts, -40 * WAD)
    assert done.reward_wei == -WAD // 50
    assert rig.settlement.tally.profit_wei == {VENUE: done.reward_wei - done.cost_wei}
    totals = rig.telemetry.totals
    assert totals["keeper_reward_wei_total", VENUE] == 0
    assert totals["keeper_losses_wei_total", VENUE] == WAD // 50
    assert rig.telemetry.gauges["keeper_gains_usd", VENUE, "fee"] == -45.0
    (line,) = lines(logs)
    assert line["gains"] == {"trade": 5 * WAD, "fee": -45 * WAD}


async def test_what_a_top_up_sends_is_no_cost() -> None:
    rig, lane, attempt = await in_flight()
    plan = replace(attempt.plan, venue=OWN, job=Job.TOP_UP, call=Call(WALLET, b"", WAD))
    moved = lane.resume(plan, Fee(2 * GWEI, GWEI), rig.chain.head)
    moved = replace(moved, transactions=(replace(moved.transactions[0], job=Job.TOP_UP),))
    receipt = receipt_of(rig, attempt)
    done = await settled(rig, lane, moved, receipt, TxKind.FIRST)
    assert (done.outcome, done.reward_wei) == (Outcome.DONE, 0)
    assert done.cost_wei == receipt.cost_wei
    assert rig.settlement.tally.profit_wei == {OWN: -receipt.cost_wei}


async def test_wallets_are_looked_after_at_each_head_unless_paused() -> None:
    rig, lane, _ = await in_flight()
    await rig.settle()
    assert lane.topped_up == [rig.chain.head]
    rig.execution.brakes.pause(on=True)
    rig.mine()
    await rig.settle()
    assert len(lane.topped_up) == 1


async def with_orders() -> tuple[Rig, ScriptedLane, Attempt]:
    """An account that takes two steps, the first of them in flight."""
    return await in_flight(UNDER, place_order(ALICE))


async def test_a_plan_of_two_steps(logs: list[EventDict]) -> None:
    rig, lane, first = await with_orders()
    assert (first.plan.job, [step.job for step in first.plan.then]) == (
        Job.PREPARE,
        [Job.LIQUIDATE],
    )
    done = await settled(rig, lane, first, receipt_of(rig, first), TxKind.FIRST)
    assert (done.outcome, done.reward_wei) == (Outcome.DONE, 0)
    assert done.cost_wei == GAS * 2 * GWEI
    await rig.tried()
    (second,) = lane.open_attempts
    assert (second.plan.job, second.plan.then) == (Job.LIQUIDATE, ())
    lane.closed.clear()
    done = await settled(rig, lane, second, receipt_of(rig, second), TxKind.FIRST)
    assert (done.outcome, done.reward_wad) == (Outcome.WON, REWARD_WAD)
    told = [(line["job"], line["steps_left"], line["outcome"]) for line in lines(logs)]
    assert told == [("prepare", 1, "done"), ("liquidate", 0, "won")]


async def test_a_plan_counts_the_cost_of_every_step() -> None:
    rig, lane, attempt = await with_orders()
    _, single, other = await in_flight(UNDER)
    assert attempt.plan.expected.reward_wei == other.plan.expected.reward_wei
    assert attempt.plan.expected.gas_cost_wei == 2 * other.plan.expected.gas_cost_wei
    assert attempt.plan.cost_wei_max == 2 * other.plan.cost_wei_max
    assert attempt.plan.gas_limit == other.plan.gas_limit
    assert len(lane.plans) == len(single.plans) == 1
    assert rig.counted("keeper_simulated_total", "ok") == 1


async def test_another_cancelled_what_we_were_about_to() -> None:
    """The overdue first step is replaced by the second, and whichever was mined is judged."""
    rig, lane, attempt = await with_orders()
    rig.mine(lambda _chain, block: setattr(block.state, "orders", frozenset()))
    lane.late = [attempt]
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.settle()
    ((_, plan, _),) = lane.replaced
    assert (plan.job, plan.then) == (Job.LIQUIDATE, ())
    newest = replace(attempt, plan=plan)  # but the first try gets in
    lane.mine(newest, replace(receipt_of(rig, attempt, success=False), success=True), TxKind.FIRST)
    await rig.settle()
    assert lane.closed[-1].outcome is Outcome.DONE


async def test_a_reward_is_valued_at_settlement_not_at_the_plan() -> None:
    rig, lane, attempt = await in_flight()
    receipt = receipt_of(rig, attempt)
    await rig.tick("eth", 2_500 * WAD)
    lane.mine(attempt, receipt, TxKind.FIRST)
    await rig.settle()
    (done,) = lane.closed
    assert attempt.plan.expected.reward_wei == WAD // 10
    assert done.reward_wei == 8 * WAD // 100


async def test_without_a_fresh_native_price_a_reward_is_valued_as_planned() -> None:
    rig, lane, attempt = await in_flight()
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
    rig.clock.advance(60)
    await rig.settle()
    (done,) = lane.closed
    assert done.reward_wei == attempt.plan.expected.reward_wei


async def carrying_a_price() -> tuple[Rig, ScriptedLane, Attempt]:
    """An attempt of a pull venue with one signed price, for a fee, in flight."""
    rig, lane = scripted_rig(pull=True)
    rig.start(set_account(ALICE, -17_500, eth=10))
    await rig.publish()
    rig.follow()
    assert await rig.read()
    rig.clock.advance(1)
    await rig.tick("eth", 1_830 * WAD)
    await rig.decide()
    await rig.attempt()
    (attempt,) = lane.open_attempts
    assert attempt.plan.call.value_wei == UPDATE_FEE_WEI
    return rig, lane, attempt


@pytest.mark.parametrize(
    ("success", "kind", "spent_wei"),
    [
        (True, TxKind.FIRST, UPDATE_FEE_WEI),
        (True, TxKind.REPLACEMENT, UPDATE_FEE_WEI),
        (False, TxKind.FIRST, 0),
        (True, TxKind.CANCEL, 0),
    ],
)
async def test_value_is_spent_only_on_success(
    success: bool,  # noqa: FBT001 - a case
    kind: TxKind,
    spent_wei: int,
) -> None:
    rig, lane, attempt = await carrying_a_price()
    receipt = receipt_of(rig, attempt, success=success)
    done = await settled(rig, lane, attempt, receipt, kind)
    assert done.cost_wei == receipt.cost_wei + spent_wei
    totals = rig.telemetry.totals
    assert totals["keeper_oracle_fee_wei_total", VENUE] == spent_wei
    assert totals["keeper_gas_spent_wei_total", VENUE] == receipt.cost_wei


async def test_included_without_a_liquidation_is_lost(logs: list[EventDict]) -> None:
    rig, lane, attempt = await in_flight()
    rig.chain.state.idle = True
    receipt = receipt_of(rig, attempt)
    assert receipt.logs == ()
    done = await settled(rig, lane, attempt, receipt, TxKind.FIRST)
    assert (done.outcome, done.reward_wad, done.reward_wei) == (Outcome.LOST, 0, 0)
    assert done.cost_wei == receipt.cost_wei
    assert rig.why(ALICE) == "backoff"
    (line,) = lines(logs)
    assert "nothing was liquidated" in line["detail"]


async def test_another_contracts_event_is_no_liquidation() -> None:
    rig, lane, attempt = await in_flight()
    rig.chain.state.idle = True
    receipt = receipt_of(rig, attempt)
    foreign = Log(
        "0x" + "dd" * 20, ("liquidated", ALICE), b'{"by":"x","reward":"5"}', 101, "0x1", "0x2"
    )
    done = await settled(rig, lane, attempt, replace(receipt, logs=(foreign,)), TxKind.FIRST)
    assert (done.outcome, done.reward_wad) == (Outcome.LOST, 0)


async def test_another_accounts_liquidation_in_the_same_receipt_is_not_counted() -> None:
    rig, lane, attempt = await in_flight()
    receipt = receipt_of(rig, attempt)
    other = structs.replace(receipt.logs[0], topics=("liquidated", BOB))
    done = await settled(rig, lane, attempt, replace(receipt, logs=(other,)), TxKind.FIRST)
    assert done.outcome is Outcome.LOST


async def test_reverted_because_somebody_was_faster_is_lost() -> None:
    rig, lane, attempt = await in_flight()
    receipt = receipt_of(rig, attempt, success=False)
    rig.mine(set_account(ALICE, 0))
    done = await settled(rig, lane, attempt, receipt, TxKind.FIRST)
    assert done.outcome is Outcome.LOST
    assert done.cost_wei == REVERT_GAS * receipt.gas_price_wei
    assert rig.settlement.tally.profit_wei == {VENUE: -done.cost_wei}


async def test_reverted_while_still_liquidatable_is_reverted_and_backs_off() -> None:
    rig, lane, attempt = await in_flight()
    receipt = receipt_of(rig, attempt, success=False)
    done = await settled(rig, lane, attempt, receipt, TxKind.FIRST)
    assert (done.outcome, done.detail) == (Outcome.REVERTED, "it would succeed now")
    assert rig.why(ALICE) == "backoff"
    await rig.decide()
    await rig.attempt()
    assert len(lane.plans) == 1
    rig.clock.advance(1)
    await rig.decide()
    await rig.attempt()
    assert len(lane.plans) == 2


async def test_what_ran_out_of_gas_is_given_more_next_time() -> None:
    rig, lane, attempt = await in_flight()
    receipt = receipt_of(rig, attempt, success=False)
    limit = attempt.plan.gas_limit
    receipt = replace(receipt, gas_used=limit)
    done = await settled(rig, lane, attempt, receipt, TxKind.FIRST)
    assert (done.outcome, done.detail) == (Outcome.REVERTED, "out of gas: it would succeed now")
    rig.clock.advance(1)
    await rig.decide()
    await rig.attempt()
    assert lane.plans[-1].gas_limit == limit * 3 // 2
    for rest_s in (2, 4):  # it does not grow for ever
        lane.mine(lane.open_attempts[0], None, None)
        await rig.settle()
        await rig.decide()
        rig.clock.advance(rest_s)
        await rig.publish()
        await rig.decide()
        await rig.attempt()
        assert lane.plans[-1].gas_limit == limit * 2


async def test_back_offs_double_and_end_with_a_success() -> None:
    rig, lane, attempt = await in_flight(set_account(ALICE, -195_000, eth=100))
    for rest_ms in (1_000, 2_000, 4_000):
        lane.mine(attempt, None, None)
        await rig.settle()
        await rig.decide()
        assert rig.desk.agenda.next_wake_ms() == rig.clock.now_ms + rest_ms
        rig.clock.advance(rest_ms / 1000)
        await rig.publish()
        await rig.decide()
        await rig.attempt()
        (attempt,) = lane.open_attempts
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
    await rig.settle()
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    await rig.attempt()
    (attempt,) = lane.open_attempts
    lane.mine(attempt, None, None)
    await rig.settle()
    assert rig.why(ALICE) == "backoff"
    rig.clock.advance(0.999)
    await rig.decide()
    assert rig.why(ALICE) == "backoff"
    rig.clock.advance(0.001)
    assert await rig.decide() == [ALICE], "the first rest again"


async def test_a_reverted_attempt_waits_for_an_answer_of_the_chain() -> None:
    rig, lane, attempt = await in_flight()
    lane.mine(attempt, receipt_of(rig, attempt, success=False), TxKind.FIRST)
    rig.venue.lost = lambda: True
    await rig.settle()
    assert lane.closed == []
    assert lane.open_attempts == (attempt,)
    rig.venue.lost = lambda: False
    await rig.settle()
    assert [done.outcome for done in lane.closed] == [Outcome.REVERTED]


async def test_cancelled_is_no_failure() -> None:
    rig, lane, attempt = await in_flight()
    rig.mine()
    receipt = Receipt("0x1", rig.chain.head.number, rig.chain.head.hash, True, 21_000, GWEI, ())  # noqa: FBT003
    done = await settled(rig, lane, attempt, receipt, TxKind.CANCEL)
    assert (done.outcome, done.reward_wei) == (Outcome.CANCELLED, 0)
    assert done.cost_wei == 21_000 * GWEI
    assert rig.why(ALICE) == "state_behind"
    for _ in range(2):
        await rig.block()
    assert len(lane.plans) == 2, "it is looked at again although its state was never touched"


async def test_a_nonce_used_by_somebody_else_is_expired(logs: list[EventDict]) -> None:
    rig, lane, attempt = await in_flight()
    rig.mine()
    done = await settled(rig, lane, attempt, None, None)
    assert (done.outcome, done.cost_wei, done.receipt) == (Outcome.EXPIRED, 0, None)
    assert rig.why(ALICE) == "backoff"
    (line,) = lines(logs)
    assert (line["tx"], line["block"], line["gas_used"]) == (None, None, None)


async def test_an_attempt_of_a_venue_that_is_no_longer_configured_is_settled() -> None:
    rig, lane, attempt = await in_flight()
    stranger = replace(attempt, plan=replace(attempt.plan, venue=VenueId("gone")))
    lane._open.clear()
    lane._open[VenueId("gone"), ALICE] = stranger
    receipt = receipt_of(rig, attempt)
    done = await settled(rig, lane, stranger, receipt, TxKind.FIRST)
    assert (done.outcome, done.reward_wei) == (Outcome.EXPIRED, 0)
    assert done.cost_wei == receipt.cost_wei, "what was spent is spent"


async def test_an_account_that_left_the_book_is_judged_without_it() -> None:
    rig, lane, attempt = await in_flight()
    receipt = receipt_of(rig, attempt, success=False)
    del rig.desk.states[ALICE]
    lane.mine(attempt, receipt, TxKind.FIRST)
    await rig.settle()
    assert [done.outcome for done in lane.closed] == [Outcome.REVERTED]
