"""Synthetix V3 perps-market: what it logs, and what is read of it at one block.

Views show parameters and holdings; funding, entry prices and past liquidations are read from
storage, laid out as ``storage.dump.json`` of the package ``@synthetixio/perps-market`` 3.13 says:
views show them only after truncation, or not at all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.errors import ProtocolError
from keeper.facts import Head
from keeper.ports import Rpc
from keeper.venues._abi import Events, Function, Reads, integers
from keeper.venues._pyth import GET_PRICE, Quote, quote
from keeper.venues._synthetix_v3_math import (
    Costs,
    Guards,
    Holding,
    Interest,
    Market,
    Position,
    System,
    Terms,
)

USD = 0  # id of the USD collateral
FLAG_COSTS_MAX = 17  # numbers of feeds that flag costs are read for; beyond, rewards are bounded
LIQUIDATIONS_MAX = 128  # of one market that are looked back at; one a second at most
PYTH_NODE, STALENESS_NODE = 5, 7  # kinds of oracle nodes
KIND_FLAG, KIND_LIQUIDATE = 1, 2
HALF = 2**128

MARKETS = Function("getMarkets()", "uint256[]")
PRICE_DATA = Function("getPriceData(uint128)", "bytes32,uint256")
COST_NODE = Function("getKeeperCostNodeId()", "bytes32")
GUARDS = Function("getKeeperRewardGuards()", "uint256,uint256,uint256,uint256")
COLLATERAL_RATIO = Function("getCollateralLiquidateRewardRatio()", "uint128")
FLAGGED = Function("flaggedAccounts()", "uint256[]")
FUNDING = Function("getFundingParameters(uint128)", "uint256,uint256")
FEES = Function("getOrderFees(uint128)", "uint256,uint256")
LIQUIDATION = Function(
    "getLiquidationParameters(uint128)", "uint256,uint256,uint256,uint256,uint256"
)
WINDOW = Function("getMaxLiquidationParameters(uint128)", "uint256,uint256,uint256,address")
LOCKED = Function("getLockedOiRatio(uint128)", "uint256")
CAPACITY = Function("liquidationCapacity(uint128)", "uint256,uint256,uint256")
INDEX_PRICE = Function("indexPrice(uint128)", "uint256")
POSITIONS = Function("getAccountOpenPositions(uint128)", "uint256[]")
COLLATERALS = Function("getAccountCollateralIds(uint128)", "uint256[]")
COLLATERAL = Function("getCollateralAmount(uint128,uint128)", "uint256")
DEBT = Function("debt(uint128)", "uint256")
NODE = Function("getNode(bytes32)", "(uint8,bytes,bytes32[])")
COST = Function(
    "processWithRuntime(bytes32,bytes32[],bytes32[])", "(int256,uint256,uint256,uint256)"
)
EVENTS = Events(
    "AccountCreated(uint128 indexed accountId, address indexed owner)",
    "AccountCharged(uint128 accountId, int256 amount, uint256 accountDebt)",
    "AccountFlaggedForLiquidation(uint128 indexed accountId, int256 availableMargin,"
    " uint256 requiredMaintenanceMargin, uint256 liquidationReward, uint256 flagReward)",
    "AccountLiquidationAttempt(uint128 indexed accountId, uint256 reward, bool fullLiquidation)",
    "AccountMarginLiquidation(uint128 indexed accountId, uint256 seizedMarginValue,"
    " uint256 liquidationReward)",
    "CollateralModified(uint128 indexed accountId, uint128 indexed collateralId,"
    " int256 amountDelta, address indexed sender)",
    "DebtPaid(uint128 indexed accountId, uint256 amount, address indexed sender)",
    "InterestCharged(uint128 indexed accountId, uint256 interest)",
    "OrderSettled(uint128 indexed marketId, uint128 indexed accountId, uint256 fillPrice,"
    " int256 pnl, int256 accruedFunding, int128 sizeDelta, int128 newSize, uint256 totalFees,"
    " uint256 referralFees, uint256 collectedFees, uint256 settlementReward,"
    " bytes32 indexed trackingCode, address settler)",
    "OrderCancelled(uint128 indexed marketId, uint128 indexed accountId, uint256 desiredPrice,"
    " uint256 fillPrice, int128 sizeDelta, uint256 settlementReward,"
    " bytes32 indexed trackingCode, address settler)",
    "PositionLiquidated(uint128 indexed accountId, uint128 indexed marketId,"
    " uint256 amountLiquidated, int128 currentPositionSize)",
    # what changes no account, and markets are read with every block
    "OrderCommitted(uint128 indexed marketId, uint128 indexed accountId, uint8 orderType,"
    " int128 sizeDelta, uint256 acceptablePrice, uint256 commitmentTime,"
    " uint256 expectedPriceTime, uint256 settlementTime, uint256 expirationTime,"
    " bytes32 indexed trackingCode, address sender)",
    "PreviousOrderExpired(uint128 indexed marketId, uint128 indexed accountId, int128 sizeDelta,"
    " uint256 acceptablePrice, uint256 commitmentTime, bytes32 indexed trackingCode)",
    "MarketUpdated(uint128 marketId, uint256 price, int256 skew, uint256 size, int256 sizeDelta,"
    " int256 currentFundingRate, int256 currentFundingVelocity, uint128 interestRate)",
    "InterestRateUpdated(uint128 indexed superMarketId, uint128 interestRate)",
    "PermissionGranted(uint128 indexed accountId, bytes32 indexed permission,"
    " address indexed user, address sender)",
    "PermissionRevoked(uint128 indexed accountId, bytes32 indexed permission,"
    " address indexed user, address sender)",
)
QUIET = {"OrderCommitted", "PreviousOrderExpired", "MarketUpdated", "InterestRateUpdated"}
QUIET |= {"PermissionGranted", "PermissionRevoked"}


class Source(NamedTuple):
    """Where a market's price comes from.

    ``pyth_id``: its feed in Pyth, b"" for any other oracle. ``age_s_max``: the age up to which a
    liquidation takes it, None for any.
    """

    pyth_id: bytes = b""
    age_s_max: int | None = None


class Layout(NamedTuple):
    """The parts there are. ``marks`` is what it follows from: read again with every block."""

    marks: tuple[Any, ...]
    oracle: str
    cost_node: bytes
    sources: Mapping[int, Source]


class Snapshot(NamedTuple):
    """Everything outside the accounts at one block."""

    system: System
    sources: Mapping[int, Source]
    quotes: Mapping[int, Quote]
    flagged: Sequence[int]


class PerpsReader:
    """Reads one perps-market proxy; ``pyth`` is where its signed prices go, None for no such."""

    def __init__(self, rpc: Rpc, perps: str, pyth: str | None) -> None:
        """Remember where it is; nothing is read yet."""
        self._rpc = rpc
        self._perps = perps
        self._pyth = pyth
        self._layout: Layout | None = None

    async def snapshot(self, head: Head) -> Snapshot:
        """Read all but the accounts: one batch, two when something was liquidated just now.

        Raises RpcError, and ProtocolError for an answer that cannot be decoded.
        """
        layout = self._layout or await self._find_layout(head)
        found = await self._ask(layout, head)
        if _marks(found, layout.sources) != layout.marks:
            layout = await self._find_layout(head)
            found = await self._ask(layout, head)
        self._layout = layout
        liquidated = await self._liquidated(layout, found, head)
        markets = {key: _market(found, key, liquidated.get(key, ())) for key in layout.sources}
        flag = [found["flag", n] for n in range(_flag_costs(layout))]
        return Snapshot(
            System(
                markets,
                Interest(*(found["interest", n] for n in range(3))),
                Guards(*(*found["guards"], found["collateral"])),
                Costs(tuple(max(0, cost[0]) for cost in flag), max(0, found["liquidate"][0])),
            ),
            layout.sources,
            {key: _quote(found["price", key]) for key in layout.sources},
            found["flagged"],
        )

    async def accounts(
        self, ids: Sequence[int], head: Head
    ) -> tuple[list[Holding], frozenset[int]]:
        """Read accounts in order, and the ids of all that are flagged; raises as ``snapshot``."""
        reads = Reads(self._rpc, head)
        reads.call("flagged", self._perps, FLAGGED)
        for one in ids:
            reads.call(("debt", one), self._perps, DEBT, one, may_revert=True)  # none: unknown
            reads.call(("positions", one), self._perps, POSITIONS, one)
            reads.call(("collaterals", one), self._perps, COLLATERALS, one)
            reads.call(("usd", one), self._perps, COLLATERAL, one, USD)
        found = await reads.answers()
        words = Reads(self._rpc, head)
        for one in ids:
            for market in found["positions", one]:
                slot = _mapped(one, _base("PerpsMarket", market) + 11)
                for n in range(3):
                    words.word((one, market, n), self._perps, slot + n)
        found |= await words.answers()
        return [_holding(found, one) for one in ids], frozenset(found["flagged"])

    async def _find_layout(self, head: Head) -> Layout:
        reads = Reads(self._rpc, head)
        self._ask_marks(reads)
        found = await reads.answers()
        reads = Reads(self._rpc, head)
        for market in found["markets"]:
            reads.call(("feed", market), self._perps, PRICE_DATA, market)
        found |= await reads.answers()
        oracle = "0x" + (found["oracle"] % 2**160).to_bytes(20, "big").hex()
        sources = await self._sources(found, oracle, head)
        return Layout(_marks(found, sources), oracle, found["cost"], sources)

    async def _sources(
        self, found: Mapping[Any, Any], oracle: str, head: Head
    ) -> dict[int, Source]:
        """Look for the Pyth feeds behind the markets' oracle nodes, which never change."""
        ids = {market: found["feed", market] for market in found["markets"]}
        if self._pyth is None:
            return dict.fromkeys(ids, Source())
        nodes = await self._nodes({node for node, _ in ids.values()}, oracle, head)
        inner = {parents[0] for kind, _, parents in nodes.values() if kind == STALENESS_NODE}
        nodes |= await self._nodes(inner, oracle, head)
        return {key: self._source(nodes, node, strict) for key, (node, strict) in ids.items()}

    async def _nodes(self, ids: set[bytes], oracle: str, head: Head) -> dict[bytes, Any]:
        reads = Reads(self._rpc, head)
        for node in sorted(ids):
            reads.call(node, oracle, NODE, node)
        return await reads.answers()

    def _source(self, nodes: Mapping[bytes, Any], node: bytes, strict_s: int) -> Source:
        """Return the source of a Pyth node, bare or behind a staleness breaker; else none."""
        kind, parameters, parents = nodes[node]
        age_s: int | None = None
        if kind == STALENESS_NODE:  # liquidations look at both ages, one for each of their parts
            age_s = min(strict_s, integers(parameters)[0])
            kind, parameters, _ = nodes[parents[0]]
        if kind != PYTH_NODE:
            return Source()
        address, _, moving_average = integers(parameters)
        ours = self._pyth is not None and address == int(self._pyth, 16)
        return Source(parameters[32:64], age_s) if ours and not moving_average else Source()

    def _ask_marks(self, reads: Reads) -> None:
        reads.call("markets", self._perps, MARKETS)
        reads.call("cost", self._perps, COST_NODE)
        reads.word("oracle", self._perps, _base("PerpsMarketFactory"))

    async def _ask(self, layout: Layout, head: Head) -> dict[Any, Any]:
        reads, perps = Reads(self._rpc, head), self._perps
        self._ask_marks(reads)
        reads.call("flagged", perps, FLAGGED)
        reads.call("guards", perps, GUARDS)
        reads.call("collateral", perps, COLLATERAL_RATIO)
        for n in range(3):
            reads.word(("interest", n), perps, _base("InterestRate") + n)
        for n in range(_flag_costs(layout)):
            reads.call(("flag", n), layout.oracle, COST, layout.cost_node, *_runtime(n, KIND_FLAG))
        runtime = _runtime(0, KIND_LIQUIDATE)
        reads.call("liquidate", layout.oracle, COST, layout.cost_node, *runtime)
        for key, source in layout.sources.items():
            reads.call(("feed", key), perps, PRICE_DATA, key)
            for name, function in PER_MARKET.items():
                reads.call((name, key), perps, function, key)
            base = _base("PerpsMarket", key)
            for n, slot in enumerate((3, 5, 6, 7, 12)):
                reads.word(("state", key, n), perps, base + slot)
            if source.pyth_id and self._pyth:
                pyth_id = source.pyth_id
                reads.call(("price", key), self._pyth, GET_PRICE, pyth_id, may_revert=True)
            else:
                reads.call(("price", key), perps, INDEX_PRICE, key, may_revert=True)
        return await reads.answers()

    async def _liquidated(
        self, layout: Layout, found: Mapping[Any, Any], head: Head
    ) -> dict[int, tuple[tuple[int, int], ...]]:
        """Read the liquidations inside the windows of the markets that had some lately."""
        reads, counts = Reads(self._rpc, head), dict[int, int]()
        for key in layout.sources:
            window_s, latest_s = found["window", key][1], found["capacity", key][2]
            if latest_s <= head.timestamp_s - window_s:
                continue
            length = found["state", key, 4]
            counts[key] = min(length, window_s, LIQUIDATIONS_MAX)
            first = int.from_bytes(keccak(encode(["uint256"], [_base("PerpsMarket", key) + 12])))
            for n in range(counts[key]):
                slot = first + 2 * (length - 1 - n)
                reads.word((key, n, "size"), self._perps, slot)
                reads.word((key, n, "time"), self._perps, slot + 1)
        words = await reads.answers()
        return {
            key: tuple((words[key, n, "size"] % HALF, words[key, n, "time"]) for n in range(count))
            for key, count in counts.items()
        }


PER_MARKET = {
    "funding": FUNDING,
    "fees": FEES,
    "liquidation": LIQUIDATION,
    "window": WINDOW,
    "locked": LOCKED,
    "capacity": CAPACITY,
}


def _flag_costs(layout: Layout) -> int:
    return min(len(layout.sources) + 1, FLAG_COSTS_MAX)


def _marks(found: Mapping[Any, Any], markets: Mapping[int, Source]) -> tuple[Any, ...]:
    feeds = tuple(found["feed", market] for market in markets)
    return found["markets"], found["oracle"], found["cost"], feeds


def _runtime(feeds: int, kind: int) -> tuple[list[bytes], list[bytes]]:
    """Return the keys and values that ask the cost node for one kind of execution."""
    keys = [b"numberOfUpdatedFeeds".ljust(32, b"\0"), b"executionKind".ljust(32, b"\0")]
    none = [bytes(32), bytes(32)]
    return keys + none, [feeds.to_bytes(32, "big"), kind.to_bytes(32, "big"), *none]


def _market(found: Mapping[Any, Any], key: int, liquidated: tuple[tuple[int, int], ...]) -> Market:
    scale, velocity = found["funding", key]
    initial, minimum, scalar, flag_ratio, margin_min = found["liquidation", key]
    multiplier, window_s, pd_max, _ = found["window", key]
    ratios = initial, minimum, scalar, flag_ratio, margin_min
    rest = multiplier, window_s, pd_max, found["locked", key]
    terms = Terms(*(scale, velocity, *found["fees", key], *ratios, *rest))
    skew, rate, value, last_s, _ = (found["state", key, n] for n in range(5))
    return Market(terms, _signed(skew), _signed(rate), _signed(value), last_s, liquidated)


def _quote(answer: Any) -> Quote:  # noqa: ANN401 - of either oracle
    """Return a price as it is on chain; none when the oracle refused."""
    if answer is None:
        return Quote(0, 0)
    if isinstance(answer, int):
        return Quote(answer, 0)
    price, _, exponent, published_s = answer
    return quote(price, exponent, published_s)


def _holding(found: Mapping[Any, Any], one: int) -> Holding:
    positions: dict[int, Position] = {}
    for market in found["positions", one]:
        first, second, interest = (found[one, market, n] for n in range(3))
        size, funding = _signed(first >> 128, HALF), _signed(second >> 128, HALF)
        if first % HALF != market:
            msg = f"account {one}: storage does not hold its position in market {market}"
            raise ProtocolError(msg)
        positions[market] = Position(size, second % HALF, funding, interest)
    others = sum(collateral != USD for collateral in found["collaterals", one])
    return Holding(found["usd", one], found["debt", one] or 0, positions, others)


def _base(name: str, key: int | None = None) -> int:
    """Return the first slot of a library's storage."""
    text = f"io.synthetix.perps-market.{name}"
    if key is None:
        return int.from_bytes(keccak(encode(["string"], [text])))
    return int.from_bytes(keccak(encode(["string", "uint128"], [text, key])))


def _mapped(key: int, slot: int) -> int:
    return int.from_bytes(keccak(encode(["uint256", "uint256"], [key, slot])))


def _signed(word: int, modulus: int = 2**256) -> int:
    return word - modulus if word >= modulus // 2 else word
