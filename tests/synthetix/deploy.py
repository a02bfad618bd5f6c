"""Synthetix V3 perps-market 3.13.0 on a local chain: the real margin, orders, funding, oracle
manager and liquidation; the core system and account ownership are stand-ins.

Two markets, ETH (100) and BTC (200), and one of two oracles:

* ``push``: an aggregator a market, read whatever its age;
* ``pull``: Pyth behind the protocol's own staleness breaker. The node takes ages up to
  ``node_age_s``, what views go by; what changes state asks for ``strict_age_s``. A price that is
  too old is refused with OracleDataRequired.

ERC-2771 calls come through a forwarder of our own at the address the protocol trusts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from eth_abi.abi import encode

from keeper.units import WAD
from tests.nodes import Anvil
from tests.synthetix import router
from tests.synthetix.chain import Chain, Contract, Interface, selector
from tests.synthetix.packages import (
    ORACLE,
    ORACLE_MODULES,
    OWN,
    PERPS,
    PERPS_MODULES,
    Artifact,
    artifacts,
)

FORWARDER = "0xe2c5658cc5c448b48141168f3e475df8f65a1e3e"  # the one the protocol trusts
NOBODY = "0x" + "00" * 20
UNLIMITED = 2**256 - 1
USD = 0  # id of the USD collateral
PRICE_DECIMALS = 8  # of Pyth prices
PYTH = "@pythnetwork/pyth-sdk-solidity/MockPyth.sol:MockPyth"
ROUTER_GAS = 12_000_000
# kinds of oracle nodes (NodeDefinition.NodeType)
EXTERNAL, CHAINLINK, PYTH_NODE, STALENESS, PYTH_LOOKUP = 2, 3, 5, 7, 9
PRICE_TYPE = "(int64,uint64,int32,uint256)"  # price, confidence, exponent, publish time
ORACLE_ERRORS = [  # raised by selector, so no compiled ABI has them all
    {"type": "error", "name": name, "inputs": [{"name": it, "type": it} for it in types]}
    for name, types in (
        ("OracleDataRequired", ("address", "bytes")),
        ("Errors", ("bytes[]",)),
        ("StalenessToleranceExceeded", ("bytes32", "int256", "uint256")),
    )
]
UPDATE_TYPES = [f"(bytes32,{PRICE_TYPE},{PRICE_TYPE})", "uint64"]


@dataclass(frozen=True, slots=True)
class Market:
    """A market's parameters; prices and sizes in wads, ratios in wads."""

    id: int
    name: str
    price: int  # USD at the start
    skew_scale: int
    funding_velocity_max: int = 9 * WAD  # a day
    size_max: int = 100_000 * WAD
    maker_fee: int = 2 * WAD // 10_000
    taker_fee: int = 5 * WAD // 10_000
    locked_oi_ratio: int = WAD // 2
    initial_margin_ratio: int = 2 * WAD
    minimum_initial_margin_ratio: int = WAD // 50
    maintenance_scalar: int = WAD // 2
    flag_reward_ratio: int = WAD // 1_000
    minimum_position_margin: int = 50 * WAD
    window_multiplier: int = WAD
    window_s: int = 10
    liquidation_pd_max: int = 0
    endorsed_liquidator: str = NOBODY

    @property
    def feed(self) -> bytes:
        """The price feed's id: the name, left-aligned in 32 bytes."""
        return self.name.encode().ljust(32, b"\0")


MARKETS = (
    Market(100, "ETH", 2_000 * WAD, 100_000 * WAD),
    Market(200, "BTC", 60_000 * WAD, 5_000 * WAD),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What to deploy; amounts of USD in wads, ages in seconds."""

    oracle: Literal["push", "pull"] = "push"
    strict_age_s: int = 5
    node_age_s: int = 60
    update_fee_wei: int = 1  # a feed
    settlement_delay_s: int = 2
    settlement_window_s: int = 120
    settlement_reward: int = 0
    keeper_costs: tuple[int, int, int] = (WAD // 2, WAD, 2 * WAD)  # settle, flag a feed, liquidate
    reward_min: int = 5 * WAD
    profit_ratio_min: int = WAD // 10
    reward_max: int = 1_000 * WAD
    reward_scaling_max: int = WAD // 2  # of the collateral
    interest: tuple[int, int, int] = (0, 8 * WAD // 10, 0)  # low gradient, breakpoint, high
    markets: tuple[Market, ...] = MARKETS


@dataclass(frozen=True)
class System:
    """The deployed contracts."""

    chain: Chain
    setup: Setup
    perps: Contract
    oracle_manager: Contract
    usd: Contract
    costs: Contract
    benchmark: Contract  # settles orders at the price set there
    forwarder: Contract
    pyth: Contract | None
    aggregators: Mapping[int, Contract] = field(default_factory=dict)  # by market

    @property
    def markets(self) -> dict[int, Market]:
        return {market.id: market for market in self.setup.markets}


def signed_update(feed: bytes, price: int, published_s: int) -> bytes:
    """Return one entry of the ``updateData`` that the Pyth contract takes; the price in wads.

    Raises ValueError when the price has more than eight decimals.
    """
    scaled, rest = divmod(price, 10 ** (18 - PRICE_DECIMALS))
    if rest:
        msg = f"{price} has more than {PRICE_DECIMALS} decimals"
        raise ValueError(msg)
    quote = (scaled, 0, -PRICE_DECIMALS, published_s)
    return encode(UPDATE_TYPES, [(feed, quote, quote), max(0, published_s - 1)])


def deploy(node: Anvil, setup: Setup | None = None) -> System:
    """Deploy and configure everything; dev account 0 owns it. Takes about a second."""
    return _Deployment(Chain(node), setup or Setup()).run()


class _Deployment:
    def __init__(self, chain: Chain, setup: Setup) -> None:
        self.chain = chain
        self.setup = setup
        self.owner = chain.dev[0]
        self.compiled = artifacts()

    def run(self) -> System:
        self.oracle_manager = self._system(
            [self._of(f"{ORACLE}modules/", name) for name in ORACLE_MODULES],
            self.compiled[f"{ORACLE}Proxy.sol:Proxy"],
        )
        self.usd = self._own("CoreStub", self.oracle_manager.address)
        self.perps = self._system(
            [
                *(self._of(f"{PERPS}modules/", name) for name in PERPS_MODULES),
                self._of(OWN, "AccountModule"),
            ],
            self.compiled[f"{PERPS}Proxy.sol:Proxy"],
        )
        self.costs = self._own("KeeperCost")
        self.benchmark = self._own("Benchmark")
        self.pyth = self._pyth() if self.setup.oracle == "pull" else None
        self._configure()
        aggregators: dict[int, Contract] = {}
        for market in self.setup.markets:
            self._create(market, self._price_node(market, aggregators))
        return System(
            self.chain,
            self.setup,
            self.perps,
            self.oracle_manager,
            self.usd,
            self.costs,
            self.benchmark,
            self._forwarder(),
            self.pyth,
            aggregators,
        )

    def _of(self, folder: str, name: str) -> Artifact:
        return self.compiled[f"{folder}{name}.sol:{name}"]

    def _own(self, name: str, *arguments: object) -> Contract:
        artifact = self._of(OWN, name)
        return Contract.deploy(self.chain, artifact.abi, artifact.bytecode, *arguments)

    def _pyth(self) -> Contract:
        artifact, setup = self.compiled[PYTH], self.setup
        return Contract.deploy(
            self.chain, artifact.abi, artifact.bytecode, setup.node_age_s, setup.update_fee_wei
        )

    def _forwarder(self) -> Contract:
        artifact = self._of(OWN, "Forwarder")
        self.chain.node.rpc("anvil_setCode", FORWARDER, artifact.runtime)
        return Contract(self.chain, FORWARDER, Interface(artifact.abi))

    def _system(self, modules: Iterable[Artifact], proxy: Artifact) -> Contract:
        """Deploy modules behind a router behind an upgradeable proxy; the first one upgrades."""
        table: dict[bytes, str] = {}
        first: Contract | None = None
        merged = Interface(ORACLE_ERRORS)
        for artifact in modules:
            module = Contract.deploy(self.chain, artifact.abi, artifact.bytecode)
            first = first or module
            for entry in module.interface.functions.values():
                table.setdefault(selector(entry), module.address)
            merged.add(artifact.abi)
        if first is None:
            msg = "a system has modules"
            raise ValueError(msg)
        sent = self.chain.broadcast(self.owner, None, router.creation_code(table), gas=ROUTER_GAS)
        routed = self.chain.receipts([sent])[0]["contractAddress"]
        place = Contract.deploy(self.chain, proxy.abi, proxy.bytecode, first.address, self.owner)
        Contract(self.chain, place.address, first.interface).send("upgradeTo", routed)
        return Contract(self.chain, place.address, merged)

    def _node(self, kind: int, parameters: bytes, parents: Iterable[bytes] = ()) -> bytes:
        """Register an oracle node and return its id."""
        definition = (kind, parameters, list(parents))
        self.oracle_manager.send("registerNode", *definition)
        node: bytes = self.oracle_manager.call("getNodeId", *definition)
        return node

    def _configure(self) -> None:
        setup, send = self.setup, self.perps.send
        for flag in ("perpsSystem", "createMarket", "createAccount"):
            send("setFeatureFlagAllowAll", flag.encode().ljust(32, b"\0"), True)  # noqa: FBT003 - ABI
        send("initializeFactory", self.usd.address, self.usd.address)
        send("setPerpsMarketName", "markets for tests")
        self.costs.send("set", *setup.keeper_costs)
        cost_node = self._node(EXTERNAL, encode(["address"], [self.costs.address]))
        send("updateKeeperCostNodeId", cost_node)
        send(
            "setKeeperRewardGuards",
            setup.reward_min,
            setup.profit_ratio_min,
            setup.reward_max,
            setup.reward_scaling_max,
        )
        send("setPerAccountCaps", 100, 100)
        send("setCollateralConfiguration", USD, UNLIMITED, 0, 0, 0)
        send("setInterestRateParameters", *setup.interest)

    def _price_node(self, market: Market, aggregators: dict[int, Contract]) -> bytes:
        """Register the node a market reads its price from, with the first price in place."""
        if self.pyth is None:
            aggregator = aggregators[market.id] = self._own("Aggregator", market.price)
            parameters = encode(["address", "uint256", "uint8"], [aggregator.address, 0, 18])
            return self._node(CHAINLINK, parameters)
        update = signed_update(market.feed, market.price, self.chain.now_s())
        self.pyth.send("updatePriceFeeds", [update], value_wei=self.setup.update_fee_wei)
        where = self.pyth.address
        newest = encode(["address", "bytes32", "bool"], [where, market.feed, False])
        missing = encode(
            ["address", "bytes32", "uint256"], [where, market.feed, self.setup.node_age_s]
        )
        parents = self._node(PYTH_NODE, newest), self._node(PYTH_LOOKUP, missing)
        return self._node(STALENESS, encode(["uint256"], [self.setup.node_age_s]), parents)

    def _create(self, market: Market, price_node: bytes) -> None:
        send, setup = self.perps.send, self.setup
        send("createMarket", market.id, market.name, market.name)
        send("updatePriceData", market.id, price_node, setup.strict_age_s)
        send("setFundingParameters", market.id, market.skew_scale, market.funding_velocity_max)
        send("setMaxMarketSize", market.id, market.size_max)
        send("setOrderFees", market.id, market.maker_fee, market.taker_fee)
        send("setLockedOiRatio", market.id, market.locked_oi_ratio)
        send(
            "setLiquidationParameters",
            market.id,
            market.initial_margin_ratio,
            market.minimum_initial_margin_ratio,
            market.maintenance_scalar,
            market.flag_reward_ratio,
            market.minimum_position_margin,
        )
        send(
            "setMaxLiquidationParameters",
            market.id,
            market.window_multiplier,
            market.window_s,
            market.liquidation_pd_max,
            market.endorsed_liquidator,
        )
        strategy = (
            0,  # by Pyth, the only kind there is
            setup.settlement_delay_s,
            setup.settlement_window_s,
            self.benchmark.address,
            market.feed,
            setup.settlement_reward,
            False,  # not disabled
            0,  # the price at commitment
        )
        send("addSettlementStrategy", market.id, strategy)
