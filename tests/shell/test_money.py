"""What a liquidation costs at most, is expected to bring, and how many are tried at once."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from keeper.act.holds import too_dear
from keeper.app import build
from keeper.chain.journal import Journal
from keeper.config import load
from keeper.decide.economics import DataFee, Fee
from keeper.decide.learn import Prior
from keeper.facts import (
    AccountId,
    Head,
    NotSent,
    Outcome,
    Plan,
    Refused,
    Settled,
    Simulated,
    Step,
)
from keeper.jobs import Job
from keeper.units import GWEI, WAD
from tests.chain.test_journal import signed
from tests.shell.market import UPDATE_FEE_WEI, set_account
from tests.shell.rig import EXECUTION_RULES, Rig, in_flight, scripted_rig
from tests.shell.test_status import CONFIG
from tests.shell.venue import VENUE

ALICE = AccountId("alice")
UNDER = set_account(ALICE, -19_500, eth=10)  # pays 0.1 native tokens
NEARLY = set_account(ALICE, -17_500, eth=10)  # under at 1,800 USD
PRIOR = Prior(900_000, 500_000, 990_000, revert_gas=30_000, revert_gas_max=400_000)
MANY = 12  # more than the rig simulates at once


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def tried(cap_wei: int) -> tuple[Rig, list[int]]:
    """Liquidate with a price carried along under this cap; return the worst costs planned."""
    rules = replace(EXECUTION_RULES, transaction_cost_wei_max=cap_wei, prior=PRIOR)
    rig, lane = scripted_rig(pull=True, execution_rules=rules)
    await rig.started(NEARLY)
    rig.clock.advance(1)
    await rig.tick("eth", 1_800 * WAD)
    await rig.tried()
    return rig, [plan.cost_wei_max for plan in lane.plans]


async def test_the_cap_is_on_gas_at_the_fee_cap_and_the_oracle_fee_together() -> None:
    _, (worst,) = await tried(10**16)
    rig, planned = await tried(worst)
    assert planned == [worst]
    rig, planned = await tried(worst - 1)
    assert (rig.why(ALICE), planned) == ("cost_cap", [])


async def test_the_cap_is_on_the_dearest_step_of_a_plan() -> None:
    async def tried_at(cap_wei: int) -> tuple[str, list[Plan], Fee]:
        rules = replace(EXECUTION_RULES, transaction_cost_wei_max=cap_wei)
        rig, lane = scripted_rig(execution_rules=rules)
        simulate = rig.venue.simulate

        async def in_two_steps(*args: Any) -> Simulated | Refused:  # noqa: ANN401 - the venue's
            done = await simulate(*args)
            assert isinstance(done, Simulated)
            return replace(done, then=(Step(Job.LIQUIDATE, done.call, 10 * done.gas),))

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rig.venue, "simulate", in_two_steps)
            await rig.started(UNDER)
            await rig.tried()
        assert isinstance(lane.fee, Fee)
        return rig.why(ALICE), lane.plans, lane.fee

    _, (plan,), fee = await tried_at(WAD)
    second_wei = 10 * plan.gas_limit * fee.max_fee_wei
    assert plan.cost_wei_max == second_wei + second_wei // 10
    _, planned, _ = await tried_at(second_wei)
    assert len(planned) == 1
    why, planned, _ = await tried_at(second_wei - 1)
    assert (why, planned) == ("cost_cap", [])


async def test_every_term_of_the_expected_value_is_the_chains_or_the_configs() -> None:
    rules = replace(EXECUTION_RULES, prior=PRIOR)
    rig, lane = scripted_rig(pull=True, execution_rules=rules)
    await rig.started(NEARLY)
    rig.clock.advance(1)
    await rig.tick("eth", 1_800 * WAD)
    await rig.tried()
    (plan,) = lane.plans
    assert isinstance(lane.fee, Fee)
    per_gas = lane.fee.paid_at(rig.chain.head.base_fee_wei)
    expected = plan.expected
    assert expected.oracle_fee_wei == plan.call.value_wei == UPDATE_FEE_WEI
    assert expected.gas_cost_wei == 200_000 * per_gas
    assert expected.revert_cost_wei == 30_000 * per_gas
    assert expected.reward_wei == 180 * WAD * WAD // (1_800 * WAD)
    assert plan.cost_wei_max == plan.gas_limit * lane.fee.max_fee_wei + UPDATE_FEE_WEI
    assert expected.expected_wei == (
        expected.reward_wei * 9 // 10 - 200_000 * per_gas - UPDATE_FEE_WEI - 3_000 * per_gas
    )


async def test_what_its_data_costs_is_weighed_and_reserved() -> None:
    rig, lane = scripted_rig()
    lane.data_fee = DataFee(wei=10**15)
    await rig.started(UNDER)
    await rig.tried()
    (plan,) = lane.plans
    assert plan.expected.data_fee_wei == 10**15
    assert isinstance(lane.fee, Fee)
    limit_wei = plan.gas_limit * lane.fee.max_fee_wei + plan.call.value_wei
    assert plan.cost_wei_max == limit_wei + 2 * 10**15
    rig, lane = scripted_rig()
    lane.data_fee = DataFee(wei=WAD)
    await rig.started(UNDER)
    await rig.tried()
    assert lane.plans == []
    assert rig.why(ALICE) == "cost_cap"


async def test_gas_for_layer_1_is_weighed_and_in_the_limit() -> None:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    await rig.tried()
    other, dearer = scripted_rig()
    dearer.data_fee = DataFee(gas=100_000)
    await other.started(UNDER)
    await other.tried()
    ((plan,), (more,)) = lane.plans, dearer.plans
    assert more.gas_limit - plan.gas_limit == 150_000
    assert isinstance(lane.fee, Fee)
    per_gas = lane.fee.paid_at(rig.chain.head.base_fee_wei)
    assert more.expected.gas_cost_wei - plan.expected.gas_cost_wei == 100_000 * per_gas


async def test_a_data_fee_that_is_not_known_holds_and_cancels_nothing() -> None:
    rig, lane, attempt = await in_flight(UNDER)
    lane.data_fee = None
    lane.late = [attempt]
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [])
    rig, lane = scripted_rig()
    lane.data_fee = None
    await rig.started(UNDER)
    await rig.tried()
    assert rig.why(ALICE) == "fee_unknown"


async def test_profit_goes_on_where_the_journal_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "0x" + "11" * 32)
    (tmp_path / "config.toml").write_text(CONFIG)
    settings = load(tmp_path / "config.toml")
    _, _, attempt = await in_flight()
    path = settings.keeper.state_dir / "journal.sqlite"
    async with Journal(path, settings.chain.id) as journal:
        await journal.intend(replace(attempt, transactions=()), signed(0))
        await journal.settle([Settled(attempt, Outcome.WON, "", None, 9, 10**20, 3)], 1)
    async with build(settings) as parts:
        assert parts.settlement.tally.profit_wei == {VENUE: 10**20 - 3}


async def test_what_no_endpoint_takes_is_an_attempt_that_ended() -> None:
    rig, lane = scripted_rig()
    await rig.started(set_account(ALICE, -19_500, eth=10))
    lane.refuse = NotSent.DROPPED
    with capture_logs() as logs:
        await rig.tried()
    assert rig.counted("keeper_attempts_total", "dropped") == 1
    (line,) = [line for line in logs if line["event"] == "attempt"]
    assert (line["outcome"], line["account"], line["cost_wei"]) == ("dropped", ALICE, 0)
    assert rig.why(ALICE) == "send_failed"


class Slow:
    """Keeps every simulation waiting and counts them."""

    def __init__(self, rig: Rig) -> None:
        self.now = self.most = 0
        self.go_on = asyncio.Event()
        self._simulate = rig.venue.simulate
        rig.venue.simulate = self.simulate  # type: ignore[method-assign, assignment]

    async def simulate(self, *arguments: object) -> object:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go_on.wait()
        self.now -= 1
        return await self._simulate(*arguments)  # type: ignore[arg-type]


async def true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)


async def test_no_more_simulations_at_once_than_allowed() -> None:
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, open_attempts_max=MANY))
    names = [f"account{number}" for number in range(MANY)]
    await rig.started(*(set_account(name, -19_500, eth=10) for name in names))
    await rig.decide()
    slow = Slow(rig)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(rig.pipeline.attempt(), name="attempt")
        await true(lambda: slow.now == 8)
        for _ in range(100):  # turns of the loop in which a ninth could begin
            await asyncio.sleep(0)
        slow.go_on.set()
        await true(lambda: len(lane.plans) == MANY)
        loop.cancel()
    assert slow.most == 8


async def test_an_account_that_is_being_simulated_is_not_simulated_beside_it() -> None:
    rig, lane = scripted_rig()
    await rig.started(set_account(ALICE, -19_500, eth=10))
    await rig.decide()
    (nominated,) = rig.pipeline._candidates.take().values()
    slow = Slow(rig)
    async with asyncio.TaskGroup() as group:
        group.create_task(rig.execution.attempt(rig.desk, nominated), name="first")
        await true(lambda: slow.now == 1)
        second = group.create_task(rig.execution.attempt(rig.desk, nominated), name="second")
        await true(lambda: second.done() or slow.now == 2)
        assert slow.now == 1
        assert rig.counted("keeper_held_total", "attempt_open") == 1
        slow.go_on.set()
    assert len(lane.plans) == 1


@pytest.mark.parametrize(
    ("worth_per_gas_wei", "times", "wakes_at_wei"),
    [
        pytest.param(15 * GWEI, 1, 15 * GWEI, id="nearly pays"),
        pytest.param(19 * GWEI, 1, 20 * GWEI * 7 // 8, id="a little fall is no reason"),
        pytest.param(5 * GWEI, 16, 5 * GWEI, id="four times too dear"),
        pytest.param(GWEI // 100, 300, GWEI // 100, id="dust"),
        pytest.param(-1, 300, -1, id="at no price"),
    ],
)
def test_what_is_far_from_paying_is_not_looked_at_again_soon(
    worth_per_gas_wei: int, times: int, wakes_at_wei: int
) -> None:
    head = Head(1, "0x", "0x", 0, 20 * GWEI, 0)
    hold = too_dear(head, 1_000, 2_000, worth_per_gas_wei)
    assert hold.until_ms == 1_000 + times * 2_000
    assert hold.base_fee_wei == wakes_at_wei
