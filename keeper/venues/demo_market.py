"""The demo market (``keeper/demo/market.vy``): cross margin, signed prices, cash rewards.

Price kind *pull*: a liquidation may carry the newest signed prices, for a fee each. What counts is
the price *inside* a tick's ``payload``: the ABI encoding of (feed, price, published_ms, v, r, s).
Accounts are read as ``keeper.margin.model`` knows them, markets and assets named by their index.
Factors have the contract's names: prices the feed's, funding indices ``F:`` and the market's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from keeper.batching import SimulatedBatch
from keeper.capabilities import BatchKind, Capabilities, PriceKind, RewardKind
from keeper.errors import ProtocolError, RpcError
from keeper.facts import (
    AccountId,
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
from keeper.margin import model
from keeper.margin.rows import AssetFactors, MarketFactors, Row, compile_row
from keeper.margin.solvency import Exposure
from keeper.ports import Rpc
from keeper.units import WAD, wad_to_float
from keeper.venues._abi import Contract, Events, Function, integers, numbered, refusal, tiers
from keeper.venues._demo_market_state import (
    Asset,
    DemoAccountState,
    DemoMarketState,
    PerpMarket,
    StoredPrice,
    exposure,
)

IDS_PER_CALL_MAX = 100  # about 100 kB an answer; the contract takes 256
INCLUSION_S_MAX = 15  # a stored price must outlive at_s by this much to go without an update
CLOCK_SKEW_S = 60  # the contract's: how far ahead of a block a price may be published

UPDATE = "(uint256,uint256,uint256,uint256,uint256,uint256)"  # a signed price, see above
UPDATE_BYTES = 6 * 32
TIERS = "(uint256,uint256)[]"
READ_MARKET = Function(
    "market_view()",
    "(uint256,uint256,uint256,(uint256,uint256,uint256),uint256,(string,uint256,uint256)[],"
    f"(string,uint256,{TIERS},int256,uint256,uint256,int256,uint256)[],(string,uint256,{TIERS})[])",
)
READ_ACCOUNTS = Function(
    "account_views(uint256[])", "(uint256,address,int256,uint256[4],(int256,uint256,int256)[8])[]"
)
LIQUIDATE = Function("liquidate(uint256)", "uint256")
LIQUIDATE_WITH_PRICES = Function(f"liquidate_with_prices(uint256,{UPDATE}[])", "uint256")
LIQUIDATE_MANY = Function(f"liquidate_many(uint256[],{UPDATE}[])", "uint256[]")
EVENTS = Events(
    "AccountOpened(uint256 indexed account, address indexed owner)",
    "CashChanged(uint256 indexed account, int256 cash)",
    "CollateralChanged(uint256 indexed account, uint256 indexed asset, uint256 amount)",
    "PositionChanged(uint256 indexed account, uint256 indexed market, int256 size, uint256 entry)",
    "BadDebt(uint256 indexed account, uint256 amount)",
    "Liquidated(uint256 indexed account, address indexed liquidator, uint256 reward,"
    " uint256 closed_notional, bool full)",
    "ParametersChanged()",
    "PriceUpdated(uint256 indexed feed, uint256 price, uint256 published_ms)",
    "Transfer(address indexed sender, address indexed receiver, uint256 amount)",
)

# what the contract says when it reverts → facts.Refused.reason
REASONS = dict.fromkeys(["stale price", "price from the future", "bad signature"], "oracle")
REASONS["not liquidatable"] = "not_liquidatable"


Factors = tuple[Mapping[str, MarketFactors], Mapping[str, AssetFactors]]


class Settings(BaseModel):
    """The ``[[venues]]`` table with ``kind = "demo_market"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The market contract", pattern=r"^0x[0-9a-fA-F]{40}$")
    feeds: dict[str, FeedId] = Field(
        default_factory=dict, description="Contract feed name → keeper feed, where they differ"
    )


class DemoMarket:
    """One demo market. Implements ``ports.Venue``."""

    capabilities = Capabilities(reward=RewardKind.CASH, price=PriceKind.PULL, batch=BatchKind.CALL)

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        """Remember where it is; nothing is read yet."""
        self.id = VenueId(settings.id)
        self._feeds = settings.feeds
        self._contract = Contract(rpc, settings.address)
        self._market: DemoMarketState | None = None  # as last read, for the update fee
        self._priced: tuple[DemoMarketState, list[int], Factors] | None = None  # by ``_factors``

    # --- reading ------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Return the one contract."""
        return (self._contract.address,)

    def touched(self, log: Log) -> Touched:
        """Say what a log changed; prices and funding are read anew with every block anyway."""
        name, fields = EVENTS.read(log)
        if name in {"PriceUpdated", "Transfer"}:
            return Touched()
        if "account" not in fields:
            return Touched(everything=True)
        account = AccountId(str(fields["account"]))
        if name != "Liquidated":
            return Touched(frozenset({account}))
        liquidator, reward = fields["liquidator"], fields["reward"]
        seen = LiquidationSeen(account, liquidator, log.tx_hash, log.block_number, reward)
        return Touched(frozenset({account}), liquidations=(seen,))

    async def read_market(self, head: Head) -> DemoMarketState:
        """Read parameters, stored prices and funding at the head's hash.

        Raises RpcError; ProtocolError for another contract's answer and for factors of one name.
        """
        view = await self._contract.read(READ_MARKET, head=head)
        age_s, fee_wei, whole_below, reserve, _, feeds, markets, assets = view
        names = [feed[0] for feed in feeds] + [f"F:{market[0]}" for market in markets]
        if len(set(names)) != len(names):
            msg = f"{self.id}: feed or market names are not unique: {sorted(names)}"
            raise ProtocolError(msg)
        stored = (StoredPrice(one[0], self._feeds.get(one[0], one[0]), *one[1:]) for one in feeds)
        perps = (PerpMarket(name, feed, tiers(up), *rest) for name, feed, up, *rest in markets)
        held = (Asset(name, feed, tiers(haircuts)) for name, feed, haircuts in assets)
        rules = age_s, fee_wei, whole_below, model.ReserveTerms(*reserve)
        self._market = DemoMarketState(head, *rules, tuple(stored), tuple(perps), tuple(held))
        return self._market

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[DemoAccountState]:
        """Read these accounts at the head's hash, in order; raises as ``read_market``."""
        ids = [int(account) for account in accounts]
        parts = [(ids[i : i + IDS_PER_CALL_MAX],) for i in range(0, len(ids), IDS_PER_CALL_MAX)]
        answers = await self._contract.read_each(READ_ACCOUNTS, parts, head)
        states = [_account(head, view) for answer in answers for view in answer]
        if [state.account for state in states] != list(accounts):
            msg = f"{self.id}: account_views answered other accounts than asked for"
            raise ProtocolError(msg)
        return states

    # --- rules --------------------------------------------------------------------------------

    def price_factors(self, market: DemoMarketState) -> Mapping[str, FeedId]:
        """Return feed names in the contract → keeper feeds."""
        return {stored.name: stored.feed for stored in market.feeds}

    def index_factors(self, market: DemoMarketState) -> Sequence[str]:
        """Return the funding indices."""
        return [f"F:{perp.name}" for perp in market.markets]

    def factors(self, market: DemoMarketState, at_s: int) -> Mapping[str, float]:
        """Return stored prices (none for a feed that has none) and funding indices at ``at_s``."""
        values = {s.name: wad_to_float(s.price) for s in market.feeds if s.price}
        indices = zip(self.index_factors(market), market.indices(at_s), strict=True)
        return values | {name: wad_to_float(index) for name, index in indices}

    def indices(
        self, market: DemoMarketState, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return nothing: funding accrues at the stored price until a newer one is stored."""
        return {}

    def compile(
        self, account: DemoAccountState, market: DemoMarketState, values: Mapping[str, float]
    ) -> Row | None:
        """Compile an account to a row that is exact at these values, else at the market's own."""
        holdings = account.holdings
        if not holdings.positions:
            return None
        prices = [round(values.get(s.name, 0.0) * WAD) or s.price for s in market.feeds]
        if not all(prices):
            needed = market.depends_on(holdings)
            missing = [market.feeds[feed].name for feed in needed if not prices[feed]]
            if missing:  # the row waits for a price, and then expires and is compiled again
                return Row(0.0, {}, dict.fromkeys(missing, (0.0, 0.0)))
        return compile_row(holdings, *self._factors(market, prices), market.reserve)

    def _factors(self, market: DemoMarketState, prices: list[int]) -> Factors:
        """Return what rows follow at these prices; kept, since many accounts are compiled alike."""
        if self._priced is None or self._priced[:2] != (market, prices):
            names = [stored.name for stored in market.feeds]
            terms = market.terms(prices, market.head.timestamp_s)  # a row is linear in the indices
            markets = {
                key: MarketFactors(terms.markets[key], names[perp.feed], f"F:{perp.name}")
                for key, perp in numbered(market.markets).items()
            }
            assets = {
                key: AssetFactors(terms.assets[key], names[asset.feed])
                for key, asset in numbered(market.assets).items()
            }
            self._priced = market, prices, (markets, assets)
        return self._priced[2]

    def assess(
        self,
        account: DemoAccountState,
        market: DemoMarketState,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        """Judge at the stored prices and at the newest signed ones, as the contract would.

        Under at both: without updates if the stored prices surely last until inclusion. Under at
        the stored ones only: without updates in any case, they would cure it.
        """
        depends, later_s = market.depends_on(account.holdings), at_s + INCLUSION_S_MAX
        expiring = [i for i in depends if not market.is_fresh(market.feeds[i], later_s)]
        signed, carried = list(market.feeds), list[Price]()
        for i in depends:
            stored, price = market.feeds[i], prices.get(market.feeds[i].feed)
            signed[i] = _after(stored, i, price, at_s)
            if price and signed[i] != stored and (i in expiring or signed[i].price != stored.price):
                carried.append(price)
        by_chain = self._verdict(account, market, market.feeds, at_s)
        by_signed = replace(self._verdict(account, market, signed, at_s), view=PriceView.SIGNED)
        if not carried or (by_chain.liquidatable and not (expiring and by_signed.liquidatable)):
            return by_chain
        return replace(by_signed, updates=tuple(carried)) if by_signed.liquidatable else by_signed

    def _verdict(
        self,
        account: DemoAccountState,
        market: DemoMarketState,
        feeds: Sequence[StoredPrice],
        at_s: int,
    ) -> Assessment:
        """Judge at these prices as if the contract held them."""
        holdings, depends = account.holdings, market.depends_on(account.holdings)
        terms = market.terms([stored.price for stored in feeds], at_s)
        found = model.margin(holdings, terms)
        under = bool(holdings.positions) and found.excess < 0
        stale = [market.feeds[i].feed for i in depends if not market.is_fresh(feeds[i], at_s)]
        return Assessment(
            account=account.account,
            liquidatable=under and not stale,
            view=PriceView.CHAIN,
            equity_wad=found.equity,
            requirement_wad=found.maintenance + found.reserve,
            reward_wad=market.step_reward(holdings, found, terms) if under else 0,
            bad_debt_wad=max(0, -found.net_value),
            feeds=tuple(dict.fromkeys(market.feeds[i].feed for i in depends)),
            stale=tuple(dict.fromkeys(stale)) if under else (),
        )

    # --- at other prices ----------------------------------------------------------------------

    def markets(self, market: DemoMarketState) -> Mapping[str, FeedId]:
        """Return the markets' names and feeds."""
        return {perp.name: market.feeds[perp.feed].feed for perp in market.markets}

    def prices(self, market: DemoMarketState) -> Mapping[FeedId, int]:
        """Return the stored prices."""
        return {stored.feed: stored.price for stored in market.feeds}

    def valued_at(
        self, market: DemoMarketState, prices: Mapping[FeedId, int], at_s: int
    ) -> Callable[[DemoAccountState], Exposure | None]:
        """Return how an account stands once the contract took these prices."""
        moved = market.at_prices(prices, at_s)
        terms = moved.terms([stored.price for stored in moved.feeds], at_s)
        return partial(exposure, moved, terms)

    # --- acting -------------------------------------------------------------------------------

    async def probe(self, wallet: str | None) -> Probe:
        """Report terms and recent liquidators; anyone may liquidate. Raises TransientRpcError."""
        view = await self._contract.probe(READ_MARKET)
        if isinstance(view, Probe):
            return view
        age_s, fee_wei, whole_below, (rate, minimum, maximum), count, feeds, markets, _ = view
        facts = {
            "reward": f"{rate / WAD:.4%} of the closed notional",
            "reward bounds": f"{minimum / WAD:g} to {maximum / WAD:g} USD",
            "closed whole up to": f"{whole_below / WAD:g} USD",
            "price age": f"at most {age_s} s",
            "update fee": f"{fee_wei} wei each",
            "accounts": str(count),
            "markets": ", ".join(market[0] for market in markets) or "none",
            "feeds": ", ".join(feed[0] for feed in feeds) or "none",
            "liquidators": await self._contract.liquidators(EVENTS.named["Liquidated"]),
        }
        payee = f"rewards go to {wallet}" if wallet else "no wallet: watching"
        return Probe(open=True, detail=f"anyone may liquidate; {payee}", facts=facts)

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Run the liquidation on top of the newest block, with the updates it must carry."""
        try:
            market = self._market or await self.read_market(head)  # none yet: just started
        except (RpcError, ProtocolError) as error:
            return refusal(error, REASONS)
        call = self._call(assessment, market)
        done = await self._contract.run(LIQUIDATE, call, wallet, REASONS)
        if isinstance(done, Refused):
            return done
        closed = [EVENTS.read(log)[1].get("closed_notional", 0) for log in done.logs]
        if done.returned == 0 and not any(closed):
            return Refused("no_progress", "nothing would be closed and nothing paid")
        return Simulated(done.call, done.gas, done.returned, call.value_wei, head)

    def liquidation(self, assessment: Assessment) -> Call | None:
        """Return the call that is simulated; None before the market was read."""
        return self._call(assessment, self._market) if self._market else None

    def _call(self, assessment: Assessment, market: DemoMarketState) -> Call:
        account, updates = int(assessment.account), [_update(one) for one in assessment.updates]
        with_prices = LIQUIDATE_WITH_PRICES.data(account, updates) if updates else None
        data = with_prices or LIQUIDATE.data(account)
        return Call(self._contract.address, data, market.update_fee_wei * len(updates))

    async def simulate_batch(
        self, assessments: Sequence[Assessment], wallet: str, head: Head
    ) -> SimulatedBatch | Refused:
        """Run the call for several accounts, with the newest of the updates they carry.

        One that cannot be liquidated at these prices fails them all.
        """
        updates = list(_newest(one for each in assessments for one in each.updates))
        ids = [int(each.account) for each in assessments]
        try:
            market = self._market or await self.read_market(head)
        except (RpcError, ProtocolError) as error:
            return refusal(error, REASONS)
        fee_wei = market.update_fee_wei * len(updates)
        arguments = (ids, [_update(one) for one in updates])
        done = await self._contract.dry_run(LIQUIDATE_MANY, arguments, wallet, REASONS, fee_wei)
        if isinstance(done, Refused):
            return done
        rewards = dict(zip((each.account for each in assessments), done.returned, strict=True))
        total, count = sum(done.returned), len(ids)
        whole = Simulated(done.call, done.gas, total, fee_wei, head, all_or_none=count)
        return SimulatedBatch(whole, rewards)


def _account(head: Head, view: Any) -> DemoAccountState:  # noqa: ANN401 - a decoded struct
    """Make the state of one entry of ``account_views``, without what is zero."""
    number, _, cash, collateral, positions = view
    held = {name: amount for name, amount in numbered(collateral).items() if amount}
    opened = {name: model.Position(*one) for name, one in numbered(positions).items() if one[0]}
    return DemoAccountState(AccountId(str(number)), head, model.Account(cash, held, opened))


def _update(price: Price | None) -> list[int]:
    """Return the six words of the signed price; empty when there is none."""
    payload = (price.payload if price else None) or b""
    return integers(payload) if len(payload) == UPDATE_BYTES else []


def _newest(prices: Iterable[Price]) -> Iterable[Price]:
    """Return the newest price of each feed."""
    newest: dict[FeedId, Price] = {}
    for price in prices:
        if price.feed not in newest or newest[price.feed].published_ms < price.published_ms:
            newest[price.feed] = price
    return newest.values()


def _after(stored: StoredPrice, number: int, price: Price | None, at_s: int) -> StoredPrice:
    """Return what the contract holds after a signed price: the same if it is refused or older."""
    feed, wad, published_ms, *_ = _update(price) or [-1, 0, 0]
    in_time = stored.published_ms < published_ms < (at_s + CLOCK_SKEW_S + 1) * 1000
    if feed != number or wad == 0 or not in_time:
        return stored
    return stored._replace(price=wad, published_ms=published_ms)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> DemoMarket:  # noqa: ARG001 - the loader's
    """Make the venue; the loader calls this."""
    return DemoMarket(settings, rpc)
