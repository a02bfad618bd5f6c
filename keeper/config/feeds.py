"""The keys of every [[feeds]] table."""

from enum import StrEnum

from pydantic import Field

from keeper.config.table import MS_MAX, Live, Table, whole
from keeper.facts import FeedId
from keeper.units import PPM

FEED = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$"  # "ETH/USD"; no MQTT wildcards
AGE_MS_MAX = 90_000_000  # 25 hours: some oracles write once a day while nothing moves


class PriceRule(StrEnum):
    """How the prices of several sources become one."""

    PRIMARY = "primary"  # that of the first listed source that has one
    MEDIAN = "median"


class FeedSettings(Table):
    """A price the keeper works with, and the gates in front of it."""

    id: FeedId = Field(
        pattern=FEED, description="Name of the feed: 1 to 64 letters, digits and . _ : / -"
    )
    sources: tuple[str, ...] = Field(
        default_factory=tuple,
        max_length=16,
        description="Names of its sources; the first is the primary one. "
        "A derived feed has none, but a denominator.",
    )
    rule: Live[PriceRule] = Field(
        default=PriceRule.PRIMARY,
        description="primary: the price of the first listed source that has one; "
        "median: of all that have one.",
    )
    quorum: Live[int] = whole(1, 1, 16, "Sources that must have a price and agree.")
    deviation_ppm_max: Live[int | None] = Field(
        default=None,
        ge=1,
        le=PPM,
        strict=True,
        description="Parts per million from the median of the sources beyond which one does not "
        "agree; unset: all agree.",
    )
    contract_source: str | None = Field(
        default=None,
        description="Source whose price the contract itself takes, as its signed updates travel: "
        "its price counts, the others have to agree with it.",
    )
    numerator: FeedId | None = Field(
        default=None, description="Feed that is divided by the denominator; unset: 1 is."
    )
    denominator: FeedId | None = Field(
        default=None, description="Feed of a derived price: numerator / denominator."
    )
    market_hours: Live[tuple[str, ...]] = Field(
        default=(),
        max_length=16,
        description="When it has a price, as Mon-Fri 09:30-16:00; empty: always.",
    )
    market_timezone: Live[str] = Field(
        default="UTC", min_length=1, max_length=64, description="Time zone of market_hours."
    )
    age_ms_max: Live[int] = whole(
        5_000, 1, AGE_MS_MAX, "Milliseconds after which a price is stale and holds what needs it."
    )
    future_ms_max: Live[int] = whole(
        2_000, 0, MS_MAX, "Milliseconds a price may be ahead of this machine's clock."
    )
    conf_ppm_max: Live[int] = whole(
        20_000,
        1,
        PPM,
        "Confidence interval, in parts per million of the price, beyond which a price is refused.",
    )
    change_ppm_max: Live[int] = whole(
        500_000,
        1,
        1_000 * PPM,
        "Parts per million beyond which a jump against a still fresh price is refused, "
        "until a second source or a second price of the same bears it out.",
    )
