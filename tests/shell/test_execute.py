"""From a nomination to an open attempt, and what must not happen in between."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from keeper.act.holds import REFUSALS
from keeper.chain.fees import FeeRules
from keeper.chain.journal import Journal
from keeper.chain.lane_rules import LaneParts, LaneRules
from keeper.chain.lanes import Lanes
from keeper.chain.signer import KeySigner, Wallet
from keeper.decide.agenda import HoldReason
from keeper.facts import AccountId, Attempt, Outcome, Refused, Simulated, TxKind
from keeper.units import GWEI, WAD
from tests.chain.test_lane import plan
from tests.fakes import CountingTelemetry, ManualClock, PlainBroadcaster
from tests.shell.market import FakeChain, set_account
from tests.shell.rig import (
    DESK_RULES,
    EXECUTION_RULES,
    Rig,
    in_flight,
    make_rig,
    receipt_of,
    scripted_rig,
)
from tests.shell.rpc import FakeRpc
from tests.shell.venue import FEEDS, TAKEN_WAD, VENUE

ALICE, BOB = AccountId("alice"), AccountId("bob")
UNDER = set_account(ALICE, -19_500, eth=10)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.mark.parametrize(
    "said", ["not_liquidatable", "no_progress", "no_capital", "oracle", "unknown", "new"]
)
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
    await _side_by_side(rig, len(names))
    assert len(lane.plans) == 2
    held = [name for name in names if rig.why(name) == "open_attempts"]
    assert len(held) == 4


async def test_simulations_side_by_side_do_not_spend_the_same_margin() -> None:
    """Both fit alone; the second was simulated before the first was in flight."""
    rig, lane = scripted_rig()
    rig.venue.room_wad = TAKEN_WAD
    await rig.started(UNDER, set_account(BOB, -21_400, eth=11))
    await _side_by_side(rig, 2)
    assert len(lane.plans) == 1
    assert sorted([rig.why(ALICE), rig.why(BOB)]) == ["capacity_in_use", "in_flight"]


async def _side_by_side(rig: Rig, count: int) -> None:
    """Let all candidates be simulated before any of them goes on."""
    await rig.decide()
    candidates = rig.pipeline._candidates.take()
    together = asyncio.Barrier(count)
    simulate = rig.venue.simulate

    async def slowly(*arguments: object) -> object:
        await together.wait()
        return await simulate(*arguments)  # type: ignore[arg-type]

    rig.venue.simulate = slowly  # type: ignore[method-assign, assignment]
    async with asyncio.TaskGroup() as group:
        for (_, account), nominated in candidates.items():
            group.create_task(rig.execution.attempt(rig.desk, nominated), name=account)


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


async def test_what_a_reorg_brings_back_while_it_is_simulated_is_not_tried_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, lane = scripted_rig()
    await rig.started(UNDER)
    simulate = rig.desk.venue.simulate

    async def meanwhile(*arguments: Any) -> object:  # noqa: ANN401 - passed on
        found = await simulate(*arguments)
        again = replace(plan(), venue=VENUE, account=ALICE)
        lane.orphaned = [Attempt("settled", again, lane.address, 0, (), opened_ms=1)]
        await lane.reopen(1, rig.chain.head)
        return found

    monkeypatch.setattr(rig.desk.venue, "simulate", meanwhile)
    await rig.tried()
    assert lane.plans == []
    assert rig.why(ALICE) == "attempt_open"


async def test_candidates_wait_their_turn_and_the_worst_goes_first() -> None:
    rig, _ = scripted_rig(desk_rules=replace(DESK_RULES, candidates_per_step_max=2))
    cash = {"mild": -19_100, "worst": -19_900, "bad": -19_500}
    await rig.started(*(set_account(name, usd, eth=10) for name, usd in cash.items()))
    rig.pipeline._learn()
    now_ms = rig.clock.now_ms
    assert rig.desk.due(now_ms) == ["worst", "bad"]
    assert sorted(await rig.decide()) == ["bad", "mild", "worst"], "the others in the next step"


async def test_what_pays_most_is_tried_first_whenever_it_came() -> None:
    rig, lane = scripted_rig()
    sizes = {"least": (-19_500, 10), "most": (-29_200, 15), "more": (-25_000, 13)}
    await rig.started(*(set_account(name, cash, eth=size) for name, (cash, size) in sizes.items()))
    await rig.tried()
    assert [plan.account for plan in lane.plans] == ["most", "more", "least"]


@pytest.mark.parametrize("idle", [True, False])
async def test_what_only_a_block_changes_is_not_asked_again_before_one(idle: bool) -> None:  # noqa: FBT001
    """A used-up window, and all attempts open."""
    rig, lane = scripted_rig(execution_rules=replace(EXECUTION_RULES, open_attempts_max=1))
    rig.chain.state.idle = idle
    await rig.started(UNDER, set_account(BOB, -19_500, eth=10))
    await rig.tried()
    held = {rig.why(name) for name in (ALICE, BOB)}
    assert held == ({"no_progress"} if idle else {"in_flight", "open_attempts"})
    asked = len(rig.venue.simulated)
    for _ in range(5):
        rig.clock.advance(2)
        await rig.publish()
        await rig.tried()
    assert len(rig.venue.simulated) == asked
    assert len(lane.plans) == (0 if idle else 1)


async def test_after_a_success_a_reading_from_before_it_does_not_count() -> None:
    rig, lane = scripted_rig()
    await rig.started(set_account(ALICE, -195_000, eth=100))
    await rig.tried()
    (attempt,) = lane.open_attempts
    before = rig.desk.states[ALICE]
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
    await rig.settle()
    rig.desk.learn_states([before])  # it was on its way
    await rig.tried()
    assert rig.why(ALICE) == "state_behind"
    assert len(lane.plans) == 1
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.tried()
    assert len(lane.plans) == 2


async def test_a_cure_does_not_end_a_back_off() -> None:
    rig, lane, attempt = await in_flight()
    lane.mine(attempt, None, None)
    await rig.settle()
    assert rig.why(ALICE) == "backoff"
    rig.chain.mine(set_account(ALICE, 0, eth=10))
    rig.follow()
    assert await rig.read()
    await rig.decide()
    assert rig.why(ALICE) == "not_under_margined"
    rig.chain.mine(UNDER)
    rig.follow()
    assert await rig.read()
    await rig.tried()
    assert rig.why(ALICE) == "backoff"
    assert len(lane.plans) == 1
    rig.clock.advance(1)
    await rig.tried()
    assert len(lane.plans) == 2


async def test_a_nonce_is_taken_only_when_the_gas_is_known(tmp_path: Path) -> None:
    clock, signer = ManualClock(), KeySigner("0x" + "42" * 32)
    chain = FakeChain(pull=False, now_ms=clock.wall_ms)
    chain.state.balances[signer.address] = WAD
    rpc, telemetry = FakeRpc(chain), CountingTelemetry()
    fees = FeeRules(GWEI, 2_000_000, 500 * GWEI, 125_000)
    async with Journal(tmp_path / "journal.sqlite", 1) as journal:
        wallets = [Wallet("main", signer.address, signer)]
        parts = LaneParts(rpc, PlainBroadcaster(rpc), journal, clock, telemetry)
        lanes = Lanes(wallets, {}, LaneRules(1, 1, 2, WAD, fees), parts)
        rig = make_rig(lanes, chain, clock, telemetry=telemetry)
        await lanes.recover()
        await rig.started(UNDER)
        await rig.settle()
        nonces, simulate, taken = lanes.lanes[0]._nonces, rig.venue.simulate, list[int]()

        async def asked(*args: Any) -> Simulated | Refused:  # noqa: ANN401 - as the venue's own
            taken.append(nonces.next)
            return await simulate(*args)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rig.venue, "simulate", asked)
            rig.venue.refusal = Refused("unknown", "no gas was estimated")
            await rig.tried()
            assert (nonces.next, nonces.gaps, lanes.open_attempts) == (0, [], ())
            rig.venue.refusal = None
            rig.clock.advance(EXECUTION_RULES.hold_ms / 1000)
            rig.mine()
            rig.follow()
            await rig.publish()
            await rig.read()
            await rig.tried()
        assert taken == [0, 0]
        assert [(one.nonce, nonces.next) for one in lanes.open_attempts] == [(0, 1)]


class HastyRpc(FakeRpc):
    """A chain that has mined and settled a transaction before its sender hears of it."""

    def __init__(self, chain: FakeChain) -> None:
        super().__init__(chain)
        self.taken: Callable[[], Awaitable[None]] | None = None

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        answer = await super().call(method, params)
        if method == "eth_sendRawTransaction" and self.taken is not None:
            await self.taken()
        return answer


async def test_a_lane_survives_that_its_attempt_is_settled_while_it_is_sent(tmp_path: Path) -> None:
    clock, signer = ManualClock(), KeySigner("0x" + "42" * 32)
    chain = FakeChain(pull=False, now_ms=clock.wall_ms)
    chain.state.balances[signer.address] = WAD
    rpc, telemetry = HastyRpc(chain), CountingTelemetry()
    fees = FeeRules(GWEI, 2_000_000, 500 * GWEI, 125_000)
    async with Journal(tmp_path / "journal.sqlite", 1) as journal:
        wallets = [Wallet("main", signer.address, signer)]
        parts = LaneParts(rpc, PlainBroadcaster(rpc), journal, clock, telemetry)
        lane = Lanes(wallets, {}, LaneRules(1, 1, 2, WAD, fees), parts)
        rig = make_rig(lane, chain, clock, telemetry=telemetry)
        await lane.recover()
        await rig.started(UNDER)
        await rig.settle()

        async def at_once() -> None:
            rig.mine()
            rig.follow()
            await rig.settle()

        rpc.taken = at_once
        await rig.tried()
        assert [done.outcome for done in rig.published] == [Outcome.WON]
        assert not rig.quarantine.is_quarantined(VENUE, ALICE)
        assert lane.open_attempts == ()
        assert rig.why(ALICE) == "state_behind"
        assert await rig.read()
        await rig.decide()
        assert rig.why(ALICE) == "not_under_margined"
