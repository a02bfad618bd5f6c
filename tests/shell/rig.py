"""The shell on the fake market, driven step by step: nothing runs that a test did not ask for."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keeper.act.brakes import BrakeRules, Brakes
from keeper.act.execute import Execution
from keeper.act.execution_rules import ExecutionRules
from keeper.act.settle import Settlement
from keeper.act.tally import Books, Tally
from keeper.chain.lanes import Lanes
from keeper.decide.learn import Prior
from keeper.decide.rank import Objective
from keeper.errors import RpcError, TransientError
from keeper.facts import (
    AccountId,
    Attempt,
    ChainUpdate,
    Head,
    Receipt,
    Settled,
    Tick,
)
from keeper.pipeline import Pipeline
from keeper.prices.board import FeedRules, PriceBoard
from keeper.quarantine import Quarantine
from keeper.supervise import Heartbeats
from keeper.units import GWEI, PPM
from keeper.watch.desk import Desk, DeskRules
from keeper.watch.intake import Intake
from keeper.watch.reading import Reading
from keeper.watch.reconcile import Reconciler, ReconcileRules
from keeper.watch.rivals import report
from keeper.watch.snapshot import Snapshots, WarmStart
from tests.fakes import (
    CountingTelemetry,
    ListedMemory,
    ListedSource,
    ManualClock,
    ScriptedBooks,
    ScriptedLane,
)
from tests.shell import market
from tests.shell.market import Action, FakeChain
from tests.shell.rpc import FakeRpc
from tests.shell.venue import FEEDS, VENUE, BatchVenue, FakeVenue

WALLET = "0x" + "11" * 20
DESK_RULES = DeskRules(
    objective=Objective.PROFIT,
    solvency_budget_wei=0,
    reward_feed=None,
    backoff_ms_min=1_000,
    backoff_ms_max=60_000,
    candidates_per_step_max=100,
    probe_ms=60_000,
)
PRIOR = Prior(
    p_win_ppm=PPM,
    p_win_ppm_min=PPM,
    p_win_ppm_max=PPM,
    revert_gas=market.REVERT_GAS,
    revert_gas_max=market.REVERT_GAS,
)
EXECUTION_RULES = ExecutionRules(
    head_age_ms_max=60_000,
    transaction_cost_wei_max=10**16,
    profit_wei_min=0,
    open_attempts_max=10,
    limits=(),
    prior=PRIOR,
    gas_limit_factor_ppm=1_500_000,
    hold_ms=2_000,
    native_feed=FEEDS["eth"],
    watcher="0x" + "99" * 20,
)
BRAKE_RULES = BrakeRules(paused=False, pause_file=None, reverts_in_a_row_max=3, breaker_ms=60_000)
RECONCILE = ReconcileRules(every_ms=100_000_000, accounts_max=4, drift_ppm_max=10_000)
LOOPS = ("chain", "decide", "attempt", "settle", f"accounts/{VENUE}", "prices/main")


class FakeFollower:
    """Says what changed on the fake chain since it was last asked. Implements ``Chain``."""

    announced = False

    def __init__(self, chain: FakeChain) -> None:
        self._chain = chain
        self.known: list[Head] = [chain.head]

    async def start(self) -> Head:
        return self.known[-1]

    async def updates(self) -> AsyncIterator[ChainUpdate | None]:
        while True:
            yield self.since()

    def since(self, *, resync: bool = False) -> ChainUpdate | None:
        """Return what is new, None for nothing. ``resync``: as if the gap was not bridged."""
        chain, reorged_from = self._chain, None
        if chain.head.hash == self.known[-1].hash:
            return None
        while chain.at(self.known[-1].hash) is None:
            reorged_from = self.known.pop().number
            if not self.known:  # all we know of is orphaned
                self.known = [chain.head]
                return ChainUpdate(chain.head, (), 0, resync=True)
        first = self.known[-1].number + 1
        new = [block for block in chain.blocks if block.head.number >= first]
        self.known += [block.head for block in new]
        if resync:
            return ChainUpdate(chain.head, (), reorged_from, resync)
        logs = tuple(log for block in new for log in block.logs)
        return ChainUpdate(chain.head, logs, reorged_from, covers_from=first)


@dataclass
class Rig:
    """Every part, and steps that each do what one loop does once."""

    clock: ManualClock
    telemetry: CountingTelemetry
    chain: FakeChain
    venue: FakeVenue
    board: PriceBoard
    quarantine: Quarantine
    desk: Desk
    intake: Intake
    memory: ListedMemory
    follower: FakeFollower
    execution: Execution
    settlement: Settlement
    pipeline: Pipeline
    published: list[Settled]
    heartbeats: Heartbeats
    reading: Reading
    sequence: int = 0

    # --- the outside ------------------------------------------------------------------------------

    def start(self, *actions: Action) -> None:
        """Set up accounts in the state that is read first."""
        for action in actions:
            action(self.chain, self.chain.blocks[-1])
        self.intake.mark(AccountId(name) for name in self.chain.state.holdings)

    async def tick(self, name: str, price_wad: int, **changes: int) -> None:
        """Let the source publish a price now."""
        self.sequence += 1
        tick = Tick(
            feed=FEEDS[name],
            source="main",
            price_wad=price_wad,
            published_ms=self.clock.now_ms,
            received_ms=self.clock.now_ms,
            received_ns=self.clock.now_ns,
            epoch=1,
            sequence=self.sequence,
            payload=b"signed",
        )
        await self.pipeline.prices(ListedSource([replace(tick, **changes)]))  # type: ignore[arg-type]

    async def publish(self) -> None:
        """Let the source publish what it published last, or what the contract holds."""
        for name, feed in FEEDS.items():
            price = self.board.fresh(feed, self.clock.now_ms)
            await self.tick(name, price.price_wad if price else self.chain.state.prices()[name])

    def mine(self, *actions: Action, pool_first: bool = True) -> Head:
        """Add a block, one block time later."""
        self.clock.advance(market.BLOCK_S)
        return self.chain.mine(*actions, pool_first=pool_first)

    # --- the loops --------------------------------------------------------------------------------

    def follow(self, *, resync: bool = False) -> None:
        """Do what the chain loop does with news."""
        update = self.follower.since(resync=resync)
        if update is not None:
            self.intake.post(update)
            if update.reorged_from is not None:
                self.settlement.reorged(update.reorged_from)
        self.pipeline._advance(self.chain.head)

    async def read(self) -> bool:
        """Do what the accounts loop does; False when it has to be repeated."""
        try:
            for seen in self.intake.fold():
                report(self.desk, seen, self.pipeline._submitter, self.telemetry)
            if self.intake.gap:
                await self.reading.find(self.desk, self.intake, self.chain.head)
            await self.reading.read(self.desk, self.intake, self.chain.head)
        except TransientError:
            return False
        return True

    async def decide(self) -> list[AccountId]:
        """Do what the decide loop does until nothing is due; return who is a candidate."""
        for _ in range(20):
            self.pipeline._learn()
            await self.pipeline._decide(self.desk)
            if not self.desk.agenda.has_due:
                break
        else:
            msg = f"never done: {list(self.desk.agenda.due())}"
            raise AssertionError(msg)
        return [account for _, account in self.pipeline._candidates._values]

    async def attempt(self) -> None:
        """Do what the attempt loop does with all candidates, best first, one after the other."""
        self.pipeline._take()
        while self.pipeline._waiting:
            best, some = self.pipeline._next()
            await self.pipeline._work(best, some)

    async def settle(self) -> None:
        """Do what the settle loop does at the head."""
        try:
            await self.settlement.on_head(self.chain.head)
        except RpcError:
            return

    async def turn(self) -> None:
        """Let every loop run once."""
        self.follow()
        await self.read()
        await self.decide()
        await self.attempt()
        await self.settle()

    async def block(self, *actions: Action, pool_first: bool = True) -> None:
        """Add a block with fresh prices beside it, and let every loop run once."""
        self.mine(*actions, pool_first=pool_first)
        await self.publish()
        await self.turn()

    async def started(self, *actions: Action, prices: Sequence[str] = ("eth", "btc")) -> None:
        """Set up accounts, publish these prices at the contract's, and read everything."""
        self.start(*actions)
        for name in prices:
            await self.tick(name, self.chain.state.prices()[name])
        self.follow()
        assert await self.read()

    async def tried(self) -> None:
        """Decide, and go as far as it goes."""
        await self.decide()
        await self.attempt()

    # --- what came of it --------------------------------------------------------------------------

    def why(self, account: str) -> str:
        return self.desk.agenda.why(AccountId(account))

    def counted(self, metric: str, *labels: str) -> int:
        return self.telemetry.counts[metric, VENUE, *labels]


def make_rig(  # noqa: PLR0913 - as the composition root
    lane: ScriptedLane | Lanes,
    chain: FakeChain,
    clock: ManualClock,
    *,
    telemetry: CountingTelemetry | None = None,
    books: Books | None = None,
    desk_rules: DeskRules = DESK_RULES,
    execution_rules: ExecutionRules = EXECUTION_RULES,
    brake_rules: BrakeRules = BRAKE_RULES,
) -> Rig:
    telemetry = telemetry or CountingTelemetry()
    venue = (BatchVenue if desk_rules.batch_accounts_max > 1 else FakeVenue)(chain)
    quarantine = Quarantine(clock, telemetry)
    gates = FeedRules(
        age_ms_max=15_000,
        future_ms_max=2_000,
        conf_ppm_max=20_000,
        change_ppm_max=500_000,
        sources=("main",),
    )
    board = PriceBoard(dict.fromkeys(FEEDS.values(), gates), clock)
    desk = Desk(venue, desk_rules, board, quarantine, telemetry, clock)
    brakes = Brakes(brake_rules, [VENUE], clock)
    execution = Execution(execution_rules, lane, board, telemetry, clock, brakes)
    published: list[Settled] = []
    settlement = Settlement(
        {VENUE: desk},
        execution,
        lane,
        Tally(books or ScriptedBooks(), telemetry),
        [published.append],
    )
    intake, memory, follower = Intake(venue, 64), ListedMemory(), FakeFollower(chain)
    heartbeats = Heartbeats(clock)
    for loop in LOOPS:
        heartbeats.register(loop, 15.0)

    async def discover(_desk: Desk, _head: Head) -> AsyncIterator[list[AccountId]]:
        yield [AccountId(name) for name in chain.state.holdings]

    async def implementations(_contracts: Collection[str], _head: Head) -> dict[str, str]:
        return dict(venue.implementations)

    reconciler = Reconciler(RECONCILE, implementations, quarantine, telemetry, clock)

    async def recover() -> Sequence[Attempt]:
        return []

    nowhere = Snapshots(Path("/nonexistent"), 31337, quarantine)
    reading = Reading(
        desks={VENUE: desk},
        intakes={VENUE: intake},
        discover=discover,
        memory=memory,
        reconciler=reconciler,
        warm=WarmStart(FakeRpc(chain), memory, nowhere),
        submitter=lane,
        quarantine=quarantine,
        heartbeats=heartbeats,
        telemetry=telemetry,
        clock=clock,
    )
    pipeline = Pipeline(
        reading=reading,
        board=board,
        chain=follower,  # type: ignore[arg-type]
        execution=execution,
        settlement=settlement,
        recover=recover,
    )
    return Rig(
        clock=clock,
        telemetry=telemetry,
        chain=chain,
        venue=venue,
        board=board,
        quarantine=quarantine,
        desk=desk,
        intake=intake,
        memory=memory,
        follower=follower,
        execution=execution,
        settlement=settlement,
        pipeline=pipeline,
        published=published,
        heartbeats=heartbeats,
        reading=reading,
    )


def scripted_rig(
    *,
    pull: bool = False,
    wallet: str | None = WALLET,
    desk_rules: DeskRules = DESK_RULES,
    execution_rules: ExecutionRules = EXECUTION_RULES,
    brake_rules: BrakeRules = BRAKE_RULES,
) -> tuple[Rig, ScriptedLane]:
    """Return the shell with a lane that does what the test says."""
    clock, lane = ManualClock(), ScriptedLane(wallet)
    chain = FakeChain(pull=pull, now_ms=clock.wall_ms)
    rules = {"desk_rules": desk_rules, "execution_rules": execution_rules}
    rules["brake_rules"] = brake_rules
    return make_rig(lane, chain, clock, **rules), lane  # type: ignore[arg-type]


async def in_flight(*actions: Action, pull: bool = False) -> tuple[Rig, ScriptedLane, Attempt]:
    """Return a shell with an attempt on each of these accounts in flight, and the first one."""
    rig, lane = scripted_rig(pull=pull)
    await rig.started(*(actions or (market.set_account("alice", -19_500, eth=10),)))
    await rig.tried()
    return rig, lane, lane.open_attempts[0]


def receipt_of(rig: Rig, attempt: Attempt, *, success: bool = True) -> Receipt:
    """Execute an attempt's call in a new block; ``success`` False: it reverts instead."""
    call = attempt.plan.call
    signed = attempt.transactions[-1]
    if not success:
        call = replace(call, data=market.liquidation_call("nobody", {}).data)
    tx = market.Tx(signed.hash, WALLET, attempt.nonce, call, 10**6, 2 * GWEI, GWEI)
    rig.mine(lambda chain, block: chain.run(block, tx))
    done = rig.chain.blocks[-1].mined[signed.hash]
    assert done.success is success
    head = rig.chain.head
    return Receipt(
        signed.hash, head.number, head.hash, success, done.gas_used, done.gas_price_wei, done.logs
    )
