"""Several accounts in one transaction: when, who pays what, what becomes of the culprit."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from structlog.testing import capture_logs

from keeper.act.spending import Past
from keeper.batching import accounts_of
from keeper.chain.journal import Journal
from keeper.chain.journal_read import AttemptRow, read_attempts
from keeper.chain.lane_rules import LaneParts
from keeper.chain.lanes import Lanes
from keeper.chain.signer import KeySigner, Wallet
from keeper.facts import AccountId
from keeper.units import GWEI, PPM, WAD
from tests.fakes import CountingTelemetry, ManualClock, PlainBroadcaster
from tests.shell import market
from tests.shell.market import FakeChain, rival_liquidates, set_account
from tests.shell.rig import DESK_RULES, EXECUTION_RULES, Rig, make_rig, scripted_rig
from tests.shell.rpc import FakeRpc
from tests.shell.test_world import BALANCE_WEI, KEY, LANE_RULES
from tests.shell.venue import VENUE, BatchVenue

EIGHT = [AccountId(name) for name in "abcdefgh"]
REWARD_WEI = WAD // 10  # 200 USD
TOGETHER = replace(DESK_RULES, batch_accounts_max=8, backoff_ms_min=600_000, backoff_ms_max=600_000)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


class World:
    """The shell with a real lane and journal on the fake chain, and what is in its journal."""

    def __init__(
        self, folder: Path, *, batch_accounts_max: int = 8, open_attempts_max: int = 10
    ) -> None:
        self.path = folder / "journal.sqlite"
        self.stack = AsyncExitStack()
        self.desk_rules = replace(TOGETHER, batch_accounts_max=batch_accounts_max)
        self.execution_rules = replace(
            EXECUTION_RULES,
            transaction_cost_wei_max=10**17,
            open_attempts_max=open_attempts_max,
        )

    async def __aenter__(self) -> Self:
        clock, telemetry = ManualClock(), CountingTelemetry()
        self.chain = FakeChain(pull=False, now_ms=clock.wall_ms)
        signer = KeySigner(KEY)
        self.address = signer.address
        self.chain.state.balances[self.address] = BALANCE_WEI
        rpc = self.rpc = FakeRpc(self.chain)
        journal = await self.stack.enter_async_context(Journal(self.path, 31337))
        self.journal = journal
        parts = LaneParts(rpc, PlainBroadcaster(rpc), journal, clock, telemetry)
        lanes = Lanes([Wallet("main", self.address, signer)], {}, LANE_RULES, parts)
        self.rig = make_rig(
            lanes,
            self.chain,
            clock,
            telemetry=telemetry,
            desk_rules=self.desk_rules,
            execution_rules=self.execution_rules,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    @property
    def venue(self) -> BatchVenue:
        assert isinstance(self.rig.venue, BatchVenue)
        return self.rig.venue

    async def blocks(self, count: int) -> None:
        for _ in range(count):
            await self.rig.block()

    async def started(self) -> None:
        await self.rig.started(*(set_account(name, -19_500, eth=10) for name in EIGHT))
        await self.rig.settle()  # it learns the nonces

    def rows(self) -> list[AttemptRow]:
        return sorted(read_attempts(self.path), key=lambda row: (row.nonce, row.account))

    def won(self) -> set[str]:
        return {row.account for row in self.rows() if row.outcome == "won"}

    def spent_wei(self) -> int:
        return BALANCE_WEI - self.chain.state.balances[self.address]


def batched(rig: Rig) -> BatchVenue:
    assert isinstance(rig.venue, BatchVenue)
    return rig.venue


async def test_eight_go_in_one_transaction_and_each_pays_its_share(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.started()
        await world.rig.tried()
        (attempt,) = world.rig.execution._submitter.open_attempts
        assert set(accounts_of(attempt.plan)) == set(EIGHT)
        for account in EIGHT:
            assert world.rig.execution._submitter.attempt_of(VENUE, account) == attempt
            assert world.rig.why(account) == "in_flight"
        await world.blocks(3)
        rows = world.rows()
        assert [(row.account, row.outcome, row.nonce) for row in rows] == [
            (name, "won", 0) for name in EIGHT
        ]
        assert len({row.tx_hash for row in rows}) == 1
        assert {row.reward_wei for row in rows} == {REWARD_WEI}
        assert sum(row.cost_wei for row in rows) == world.spent_wei()
        assert max(row.cost_wei for row in rows) - min(row.cost_wei for row in rows) <= 1
        assert {done.attempt.plan.account for done in world.rig.published} == set(EIGHT)
        assert world.rig.counted("keeper_attempts_total", "won") == 8
        assert world.rig.telemetry.totals["keeper_gas_spent_wei_total", VENUE] == world.spent_wei()
        past = await world.journal.past(0)
        assert past == [Past.of(done, past[0].settled_ms) for done in world.rig.published], (
            "a restart counts what this process counted"
        )


async def test_one_that_always_reverts_is_halved_out_and_backs_off(tmp_path: Path) -> None:
    """All or none: eight fail, a half of them fails, a pair, and then it alone."""
    async with World(tmp_path) as world:
        world.venue.each_alone = False
        world.chain.traps = {"c"}
        await world.started()
        await world.blocks(25)
        assert world.won() == set(EIGHT) - {"c"}
        failed = [row for row in world.rows() if row.outcome == "reverted"]
        sizes = [count for _, count in sorted(Counter(row.nonce for row in failed).items())]
        assert sizes == [8, 4, 2, 1]
        assert world.rig.why("c") == "backoff"
        assert sum(row.cost_wei for row in world.rows()) == world.spent_wei()


async def test_where_each_stands_alone_the_others_go_through_at_once(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.chain.traps = {"c"}
        await world.started()
        await world.blocks(4)
        assert world.won() == set(EIGHT) - {"c"}
        assert {row.nonce for row in world.rows()} == {0}
        assert [row.outcome for row in world.rows() if row.account == "c"] == ["reverted"]
        assert world.rig.why("c") == "backoff"
        assert sum(row.cost_wei for row in world.rows()) == world.spent_wei()


async def test_a_rival_who_takes_one_of_them(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.venue.each_alone = False
        await world.started()
        await world.rig.tried()
        await world.rig.block(rival_liquidates("a"), pool_first=False)  # just before us
        await world.blocks(12)
        assert world.won() == set(EIGHT) - {"a"}
        assert [row.outcome for row in world.rows() if row.account == "a"] == ["lost"]
        assert sum(row.cost_wei for row in world.rows()) == world.spent_wei()


async def test_what_waits_is_replaced_for_those_still_due_and_stays_one_attempt(
    tmp_path: Path,
) -> None:
    async with World(tmp_path) as world:
        await world.started()
        await world.rig.tried()
        world.chain.stuck = lambda tx: tx.max_fee_wei <= 3 * GWEI
        await world.rig.block(rival_liquidates("a"))
        await world.blocks(2)
        (attempt,) = world.rig.execution._submitter.open_attempts
        assert len(attempt.transactions) == 2, "replaced"
        assert set(accounts_of(attempt.plan)) == set(EIGHT)
        assert world.venue.batches[-1] == [name for name in EIGHT if name != "a"]
        await world.blocks(6)
        assert world.won() == set(EIGHT) - {"a"}
        assert {row.nonce for row in world.rows()} == {0}
        assert sum(row.cost_wei for row in world.rows()) == world.spent_wei()


async def test_all_that_are_cured_are_cancelled_together(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.started()
        await world.rig.tried()
        world.chain.stuck = lambda tx: tx.call.to.lower() == market.ADDRESS
        await world.rig.block(*(rival_liquidates(name) for name in EIGHT))
        await world.blocks(3)
        rows = world.rows()
        assert [(row.account, row.outcome) for row in rows] == [(n, "cancelled") for n in EIGHT]
        assert sum(row.cost_wei for row in rows) == world.spent_wei() > 0


async def test_in_flight_with_others_is_found_again_after_a_restart(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.started()
        await world.rig.tried()
        (attempt,) = world.rig.execution._submitter.open_attempts
        (found,) = await world.journal.open_attempts()
        assert found == replace(attempt, plan=replace(attempt.plan, tick_ns=0, decided_ns=0))


async def test_together_only_if_more_is_expected_of_it() -> None:
    """With even odds of each race, four that all have to be won are worth less than four alone."""
    for p_win_ppm, transactions in ((PPM, 1), (PPM // 2, 4)):
        prior = replace(
            EXECUTION_RULES.prior, p_win_ppm=p_win_ppm, p_win_ppm_min=0, p_win_ppm_max=PPM
        )
        rules = replace(EXECUTION_RULES, prior=prior)
        rig, lane = scripted_rig(desk_rules=TOGETHER, execution_rules=rules)
        batched(rig).each_alone = False
        await rig.started(*(set_account(name, -19_500, eth=10) for name in EIGHT[:4]))
        await rig.tried()
        assert len(lane.plans) == transactions
        assert sorted(a for plan in lane.plans for a in accounts_of(plan)) == EIGHT[:4]


async def test_what_would_cost_too_much_in_one_transaction_goes_by_halves() -> None:
    most_wei = 6 * market.GAS_OF_EACH * 3 * GWEI  # eight take 8 × 1.5 × 2 gwei
    rules = replace(EXECUTION_RULES, transaction_cost_wei_max=most_wei)
    rig, lane = scripted_rig(desk_rules=TOGETHER, execution_rules=rules)
    await rig.started(*(set_account(name, -19_500, eth=10) for name in EIGHT))
    await rig.tried()
    assert [len(accounts_of(plan)) for plan in lane.plans] == [4, 4]
    assert all(plan.cost_wei_max <= most_wei for plan in lane.plans)


async def test_a_bug_in_going_together_leaves_them_alone() -> None:
    rig, lane = scripted_rig(desk_rules=TOGETHER)
    rig.venue.poisoned = {("batch", "b")}
    await rig.started(*(set_account(name, -19_500, eth=10) for name in EIGHT[:4]))
    await rig.tried()
    assert sorted(tuple(accounts_of(plan)) for plan in lane.plans) == [("a",), ("b",), ("c", "d")]
    assert rig.counted("keeper_quarantined_total", "account") >= 1


async def test_what_cannot_be_liquidated_is_held_alone_and_delays_nobody() -> None:
    rig, lane = scripted_rig(desk_rules=TOGETHER)
    await rig.started(*(set_account(name, -19_500, eth=10) for name in EIGHT[:3]))
    rig.chain.state.orders = frozenset({"b"})
    rig.chain.state.holdings["b"] = replace(rig.chain.state.holdings["b"], cash_wad=0)
    await rig.tried()
    assert [accounts_of(plan) for plan in lane.plans] == [("a", "c")]
    assert rig.why("b") == "not_liquidatable"
