"""Perp v2 "Curie": what it logs, and what is read of its contracts at one block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeper.errors import RpcError, RpcFault, TransientRpcError
from keeper.facts import Head
from keeper.ports import Rpc
from keeper.venues._abi import Events, Function, Reads
from keeper.venues._perp_curie_math import (
    NO_FUNDING,
    AsRead,
    Asset,
    Balance,
    Holding,
    Market,
    Order,
    System,
    premium_rate,
    price_of_root,
)

NOBODY = "0x" + "00" * 20
SHORT_S, COLLATERAL_S = 15, 900  # fixed in the contracts

GETTERS = {
    name: Function(f"get{name}()", "address")
    for name in (
        "AccountBalance",
        "ClearingHouseConfig",
        "CollateralManager",
        "Exchange",
        "InsuranceFund",
        "MarketRegistry",
        "OrderBook",
        "SettlementToken",
        "Vault",
    )
}
DECIMALS = Function("decimals()", "uint8")
MM_RATIO = Function("getMmRatio()", "uint24")
IM_RATIO = Function("getImRatio()", "uint24")
PENALTY = Function("getLiquidationPenaltyRatio()", "uint24")
FUNDING_RATE = Function("getMaxFundingRate()", "uint24")
TWAP_INTERVAL = Function("getTwapInterval()", "uint32")
MARK_INTERVALS = Function("getMarkPriceConfig()", "uint32,uint32")
POOL = Function("getPool(address)", "address")
SLOT0 = Function("slot0()", "uint160,int24,uint16,uint16,uint16,uint8,bool")
MARKET_TWAP = Function("getSqrtMarketTwapX96(address,uint32)", "uint160")
INDEX_PRICE = Function("getIndexPrice(uint256)", "uint256")
IS_OPEN = Function("isOpen()", "bool")
IS_CLOSED = Function("isClosed()", "bool")
CLOSED_PRICE = Function("getClosedPrice()", "uint256")
PAUSED_PRICE = Function("getPausedIndexPrice()", "uint256")
# Not a view: asked as the clearing house, it answers the funding growth, which no view shows.
SETTLE_FUNDING = Function("settleFunding(address,address)", "int256,(int256,int256)")
MARK_PRICE = Function("getMarkPrice(address)", "uint256")
FREE_COLLATERAL = Function("getFreeCollateralByRatio(address,uint24)", "int256")
ACCOUNT_VALUE = Function("getAccountValue(address)", "int256")  # the vault's
TOKENS_OF = Function("balanceOf(address)", "uint256")
MARGIN = Function("getFreeCollateral(address)", "uint256")
PAUSED = Function("paused()", "bool")
TOKEN_PRICE = Function("getPrice(address,uint256)", "uint256")
TOKEN_PRICE_DECIMALS = Function("getPriceFeedDecimals(address)", "uint8")
TOKEN_CONFIG = Function("getCollateralConfig(address)", "(address,uint24,uint24,uint256)")
BASE_TOKENS = Function("getBaseTokens(address)", "address[]")
COLLATERALS = Function("getCollateralTokens(address)", "address[]")
BALANCE = Function("getBalance(address)", "int256")
TOKEN_BALANCE = Function("getBalanceByToken(address,address)", "int256")
PNL = Function("getPnlAndPendingFee(address)", "int256,int256,uint256")
HOLDING = Function("getAccountInfo(address,address)", "(int256,int256,int256)")
ORDER_IDS = Function("getOpenOrderIds(address,address)", "bytes32[]")
ORDER = Function(
    "getOpenOrderById(bytes32)",
    "(uint128,int24,int24,uint256,int256,int256,int256,uint256,uint256)",
)
ORDER_FUNDING = Function(
    "getLiquidityCoefficientInFundingPayment(address,address,(int256,int256))", "int256"
)
EVENTS = Events(
    "PositionChanged(address indexed trader, address indexed baseToken,"
    " int256 exchangedPositionSize, int256 exchangedPositionNotional, uint256 fee,"
    " int256 openNotional, int256 realizedPnl, uint256 sqrtPriceAfterX96)",
    "PositionLiquidated(address indexed trader, address indexed baseToken,"
    " uint256 positionNotional, uint256 positionSize, uint256 liquidationFee, address liquidator)",
    "PositionClosed(address indexed trader, address indexed baseToken,"
    " int256 closedPositionSize, int256 closedPositionNotional, int256 openNotional,"
    " int256 realizedPnl, uint256 closedPrice)",
    "LiquidityChanged(address indexed trader, address indexed baseToken,"
    " address indexed quoteToken, int24 lowerTick, int24 upperTick, int256 base, int256 quote,"
    " int128 liquidity, uint256 quoteFee)",
    "FundingPaymentSettled(address indexed trader, address indexed baseToken,"
    " int256 fundingPayment)",
    "Deposited(address indexed collateralToken, address indexed trader, uint256 amount)",
    "Withdrawn(address indexed collateralToken, address indexed trader, uint256 amount)",
    "CollateralLiquidated(address indexed trader, address indexed collateralToken,"
    " address indexed liquidator, uint256 collateral, uint256 repaid, uint256 fee,"
    " uint24 discountRatio)",
    "BadDebtSettled(address indexed trader, uint256 amount)",
    "ReferredPositionChanged(bytes32 indexed referralCode)",
)


@dataclass(frozen=True, slots=True)
class Wiring:
    """The contracts behind a clearing house, and numbers that stay."""

    clearing_house: str
    vault: str
    exchange: str
    order_book: str
    account_balance: str
    config: str
    insurance_fund: str
    collateral_manager: str
    settlement_token: str
    decimals: int  # of the settlement token
    pools: Mapping[str, str]  # by base token
    intervals: tuple[int, int, int]  # funding, mark, premium; seconds
    assets: Mapping[str, tuple[int, int]]  # price decimals, decimals; by token

    @property
    def unit(self) -> int:
        """The settlement token's smallest unit, in wads."""
        return int(10 ** (18 - self.decimals))


class CurieReader:
    """Reads one deployment: some of its markets, and accounts whole."""

    def __init__(
        self, rpc: Rpc, clearing_house: str, bases: Sequence[str], tokens: Sequence[str]
    ) -> None:
        """Remember where it is; nothing is read yet."""
        self._rpc = rpc
        self._clearing_house = clearing_house
        self._bases = bases
        self._tokens = tokens
        self._wiring: Wiring | None = None
        self._makers: dict[str, set[str]] = {base: set() for base in bases}

    def makers(self, base: str) -> set[str]:
        """Return who had orders in a market when last read: every trade there pays them fees."""
        return self._makers.get(base, set())

    def forget(self) -> None:
        """Look again for what is behind the clearing house."""
        self._wiring = None

    async def wiring(self, head: Head) -> Wiring:
        """Return the contracts behind the clearing house, found once.

        Raises RpcError, and ProtocolError for an answer that cannot be decoded.
        """
        if self._wiring is None:
            self._wiring = await self._find(head)
        return self._wiring

    async def _find(self, head: Head) -> Wiring:
        reads, house = Reads(self._rpc, head), self._clearing_house
        for name in ("Vault", "Exchange", "OrderBook", "AccountBalance", "InsuranceFund"):
            reads.call(name, house, GETTERS[name])
        reads.call("ClearingHouseConfig", house, GETTERS["ClearingHouseConfig"])
        found = await reads.answers()
        reads = Reads(self._rpc, head)
        for name in ("CollateralManager", "SettlementToken"):
            reads.call(name, found["Vault"], GETTERS[name])
        reads.call("decimals", found["Vault"], DECIMALS)
        reads.call("registry", found["Exchange"], GETTERS["MarketRegistry"])
        reads.call("funding", found["ClearingHouseConfig"], TWAP_INTERVAL)
        reads.call("mark", found["ClearingHouseConfig"], MARK_INTERVALS)
        found |= await reads.answers()
        reads = Reads(self._rpc, head)
        for base in self._bases:
            reads.call(base, found["registry"], POOL, base)
        for token in self._tokens:
            manager = found["CollateralManager"]
            reads.call((token, 0), manager, TOKEN_PRICE_DECIMALS, token)
            reads.call((token, 1), token, DECIMALS)
        more = await reads.answers()
        return Wiring(
            house,
            found["Vault"],
            found["Exchange"],
            found["OrderBook"],
            found["AccountBalance"],
            found["ClearingHouseConfig"],
            found["InsuranceFund"],
            found["CollateralManager"],
            found["SettlementToken"],
            found["decimals"],
            {base: more[base] for base in self._bases},
            (found["funding"], *found["mark"]),
            {token: (more[token, 0], more[token, 1]) for token in self._tokens},
        )

    async def system(self, head: Head) -> System:
        """Read everything outside the accounts, in one batch; raises as ``wiring``.

        A view that reverts has no answer at this block (a pool without enough history, an oracle
        without a round): that may pass, and is a TransientRpcError.
        """
        try:
            return await self._system(head)
        except RpcError as error:
            if error.fault is RpcFault.REVERTED:
                raise TransientRpcError(error.fault, str(error), error.data) from None
            raise

    async def _system(self, head: Head) -> System:
        wiring = await self.wiring(head)
        reads = Reads(self._rpc, head)
        for name, function in (
            ("mm", MM_RATIO),
            ("im", IM_RATIO),
            ("penalty", PENALTY),
            ("rate", FUNDING_RATE),
        ):
            reads.call(name, wiring.config, function)
        for base in self._bases:
            self._ask_market(reads, wiring, base)
        for token in self._tokens:
            manager = wiring.collateral_manager
            reads.call((token, "price"), manager, TOKEN_PRICE, token, COLLATERAL_S)
            reads.call((token, "config"), manager, TOKEN_CONFIG, token)
        found = await reads.answers()
        found |= await self._closed_prices(found, head)
        ratios = found["mm"], found["im"], found["penalty"]
        return System(
            {base: _market(found, base) for base in self._bases},
            {token: _asset(found, wiring, token) for token in self._tokens},
            wiring.unit,
            *ratios,
        )

    async def _closed_prices(self, found: Mapping[Any, Any], head: Head) -> dict[Any, Any]:
        reads = Reads(self._rpc, head)
        for base in self._bases:
            if found[base, "is closed"]:
                reads.call((base, "closed"), base, CLOSED_PRICE)
        return await reads.answers()

    def _ask_market(self, reads: Reads, wiring: Wiring, base: str) -> None:
        funding_s, mark_s, premium_s = wiring.intervals
        reads.call((base, "open"), base, IS_OPEN)
        reads.call((base, "is closed"), base, IS_CLOSED)
        reads.call((base, "paused"), base, PAUSED_PRICE)
        for name, interval_s in (("now", 0), ("premium", premium_s), ("funding", funding_s)):
            reads.call((base, "index", name), base, INDEX_PRICE, interval_s)
        intervals = ("short", SHORT_S), ("mark", mark_s), ("premium", premium_s)
        for name, interval_s in (*intervals, ("funding", funding_s)):
            reads.call((base, "market", name), wiring.exchange, MARKET_TWAP, base, interval_s)
        reads.call((base, "slot0"), wiring.pools[base], SLOT0)
        self._ask_growth(reads, wiring, base)

    def _ask_growth(self, reads: Reads, wiring: Wiring, base: str) -> None:
        house = wiring.clearing_house
        reads.call((base, "growth"), wiring.exchange, SETTLE_FUNDING, NOBODY, base, sender=house)

    async def balances(self, accounts: Sequence[str], head: Head) -> list[Balance]:
        """Read accounts whole, in order, in three batches; raises as ``wiring``."""
        wiring = await self.wiring(head)
        reads = Reads(self._rpc, head)
        for base in self._bases:
            self._ask_growth(reads, wiring, base)
        for one in accounts:
            reads.call((one, "bases"), wiring.account_balance, BASE_TOKENS, one)
            reads.call((one, "pnl"), wiring.account_balance, PNL, one)
            reads.call((one, "tokens"), wiring.vault, COLLATERALS, one)
            reads.call((one, "cash"), wiring.vault, BALANCE, one)
        found = await reads.answers()
        reads = Reads(self._rpc, head)
        for one in accounts:
            for base in found[one, "bases"]:
                reads.call((one, base), wiring.account_balance, HOLDING, one, base)
                reads.call((one, base, "orders"), wiring.order_book, ORDER_IDS, one, base)
            for token in found[one, "tokens"]:
                reads.call((one, token), wiring.vault, TOKEN_BALANCE, one, token)
        found |= await reads.answers()
        reads = Reads(self._rpc, head)
        for one in accounts:
            for base in found[one, "bases"]:
                self._ask_orders(reads, wiring, found, one, base)
        found |= await reads.answers()
        balances = [_balance(found, wiring, one) for one in accounts]
        for one, balance in zip(accounts, balances, strict=True):
            for base, makers in self._makers.items():
                held = balance.holdings.get(base)
                (makers.add if held and held.orders else makers.discard)(one)
        return balances

    async def wallets(self, wallets: Sequence[str], head: Head) -> dict[str, int]:
        """Return how much of the settlement token wallets have, wads; raises as ``wiring``."""
        wiring = await self.wiring(head)
        reads = Reads(self._rpc, head)
        for one in wallets:
            reads.call(one, wiring.settlement_token, TOKENS_OF, one)
        return {one: amount * wiring.unit for one, amount in (await reads.answers()).items()}

    def _ask_orders(
        self, reads: Reads, wiring: Wiring, found: Mapping[Any, Any], one: str, base: str
    ) -> None:
        ids = found[one, base, "orders"]
        for order_id in ids:
            reads.call(order_id, wiring.order_book, ORDER, order_id)
        if ids and (base, "growth") in found:
            growth = found[base, "growth"][1]
            asked = one, base, growth
            reads.call((one, base, "funding"), wiring.order_book, ORDER_FUNDING, *asked)


def _market(found: Mapping[Any, Any], base: str) -> Market:
    def market(name: str) -> int:
        return price_of_root(found[base, "market", name])

    market_x96 = found[base, "market", "funding"] ** 2 // 2**96
    rate = premium_rate(market_x96, found[base, "index", "funding"], found["rate"])
    paused = None if found[base, "open"] else found[base, "paused"]
    settled = found.get((base, "closed"), paused)
    return Market(
        oracle=found[base, "index", "now"],
        market_15s=market("short"),
        market_30m=market("mark"),
        premium=market("premium") - found[base, "index", "premium"],
        spot_x96=found[base, "slot0"][0],
        growth_x96=found[base, "growth"][1][0],
        growth_rate_x96=rate if settled is None else 0,
        settled=settled,
    )


def _asset(found: Mapping[Any, Any], wiring: Wiring, token: str) -> Asset:
    _, ratio, discount, _ = found[token, "config"]
    return Asset(found[token, "price"], *wiring.assets[token], ratio, discount)


def _order_funding(found: Mapping[Any, Any], one: str, base: str) -> AsRead:
    """Return the funding of an account's orders and the growth it was asked for with."""
    if (one, base, "funding") not in found:
        return NO_FUNDING
    return AsRead(found[one, base, "funding"], found[base, "growth"][1][0])


def _balance(found: Mapping[Any, Any], wiring: Wiring, one: str) -> Balance:
    owed, _, fees = found[one, "pnl"]
    holdings: dict[str, Holding] = {}
    for base in found[one, "bases"]:
        size, open_notional, growth = found[one, base]
        orders = [found[order_id] for order_id in found[one, base, "orders"]]
        holdings[base] = Holding(
            size,
            open_notional,
            growth,
            tuple(Order(*order[:3]) for order in orders),
            sum(order[7] for order in orders),
            sum(order[8] for order in orders),
            _order_funding(found, one, base),
        )
    return Balance(
        found[one, "cash"] * wiring.unit + owed + fees,
        {token: found[one, token] for token in found[one, "tokens"]},
        holdings,
    )
