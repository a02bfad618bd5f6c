"""The demo market on a real node, driven through the ABI of its artifact, for tests.

It shares no code with the venue adapter: what both read and say must agree by themselves.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from eth_abi.abi import encode
from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak

from keeper.demo import artifact
from keeper.margin.model import (
    Account,
    AssetTerms,
    MarketTerms,
    Position,
    ReserveTerms,
    Terms,
    Tier,
)
from keeper.units import WAD, div_trunc, mul_wad
from tests.contracts import Contract
from tests.nodes import Anvil

SIGNER = PrivateKey(keccak(text="price signer of the tests"))
OPEN_END = 2**256 - 1
DAY_S = 86_400
FEE_WEI = 1_000  # of the markets that the tests furnish
SEEDS_MAX = 25  # accounts per seed_accounts

Update = tuple[int, int, int, int, int, int]  # feed, price, published_ms, v, r, s
UPDATE_TYPE = "(uint256,uint256,uint256,uint256,uint256,uint256)"


def payload_of(update: Update) -> bytes:
    """Return the signed update as it travels in a tick."""
    return encode([UPDATE_TYPE], [update])


class MarketChain(Contract):
    """One deployed market. Dev account 0 owns it; senders are unlocked dev accounts."""

    def __init__(self, node: Anvil, max_price_age_s: int = 600, update_fee_wei: int = 0) -> None:
        shipped = artifact.load()
        signer = SIGNER.public_key.to_address()
        super().__init__(
            node, shipped.abi, shipped.bytecode, signer, max_price_age_s, update_fee_wei
        )
        self.update_fee_wei = update_fee_wei
        self._published_ms = 0

    # --- prices

    def sign(self, feed: int, price: int, published_ms: int, key: PrivateKey = SIGNER) -> Update:
        digest = keccak(
            encode(
                ["uint256", "address", "uint256", "uint256", "uint256"],
                [self.chain_id, self.address, feed, price, published_ms],
            )
        )
        signature = key.sign_msg_hash(digest)
        return feed, price, published_ms, signature.v + 27, signature.r, signature.s

    def next_ms(self) -> int:
        """Return a publishing time that is newer than what is stored: blocks may share a second."""
        return max(self.now_s() * 1000, self._published_ms) + 1

    def set_prices(self, prices: Mapping[int, int], published_ms: int | None = None) -> None:
        """Store these prices, published now (chain time, later than the last) unless told."""
        at_ms = self.next_ms() if published_ms is None else published_ms
        self._published_ms = at_ms
        updates = [self.sign(feed, price, at_ms) for feed, price in prices.items()]
        self.send("update_prices", updates, value_wei=self.update_fee_wei * len(updates))

    # --- what it holds

    def seed(self, accounts: Sequence[Account]) -> list[int]:
        """Open these accounts; their collateral and positions are keyed by index as text."""
        ids: list[int] = []
        for start in range(0, len(accounts), SEEDS_MAX):
            chunk = [
                (
                    self.dev[1],
                    account.cash,
                    [account.collateral.get(str(i), 0) for i in range(4)],
                    [
                        (position.size, position.entry_price)
                        for position in (
                            account.positions.get(str(i), Position(0, 0)) for i in range(8)
                        )
                    ],
                )
                for account in accounts[start : start + SEEDS_MAX]
            ]
            events = self.send("seed_accounts", chunk)
            ids += [fields["account"] for name, fields in events if name == "AccountOpened"]
        return ids

    def account(self, number: int) -> Account:
        """Read one account as the margin model knows it, keyed by index as text."""
        view = self.call("account_views", [number])[0]
        return Account(
            cash=view["cash"],
            collateral={str(i): amount for i, amount in enumerate(view["collateral"]) if amount},
            positions={
                str(i): Position(p["size"], p["entry_price"], p["funding_index"])
                for i, p in enumerate(view["positions"])
                if p["size"]
            },
        )

    def terms(self, at_s: int | None = None) -> Terms:
        """Read the market as the margin model knows it, with funding up to ``at_s`` (head)."""
        view = self.call("market_view")
        now_s = self.now_s() if at_s is None else at_s
        prices = [feed["price"] for feed in view["feeds"]]
        return Terms(
            markets={
                str(i): MarketTerms(
                    price=prices[market["feed"]],
                    tiers=_tiers(market["tiers"]),
                    funding_index=_funding_index(market, prices[market["feed"]], now_s),
                )
                for i, market in enumerate(view["markets"])
            },
            assets={
                str(i): AssetTerms(price=prices[asset["feed"]], haircuts=_tiers(asset["haircuts"]))
                for i, asset in enumerate(view["assets"])
            },
            reserve=ReserveTerms(**view["reserve"]),
        )


def _tiers(view: Sequence[Mapping[str, int]]) -> tuple[Tier, ...]:
    return tuple(
        Tier(None if tier["up_to"] == OPEN_END else tier["up_to"], tier["rate"]) for tier in view
    )


def _funding_index(market: Mapping[str, Any], price: int, at_s: int) -> int:
    ceiling = market["funding_rate_max"]
    rate = div_trunc(market["skew"] * ceiling, market["skew_scale"])
    rate = min(max(rate, -ceiling), ceiling)
    grown = div_trunc(mul_wad(price, rate) * (at_s - market["t_last"]), DAY_S)
    return int(market["index_last"]) + grown


# --- a small world --------------------------------------------------------------------------------

FEEDS = ("ETH/USD", "BTC/USD", "SOL/USD", "USDC/USD")
START_PRICES = {0: 2_000 * WAD, 1: 60_000 * WAD, 2: 150 * WAD, 3: WAD}
RESERVE = (WAD // 500, 2 * WAD, 500 * WAD)
WHOLE_BELOW = 1_000 * WAD


def furnish(chain: MarketChain) -> None:
    """Give the market four feeds, three markets, two collateral assets, rules and first prices."""
    for name in FEEDS:
        chain.send("add_feed", name)
    for name, feed, scale in (("ETH-PERP", 0, 500), ("BTC-PERP", 1, 20), ("SOL-PERP", 2, 9_000)):
        tiers = [
            (50_000 * WAD, 4 * WAD // 1_000),
            (400_000 * WAD, WAD // 100),
            (OPEN_END, WAD // 40),
        ]
        chain.send("add_market", name, feed, tiers, WAD // 20, scale * WAD)
    chain.send("add_asset", "WETH", 0, [(20 * WAD, WAD // 10), (OPEN_END, WAD // 4)])
    chain.send("add_asset", "USDC", 3, [(OPEN_END, WAD // 100)])
    chain.send("set_reserve", *RESERVE)
    chain.send("set_whole_below", WHOLE_BELOW)
    chain.set_prices(START_PRICES)


def seeded(seed: int) -> random.Random:
    """Return the source of a test's random numbers; the seed is in the test's name."""
    return random.Random(seed)  # noqa: S311 - repeatable on purpose


def random_account(rng: random.Random, prices: Mapping[int, int]) -> Account:
    """Return an account that is near its requirement more often than not, with odd amounts."""
    positions: dict[str, Position] = {}
    notional = 0
    for market in rng.sample(range(3), rng.randrange(4)):
        size_usd = int(10 ** rng.uniform(1, 6.3) * WAD)
        size = size_usd * WAD // prices[market] + rng.randrange(1_000)
        entry = int(prices[market] * rng.uniform(0.9, 1.1))
        positions[str(market)] = Position(rng.choice([-1, 1]) * size, entry)
        notional += size_usd
    collateral: dict[str, int] = {}
    if rng.random() < 0.5:
        collateral["0"] = int(notional * rng.uniform(0.0, 0.05)) * WAD // prices[0] + 1
    if rng.random() < 0.5:
        collateral["1"] = int(notional * rng.uniform(0.0, 0.05)) + rng.randrange(1_000)
    gained = sum(
        mul_wad(position.size, prices[int(market)] - position.entry_price)
        for market, position in positions.items()
    )
    worth = sum(mul_wad(amount, prices[0 if a == "0" else 3]) for a, amount in collateral.items())
    cash = int(notional * rng.uniform(-0.01, 0.06)) - gained - worth
    return Account(cash + rng.randrange(1_000), collateral, positions)


def under_eth_long(equity_part: float, notional_usd: int = 100_000) -> Account:
    """Return an ETH long whose equity is that part of its maintenance margin at the start."""
    size = notional_usd * WAD // 2_000
    maintenance = 50_000 * WAD // 250 + (notional_usd - 50_000) * WAD // 100
    return Account(int(maintenance * equity_part), {}, {"0": Position(size, 2_000 * WAD)})
