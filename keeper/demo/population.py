"""The accounts of the demo, drawn from one documented distribution.

==============  ====================================================================================
equity          lognormal, median 4,000 USD, sigma 1.3, between 300 and 3,000,000 USD
leverage        notional / equity: lognormal, median 2.8, sigma 0.75, between 0.3 and 25
markets         one (65 %) or two (35 %); BTC and ETH alike
direction       long with 84 %: crowds in perpetuals are
entry           up to 6 % away from the start price, either side
collateral      cash only (45 %); else 20 to 90 % of the equity in WETH, WBTC or both
safety          leverage is lowered until equity is at least 1.3 times the requirement
active traders  every 20th account, owned by the chain's own wallets, leverage at most 1.5
==============  ====================================================================================

So everybody is solvent at the start, and a fall of 20 % in BTC sinks about a quarter.
"""

import random
from dataclasses import dataclass

from keeper.demo.path import Prices
from keeper.demo.terms import ASSETS, FEED_BTC, MARKETS, RESERVE
from keeper.margin.model import (
    Account,
    AssetTerms,
    MarketTerms,
    Position,
    Terms,
    haircut_value,
    margin,
    position_value,
)
from keeper.units import WAD, mul_wad

EQUITY_MEDIAN_USD, EQUITY_SIGMA, EQUITY_USD = 4_000.0, 1.3, (300.0, 3_000_000.0)
LEVERAGE_MEDIAN, LEVERAGE_SIGMA, LEVERAGE = 2.8, 0.75, (0.3, 25.0)
TWO_MARKETS_SHARE = 0.35
LONG_SHARE = 0.84
ENTRY_SHIFT = 0.06
CASH_ONLY_SHARE = 0.45
COLLATERAL_SHARE = (0.2, 0.9)
SAFETY = (13, 10)  # equity against requirement at the start
SHRINK = (8, 10)
TRADER_EVERY, TRADER_LEVERAGE = 20, 1.5
_SIZE_STEP = WAD // 10**6  # sizes as people type them


@dataclass(frozen=True, slots=True)
class SeedAccount:
    """One account to open; ``account`` names markets and assets as ``terms`` does."""

    trader: bool  # owned by one of the chain's own wallets, trades during the run
    account: Account


def start_terms(start: Prices) -> Terms:
    """Return the market's margin terms at the first prices, before any funding."""
    price = {feed: start.btc if feed == FEED_BTC else start.eth for feed in (0, 1)}
    return Terms(
        markets={spec.name: MarketTerms(price[spec.feed], spec.tiers) for spec in MARKETS},
        assets={spec.name: AssetTerms(price[spec.feed], spec.haircuts) for spec in ASSETS},
        reserve=RESERVE,
    )


def draw_population(seed: int, count: int, start: Prices) -> list[SeedAccount]:
    """Draw ``count`` accounts around the start prices."""
    rng = random.Random(f"population {seed}")  # noqa: S311 - a seeded simulation, no secret
    terms = start_terms(start)
    return [
        SeedAccount(trader, _draw(rng, terms, LEVERAGE[1] if not trader else TRADER_LEVERAGE))
        for trader in (index % TRADER_EVERY == TRADER_EVERY - 1 for index in range(count))
    ]


def _lognormal(
    rng: random.Random, median: float, sigma: float, bounds: tuple[float, float]
) -> float:
    return min(max(median * rng.lognormvariate(0.0, sigma), bounds[0]), bounds[1])


def _usd(amount: float) -> int:
    return round(amount * 100) * (WAD // 100)


def _draw(rng: random.Random, terms: Terms, leverage_max: float) -> Account:
    equity = _lognormal(rng, EQUITY_MEDIAN_USD, EQUITY_SIGMA, EQUITY_USD)
    leverage = _lognormal(rng, LEVERAGE_MEDIAN, LEVERAGE_SIGMA, (LEVERAGE[0], leverage_max))
    collateral = _draw_collateral(rng, terms, equity)
    positions = _draw_positions(rng, terms, equity * leverage)
    while True:
        account = _with_equity(_usd(equity), collateral, positions, terms)
        found = margin(account, terms)
        if found.equity * SAFETY[1] >= (found.maintenance + found.reserve) * SAFETY[0]:
            return account
        positions = {
            name: Position(_step(position.size * SHRINK[0] // SHRINK[1]), position.entry_price)
            for name, position in positions.items()
        }


def _step(size: int) -> int:
    magnitude = max(abs(size) // _SIZE_STEP, 1) * _SIZE_STEP
    return magnitude if size > 0 else -magnitude


def _draw_collateral(rng: random.Random, terms: Terms, equity: float) -> dict[str, int]:
    if rng.random() < CASH_ONLY_SHARE:
        return {}
    names = list(terms.assets)
    held = rng.choice(([names[0]], [names[1]], names))
    value = _usd(equity * rng.uniform(*COLLATERAL_SHARE) / len(held))
    return {name: _step(value * WAD // terms.assets[name].price) for name in held}


def _draw_positions(rng: random.Random, terms: Terms, notional: float) -> dict[str, Position]:
    names = list(terms.markets)
    held = names if rng.random() < TWO_MARKETS_SHARE else [rng.choice(names)]
    share = rng.uniform(0.3, 0.7) if len(held) > 1 else 1.0
    positions = {}
    for name, part in zip(held, (share, 1 - share), strict=False):
        price = terms.markets[name].price
        side = 1 if rng.random() < LONG_SHARE else -1
        size = _step(side * _usd(notional * part) * WAD // price)
        shift = round(rng.uniform(-ENTRY_SHIFT, ENTRY_SHIFT) * 10**6)
        entry = mul_wad(price, WAD + shift * (WAD // 10**6))
        positions[name] = Position(size, entry)
    return positions


def _with_equity(
    equity: int, collateral: dict[str, int], positions: dict[str, Position], terms: Terms
) -> Account:
    """Choose the cash so that the equity is what was drawn, whatever was gained so far."""
    held = sum(haircut_value(amount, terms.assets[name]) for name, amount in collateral.items())
    gained = sum(
        position_value(position, terms.markets[name]) for name, position in positions.items()
    )
    return Account(equity - held - gained, collateral, positions)
