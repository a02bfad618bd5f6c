"""Pending orders of a Synthetix V3 perps-market: anyone may settle one, and is paid for it.

A second job beside ``synthetix_v3``, on the same proxy: give it a table of its own to turn it on.
An order may be settled from ``opens_s`` to ``closes_s`` of chain time, at the benchmark price of
the time when it was committed. That price must be on chain: whoever wants the order filled brings
it, this venue does not, and until then the simulation is refused. An account has one order at a
time, and it goes by the account's number. What is paid is the settlement reward of the order's
strategy and the protocol's idea of the cost of settling. Source:
``modules/AsyncOrderSettlementPythModule.sol`` of ``@synthetixio/perps-market`` 3.13.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from keeper.capabilities import Capabilities, PriceKind, RewardKind
from keeper.errors import ProtocolError, RpcError
from keeper.facts import (
    AccountId,
    AccountState,
    Assessment,
    Call,
    FeedId,
    Head,
    LiquidationSeen,
    Log,
    Price,
    PriceView,
    Probe,
    Refused,
    Simulated,
    Touched,
    VenueId,
)
from keeper.jobs import Job
from keeper.ports import Rpc
from keeper.units import WAD
from keeper.venues import _synthetix_v3_reads as reads
from keeper.venues._abi import Contract, Function, Reads, refusal
from keeper.venues._pyth import BUNDLE, UPDATE_FEE, bundled
from keeper.venues._synthetix_v3_markets import (
    ADDRESS,
    FEATURE,
    FORWARDER,
    IS_ALLOWED,
    NOBODY,
    SynthetixMarkets,
    read_markets,
)

STRATEGY_IDS_MAX = 100  # that a probe looks at

ORDER = Function(
    "getOrder(uint128)", "(uint256,(uint128,uint128,int128,uint128,uint256,bytes32,address))"
)
STRATEGY = Function(
    "getSettlementStrategy(uint128,uint256)",
    "(uint8,uint256,uint256,address,bytes32,uint256,bool,uint256)",
)
REWARD = Function("getSettlementRewardCost(uint128,uint128)", "uint256")
SETTLE = Function("settleOrder(uint128)", "")
# the errors that a settlement may be refused with → facts.Refused.reason
REASONS = {
    "OrderNotValid()": "not_liquidatable",
    "SettlementWindowNotOpen(uint256,uint256)": "not_liquidatable",
    "SettlementWindowExpired(uint256,uint256,uint256)": "not_liquidatable",
    "AcceptablePriceExceeded(uint256,uint256)": "not_liquidatable",
    "AccountLiquidatable(uint128)": "not_liquidatable",
    "InsufficientMargin(int256,uint256)": "not_liquidatable",
    "OracleDataRequired(address,bytes)": "oracle",
    "Errors(bytes[])": "oracle",  # one or more of the oracle manager's
    "FeatureUnavailable(bytes32)": "unknown",
}
TOUCHING = {"OrderCommitted", "OrderSettled", "OrderCancelled", "PreviousOrderExpired"}


class Settings(BaseModel):
    """The ``[[venues]]`` table with ``kind = "synthetix_v3_orders"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The perps-market proxy", pattern=ADDRESS)
    feeds: dict[str, FeedId] = Field(description="Market id → keeper feed")
    pyth: str | None = Field(
        default=None,
        description="Pyth contract that updates go to; none: prices are pushed",
        pattern=ADDRESS,
    )
    forwarder: str = Field(
        default=FORWARDER, description="ERC-2771 forwarder that the proxy trusts", pattern=ADDRESS
    )


@dataclass(frozen=True)
class PendingOrder(AccountState):
    """An order, and what settling it pays (USD wads). ``closes_s`` None: there is none."""

    opens_s: int = 0
    closes_s: int | None = None
    reward_wad: int = 0
    markets: tuple[int, ...] = ()  # whose prices are looked at: the order's and the account's

    @property
    def due_until_s(self) -> int | None:
        """Return when it expires."""
        return self.closes_s


class SynthetixV3Orders:
    """The orders of one perps-market. Implements ``ports.Venue``."""

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        """Remember where it is; nothing is read yet."""
        self.id = VenueId(settings.id)
        kind = PriceKind.PULL if settings.pyth else PriceKind.PUSH
        self.capabilities = Capabilities(reward=RewardKind.CASH, price=kind)
        self._feeds = settings.feeds
        self._rpc = rpc
        self._perps = Contract(rpc, settings.address)
        self._pyth = Contract(rpc, settings.pyth) if settings.pyth else None
        self._forwarder = settings.forwarder.lower()
        self._reader = reads.PerpsReader(rpc, self._perps.address, settings.pyth)

    # --- reading ------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Return the proxy."""
        return (self._perps.address,)

    def touched(self, log: Log) -> Touched:
        """Say whose order a log is about; what is not known, as new strategies, changes all."""
        name, fields = reads.EVENTS.read(log)
        if name not in TOUCHING:
            return Touched(everything=not name)
        account = AccountId(str(fields["accountId"]))
        seen: tuple[LiquidationSeen, ...] = ()
        if name == "OrderSettled":
            by, reward = fields["settler"], fields["settlementReward"]
            at = log.tx_hash, log.block_number
            seen = (LiquidationSeen(account, by, *at, reward, Job.SETTLE),)
        return Touched(frozenset({account}), liquidations=seen)

    async def read_market(self, head: Head) -> SynthetixMarkets:
        """Read prices and their ages at the head's hash; raises RpcError, ProtocolError."""
        found = await read_markets(self._reader, self._feeds, head)
        return SynthetixMarkets(head, found.system, found.feeds, found.sources, found.quotes)

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[PendingOrder]:
        """Read the orders of these accounts at the head's hash, in order; raises as above."""
        if not accounts:
            return []
        wanted, perps = [int(one) for one in accounts], self._perps.address
        batch = Reads(self._rpc, head)
        for one in wanted:
            batch.call(("order", one), perps, ORDER, one)
            batch.call(("positions", one), perps, reads.POSITIONS, one)
        found = await batch.answers()
        batch = Reads(self._rpc, head)
        for one in wanted:
            _, (market, _, size, strategy, *_) = found["order", one]
            if size:
                batch.call(("strategy", one), perps, STRATEGY, market, strategy)
                batch.call(("reward", one), perps, REWARD, market, strategy)
        found |= await batch.answers()
        named = zip(accounts, wanted, strict=True)
        return [_order(found, account, one, head) for account, one in named]

    # --- rules --------------------------------------------------------------------------------

    def price_factors(self, market: SynthetixMarkets) -> Mapping[str, FeedId]:
        """Return market ids → keeper feeds: their signed prices may have to go along."""
        return {str(key): feed for key, feed in market.feeds.items()}

    def index_factors(self, market: SynthetixMarkets) -> Sequence[str]:
        """Return none: no margin is followed here."""
        return ()

    def factors(self, market: SynthetixMarkets, at_s: int) -> Mapping[str, float]:
        """Return none: no margin is followed here."""
        return {}

    def indices(
        self, market: SynthetixMarkets, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return none."""
        return {}

    def compile(
        self, account: PendingOrder, market: SynthetixMarkets, values: Mapping[str, float]
    ) -> None:
        """Return no row: an order is due by time, not by price (``due_until_s``)."""

    def assess(
        self,
        account: PendingOrder,
        market: SynthetixMarkets,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        """Say whether the order is open to be settled, and which updates must go along."""
        held = [key for key in account.markets if key in market.quotes]
        newer = market.newer(held, prices, at_s)
        updates = tuple(price for _, _, price, lasts in newer if not lasts)
        pending = account.closes_s is not None and at_s <= account.closes_s
        open_now = pending and account.opens_s <= at_s
        return Assessment(
            account=account.account,
            liquidatable=open_now,
            view=PriceView.SIGNED if updates else PriceView.CHAIN,
            equity_wad=0,
            requirement_wad=0,
            reward_wad=account.reward_wad if open_now else 0,
            bad_debt_wad=0,
            feeds=tuple(dict.fromkeys(price.feed for price in updates)),
            updates=updates,
            until_s=account.opens_s if pending and not open_now else None,
        )

    # --- acting -------------------------------------------------------------------------------

    async def probe(self, wallet: str | None) -> Probe:
        """Ask whether the feature is open to this wallet; raises TransientRpcError."""
        allowed: Any = await self._perps.probe(IS_ALLOWED, FEATURE, wallet or NOBODY)
        markets: Any = await self._perps.probe(reads.MARKETS)
        for answer in (allowed, markets):
            if isinstance(answer, Probe):
                return answer
        rewards = {}
        for key in markets[:STRATEGY_IDS_MAX]:
            paid = await self._perps.probe(REWARD, key, 0)
            rewards[key] = "no strategy 0" if isinstance(paid, Probe) else f"{paid / WAD:g} USD"
        facts = {"reward": ", ".join(f"market {key}: {paid}" for key, paid in rewards.items())}
        said = "settlements are open" if allowed else "the feature perpsSystem is closed to us"
        return Probe(open=bool(allowed), detail=said, facts=facts)

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Run the settlement on top of the newest block, with the updates it must carry."""
        call = Call(self._perps.address, SETTLE.data(int(assessment.account)))
        updates = list(dict.fromkeys(one.payload for one in assessment.updates if one.payload))
        fee_wei = 0
        try:
            if updates and self._pyth:
                fee_wei = await self._pyth.read(UPDATE_FEE, updates)
                call = bundled(self._forwarder, self._pyth.address, updates, fee_wei, call)
            answer = BUNDLE if updates else SETTLE
            done = await self._perps.run(answer, call, wallet, REASONS)
        except (RpcError, ProtocolError) as error:
            return refusal(error, REASONS)
        if isinstance(done, Refused):
            return done
        return Simulated(done.call, done.gas, assessment.reward_wad, fee_wei, head, Job.SETTLE)


def _order(
    found: Mapping[tuple[str, int], Any], account: AccountId, number: int, head: Head
) -> PendingOrder:
    committed_s, (market, *_) = found["order", number]
    if ("reward", number) not in found:
        return PendingOrder(account, head)
    _, delay_s, window_s, *_ = found["strategy", number]
    opens_s = committed_s + delay_s
    return PendingOrder(
        account,
        head,
        opens_s,
        opens_s + window_s,
        found["reward", number],
        tuple(dict.fromkeys((market, *found["positions", number]))),
    )


def build(settings: Settings, rpc: Rpc, chain_id: int) -> SynthetixV3Orders:  # noqa: ARG001 - the loader's
    """Make the venue; the loader calls this."""
    return SynthetixV3Orders(settings, rpc)
