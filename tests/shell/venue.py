"""The venue of the fake market."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from keeper.batching import SimulatedBatch
from keeper.capabilities import BatchKind, Capabilities, PriceKind, RewardKind
from keeper.errors import ProtocolError, RpcFault, TransientRpcError
from keeper.facts import (
    AccountId,
    AccountState,
    Assessment,
    Call,
    FeedId,
    Head,
    LiquidationSeen,
    Log,
    MarketState,
    Price,
    PriceView,
    Probe,
    Refused,
    Simulated,
    Step,
    TakenOver,
    Touched,
    VenueId,
)
from keeper.jobs import Job
from keeper.margin.rows import Row
from keeper.margin.solvency import Exposure
from keeper.units import PPM, WAD, wad_to_float
from tests.shell import market
from tests.shell.market import AGE_S_MAX, FakeChain, Holding, Revert, Stored

VENUE = VenueId("perps")
FEEDS = {"eth": FeedId("ETH/USD"), "btc": FeedId("BTC/USD")}
TAKEN_WAD = 1_000 * WAD  # notional that a liquidation leaves with us, where it does
REASONS = {"not liquidatable": "not_liquidatable", "stale price": "oracle"}


@dataclass(frozen=True)
class FakeMarketState(MarketState):
    stored: Mapping[str, Stored]
    index: Mapping[str, int]
    mark: str = ""
    queue: tuple[AccountId, ...] = ()

    @property
    def listed(self) -> Sequence[AccountId]:
        return self.queue

    @property
    def epoch(self) -> str:
        return self.mark


@dataclass(frozen=True)
class FakeAccountState(AccountState):
    holding: Holding
    until_s: int | None = None

    @property
    def due_until_s(self) -> int | None:
        return self.until_s


def poison() -> None:
    """Fail as a bug does."""
    msg = "poisoned"
    raise ZeroDivisionError(msg)


class FakeVenue:
    """Implements ``ports.Venue``. ``poisoned``: (stage, account) pairs at which a bug waits."""

    id = VENUE

    def __init__(self, chain: FakeChain) -> None:
        self.chain = chain
        kind = PriceKind.PULL if chain.pull else PriceKind.PUSH
        self.capabilities = Capabilities(reward=RewardKind.CASH, price=kind)
        self.poisoned: set[tuple[str, str]] = set()
        self.alone: set[str] = set()  # accounts that get nothing behind another in their markets
        self.lost: Callable[[], bool] = lambda: False  # is this request lost on its way?
        self.refusal: Refused | None = None  # what simulate answers instead of asking
        self.while_reading: Callable[[], None] = lambda: None
        self.mark = ""  # of parameters that no event tells of
        self.reserve = 0.0  # such a one: USD that rows ask for beside the margin
        self.queue: tuple[AccountId, ...] = ()  # accounts that the contract lists by itself
        self.errands: dict[AccountId, int] = {}  # what is due whatever the prices are, until when
        self.room_wad: int | None = None  # what our margin allows to take over; None: it pays cash
        self.implementations = {market.ADDRESS: "first"}  # what runs behind the contract
        self.forgets: Callable[[Log], bool] = lambda _log: False  # logs that get lost on the way
        self.compiled: list[AccountId] = []
        self.reads: list[tuple[str, ...]] = []
        self.probes = 0
        self.simulated: list[AccountId] = []

    def _bug_at(self, stage: str, account: str) -> None:
        if (stage, account) in self.poisoned:
            poison()

    def _ask(self) -> None:
        if self.lost():
            raise TransientRpcError(RpcFault.UNREACHABLE, "connection lost")

    def _state(self, head: Head) -> market.State:
        self._ask()
        block = self.chain.at(head.hash)
        if block is None:
            raise TransientRpcError(RpcFault.UNKNOWN_BLOCK, head.hash)
        return block.state

    def addresses(self) -> Sequence[str]:
        return (market.ADDRESS,)

    def touched(self, log: Log) -> Touched:
        kind, *rest = log.topics
        if kind == "price" or self.forgets(log):
            return Touched()
        if kind == "parameters":
            return Touched(everything=True)
        account = AccountId(rest[0])
        seen: tuple[LiquidationSeen, ...] = ()
        if kind == "liquidated":
            said = json.loads(log.data)
            reward = int(said["reward"])
            seen = (LiquidationSeen(account, said["by"], log.tx_hash, log.block_number, reward),)
        return Touched(accounts=frozenset({account}), liquidations=seen)

    async def read_market(self, head: Head) -> FakeMarketState:
        state = self._state(head)
        return FakeMarketState(head, dict(state.stored), dict(state.index), self.mark, self.queue)

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[FakeAccountState]:
        self.reads.append(tuple(accounts))
        self.while_reading()
        for account in accounts:
            if ("read", account) in self.poisoned:
                raise ProtocolError(account)
        state = self._state(head)
        return [
            FakeAccountState(
                account,
                head,
                state.holdings.get(account, Holding(0, {})),
                self.errands.get(account),
            )
            for account in accounts
        ]

    def price_factors(self, market: FakeMarketState) -> Mapping[str, FeedId]:
        return {name: FEEDS[name] for name in market.stored}

    def index_factors(self, market: FakeMarketState) -> Sequence[str]:
        return [f"F:{name}" for name in market.index]

    def factors(self, market: FakeMarketState, at_s: int) -> Mapping[str, float]:
        self._bug_at("factors", VENUE)
        assert at_s >= market.head.timestamp_s
        values = {name: wad_to_float(s.price_wad) for name, s in market.stored.items()}
        return values | {f"F:{name}": wad_to_float(wad) for name, wad in market.index.items()}

    def indices(
        self, market: FakeMarketState, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        return {}

    def compile(
        self, account: FakeAccountState, market: FakeMarketState, values: Mapping[str, float]
    ) -> Row | None:
        self._bug_at("compile", account.account)
        self.compiled.append(account.account)
        holding = account.holding
        if not holding.sizes:
            return None
        weights: dict[str, float] = {}
        envelope: dict[str, tuple[float, float]] = {}
        for name, size in holding.sizes.items():
            price = values.get(name, wad_to_float(market.stored[name].price_wad))
            kink = STEEP_ABOVE / abs(size)
            steep = price > kink
            rate = (STEEP_RATE if steep else RATE) * abs(size)
            envelope[name] = (kink, 1e15) if steep else (0.0, kink)
            weights[name] = size - rate
            weights[f"F:{name}"] = -float(size)
        return Row(wad_to_float(holding.cash_wad) - self.reserve, weights, envelope)

    def assess(
        self,
        account: FakeAccountState,
        market: FakeMarketState,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        self._bug_at("assess", account.account)
        holding, stored = account.holding, dict(market.stored)
        by_chain = self._verdict(account, market, stored, at_s)
        if by_chain.liquidatable or not self.chain.pull:
            return by_chain
        carried: list[Price] = []
        for name in holding.sizes:
            price = prices.get(FEEDS[name])
            if price is not None and price.published_ms // 1000 > stored[name].at_s:
                stored[name] = Stored(price.price_wad, price.published_ms // 1000)
                carried.append(price)
        return self._verdict(account, market, stored, at_s, tuple(carried))

    def _verdict(
        self,
        account: FakeAccountState,
        state: FakeMarketState,
        stored: Mapping[str, Stored],
        at_s: int,
        updates: tuple[Price, ...] = (),
    ) -> Assessment:
        holding = account.holding
        prices = {name: entry.price_wad for name, entry in stored.items()}
        dated = [n for n in holding.sizes if self.chain.pull and at_s - stored[n].at_s > AGE_S_MAX]
        equity = market.equity_wad(holding, prices, state.index)
        under = market.is_under(holding, prices, state.index)
        return Assessment(
            account=account.account,
            liquidatable=under and not dated,
            view=PriceView.SIGNED if updates else PriceView.CHAIN,
            equity_wad=equity,
            requirement_wad=market.requirement_wad(holding, prices),
            reward_wad=market.step(holding, prices)[1],
            bad_debt_wad=max(0, -equity),
            feeds=tuple(FEEDS[name] for name in holding.sizes),
            stale=tuple(FEEDS[name] for name in dated) if under else (),
            updates=updates,
            uses=tuple(sorted(holding.sizes)),
            alone=account.account in self.alone,
        )

    def markets(self, market: FakeMarketState) -> Mapping[str, FeedId]:
        return {f"{name}-perp": FEEDS[name] for name in market.stored}

    def prices(self, market: FakeMarketState) -> Mapping[FeedId, int]:
        self._bug_at("prices", VENUE)
        return {FEEDS[name]: stored.price_wad for name, stored in market.stored.items()}

    def valued_at(
        self, market: FakeMarketState, prices: Mapping[FeedId, int], at_s: int
    ) -> Callable[[FakeAccountState], Exposure | None]:
        self._bug_at("valued_at", VENUE)
        values = {
            name: prices.get(FEEDS[name], one.price_wad) for name, one in market.stored.items()
        }
        return partial(self._exposure, market, values)

    def _exposure(
        self, state: FakeMarketState, prices: Mapping[str, int], account: FakeAccountState
    ) -> Exposure | None:
        self._bug_at("exposure", account.account)
        held = account.holding.sizes
        if not all(prices[name] for name in held):
            return None
        equity = market.equity_wad(account.holding, prices, state.index)
        return Exposure(
            under=market.is_under(account.holding, prices, state.index),
            equity=equity,
            requirement=market.requirement_wad(account.holding, prices),
            net_value=equity,
            notional={f"{name}-perp": size * prices[name] for name, size in held.items()},
            feeds=tuple(FEEDS[name] for name in held),
        )

    async def probe(self, wallet: str | None) -> Probe:
        self.probes += 1
        self._ask()
        return Probe(open=self.chain.state.open, detail=f"for {wallet}")

    def liquidation(self, assessment: Assessment) -> Call:
        return market.liquidation_call(assessment.account, _carried(assessment))

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        account = assessment.account
        self.simulated.append(account)
        self._bug_at("simulate", account)
        self._ask()
        if self.refusal is not None:
            return self.refusal
        call = self.liquidation(assessment)
        updates = _carried(assessment)
        calls = [call]
        if account in self.chain.state.orders:
            calls.insert(0, market.cancel_call(account, updates))
        try:
            reward_wad = self.chain.simulate(*calls, sender=wallet)
        except Revert as revert:
            return Refused(REASONS.get(str(revert), "unknown"), str(revert))
        if reward_wad == 0:
            return Refused("no_progress", "the window is used up")
        simulated = Simulated(call, market.GAS, reward_wad, call.value_wei, head)
        if self.room_wad is not None:
            if sum(assessment.in_flight.values()) + TAKEN_WAD > self.room_wad:
                return Refused("no_capital", "too little margin")
            taken = TakenOver("eth", TAKEN_WAD, TAKEN_WAD // 10, WAD)
            simulated = replace(simulated, takes_over=taken)
        if len(calls) == 1:
            return simulated
        then = (Step(Job.LIQUIDATE, call, market.GAS),)
        fees_wei = 2 * call.value_wei
        return replace(
            simulated, call=calls[0], job=Job.PREPARE, then=then, oracle_fee_wei=fees_wei
        )


def _carried(assessment: Assessment) -> dict[str, tuple[int, int]]:
    names = {feed: name for name, feed in FEEDS.items()}
    return {names[p.feed]: (p.price_wad, p.published_ms // 1000) for p in assessment.updates}


class BatchVenue(FakeVenue):
    """The same with a call for several accounts. ``each_alone``: one refused undoes no other."""

    def __init__(self, chain: FakeChain) -> None:
        super().__init__(chain)
        self.capabilities = replace(self.capabilities, batch=BatchKind.CALL)
        self.each_alone = True
        self.batches: list[list[AccountId]] = []

    async def simulate_batch(
        self, assessments: Sequence[Assessment], wallet: str, head: Head
    ) -> SimulatedBatch | Refused:
        accounts = [each.account for each in assessments]
        self.batches.append(accounts)
        for account in accounts:
            self._bug_at("batch", account)
        names = {feed: name for name, feed in FEEDS.items()}
        carried = [price for each in assessments for price in each.updates]
        updates = {names[p.feed]: (p.price_wad, p.published_ms // 1000) for p in carried}
        call = market.batch_call(accounts, updates, each_alone=self.each_alone)
        try:
            found = self.chain.simulate_batch(call, wallet)
        except Revert as revert:
            return Refused(REASONS.get(str(revert), "unknown"), str(revert))
        rewards = {AccountId(account): wad for account, wad in found.items()}
        gas, fee_wei = market.gas_of(call), call.value_wei
        count = 1 if self.each_alone else len(accounts)
        whole = Simulated(call, gas, sum(rewards.values()), fee_wei, head, all_or_none=count)
        return SimulatedBatch(whole, rewards)


STEEP_ABOVE = wad_to_float(market.STEEP_ABOVE_WAD)
RATE, STEEP_RATE = market.RATE_PPM / PPM, market.STEEP_PPM / PPM
assert WAD == 10**18
