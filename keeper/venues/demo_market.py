"""The demo market (``keeper/demo/market.vy``): cross margin, signed prices, cash rewards.

Price kind *pull*: a liquidation may carry the newest signed prices, for a fee each. What the
contract will see is the price *inside* a tick's ``payload``, so that is what is assessed: the ABI
encoding of (feed, price, published_ms, v, r, s), six words.

Accounts are read as ``keeper.margin.model`` knows them, with markets and assets named by their
index in the contract, as text. Factors are the names in the contract: prices by feed name, funding
indices by ``F:`` and the market's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eth_abi.abi import encode
from pydantic import BaseModel, ConfigDict, Field

from keeper.errors import ProtocolError, RpcError, RpcFault, TransientRpcError
from keeper.facts import (
    AccountId,
    Assessment,
    Call,
    Capabilities,
    Execution,
    FeedId,
    Head,
    LiquidationSeen,
    Log,
    Price,
    PriceKind,
    PriceView,
    Probe,
    Refused,
    RewardKind,
    Simulated,
    Touched,
    VenueId,
)
from keeper.margin.model import margin
from keeper.margin.rows import AssetFactors, MarketFactors, Row, compile_row
from keeper.ports import Rpc
from keeper.units import WAD, wad_to_float
from keeper.venues._abi import decoded, eth_call, revert_reason, selector, topic
from keeper.venues._demo_market_state import (
    ACCOUNT_VIEWS,
    MARKET_VIEW,
    UPDATE,
    DemoAccountState,
    DemoMarketState,
    StoredPrice,
    account_from,
    decoded_update,
    market_from,
    newer_price,
    step_reward,
)

IDS_PER_CALL_MAX = 100  # about 100 kB an answer; the contract takes 256
CALLS_PER_BATCH_MAX = 20
PROBE_BLOCKS_MAX = 5_000  # a log range that every provider serves
INCLUSION_S_MAX = 15  # a stored price must outlive at_s by this much to go without an update

READ_MARKET = selector("market_view()")
READ_ACCOUNTS = selector("account_views(uint256[])")
LIQUIDATE = selector("liquidate(uint256)")
LIQUIDATE_WITH_PRICES = selector(f"liquidate_with_prices(uint256,{UPDATE}[])")

# what each event changes: topics after the first, bytes of data, whose state
EVENTS: dict[str, tuple[int, int, str]] = {
    topic(signature): shape
    for signature, shape in {
        "AccountOpened(uint256,address)": (2, 0, "account"),
        "CashChanged(uint256,int256)": (1, 32, "account"),
        "CollateralChanged(uint256,uint256,uint256)": (2, 32, "account"),
        "PositionChanged(uint256,uint256,int256,uint256)": (2, 64, "account"),
        "BadDebt(uint256,uint256)": (1, 32, "account"),
        "Liquidated(uint256,address,uint256,uint256,bool)": (2, 96, "liquidation"),
        "ParametersChanged()": (0, 0, "everything"),
        "PriceUpdated(uint256,uint256,uint256)": (1, 64, "nothing"),  # read with every block
        "Transfer(address,address,uint256)": (2, 32, "nothing"),
    }.items()
}
UNKNOWN_EVENT = (-1, -1, "everything")
LIQUIDATED = next(first for first, shape in EVENTS.items() if shape[2] == "liquidation")

# what the contract says when it reverts → ports.Refused.reason
REASONS = {
    "not liquidatable": "not_liquidatable",
    "stale price": "oracle",
    "price from the future": "oracle",
    "bad signature": "oracle",
}


class Settings(BaseModel):
    """The ``[[venues]]`` table with ``kind = "demo_market"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The market contract", pattern=r"^0x[0-9a-fA-F]{40}$")
    feeds: dict[str, str] = Field(
        default_factory=dict,
        description="Contract feed name → keeper feed, where they differ",
    )


class DemoMarket:
    """One demo market. Implements ``ports.Venue``."""

    capabilities = Capabilities(reward=RewardKind.CASH, price=PriceKind.PULL)

    def __init__(self, settings: Settings, rpc: Rpc, chain_id: int) -> None:
        """Remember where it is; nothing is read yet."""
        self.id = VenueId(settings.id)
        self.chain_id = chain_id
        self._settings = settings
        self._address = settings.address.lower()
        self._rpc = rpc
        self._update_fee_wei: int | None = None  # as of the last read; it seldom changes

    # --- reading ------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Return the one contract."""
        return (self._address,)

    def touched(self, log: Log) -> Touched:
        """Say what a log changed; prices and funding are read anew with every block anyway."""
        topics, size, whose = EVENTS.get(log.topics[0] if log.topics else "", UNKNOWN_EVENT)
        if len(log.topics) - 1 != topics or len(log.data) != size or whose == "everything":
            return Touched(everything=True)
        if whose == "nothing":
            return Touched()
        account = AccountId(str(int(log.topics[1], 16)))
        seen: tuple[LiquidationSeen, ...] = ()
        if whose == "liquidation":
            reward = int.from_bytes(log.data[:32], "big")
            liquidator = "0x" + log.topics[2][-40:]
            seen = (LiquidationSeen(account, liquidator, log.tx_hash, log.block_number, reward),)
        return Touched(accounts=frozenset({account}), liquidations=seen)

    async def read_market(self, head: Head) -> DemoMarketState:
        """Read parameters, stored prices and funding at the head's hash.

        Raises RpcError, and ProtocolError when the answer is not the demo market's.
        """
        request = eth_call(self._address, READ_MARKET, {"blockHash": head.hash})
        view = decoded(MARKET_VIEW, await self._rpc.call(*request))
        state = market_from(view, head, self._settings.feeds)
        self._update_fee_wei = state.update_fee_wei
        return state

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[DemoAccountState]:
        """Read these accounts at the head's hash, in order; raises as ``read_market``."""
        requests = [
            eth_call(
                self._address,
                READ_ACCOUNTS
                + encode(["uint256[]"], [[int(a) for a in accounts[i : i + IDS_PER_CALL_MAX]]]),
                {"blockHash": head.hash},
            )
            for i in range(0, len(accounts), IDS_PER_CALL_MAX)
        ]
        states: list[DemoAccountState] = []
        for i in range(0, len(requests), CALLS_PER_BATCH_MAX):
            for answer in await self._rpc.batch(requests[i : i + CALLS_PER_BATCH_MAX]):
                if isinstance(answer, RpcError):
                    raise answer
                states += [account_from(view, head) for view in decoded(ACCOUNT_VIEWS, answer)]
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
        for perp in market.markets:
            index = perp.funding_index(market.feeds[perp.feed].price, at_s)
            values[f"F:{perp.name}"] = wad_to_float(index)
        return values

    def compile(
        self, account: DemoAccountState, market: DemoMarketState, values: Mapping[str, float]
    ) -> Row | None:
        """Compile an account to a row that is exact at these values, else at the market's own."""
        holdings = account.holdings
        if not holdings.positions:
            return None
        prices = [
            wad_from_float(values[s.name]) if s.name in values else s.price for s in market.feeds
        ]
        names = [stored.name for stored in market.feeds]
        missing = [names[feed] for feed in market.depends_on(holdings) if not prices[feed]]
        if missing:
            # no price anywhere: the row waits for one, and then expires and is compiled again
            return Row(0.0, {}, dict.fromkeys(missing, (0.0, 0.0)))
        terms = market.terms(prices, market.head.timestamp_s)  # a row is linear in the indices
        markets = {
            key: MarketFactors(terms.markets[key], names[perp.feed], f"F:{perp.name}")
            for key, perp in ((key, market.markets[int(key)]) for key in holdings.positions)
        }
        assets = {
            key: AssetFactors(terms.assets[key], names[market.assets[int(key)].feed])
            for key in holdings.collateral
        }
        return compile_row(holdings, markets, assets, market.reserve)

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
        depends = market.depends_on(account.holdings)
        stored = list(market.feeds)
        signed, carried = list(stored), list[Price]()
        for i in depends:
            newer = newer_price(stored[i], i, prices.get(stored[i].feed), at_s)
            if newer is None:
                continue
            signed[i] = newer
            lasting = market.is_fresh(stored[i], at_s + INCLUSION_S_MAX)
            if newer.price != stored[i].price or not lasting:
                carried.append(prices[stored[i].feed])
        by_chain = self._verdict(account, market, stored, at_s)
        by_signed = self._verdict(account, market, signed, at_s)
        lasting = all(market.is_fresh(stored[i], at_s + INCLUSION_S_MAX) for i in depends)
        if by_chain.liquidatable and (lasting or not by_signed.liquidatable or not carried):
            return by_chain
        if carried and by_signed.liquidatable:
            return replace(by_signed, view=PriceView.SIGNED, updates=tuple(carried))
        return replace(by_signed, view=PriceView.SIGNED) if carried else by_chain

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
        found = margin(holdings, terms)
        under = bool(holdings.positions) and found.excess < 0
        return Assessment(
            account=account.account,
            liquidatable=under and all(market.is_fresh(feeds[i], at_s) for i in depends),
            view=PriceView.CHAIN,
            equity_wad=found.equity,
            requirement_wad=found.maintenance + found.reserve,
            reward_wad=step_reward(holdings, found, terms, market.whole_below) if under else 0,
            bad_debt_wad=max(0, -found.net_value),
            feeds=tuple(dict.fromkeys(market.feeds[i].feed for i in depends)),
        )

    # --- acting -------------------------------------------------------------------------------

    async def probe(self, wallet: str | None) -> Probe:
        """Report code, terms and recent liquidators. Anyone may liquidate; the wallet is not asked.

        Raises TransientError when the chain cannot be asked.
        """
        code = await self._rpc.call("eth_getCode", [self._address, "latest"])
        if not isinstance(code, str) or len(code) <= len("0x"):
            return Probe(open=False, detail=f"no contract at {self._address}")
        try:
            answer = await self._rpc.call(*eth_call(self._address, READ_MARKET, "latest"))
            view = decoded(MARKET_VIEW, answer)
        except TransientRpcError:
            raise
        except (RpcError, ProtocolError) as error:
            return Probe(open=False, detail=f"{self._address} is no demo market: {error}")
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
            "liquidators": await self._liquidators(),
        }
        payee = f"rewards go to {wallet}" if wallet else "no wallet: watching"
        return Probe(open=True, detail=f"anyone may liquidate; {payee}", facts=facts)

    async def _liquidators(self) -> str:
        newest = int(await self._rpc.call("eth_blockNumber"), 16)
        span = {
            "address": self._address,
            "topics": [LIQUIDATED],
            "fromBlock": hex(max(0, newest - PROBE_BLOCKS_MAX)),
            "toBlock": hex(newest),
        }
        try:
            logs = await self._rpc.call("eth_getLogs", [span])
        except TransientRpcError:
            raise
        except RpcError as error:
            return f"unknown: {error}"
        distinct = {log["topics"][2] for log in logs}
        return f"{len(distinct)} distinct in {PROBE_BLOCKS_MAX} blocks ({len(logs)} liquidations)"

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Run the liquidation on top of the newest block, with the updates it must carry."""
        account = int(assessment.account)
        if self._update_fee_wei is None:
            return Refused("unknown", "the update fee is not known before the market was read")
        fee_wei = self._update_fee_wei * len(assessment.updates)
        if assessment.updates:
            updates = [decoded_update(price.payload) for price in assessment.updates]
            data = LIQUIDATE_WITH_PRICES + encode(["uint256", f"{UPDATE}[]"], [account, updates])
        else:
            data = LIQUIDATE + encode(["uint256"], [account])
        call = Call(to=self._address, data=data, value_wei=fee_wei)
        try:
            done = await self._rpc.simulate(call, wallet)
        except TransientRpcError as error:
            return Refused("unreachable", str(error))
        except RpcError as error:
            reason = revert_reason(error.data) if error.fault is RpcFault.REVERTED else ""
            return Refused(REASONS.get(reason, "unknown"), reason or str(error))
        if not done.success:
            reason = revert_reason(done.output)
            return Refused(REASONS.get(reason, "unknown"), reason or "reverted without a reason")
        return _simulated(call, done, fee_wei, head)


def _simulated(call: Call, done: Execution, fee_wei: int, head: Head) -> Simulated | Refused:
    if len(done.output) != 32:  # noqa: PLR2004 - one word
        return Refused("unknown", f"answered {len(done.output)} bytes instead of the reward")
    reward = int.from_bytes(done.output, "big")
    closed = [int.from_bytes(log.data[32:64], "big") for log in done.logs if _is_ours(log, call)]
    if reward == 0 and not any(closed):
        return Refused("no_progress", "nothing would be closed and nothing paid")
    return Simulated(call, done.gas_used, reward, fee_wei, head)


def _is_ours(log: Log, call: Call) -> bool:
    return log.address == call.to and log.topics[:1] == (LIQUIDATED,)


def wad_from_float(number: float) -> int:
    """Return a screen value as a wad: exact enough for a row, never for money."""
    return round(number * WAD)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> DemoMarket:
    """Make the venue; the loader calls this."""
    return DemoMarket(settings, rpc, chain_id)
