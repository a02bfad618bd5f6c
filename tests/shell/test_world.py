"""One seeded world: the whole shell with a real lane and journal, on a chain that misbehaves.

Prices walk, traders trade, blocks are orphaned, requests and answers get lost, transactions are
dropped from the pool or stay in it, rivals liquidate, the keeper is killed and starts again.
Oracles: the chain's own records and brute force over its state. A failure prints its seed.
"""

import json
import random
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.chain.backfill import Finder, LogReader, ReadRules
from keeper.chain.fees import FeeRules
from keeper.chain.journal import Journal
from keeper.chain.journal_read import AttemptRow, read_attempts
from keeper.chain.lane_rules import LaneParts, LaneRules
from keeper.chain.lanes import Lanes
from keeper.chain.ledger import Ledger
from keeper.chain.signer import KeySigner, Wallet
from keeper.decide.agenda import HoldReason
from keeper.decide.economics import Fee
from keeper.facts import AccountId, Attempt, Head, NotSent, Plan
from keeper.units import GWEI, WAD
from keeper.watch.snapshot import Snapshots, WarmStart
from tests.fakes import CountingTelemetry, ManualClock, PlainBroadcaster
from tests.shell import market
from tests.shell.market import (
    Action,
    FakeChain,
    equity_wad,
    is_under,
    notional_wad,
    place_order,
    requirement_wad,
    rival_liquidates,
    set_account,
    set_index,
    set_price,
)
from tests.shell.rig import EXECUTION_RULES, Rig, make_rig
from tests.shell.rpc import FakeRpc
from tests.shell.venue import VENUE

KEY = "0x" + "42" * 32
BALANCE_WEI = 10**20
ACCOUNTS, BLOCKS, CALM_BLOCKS = 20, 150, 25
BLOCKS_MAX = 25  # an account that stays liquidatable is liquidated within so many
CALM_BLOCKS_MAX = 3  # likewise, when nothing gets lost: sent, included, confirmed
LANE_RULES = LaneRules(
    chain_id=31337,
    confirmations=2,
    replace_after_blocks=2,
    cost_wei_max=10**17,
    fees=FeeRules(
        priority_fee_wei=GWEI,
        base_fee_headroom_ppm=2_000_000,
        max_fee_per_gas_wei_max=500 * GWEI,
        replacement_bump_ppm=125_000,
    ),
)
# it costs more to close than it pays, or it was decided to leave it alone for a while
EXCUSES = {HoldReason.UNPROFITABLE.value}


@dataclass
class World:
    """The chain, the keeper on it, and what a judge remembers."""

    seed: int
    pull: bool
    path: Path
    faulty: bool = True
    under_since: dict[str, tuple[int, object]] = field(default_factory=dict)
    longest: int = 0  # blocks that an account stayed liquidatable
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed}/{self.pull}")  # noqa: S311 - reproducible
        self.depths = random.Random(f"{self.seed}/{self.pull}/depths")  # noqa: S311
        self.clock = ManualClock()
        self.telemetry = CountingTelemetry()
        self.chain = FakeChain(pull=self.pull, now_ms=self.clock.wall_ms)
        self.signer = KeySigner(KEY)
        self.chain.state.balances[self.signer.address] = BALANCE_WEI
        self.market = dict(self.chain.state.prices())  # what the sources say
        ordered = random.Random(f"{self.seed}/{self.pull}/orders")  # noqa: S311
        for number in range(ACCOUNTS):
            name, block = f"account{number}", self.chain.blocks[-1]
            self.trade(name)(self.chain, block)
            if ordered.random() < 0.5:
                place_order(name)(self.chain, block)

    def luck(self, chance: float) -> bool:
        return self.faulty and self.random.random() < chance

    # --- what happens on the chain ----------------------------------------------------------------

    def trade(self, name: str) -> Action:
        """Open an account anew, with some margin above what it needs at the market's prices."""
        prices, dice = self.market, self.random
        most = dice.choice([8_000, 60_000, 300_000, 900_000]) * WAD
        sizes = {
            market_name: dice.choice([-1, 1]) * max(1, most // prices[market_name])
            for market_name in dice.sample(["eth", "btc"], dice.choice([1, 1, 2]))
        }
        holding = market.Holding(0, sizes)
        owed = requirement_wad(holding, prices) - equity_wad(
            holding, prices, self.chain.state.index
        )
        spare = notional_wad(holding, prices) * dice.randrange(3, 40) // 1000
        return set_account(name, (owed + spare) // WAD, **sizes)

    def walk(self) -> None:
        for name, price in self.market.items():
            drift = self.random.gauss(0, 0.012)
            self.market[name] = max(price // 2, int(price * (1 + drift)))

    def actions(self) -> list[Action]:
        dice, chain = self.random, self.chain
        chosen: list[Action] = []
        chosen += [
            set_price(name, price)
            for name, price in self.market.items()
            if not self.pull or dice.random() < 0.3
        ]
        if dice.random() < 0.1:
            chosen.append(set_index("eth", chain.state.index["eth"] + dice.randrange(-2, 3) * WAD))
        for name in list(chain.state.holdings):
            holding = chain.state.holdings[name]
            if not holding.sizes and dice.random() < 0.5:
                chosen.append(self.trade(name))
                if dice.random() < 0.5:
                    chosen.append(place_order(name))
            elif self.luck(0.03):
                chosen.append(rival_liquidates(name))
        return chosen

    def mine(self, rig: Rig) -> None:
        """Add a block, or replace the newest one with another and add one."""
        chain, dice = self.chain, self.random
        if self.luck(0.07) and len(chain.blocks) > 3:
            deep = self.depths.random() < 0.3 and len(chain.blocks) > 5
            for _ in range(chain.head.number - chain.orphan(3 if deep else 1) + 1):
                chain.mine(*self.actions(), pool_first=dice.random() < 0.5)
            self.seen["deep reorg"] += deep
            self.seen["reorg"] += 1
        rig.mine(*self.actions(), pool_first=dice.random() < 0.5)
        if self.luck(0.1) and chain.pool:
            del chain.pool[dice.choice(sorted(chain.pool))]
            self.seen["dropped"] += 1

    # --- the judge --------------------------------------------------------------------------------

    def liquidatable(self, name: str) -> bool:
        """Could it be liquidated now, at the contract's price or at the sources'?"""
        state = self.chain.state
        holding = state.holdings[name]
        if self.pull:
            return is_under(holding, self.market, state.index)
        return is_under(holding, state.prices(), state.index)

    @property
    def excuses(self) -> set[str]:
        # a breaker that the last faults have opened rests for more blocks than calm ones allow
        return EXCUSES if self.faulty else {*EXCUSES, HoldReason.BREAKER_OPEN.value}

    def watch(self, rig: Rig) -> None:
        """Nobody waits long for a liquidation, or for the next step of one, but for an excuse."""
        number = self.chain.head.number
        limit = BLOCKS_MAX if self.faulty else CALM_BLOCKS_MAX
        reverted = self.reverted()
        for name, held in self.chain.state.holdings.items():
            # the first step of two is progress; what a price cured just then is tried again
            found = held, name in self.chain.state.orders, reverted[name]
            since, seen = self.under_since.get(name, (number, found))
            if not self.liquidatable(name) or rig.why(name) in self.excuses:
                self.under_since.pop(name, None)
                continue
            since = since if seen == found else number
            self.under_since[name] = since, found
            assert number - since <= limit, f"{name} under since {since}: {rig.why(name)}"
            self.longest = max(self.longest, number - since)

    def reverted(self) -> Counter[str]:
        """Return how often we were in time and the account no longer liquidatable, by account."""
        mined = [done for block in self.chain.blocks for done in block.mined.values()]
        failed = [one.tx for one in mined if not one.success]
        ours = [tx for tx in failed if tx.sender == self.signer.address and tx.call.data]
        return Counter(json.loads(tx.call.data)["account"] for tx in ours)

    def judge_states(self, rig: Rig) -> None:
        """What was read is what there is, also after a reorg and after requests were lost."""
        if rig.desk.head != self.chain.head or rig.intake.everything or rig.intake._dirty:
            return  # a request was lost: it is read again with the next block
        self.seen["read"] += 1
        for name, holding in self.chain.state.holdings.items():
            known = rig.desk.states[AccountId(name)]
            assert known.holding == holding, name  # type: ignore[attr-defined]

    def judge_books(self, rig: Rig) -> None:
        """Both books and the agenda say what brute force says."""
        state, desk = self.chain.state, rig.desk
        assert set(desk.states) == set(state.holdings)
        self.judge_states(rig)
        for name, holding in state.holdings.items():
            known = desk.states[AccountId(name)]
            under = False
            for book, prices in ((desk.chain, state.prices()), (desk.lead, self.market)):
                under = under or book.is_under(known.account)
                expected = is_under(holding, prices, state.index)
                assert book.is_under(known.account) == expected, name
            assert (known.account in desk.agenda) == under

    def judge_journal(self, rows: list[AttemptRow]) -> None:
        """What was written down is what the chain paid and took."""
        assert all(row.outcome is not None for row in rows), "nothing is left open"
        ours = [
            done
            for block in self.chain.blocks
            for done in block.mined.values()
            if done.tx.sender == self.signer.address
        ]
        paid = {done.tx.hash: done.reward_wad for done in ours if done.reward_wad}
        won = {str(row.tx_hash): row.reward_wad for row in rows if row.outcome == "won"}
        assert won == paid
        spent = BALANCE_WEI - self.chain.state.balances[self.signer.address]
        assert sum(row.cost_wei for row in rows) == spent
        nonces = {row.id: row.nonce for row in rows if row.tx_hash}.values()
        assert sorted(nonces) == list(range(len(nonces))), "each nonce once, none left out"
        for row in rows:
            self.seen[str(row.outcome)] += 1


class JudgedLanes(Lanes):
    """Lanes that check what they are given: liquidatable where it was simulated, and not twice."""

    world: World

    async def submit(self, plan: Plan, wallet: str, fee: Fee, head: Head) -> Attempt | NotSent:
        block = self.world.chain.numbered(plan.simulated_at)
        assert block is not None
        updates = json.loads(plan.call.data)["updates"]
        prices = block.state.prices() | {name: price for name, (price, _) in updates.items()}
        assert is_under(block.state.holdings[plan.account], prices, block.state.index), plan
        assert plan.account not in {attempt.plan.account for attempt in self.open_attempts}
        return await super().submit(plan, wallet, fee, head)


async def start(world: World, rpc: FakeRpc, stack: AsyncExitStack) -> tuple[Rig, Lanes]:
    """Start a keeper as a process would: from its journal and the chain."""
    journal = await stack.enter_async_context(Journal(world.path, 31337))
    wallets = [Wallet("main", world.signer.address, world.signer)]
    parts = LaneParts(rpc, PlainBroadcaster(rpc), journal, world.clock, world.telemetry)
    lane = JudgedLanes(wallets, {}, LANE_RULES, parts)
    lane.world = world
    rules = replace(EXECUTION_RULES, transaction_cost_wei_max=10**17, profit_wei_min=10**15)
    rig = make_rig(
        lane,
        world.chain,
        world.clock,
        telemetry=world.telemetry,
        books=journal,
        execution_rules=rules,
    )
    rig.venue.lost = rpc.lost
    ledger = await stack.enter_async_context(Ledger(world.path.with_name("ledger.sqlite"), 8))
    reader = LogReader(rpc, ReadRules(1_000, 2, 1_000))
    rig.reading.memory = ledger
    finder = Finder(rpc, reader, ledger, {VENUE: 0}, world.telemetry, lambda *_: None)
    rig.reading.discover = finder.find
    snapshots = Snapshots(world.path.parent, 31337, rig.quarantine)
    rig.reading.warm = WarmStart(rpc, ledger, snapshots)
    faulty, world.faulty = world.faulty, False  # a start that fails is tried again until it works
    await lane.recover()
    await rig.settlement.learn_past(world.clock.wall_ms())
    rig.follow()
    await rig.reading.find(rig.desk, rig.intake, world.chain.head)
    await rig.reading.restore(rig.desk, rig.intake, world.chain.head)
    world.seen["warm"] += len(rig.reading.inbox) > 0
    world.faulty = faulty
    return rig, lane


async def live(world: World, rig: Rig) -> None:
    """Let a block come, and everything the keeper does about it."""
    world.mine(rig)
    world.walk()
    rig.clock.advance(0.5)
    if not world.luck(0.03):
        for name, price in world.market.items():
            await rig.tick(name, price)
    await rig.turn()
    if world.chain.head.number % 10 == 0:
        await rig.reading.warm._snapshots.save(rig.desk)
    world.judge_states(rig)
    if world.random.random() < 0.5:  # another tick within the block
        world.walk()
        for name, price in world.market.items():
            await rig.tick(name, price)
        await rig.decide()
        await rig.attempt()
    world.watch(rig)
    # a check of the judge's that fails inside the keeper ends up there, like any bug
    assert rig.quarantine.entries() == []


@pytest.mark.parametrize("pull", [False, True], ids=["push", "pull"])
@pytest.mark.parametrize("seed", range(8))
async def test_the_world(seed: int, pull: bool, tmp_path: Path) -> None:  # noqa: FBT001
    world = World(seed, pull, tmp_path / "journal.sqlite")
    rpc = FakeRpc(world.chain)
    rpc.lost = lambda: world.luck(0.03)
    rpc.answer_lost = lambda: world.luck(0.02)
    world.chain.stuck = lambda _tx: world.luck(0.3)
    with capture_logs():
        for _ in range(3):  # lives of the keeper
            async with AsyncExitStack() as stack:
                rig, _ = await start(world, rpc, stack)
                for _ in range(BLOCKS // 3):
                    await live(world, rig)
        world.faulty, world.under_since = False, {}
        async with AsyncExitStack() as stack:
            rig, lane = await start(world, rpc, stack)
            for _ in range(CALM_BLOCKS):
                await live(world, rig)
            for _ in range(4):  # prices stand still: what is in flight is settled
                rig.mine(*(set_price(name, price) for name, price in world.market.items()))
                rig.follow()
                assert await rig.read()
                await rig.settle()
                await rig.decide()  # nothing is sent any more
            assert lane.open_attempts == ()
            world.judge_books(rig)
    world.judge_journal(read_attempts(world.path))
    assert world.seen["won"] > 10, world.seen
    assert world.seen["done"], "no account with an order was liquidated in two steps"
    assert world.seen["reorg"] > 2
    assert world.seen["warm"], "every life began cold"
    assert world.seen["read"] > BLOCKS // 2
