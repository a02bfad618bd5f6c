"""A nonce whose liquidation is over goes to the next best candidate; who pays what."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.act.spending import Past
from keeper.facts import AccountId, Attempt, Outcome
from keeper.jobs import Gain
from keeper.units import GWEI, WAD
from tests.shell import market
from tests.shell.market import Block, FakeChain, rival_liquidates, set_account
from tests.shell.test_together import World
from tests.shell.test_world import LANE_RULES
from tests.shell.venue import VENUE

ALICE, BOB, CAROL = (AccountId(name) for name in ("alice", "bob", "carol"))
FIRST_WEI = 3 * GWEI  # the fee cap of a first try: twice the base fee, and the tip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def one_in_flight(world: World) -> Attempt:
    """Send for alice, who pays most, and have bob and carol wait for room."""
    sizes = {ALICE: (-29_200, 15), BOB: (-25_000, 13), CAROL: (-19_500, 10)}
    accounts = (set_account(name, cash, eth=size) for name, (cash, size) in sizes.items())
    await world.rig.started(*accounts)
    await world.rig.settle()
    await world.rig.tried()
    (attempt,) = world.rig.execution._submitter.open_attempts
    assert attempt.plan.account == ALICE
    assert world.rig.why(BOB) == world.rig.why(CAROL) == "open_attempts"
    return attempt


def lonely(folder: Path) -> World:
    return World(folder, batch_accounts_max=1, open_attempts_max=1)


async def test_the_next_best_takes_the_nonce_and_pays_for_it(tmp_path: Path) -> None:
    async with lonely(tmp_path) as world:
        first = await one_in_flight(world)
        parts = {Gain.TRADE: 5 * WAD}
        world.rig.venue.gains = lambda _logs, _wallet: parts  # type: ignore[attr-defined]
        world.chain.stuck = lambda tx: tx.max_fee_wei <= FIRST_WEI
        await world.rig.block(rival_liquidates(ALICE))
        (flying,) = world.rig.execution._submitter.open_attempts
        assert (flying.id, flying.nonce) == (first.id, first.nonce)
        before, after = flying.transactions
        assert after.accounts == (BOB,)
        assert after.max_fee_wei * 8 >= before.max_fee_wei * 9
        assert after.priority_fee_wei * 8 >= before.priority_fee_wei * 9
        assert world.rig.why(BOB) == "in_flight"
        (kept,) = await world.journal.open_attempts()
        assert kept.transactions == flying.transactions, "a restart knows whose it is"
        assert kept.plan.batch == (ALICE, BOB)
        await world.rig.block()
        await world.rig.block()
        rows = {row.account: row for row in world.rows()}
        assert (rows[ALICE].outcome, rows[ALICE].cost_wei) == ("cancelled", 0)
        assert rows[ALICE].detail == "its nonce went to another account"
        assert (rows[BOB].outcome, rows[BOB].nonce) == ("won", first.nonce)
        assert (rows[BOB].gains, rows[ALICE].gains, rows[ALICE].reward_wad) == (parts, {}, 0)
        assert rows[BOB].cost_wei == world.spent_wei()
        assert world.rig.counted("keeper_attempts_total", "won") == 1


async def test_the_first_one_may_be_included_after_all(tmp_path: Path) -> None:
    """It reverts and pays; who was to have the nonce is tried again."""
    async with lonely(tmp_path) as world:
        await one_in_flight(world)
        world.chain.stuck = lambda _tx: True
        await world.rig.block(rival_liquidates(ALICE))
        (flying,) = world.rig.execution._submitter.open_attempts
        (pooled,) = world.chain.pool.values()
        assert pooled.hash == flying.transactions[-1].hash
        world.chain.pool.clear()
        first = next(tx for tx in world.rpc.accepted if tx.hash == flying.transactions[0].hash)
        world.chain.stuck = lambda _tx: False
        await world.rig.block(lambda chain, block: chain.run(block, first))
        await world.rig.block()
        rows = {row.account: row for row in world.rows()}
        assert (rows[ALICE].outcome, rows[ALICE].cost_wei) == ("lost", world.spent_wei())
        assert (rows[BOB].outcome, rows[BOB].cost_wei) == ("cancelled", 0)
        past = await world.journal.past(0)
        assert past == [Past.of(done, past[0].settled_ms) for done in world.rig.published]
        burned = {one.gas_used for one in past if one.outcome is Outcome.LOST}
        assert burned == {market.REVERT_GAS}, "whoever the nonce went to was not in it"
        for _ in range(8):
            await world.rig.block()
        assert world.won() == {BOB, CAROL}
        assert sum(row.cost_wei for row in world.rows()) == world.spent_wei()


@pytest.mark.parametrize("why_not", ["nobody waits", "it would not pay", "paused"])
async def test_without_a_candidate_that_pays_it_is_cancelled(tmp_path: Path, why_not: str) -> None:
    async with lonely(tmp_path) as world:
        await one_in_flight(world)
        world.chain.stuck = lambda tx: tx.call.to.lower() == market.ADDRESS
        over = [rival_liquidates(ALICE)]
        if why_not == "nobody waits":
            over += [rival_liquidates(BOB), rival_liquidates(CAROL)]
        if why_not == "it would not pay":
            rules = world.rig.execution.weighing.rules
            world.rig.execution.weighing.rules = replace(rules, profit_wei_min=10**20)
        if why_not == "paused":
            world.rig.execution.brakes.pause(on=True)
        await world.rig.block(*over)
        for _ in range(3):
            await world.rig.block()
        rows = {row.account: row for row in world.rows()}
        assert (rows[ALICE].outcome, rows[ALICE].cost_wei) == ("cancelled", world.spent_wei())
        assert world.rig.execution._submitter.attempt_of(VENUE, ALICE) is None


async def test_what_was_given_up_and_is_included_after_all_is_accounted(tmp_path: Path) -> None:
    """Another transaction of the wallet took the nonce; a reorg took that away, and ours got in."""
    async with lonely(tmp_path) as world:
        first = await one_in_flight(world)
        world.chain.stuck = lambda _tx: True

        def taken(_chain: FakeChain, block: Block) -> None:
            block.state.nonces[world.address] = first.nonce + 1

        for action in (taken, *[lambda *_: None] * LANE_RULES.confirmations):
            await world.rig.block(action)
        assert {row.account: row.outcome for row in world.rows()}[ALICE] == "expired"
        (sent,) = (tx for tx in world.rpc.accepted if tx.hash == first.transactions[0].hash)
        world.chain.orphan(1 + LANE_RULES.confirmations)
        world.chain.pool.clear()
        await world.rig.block(lambda chain, block: chain.run(block, sent))
        await world.rig.block()
        rows = {row.account: row for row in world.rows()}
        assert (rows[ALICE].outcome, rows[ALICE].cost_wei) == ("won", world.spent_wei())
        assert rows[ALICE].reward_wei > 0
        assert world.rig.counted("keeper_attempts_total", "won") == 1
        assert world.rig.counted("keeper_reopened_attempts_total", "expired") == 1
        assert world.rig.settlement.tally.outcomes == {"won": 1, "expired": 0}
        gain_wei = rows[ALICE].reward_wei - rows[ALICE].cost_wei
        assert world.rig.settlement.tally.profit_wei == {VENUE: gain_wei}
