"""Budgets and odds in the running shell: what holds, what is told, what a restart remembers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.act.spending import Past
from keeper.app import build
from keeper.chain.filling import filling
from keeper.chain.journal import Journal
from keeper.clock import SystemClock
from keeper.config import load
from keeper.decide.agenda import HoldReason
from keeper.decide.budget import HOUR_MS, Budget, Limit, Sort, Span, Unit
from keeper.decide.economics import Fee
from keeper.decide.learn import Prior
from keeper.facts import AccountId, NotSent, Outcome, Receipt, Settled, TxKind
from keeper.jobs import Job
from keeper.units import GWEI, WAD
from tests.chain.test_journal import attempt, signed
from tests.fakes import ScriptedLane
from tests.shell.market import set_account
from tests.shell.rig import EXECUTION_RULES, WALLET, Rig, receipt_of, scripted_rig
from tests.shell.test_status import CONFIG, Seen, gauges, seen, session
from tests.shell.venue import VENUE

__all__ = ["seen", "session"]  # fixtures

ALICE, BOB, CAROL = (AccountId(name) for name in ("alice", "bob", "carol"))
ALL = [set_account(name, -19_500, eth=10) for name in (ALICE, BOB, CAROL)]
HOURLY = Limit(Sort.GAS, Span.HOUR, Unit.WEI, WAD)
LOSSES = Limit(Sort.LOSS, Span.DAY, Unit.USD, 100 * WAD)
GAS = 300_000  # the rig's limit: 1.5 × what the simulation uses
WORST = GAS * 2 * GWEI + 21_000 * (2 * GWEI + GWEI // 4 + 1)  # with one cancel


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


def spent(at_ms: int, cost_wei: int, outcome: Outcome = Outcome.REVERTED) -> Past:
    return Past(VENUE, Job.LIQUIDATE, outcome, at_ms, 0, cost_wei, 2_000 * WAD, 90_000)


def rig_with(*limits: Limit) -> tuple[Rig, ScriptedLane]:
    return scripted_rig(execution_rules=replace(EXECUTION_RULES, limits=limits))


async def test_the_worst_case_of_what_is_in_flight_is_reserved() -> None:
    rig, lane = rig_with(replace(HOURLY, most=2 * WORST))
    await rig.started(*ALL)
    await rig.tried()
    assert len(lane.plans) == 2
    (held,) = [name for name in (ALICE, BOB, CAROL) if rig.why(name) == "budget"]
    assert rig.counted("keeper_held_total", "budget") == 1
    hold = rig.desk.agenda.hold_of(held)
    assert hold is not None
    assert hold.detail.startswith("gas budget of the hour: 0 of 0.00129")
    assert list(rig.execution.spending.left(lane.open_attempts).values()) == [0]


async def test_what_is_settled_counts_what_it_cost_and_frees_the_rest() -> None:
    rig, lane = rig_with(replace(HOURLY, most=2 * WORST))
    await rig.started(*ALL)
    await rig.tried()
    first = lane.open_attempts[0]
    lane.mine(first, receipt_of(rig, first), TxKind.FIRST)
    await rig.settle()
    (done,) = rig.published
    assert list(rig.execution.spending.left(lane.open_attempts).values()) == [WORST - done.cost_wei]
    assert done.native_usd_wad == 2_000 * WAD


async def test_a_budget_binds_replacements_but_never_a_cancel() -> None:
    rig, lane = rig_with(replace(HOURLY, most=WORST))
    await rig.started(ALL[0])
    await rig.tried()
    lane.late = list(lane.open_attempts)
    with capture_logs() as logs:
        await rig.settle()
    assert lane.replaced == []
    (waiting,) = [log for log in logs if log["event"] == "waiting"]
    assert waiting["reason"].startswith("budget: gas budget of the hour")
    rig.mine(set_account(ALICE, 100))  # cured
    rig.follow()
    assert await rig.read()
    rig.pipeline._learn()
    await rig.settle()
    assert [each.plan.account for each in lane.cancelled] == [ALICE]
    assert lane.cancel_wei_max == [WORST], "it costs what was reserved for it, not more"


async def test_cancel_after_cancel_stays_within_the_budget() -> None:
    """Each bid is dearer than the last; what one attempt may cost in the end does not creep up."""
    rig, lane = rig_with(replace(HOURLY, most=2 * WORST))
    await rig.started(ALL[0])
    await rig.tried()
    (attempt,) = lane.open_attempts
    spending = rig.execution.spending
    for _ in range(5):
        wei = spending.cancel_wei_max(attempt, [attempt])
        assert wei == 2 * WORST
        dearer = replace(attempt.transactions[-1], kind=TxKind.CANCEL, max_fee_wei=wei // 21_000)
        attempt = replace(attempt, transactions=(*attempt.transactions, dearer))
    (left,) = spending.left([attempt]).values()
    assert left is not None
    assert 0 <= left < 21_000


async def test_a_gap_in_the_nonces_is_filled_within_the_budget() -> None:
    rig, lane = rig_with(replace(HOURLY, most=50_000 * 2 * GWEI))
    await rig.started()
    head = rig.pipeline.head
    assert head is not None
    lane.gaps = [filling(WALLET, nonce, Fee(2 * GWEI, GWEI), head) for nonce in range(3)]
    await rig.settle()
    assert len(lane.filled) == 1, "each takes 21,000 gas, and a cancel is reserved"
    (left,) = rig.execution.spending.left(()).values()
    assert left == 50_000 * 2 * GWEI, "what was asked for is no longer claimed"


async def test_a_replacement_takes_over_the_reservation_of_what_it_replaces() -> None:
    rig, lane = rig_with(replace(HOURLY, most=2 * WORST))
    await rig.started(ALL[0])
    await rig.tried()
    lane.late = list(lane.open_attempts)
    await rig.settle()
    assert len(lane.replaced) == 1


async def test_a_claim_ends_with_the_try() -> None:
    rig, lane = rig_with(replace(HOURLY, most=WORST))
    lane.refuse = NotSent.LANE_PARKED
    await rig.started(ALL[0])
    await rig.tried()
    assert list(rig.execution.spending.left(lane.open_attempts).values()) == [WORST], (
        "nothing is in flight"
    )


async def test_wins_do_not_pay_for_losses() -> None:
    rig, lane = rig_with(LOSSES)
    rig.execution.spending.note(replace(spent(0, WAD // 100, Outcome.WON), reward_wei=WAD))
    rig.execution.spending.note(spent(rig.clock.now_ms, WAD // 20))  # 100 USD
    await rig.started(ALL[0])
    await rig.tried()
    assert rig.why(ALICE) == "budget"
    assert lane.plans == []


async def test_it_is_told_and_measured(seen: Seen) -> None:
    limits = (HOURLY, LOSSES)
    seen.rig.execution.spending._budget = Budget(limits)
    seen.rig.execution.spending.note(spent(seen.rig.clock.now_ms, WAD))
    await seen.rig.started(ALL[0])
    await seen.rig.tried()
    found = gauges(seen)
    assert 'keeper_budget_left_wei{budget="gas_hour"} 0.0' in found
    assert 'keeper_budget_limit_wei{budget="gas_hour"} 1e+18' in found
    assert 'keeper_budget_left_usd{budget="loss_day"} -1900.0' in found
    assert 'keeper_budget_limit_usd{budget="loss_day"} 100.0' in found
    shown = json.loads(json.dumps(seen.status.snapshot()))
    assert shown["budgets"][0] == {"budget": "gas_hour", "unit": "wei", "most": 1.0, "left": 0.0}
    (row,) = shown["accounts"]
    assert row["why"] == "budget"
    assert row["detail"].startswith("loss budget of the day: -1900 of 100 USD left")
    assert row["until_ms"] == seen.rig.clock.now_ms + 24 * HOUR_MS + 1
    assert "lost race burns" in shown["venues"][VENUE]["odds"]


async def test_odds_are_those_of_the_venues_past() -> None:
    prior = Prior(900_000, 500_000, 990_000, revert_gas=100_000, revert_gas_max=10**6)
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, prior=prior))
    for _ in range(20):
        rig.execution.spending.note(spent(rig.clock.now_ms, 1))
    rig.execution.spending.note(replace(spent(rig.clock.now_ms, 1), job=Job.PREPARE))
    rig.execution.spending.note(spent(rig.clock.now_ms, 1, Outcome.CANCELLED))
    await rig.started(ALL[0])
    await rig.tried()
    (plan,) = lane.plans
    assert plan.expected.p_win_ppm == 500_000, "only what was paid for and tried counts"
    assert isinstance(lane.fee, Fee)
    per_gas = lane.fee.paid_at(rig.chain.head.base_fee_wei)
    assert plan.expected.revert_cost_wei == (5 * 100_000 + 20 * 90_000) // 25 * per_gas


async def test_a_restart_remembers_what_was_spent_and_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "0x" + "11" * 32)
    (tmp_path / "config.toml").write_text(CONFIG + "[gate]\ngas_wei_per_hour_max = 1_000\n")
    settings = load(tmp_path / "config.toml")
    path = settings.keeper.state_dir / "journal.sqlite"
    now_ms = SystemClock().wall_ms()
    async with Journal(path, settings.chain.id) as journal:
        for number, at_ms in ((1, now_ms - 2 * HOUR_MS), (2, now_ms)):
            some = attempt(number, f"a{number}")
            some = replace(some, plan=replace(some.plan, venue=VENUE))
            await journal.intend(some, signed(number))
            receipt = Receipt(f"0x{number}", 9, "0xa", False, 77_000, 1, ())  # noqa: FBT003
            flying = replace(some, transactions=(signed(number),))
            await journal.follow([flying], {f"0x{number}": receipt}, at_ms)
            settled = Settled(some, Outcome.REVERTED, "", receipt, 0, 0, 400, {}, 2_000 * WAD)
            await journal.settle([settled], at_ms)
        newest = (await journal.past(now_ms))[0]
        assert newest == Past.of(settled, now_ms)
        assert newest.gas_used == 77_000
    async with build(settings) as parts:
        left = {limit.name: wei for limit, wei in parts.status.budgets_left().items()}
        assert left["gas_hour"] == 600, "what was settled two hours ago no longer counts"
        assert left["gas_day"] == settings.gate.gas_wei_per_day_max - 800
        odds = parts.pipeline.execution.spending.odds(VENUE)
        assert odds.why.startswith("p(win) 81.8181 %: won 0 of 2 in 7 days")


async def test_no_budget_has_room_while_the_native_price_is_unknown() -> None:
    rig, lane = rig_with(LOSSES)
    await rig.started(ALL[0])
    await rig.tried()
    (plan,) = lane.plans
    claimed = rig.execution.spending.claim
    assert claimed(plan, Fee(2 * GWEI, GWEI), ()) is None
    rig.clock.advance(3_600)  # it has gone stale since the gate looked at it
    held = claimed(plan, Fee(2 * GWEI, GWEI), ())
    assert held is not None
    assert held.reason is HoldReason.NO_NATIVE_PRICE
