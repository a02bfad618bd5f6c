"""Pauses and breakers, through the shell."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.facts import AccountId, TxKind
from tests.shell.market import set_account
from tests.shell.rig import BRAKE_RULES, in_flight, receipt_of, scripted_rig
from tests.shell.venue import VENUE

ALICE, BOB = AccountId("alice"), AccountId("bob")
UNDER = set_account(ALICE, -19_500, eth=10)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def test_a_file_pauses_while_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "pause"
    rig, lane = scripted_rig(brake_rules=replace(BRAKE_RULES, pause_file=file))
    file.touch()
    await rig.started(UNDER)
    await rig.tried()
    assert (rig.why(ALICE), rig.execution.brakes.paused) == ("paused", f"the file {file} is there")
    file.unlink()
    rig.clock.advance(2)
    await rig.tried()
    assert [plan.account for plan in lane.plans] == [ALICE]


async def test_a_pause_that_comes_during_the_simulation_still_counts() -> None:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    await rig.decide()
    simulate = rig.venue.simulate

    async def paused_meanwhile(*arguments: object) -> object:
        rig.execution.brakes.pause(on=True)
        return await simulate(*arguments)  # type: ignore[arg-type]

    rig.venue.simulate = paused_meanwhile  # type: ignore[assignment, method-assign]
    await rig.attempt()
    assert lane.plans == []
    assert rig.why(ALICE) == "paused"


async def test_while_paused_what_is_overdue_is_cancelled() -> None:
    rig, lane, attempt = await in_flight(UNDER)
    lane.late = [attempt]
    rig.execution.brakes.pause(on=True)
    await rig.settle()
    assert (lane.replaced, lane.cancelled) == ([], [attempt])


async def test_reverts_in_a_row_open_the_breaker_and_a_success_closes_it() -> None:
    names = [f"account{number}" for number in range(3)]
    rig, lane, _ = await in_flight(*(set_account(name, -19_500, eth=10) for name in names))
    for attempt in lane.open_attempts:
        assert not rig.execution.brakes.is_open(VENUE)
        lane.mine(attempt, receipt_of(rig, attempt, success=False), TxKind.FIRST)
        await rig.settle()
    assert rig.execution.brakes.is_open(VENUE)
    rig.clock.advance(BRAKE_RULES.breaker_ms / 1000)
    await rig.publish()
    await rig.turn()
    rig.clock.advance(2)
    await rig.publish()
    await rig.tried()
    assert len(lane.plans) == 4, "one tries for all"
    (attempt,) = lane.open_attempts
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
    await rig.settle()
    assert not rig.execution.brakes.is_open(VENUE)


async def test_a_cancel_proves_nothing() -> None:
    rig, lane, attempt = await in_flight(UNDER)
    brakes = rig.execution.brakes
    for _ in range(BRAKE_RULES.reverts_in_a_row_max):
        brakes._breakers[VENUE].ended(reverted=True, now_ms=rig.clock.now_ms)
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.CANCEL)
    await rig.settle()
    assert brakes.is_open(VENUE)
