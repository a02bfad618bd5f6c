"""From a nomination to an open attempt, and what must not happen in between."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from keeper.decide.agenda import HoldReason
from keeper.execute import REFUSALS
from keeper.facts import AccountId, Refused
from keeper.units import WAD
from tests.shell.market import set_account
from tests.shell.rig import DESK_RULES, EXECUTION_RULES, scripted_rig
from tests.shell.venue import FEEDS

ALICE = AccountId("alice")
UNDER = set_account(ALICE, -19_500, eth=10)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.mark.parametrize("said", ["not_liquidatable", "no_progress", "oracle", "unknown", "new"])
async def test_what_the_chain_refuses_becomes_a_hold(said: str) -> None:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    rig.venue.refusal = Refused(said, "detail")
    await rig.tried()
    expected = REFUSALS.get(said, HoldReason.SIMULATION_FAILED)
    assert rig.why(ALICE) == expected.value
    assert rig.counted("keeper_simulated_total", said) == 1
    disagreed = rig.counted("keeper_disagreements_total", "simulate")
    assert disagreed == (1 if said == "not_liquidatable" else 0)
    assert lane.plans == []


async def test_a_silent_feed_does_not_hold_what_is_under_at_the_contracts_own_price() -> None:
    rig, lane = scripted_rig()
    await rig.started(set_account(ALICE, -59_000, btc=1), prices=("eth",))
    assert rig.board.fresh(FEEDS["btc"], rig.clock.now_ms) is None
    await rig.tried()
    assert [plan.account for plan in lane.plans] == [ALICE]


async def test_a_hold_by_time_ends_even_when_nothing_happens() -> None:
    rig, lane = scripted_rig()
    rig.venue.poisoned = {("assess", ALICE)}
    await rig.started(UNDER)
    await rig.tried()
    rig.venue.poisoned = set()
    rig.clock.advance(59)
    await rig.tried()
    assert rig.why(ALICE) == "quarantined"
    rig.clock.advance(1)
    await rig.tick("eth", 2_000 * WAD)
    await rig.tried()
    assert len(lane.plans) == 1


async def test_simulations_side_by_side_do_not_open_more_attempts_than_allowed() -> None:
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, open_attempts_max=2))
    names = [f"account{number}" for number in range(6)]
    await rig.started(*(set_account(name, -19_500, eth=10) for name in names))
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
    await rig.started(UNDER)

    def settled_at_once(attempt: object) -> None:
        lane._open.clear()
        rig.desk.settled(ALICE, failed=False, block=rig.chain.head.number)
        assert attempt

    lane.during_submit = settled_at_once
    await rig.tried()
    assert rig.why(ALICE) != "in_flight"
    await rig.tried()
    assert len(lane.plans) >= 2


async def test_candidates_wait_their_turn_and_the_worst_goes_first() -> None:
    rig, _ = scripted_rig(desk_rules=replace(DESK_RULES, candidates_per_step_max=2))
    cash = {"mild": -19_100, "worst": -19_900, "bad": -19_500}
    await rig.started(*(set_account(name, usd, eth=10) for name, usd in cash.items()))
    rig.pipeline._learn()
    now_ms = rig.clock.now_ms
    assert rig.desk.due(now_ms) == ["worst", "bad"]
    assert sorted(await rig.decide()) == ["bad", "mild", "worst"], "the others in the next step"
