"""Perp v2 "Curie" on a local chain: the protocol's own contracts from npm, compiled by its authors.

Some markets in pools of Uniswap v3, each with a Chainlink feed behind the protocol's price feeds,
and two kinds of margin: a settlement token with six decimals, and WETH, of which 70 % count. Only
the tokens and the aggregators are our own. The contracts stand where proxies stand in the world.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keeper.demo.artifact import compile_source
from keeper.units import WAD
from tests.nodes import Anvil
from tests.synthetix.chain import Abi, Chain, Contract, Interface
from tests.synthetix.packages import modules

HERE = Path(__file__).parent
PACKAGES = {
    "curie": "@perp/curie-contract",
    "oracle": "@perp/perp-oracle-contract",
    "uniswap": "@uniswap/v3-core",
}
FEE_PPM = 3_000  # of the pools; what takers pay is TAKER_FEE_PPM
TAKER_FEE_PPM = 1_000
TICKS_A_BLOCK_MAX = 1_000  # the highest that the protocol allows
HISTORY_S = 2_000  # of the pools before anything happens: marks look back half an hour
UNLIMITED = 2**256 - 1
USD = 10**6  # unit of the settlement token
MAX_TICK = 887_272


@dataclass(frozen=True, slots=True)
class Listing:
    """A market to be: its name, its price in USD, its keeper feed."""

    name: str
    price: int
    feed: str


LISTINGS = (Listing("ETH", 2_000, "ETH/USD"), Listing("BTC", 60_000, "BTC/USD"))


@dataclass(frozen=True)
class CurieMarket:
    """A market: its base token is its name."""

    listing: Listing
    base: Contract
    pool: Contract
    feed: Contract
    aggregator: Contract


@dataclass(frozen=True)
class Curie:
    """The deployed contracts."""

    chain: Chain
    house: Contract
    vault: Contract
    exchange: Contract
    order_book: Contract
    balances: Contract
    config: Contract
    fund: Contract
    manager: Contract
    usdc: Contract
    weth: Contract
    markets: Mapping[str, CurieMarket]

    @property
    def settings(self) -> dict[str, object]:
        """The venue's table in config.toml, as far as it depends on the deployment."""
        return {
            "address": self.house.address,
            "vault": self.vault.address,
            "feeds": {one.base.address: one.listing.feed for one in self.markets.values()},
            "collateral": [self.weth.address],
        }


@functools.cache
def _artifact(package: str, name: str) -> tuple[Abi, str]:
    folder = modules() / PACKAGES[package] / "artifacts" / "contracts" / f"{name}.sol"
    found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return found["abi"], found["bytecode"]


@functools.cache
def _own(name: str) -> tuple[Abi, str]:
    compiled = compile_source(HERE / f"{name}.vy")
    return compiled.abi, compiled.bytecode


def deploy(node: Anvil) -> Curie:
    """Deploy and configure everything; dev account 0 owns it. Takes about two seconds."""
    return _Deployment(Chain(node)).run()


class _Deployment:
    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.owner = chain.dev[0]

    def run(self) -> Curie:
        self._contracts()
        markets = {one.name: self._market(one) for one in LISTINGS}
        weth = self._margin_in_weth(markets["ETH"].aggregator)
        self.chain.pass_time(HISTORY_S)
        return Curie(
            self.chain,
            self.house,
            self.vault,
            self.exchange,
            self.order_book,
            self.balances,
            self.config,
            self.fund,
            self.manager,
            self.usdc,
            weth,
            markets,
        )

    def _new(self, package: str, name: str, *arguments: object) -> Contract:
        return Contract.deploy(self.chain, *_artifact(package, name), *arguments)

    def _contracts(self) -> None:
        self.usdc = Contract.deploy(self.chain, *_own("token"), 6)
        self.factory = self._new("uniswap", "UniswapV3Factory")
        self.quote = self._new("curie", "QuoteToken")
        self.quote.send("initialize", "vUSD", "vUSD")
        self.config = self._new("curie", "ClearingHouseConfig")
        self.config.send("initialize")
        self.registry = self._new("curie", "MarketRegistry")
        self.registry.send("initialize", self.factory.address, self.quote.address)
        self.order_book = self._new("curie", "OrderBook")
        self.order_book.send("initialize", self.registry.address)
        self.balances = self._new("curie", "AccountBalance")
        self.exchange = self._new("curie", "Exchange")
        self.fund = self._new("curie", "InsuranceFund")
        self.fund.send("initialize", self.usdc.address)
        config, book = self.config.address, self.order_book.address
        self.exchange.send("initialize", self.registry.address, book, config)
        self.exchange.send("setAccountBalance", self.balances.address)
        self.order_book.send("setExchange", self.exchange.address)
        self.balances.send("initialize", config, book)
        self.vault = self._new("curie", "Vault")
        balances, exchange = self.balances.address, self.exchange.address
        self.vault.send("initialize", self.fund.address, config, balances, exchange)
        self.manager = self._new("curie", "CollateralManager")
        limits = 750_000, 500_000, 2_000, 30_000, 10_000 * USD, 500 * USD
        self.manager.send("initialize", config, self.vault.address, 5, *limits)
        self.vault.send("setCollateralManager", self.manager.address)
        self.fund.send("setVault", self.vault.address)
        self.balances.send("setVault", self.vault.address)
        self.house = self._new("curie", "ClearingHouse")
        parts = (self.vault, self.quote, self.factory, self.exchange, self.balances, self.fund)
        self.house.send("initialize", config, *(part.address for part in parts))
        self.config.send("setSettlementTokenBalanceCap", UNLIMITED)
        self._mint(self.quote)
        self.registry.send("setFeeManager", self.owner, True)  # noqa: FBT003 - ABI
        for part in (self.registry, self.order_book, self.exchange, self.balances, self.vault):
            part.send("setClearingHouse", self.house.address)

    def _mint(self, token: Contract) -> None:
        token.send("mintMaximumTo", self.house.address)
        token.send("addWhitelist", self.house.address)

    def _market(self, listing: Listing) -> CurieMarket:
        answer = listing.price * 10**8
        aggregator = Contract.deploy(self.chain, *_own("aggregator"), answer)
        feed = self._new("oracle", "ChainlinkPriceFeedV3", aggregator.address, 40 * 60, 15 * 60)
        dispatcher = self._new("oracle", "PriceFeedDispatcher", feed.address)
        base = self._new("curie", "BaseToken")
        while int(base.address, 16) > int(self.quote.address, 16):  # it must sort before the quote
            base = self._new("curie", "BaseToken")
        base.send("initialize", listing.name, listing.name, dispatcher.address)
        self._mint(base)
        pair = base.address, self.quote.address, FEE_PPM
        self.factory.send("createPool", *pair, gas=6_000_000)
        abi, _ = _artifact("uniswap", "UniswapV3Pool")
        pool = Contract(self.chain, self.factory.call("getPool", *pair), Interface(abi))
        for token in (base, self.quote):
            token.send("addWhitelist", pool.address)
        pool.send("initialize", math.isqrt(listing.price * 2**192))
        pool.send("increaseObservationCardinalityNext", 500, gas=15_000_000)
        self.registry.send("addPool", base.address, FEE_PPM)
        self.registry.send("setFeeRatio", base.address, TAKER_FEE_PPM)
        self.registry.send("setInsuranceFundFeeRatio", base.address, 100_000)
        self.exchange.send("setMaxTickCrossedWithinBlock", base.address, TICKS_A_BLOCK_MAX)
        return CurieMarket(listing, base, pool, feed, aggregator)

    def _margin_in_weth(self, aggregator: Contract) -> Contract:
        """Accept WETH: 70 % of it count, and it is sold at a discount of 10 % in a liquidation."""
        weth = Contract.deploy(self.chain, *_own("token"), 18)
        feed = self._new("oracle", "ChainlinkPriceFeedV2", aggregator.address, 0)
        terms = feed.address, 700_000, 100_000, 10_000 * WAD
        self.manager.send("addCollateral", weth.address, terms)
        return weth
