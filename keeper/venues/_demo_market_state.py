"""The demo market outside its adapter: the contract as it was read, and its accounts at any prices.

Accounts are as ``keeper.margin.model`` knows them, markets and assets named by their index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from keeper.facts import AccountState, FeedId, MarketState
from keeper.margin import model
from keeper.margin.solvency import Exposure
from keeper.units import div_trunc, mul_wad
from keeper.venues._abi import numbered

DAY_S = 86_400


class StoredPrice(NamedTuple):
    """A feed as the contract holds it; ``price`` 0: none yet."""

    name: str
    feed: FeedId
    price: int
    published_ms: int


class PerpMarket(NamedTuple):
    """A market's parameters and funding; ``feed`` is an index into the feeds."""

    name: str
    feed: int
    tiers: tuple[model.Tier, ...]
    skew: int
    skew_scale: int
    funding_rate_max: int  # per day
    index_last: int
    t_last: int


class Asset(NamedTuple):
    """A collateral asset's parameters; ``feed`` is an index into the feeds."""

    name: str
    feed: int
    haircuts: tuple[model.Tier, ...]


@dataclass(frozen=True)
class DemoMarketState(MarketState):
    """The whole contract outside its accounts."""

    max_price_age_s: int
    update_fee_wei: int
    whole_below: int
    reserve: model.ReserveTerms
    feeds: tuple[StoredPrice, ...]
    markets: tuple[PerpMarket, ...]
    assets: tuple[Asset, ...]

    def depends_on(self, account: model.Account) -> list[int]:
        """Return the feeds whose age decides about the account."""
        markets = {self.markets[int(name)].feed for name in account.positions}
        return sorted(markets | {self.assets[int(name)].feed for name in account.collateral})

    def is_fresh(self, stored: StoredPrice, at_s: int) -> bool:
        """Tell whether the contract acts on this price at chain time ``at_s``."""
        age_ms = at_s * 1000 - stored.published_ms
        return stored.price != 0 and age_ms <= self.max_price_age_s * 1000

    def indices(self, at_s: int) -> list[int]:
        """Return the funding indices at chain time ``at_s``; until then *stored* prices count."""
        found: list[int] = []
        for perp in self.markets:
            ceiling = perp.funding_rate_max
            rate = min(max(div_trunc(perp.skew * ceiling, perp.skew_scale), -ceiling), ceiling)
            paid = mul_wad(self.feeds[perp.feed].price, rate) * max(0, at_s - perp.t_last)
            found.append(perp.index_last + div_trunc(paid, DAY_S))
        return found

    def terms(self, prices: Sequence[int], at_s: int) -> model.Terms:
        """Return the margin model's terms at these prices (by feed), funding up to ``at_s``."""
        perps = zip(self.markets, self.indices(at_s), strict=True)
        return model.Terms(
            numbered(model.MarketTerms(prices[p.feed], p.tiers, index) for p, index in perps),
            numbered(model.AssetTerms(prices[one.feed], one.haircuts) for one in self.assets),
            self.reserve,
        )

    def at_prices(self, prices: Mapping[FeedId, int], at_s: int) -> "DemoMarketState":
        """Return the state once it took these prices at ``at_s``; funding is settled until then."""
        stored = (one._replace(price=prices.get(one.feed, one.price)) for one in self.feeds)
        perps = zip(self.markets, self.indices(at_s), strict=True)
        settled = (perp._replace(index_last=index, t_last=at_s) for perp, index in perps)
        return replace(self, feeds=tuple(stored), markets=tuple(settled))

    def step_reward(self, account: model.Account, found: model.Margin, terms: model.Terms) -> int:
        """Return the reward of the next step: all of it if small or far under, else half."""
        whole = found.notional <= self.whole_below or found.equity * 2 < found.maintenance
        held = [(abs(p.size), terms.markets[i].price) for i, p in account.positions.items()]
        closed = sum(mul_wad(size if whole else size // 2, price) for size, price in held)
        return model.reserve_for(closed, terms.reserve)


@dataclass(frozen=True)
class DemoAccountState(AccountState):
    """An account; ``holdings`` names markets and assets by index, without empty ones."""

    holdings: model.Account


def exposure(
    market: DemoMarketState, terms: model.Terms, state: DemoAccountState
) -> Exposure | None:
    """Work out an account at the stored prices, whatever their age; None: it needs one more."""
    holdings, depends = state.holdings, [market.feeds[k] for k in market.depends_on(state.holdings)]
    if not all(stored.price for stored in depends):
        return None
    found = model.margin(holdings, terms)
    notional, collateral = dict[str, int](), dict[str, int]()
    for key, position in holdings.positions.items():
        size = mul_wad(abs(position.size), terms.markets[key].price)
        notional[market.markets[int(key)].name] = size if position.size > 0 else -size
    for key, amount in holdings.collateral.items():
        collateral[market.assets[int(key)].name] = mul_wad(amount, terms.assets[key].price)
    return Exposure(
        under=bool(holdings.positions) and found.excess < 0,
        equity=found.equity,
        requirement=found.maintenance + found.reserve,
        net_value=found.net_value,
        notional=notional,
        collateral=collateral,
        feeds=tuple(dict.fromkeys(stored.feed for stored in depends)),
    )
