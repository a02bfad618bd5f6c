"""What is in flight and has waited too long: replaced, cancelled, or left to wait."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from keeper.decide.economics import Fee
from keeper.errors import RpcError, RpcFault
from keeper.facts import AccountId, Attempt, Outcome, Refused, TxKind
from keeper.units import GWEI, WAD
from tests.fakes import ScriptedLane
from tests.shell.market import GAS, set_account, set_price
from tests.shell.rig import EXECUTION_RULES, Rig, in_flight, receipt_of, scripted_rig
from tests.shell.venue import VENUE

ALICE, BOB = AccountId("alice"), AccountId("bob")
UNDER = set_account(ALICE, -19_500, eth=10)  # pays 200 USD: 0.1 ETH at 2,000


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured


async def overdue(*actions: Any) -> tuple[Rig, ScriptedLane, Attempt]:  # noqa: ANN401
    rig, lane, attempt = await in_flight(*actions)
    lane.late = [attempt]
    rig.mine()
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    return rig, lane, attempt


async def test_overdue_and_still_worth_it_is_replaced() -> None:
    rig, lane, attempt = await overdue()
    await rig.settle()
    ((old, plan, fee),) = lane.replaced
    assert (old, fee) == (attempt, lane.dearer)
    assert plan.account == ALICE
    assert plan.expected.gas_cost_wei == GAS * 3 * GWEI, "weighed at the replacement's fee"
    assert plan.simulated_at == rig.chain.head.number
    assert lane.cancelled == []


async def test_overdue_and_cured_is_cancelled(logs: list[EventDict]) -> None:
    rig, lane, attempt = await overdue()
    rig.mine(set_price("eth", 2_200 * WAD))
    await rig.tick("eth", 2_200 * WAD)
    rig.follow()
    assert await rig.read()
    await rig.decide()
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [attempt])
    assert logs[-1]["reason"] == "no longer liquidatable"


async def test_an_account_that_was_saved_is_cancelled_at_once(logs: list[EventDict]) -> None:
    rig, lane, attempt = await in_flight(UNDER)
    rig.mine(set_account(ALICE, -10_000, eth=10))
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    await rig.settle()
    assert lane.cancelled == [attempt]
    assert logs[-1]["reason"] == "cured, or others did it"


async def test_a_price_that_came_back_cancels_nothing_before_its_time() -> None:
    rig, lane, _ = await in_flight(UNDER)
    rig.mine(set_price("eth", 2_200 * WAD))
    await rig.tick("eth", 2_200 * WAD)
    rig.follow()
    assert await rig.read()
    await rig.decide()
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [])


async def test_what_was_read_ahead_of_the_head_cancels_nothing() -> None:
    """It may be our own success, that the lane has not seen yet."""
    rig, lane, _ = await in_flight(UNDER)
    head = rig.chain.head
    rig.mine(set_account(ALICE, -10_000, eth=10))
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    await rig.settlement.on_head(head)
    assert lane.cancelled == []


async def test_overdue_and_refused_by_the_chain_is_cancelled() -> None:
    rig, lane, attempt = await overdue()
    rig.venue.refusal = Refused("not_liquidatable", "")
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [attempt])


async def test_overdue_and_not_worth_a_dearer_fee_waits(logs: list[EventDict]) -> None:
    """It may still be included at the fee it has, and a cancel costs gas too."""
    rig, lane, _ = await overdue()
    rig.execution.weighing.rules = replace(EXECUTION_RULES, profit_wei_min=WAD)
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [])
    assert (logs[-1]["event"], logs[-1]["reason"]) == ("waiting", "unprofitable")


async def test_overdue_and_too_dear_to_replace_waits(logs: list[EventDict]) -> None:
    rig, lane, _ = await overdue()
    lane.dearer = None
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [])
    assert logs[-1]["event"] == "waiting"
    lane.dearer = Fee(4 * GWEI, 2 * GWEI)
    await rig.settle()
    assert len(lane.replaced) == 1


async def test_what_holds_up_its_wallet_and_is_worth_no_more_is_cancelled() -> None:
    rig, lane, attempt = await overdue()
    lane.dearer, lane.stuck = None, [attempt]
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [attempt])


async def test_what_cannot_be_asked_about_is_not_cancelled_however_late() -> None:
    rig, lane, attempt = await overdue()
    lane.stuck = [attempt]
    rig.venue.refusal = Refused("unreachable", "connection lost")
    await rig.settle()
    assert lane.cancelled == []


async def test_overdue_and_too_dear_to_cancel_waits(logs: list[EventDict]) -> None:
    rig, lane, _ = await overdue()
    rig.venue.refusal = Refused("not_liquidatable", "")
    lane.can_cancel = False
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [])
    assert logs[-1]["event"] == "waiting: a cancel would cost too much"


async def test_what_the_chain_could_not_be_asked_about_is_not_cancelled() -> None:
    rig, lane, _ = await overdue()
    rig.venue.refusal = Refused("unreachable", "connection lost")
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [])


async def test_after_a_restart_nothing_is_cancelled_before_the_book_is_loaded() -> None:
    _, _, attempt = await in_flight()
    rig, lane = scripted_rig()
    recovered = lane.resume(attempt.plan, Fee(2 * GWEI, GWEI), rig.chain.head)
    lane.late = [recovered]
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [])
    rig.start(UNDER)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    await rig.settle()
    assert [plan.account for _, plan, _ in lane.replaced] == [ALICE]


async def test_after_a_restart_a_found_attempt_keeps_its_account_from_a_second_one() -> None:
    _, _, attempt = await in_flight()
    rig, lane = scripted_rig()
    lane.resume(attempt.plan, Fee(2 * GWEI, GWEI), rig.chain.head)
    rig.start(UNDER)
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    await rig.attempt()
    assert lane.plans == []
    assert rig.why(ALICE) == "attempt_open"


async def test_one_attempt_that_cannot_be_asked_about_does_not_hold_up_the_others() -> None:
    rig, lane, _ = await in_flight(UNDER, set_account(BOB, -19_500, eth=10))
    lane.late = list(lane.open_attempts)
    rig.mine()
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    simulate, first = rig.venue.simulate, lane.late[0].plan.account

    async def refused_for_the_first(*arguments: Any) -> Any:  # noqa: ANN401
        if arguments[0].account == first:
            raise RpcError(RpcFault.OTHER, "internal error")
        return await simulate(*arguments)

    rig.venue.simulate = refused_for_the_first  # type: ignore[method-assign, assignment]
    await rig.settle()
    assert [old.id for old, _, _ in lane.replaced] == [lane.late[1].id]


@pytest.mark.parametrize("stage", ["assess", "simulate"])
async def test_a_bug_sets_the_account_aside_and_cancels_what_is_overdue(stage: str) -> None:
    rig, lane, attempt = await overdue()
    rig.venue.poisoned = {(stage, ALICE)}
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [attempt])
    assert rig.quarantine.is_quarantined(VENUE, ALICE)


async def test_a_bug_while_a_revert_is_judged_settles_it_all_the_same() -> None:
    rig, lane, attempt = await in_flight()
    lane.mine(attempt, receipt_of(rig, attempt, success=False), TxKind.FIRST)
    rig.venue.poisoned = {("assess", ALICE)}
    await rig.settle()
    assert [done.outcome for done in lane.closed] == [Outcome.REVERTED]
    assert "quarantine" in lane.closed[0].detail
    assert rig.quarantine.is_quarantined(VENUE, ALICE)
