"""Random venues and accounts, and the exact arithmetic at any prices."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from hypothesis import strategies as st

from keeper.margin.model import (
    Account,
    AssetTerms,
    Margin,
    MarketTerms,
    Position,
    ReserveTerms,
    Terms,
    Tier,
    margin,
)
from keeper.margin.rows import AssetFactors, MarketFactors, Row, compile_row
from keeper.units import WAD

# two markets and two assets follow ETH; one market has no funding factor; USDX has no price factor
MARKETS = {"ETH": ("ETH", "F:ETH"), "ETH-Q": ("ETH", "F:ETH"), "BTC": ("BTC", None)}
ASSETS = {"WETH": "ETH", "BTC": "BTC", "LP": "LP", "USDX": None}


@dataclass(frozen=True, slots=True)
class World:
    """A venue's terms by factor, at their present values."""

    markets: Mapping[str, MarketFactors]
    assets: Mapping[str, AssetFactors]
    reserve: ReserveTerms

    def at(self, values: Mapping[str, int]) -> "World":
        """Return the same venue with some factors at other values (wads)."""
        markets = {}
        for name, market in self.markets.items():
            price = values.get(market.price, market.terms.price)
            funding = values.get(market.index or "", market.terms.funding_index)
            terms = replace(market.terms, price=price, funding_index=funding)
            markets[name] = replace(market, terms=terms)
        assets = {}
        for name, asset in self.assets.items():
            price = values.get(asset.price or "", asset.terms.price)
            assets[name] = replace(asset, terms=replace(asset.terms, price=price))
        return World(markets, assets, self.reserve)

    def values(self) -> dict[str, int]:
        """Return the present value of every factor, in wads."""
        found = {market.price: market.terms.price for market in self.markets.values()}
        for market in self.markets.values():
            if market.index is not None:
                found[market.index] = market.terms.funding_index
        for asset in self.assets.values():
            if asset.price is not None:
                found[asset.price] = asset.terms.price
        return found

    def margin(self, account: Account) -> Margin:
        """Return the exact margin of an account."""
        markets = {name: market.terms for name, market in self.markets.items()}
        assets = {name: asset.terms for name, asset in self.assets.items()}
        return margin(account, Terms(markets, assets, self.reserve))

    def compile(self, account: Account) -> Row | None:
        """Compile an account at the present values."""
        return compile_row(account, self.markets, self.assets, self.reserve)


def evaluate(row: Row, values: Mapping[str, int]) -> tuple[Fraction, Fraction]:
    """Return (excess, gross) of a row without any rounding beyond the row's own."""
    terms = [Fraction(w) * Fraction(values[name], WAD) for name, w in row.weights.items()]
    constant = Fraction(row.constant)
    return constant + sum(terms), abs(constant) + sum(abs(term) for term in terms)


def usd(low: float, high: float) -> st.SearchStrategy[int]:
    """Wads between two USD amounts, spread over their orders of magnitude, round ones included."""
    first, last = int(low * WAD), int(high * WAD)
    magnitudes = st.integers(len(str(first)), len(str(last)))
    spread = magnitudes.flatmap(lambda n: st.integers(10 ** (n - 1), 10**n - 1))
    round_ones = st.integers(1, 2000).map(lambda n: n * WAD)
    return (spread | round_ones).map(lambda wad: min(max(wad, first), last))


@st.composite
def tiers(draw: st.DrawFn, rate_max: int = WAD // 2) -> tuple[Tier, ...]:
    """Rising brackets; the rates need not rise, the arithmetic does not ask for it."""
    bounds = sorted(draw(st.sets(usd(1, 1e6), max_size=3)))
    rates = [draw(st.integers(0, rate_max)) for _ in range(len(bounds) + 1)]
    return tuple(Tier(up_to, rate) for up_to, rate in zip([*bounds, None], rates, strict=True))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A venue with all of ``MARKETS`` and ``ASSETS``."""
    prices = {name: draw(usd(0.01, 1e5)) for name in ("ETH", "BTC", "LP")}
    funding = {"F:ETH": draw(st.integers(-10 * WAD, 10 * WAD)), None: draw(st.integers(-WAD, WAD))}
    minimum, maximum = draw(usd(0.01, 1e4) | st.just(0)), draw(usd(0.01, 1e5))
    return World(
        markets={
            name: MarketFactors(
                MarketTerms(
                    prices[price],
                    draw(tiers()),
                    funding[index],
                    draw(st.just(0) | usd(0.01, 1e4)),
                ),
                price,
                index,
            )
            for name, (price, index) in MARKETS.items()
        },
        assets={
            name: AssetFactors(
                AssetTerms(WAD if price is None else prices[price], draw(tiers(WAD))), price
            )
            for name, price in ASSETS.items()
        },
        reserve=ReserveTerms(draw(st.integers(0, WAD // 10)), minimum, maximum),
    )


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    """Any mix of collateral, debts and positions, dust and zero sizes included."""
    sizes = st.one_of(st.integers(-20, 20), usd(1e-6, 1e5), usd(1e-6, 1e5).map(lambda n: -n))
    positions = {
        name: Position(draw(sizes), draw(usd(0.01, 1e5)), draw(st.integers(-10 * WAD, 10 * WAD)))
        for name in draw(st.sets(st.sampled_from(sorted(MARKETS))))
    }
    amounts = st.integers(-20, 20) | usd(1e-6, 1e5) | usd(1e-6, 1e5).map(lambda n: -n)
    collateral = {name: draw(amounts) for name in draw(st.sets(st.sampled_from(sorted(ASSETS))))}
    return Account(draw(st.integers(-(10**23), 10**23)), collateral, positions)
