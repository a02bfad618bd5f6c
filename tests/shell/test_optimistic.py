"""An optimistic venue: what is sent without a simulation, and when the chain is asked after all."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from keeper.act.spending import Past
from keeper.decide.economics import Fee
from keeper.decide.learn import WON_MIN
from keeper.facts import AccountId, Outcome
from keeper.jobs import Job
from keeper.units import GWEI, PPM
from tests.fakes import ScriptedLane
from tests.shell.market import set_account
from tests.shell.rig import DESK_RULES, EXECUTION_RULES, WALLET, Rig, scripted_rig
from tests.shell.venue import VENUE

ALICE = AccountId("alice")
UNDER = set_account(ALICE, -19_500, eth=10)
OPTIMISTIC = replace(DESK_RULES, optimistic=True)
GAS = [180_000, 230_000, 150_000]  # of the won ones


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


def taught(rig: Rig, won: int = WON_MIN) -> None:
    """Let so many attempts have been won."""
    for gas in GAS[:won]:
        past = Past(VENUE, Job.LIQUIDATE, Outcome.WON, rig.clock.now_ms, 10**17, 1, None, gas)
        rig.execution.spending.note(past)


async def optimistic(won: int = WON_MIN, wallet: str | None = WALLET) -> tuple[Rig, ScriptedLane]:
    rig, lane = scripted_rig(desk_rules=OPTIMISTIC, wallet=wallet)
    taught(rig, won)
    await rig.started(UNDER)
    return rig, lane


async def test_it_is_sent_with_the_gas_that_won_ones_used() -> None:
    rig, lane = await optimistic()
    await rig.tried()
    (plan,) = lane.plans
    assert rig.venue.simulated == []
    assert plan.optimistic
    assert plan.gas_limit == max(GAS) * EXECUTION_RULES.gas_limit_factor_ppm // PPM
    assert rig.counted("keeper_optimistic_total") == 1


async def test_what_is_sent_is_what_a_simulation_would_have_asked_about() -> None:
    calls, worth = [], []
    for rules in (DESK_RULES, OPTIMISTIC):
        rig, lane = scripted_rig(desk_rules=rules)
        taught(rig)
        await rig.started(UNDER)
        await rig.tried()
        calls.append(lane.plans[0].call)
        worth.append(lane.plans[0].expected.reward_wei)
    assert calls[0] == calls[1]
    assert worth[0] == worth[1] > 0


async def test_it_asks_while_too_few_were_won() -> None:
    rig, lane = await optimistic(won=WON_MIN - 1)
    await rig.tried()
    assert rig.venue.simulated == [ALICE]
    assert not lane.plans[0].optimistic
    assert rig.counted("keeper_optimistic_total") == 0


async def test_it_asks_after_a_failure_of_the_account() -> None:
    rig, lane = await optimistic()
    await rig.decide()
    rig.desk.settled(ALICE, failed=True, block=rig.chain.head.number)
    rig.clock.advance(3_600)
    await rig.block()
    assert rig.venue.simulated == [ALICE]
    assert not lane.plans[0].optimistic


async def test_it_asks_when_the_book_is_suspect() -> None:
    rig, _ = await optimistic()
    rig.desk.suspect = "drift"
    await rig.tried()
    assert rig.venue.simulated == [ALICE]


async def test_a_dry_run_asks() -> None:
    rig, _ = await optimistic(wallet=None)
    await rig.tried()
    assert rig.venue.simulated == [ALICE]


async def test_the_gates_are_the_same() -> None:
    rig, lane = await optimistic()
    lane.fee = Fee(10**6 * GWEI, GWEI)
    await rig.tried()
    assert lane.plans == []
    assert rig.why(ALICE) == "cost_cap"


async def test_an_unknown_data_fee_holds_it() -> None:
    rig, lane = await optimistic()
    lane.data_fee = None
    await rig.tried()
    assert lane.plans == []
    assert rig.why(ALICE) == "fee_unknown"
