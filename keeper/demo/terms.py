"""The demo market's parameters: markets, collateral, tiers, reserve. Amounts are wads."""

from dataclasses import dataclass

from keeper.margin.model import ReserveTerms, Tier
from keeper.units import WAD

BPS = WAD // 10_000
MAX_PRICE_AGE_S = 30  # pull oracles allow 10 s to a minute
UPDATE_FEE_WEI = 10**12  # a third of a cent
FEED_BTC, FEED_ETH = 0, 1
FEEDS = ("BTC/USD", "ETH/USD")
WHOLE_BELOW = 2_000 * WAD  # a smaller position is not worth two liquidations
RESERVE = ReserveTerms(rate=50 * BPS, minimum=5 * WAD, maximum=500 * WAD)
OPEN_END = 2**256 - 1


def _tiers(*brackets: tuple[int, int], rest: int) -> tuple[Tier, ...]:
    """Brackets of (up to, in whole units; rate in basis points), then the rate of the rest."""
    inner = [Tier(up_to * WAD, rate * BPS) for up_to, rate in brackets]
    return (*inner, Tier(None, rest * BPS))


@dataclass(frozen=True, slots=True)
class MarketSpec:
    """A perpetual: maintenance tiers by USD notional, funding a day at full skew."""

    name: str
    feed: int
    tiers: tuple[Tier, ...]
    skew_scale: int  # base asset
    funding_rate_max: int  # per day


@dataclass(frozen=True, slots=True)
class AssetSpec:
    """A collateral asset: haircut tiers by amount."""

    name: str
    feed: int
    haircuts: tuple[Tier, ...]


MARKETS = (
    MarketSpec(
        "BTC-PERP",
        FEED_BTC,
        _tiers((100_000, 200), (1_000_000, 250), (10_000_000, 400), rest=1_000),
        skew_scale=2_000 * WAD,
        funding_rate_max=500 * BPS,
    ),
    MarketSpec(
        "ETH-PERP",
        FEED_ETH,
        _tiers((100_000, 250), (1_000_000, 300), (10_000_000, 500), rest=1_500),
        skew_scale=30_000 * WAD,
        funding_rate_max=500 * BPS,
    ),
)
ASSETS = (
    AssetSpec("WETH", FEED_ETH, _tiers((100, 1_000), (1_000, 1_500), rest=3_000)),
    AssetSpec("WBTC", FEED_BTC, _tiers((10, 800), (100, 1_200), rest=2_500)),
)


def abi_tiers(tiers: tuple[Tier, ...]) -> list[tuple[int, int]]:
    """Return tiers as the contract takes them."""
    return [(OPEN_END if tier.up_to is None else tier.up_to, tier.rate) for tier in tiers]
