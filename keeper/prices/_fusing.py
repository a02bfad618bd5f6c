"""From what the sources say to one price of a feed. Pure; no kind of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keeper.config.feeds import PriceRule
from keeper.decide.hours import MarketHours
from keeper.facts import FeedId, Price, Rejection, Tick
from keeper.units import PPM, WAD

# Below 1e-12 USD a wad keeps fewer than six significant digits. Above 1e15 USD nothing is quoted:
# it is a mistake of unit (a price sent in wads, or in a token's smallest part).
PRICE_WAD_MIN = WAD // 10**12
PRICE_WAD_MAX = WAD * 10**15
DERIVED = "derived"  # the source of a price that is computed from those of other feeds


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no price."""

    reason: Rejection
    detail: str


@dataclass(frozen=True, slots=True)
class FeedRules:
    """The gates of one feed. ``sources``: names of its sources, the primary first.

    ``age_ms_max`` and ``future_ms_max`` compare the publisher's clock with ours; ``conf_ppm_max``
    bounds confidence / price, ``change_ppm_max`` one step away from a price that is still fresh.
    Without sources the price is that of ``numerator`` (1 without one) ÷ that of ``denominator``.
    """

    age_ms_max: int
    future_ms_max: int
    conf_ppm_max: int
    change_ppm_max: int
    sources: tuple[str, ...] = ()
    rule: PriceRule = PriceRule.PRIMARY
    quorum: int = 1
    deviation_ppm_max: int | None = None
    contract_source: str | None = None
    numerator: FeedId | None = None
    denominator: FeedId | None = None
    hours: MarketHours | None = None

    def __post_init__(self) -> None:
        """Refuse rules under which no price could ever pass."""
        limits = (self.age_ms_max, self.change_ppm_max)
        if min(limits) <= 0 or self.future_ms_max < 0 or self.conf_ppm_max < 0:
            msg = f"limits must be positive: {self}"
            raise ValueError(msg)
        if bool(self.sources) == bool(self.denominator) or len(set(self.sources)) != len(
            self.sources
        ):
            msg = f"a feed needs at least one source, each named once, or a denominator: {self}"
            raise ValueError(msg)
        if self.sources and not 1 <= self.quorum <= len(self.sources):
            msg = f"the quorum must be one that the sources can reach: {self}"
            raise ValueError(msg)


def is_fresh(tick: Tick, rules: FeedRules, now_ms: int) -> bool:
    """Say whether a price is neither too old nor, our clock having been set back, too new."""
    return -rules.future_ms_max <= now_ms - tick.published_ms <= rules.age_ms_max


def agreeing(rules: FeedRules, ticks: Sequence[Tick]) -> list[Tick]:
    """Return the ticks within ``deviation_ppm_max`` of the median of all, in their order."""
    if rules.deviation_ppm_max is None:
        return list(ticks)
    low, high = _middle(ticks)
    double_wad = low.price_wad + high.price_wad  # twice the median, so that nothing is rounded
    return [
        tick
        for tick in ticks
        if abs(2 * tick.price_wad - double_wad) * PPM <= rules.deviation_ppm_max * double_wad
    ]


def fuse(rules: FeedRules, ticks: Sequence[Tick]) -> Price | Fault:
    """Return the feed's price by its rule, of the fresh tick of each source in order."""
    if not ticks:
        return Fault(Rejection.STALE, "no source has a fresh price")
    agreed = agreeing(rules, ticks)
    if len(agreed) < rules.quorum or not agreed:
        if len(ticks) < rules.quorum:
            said = f"{len(ticks)} of {len(rules.sources)} sources fresh, {rules.quorum} needed"
            return Fault(Rejection.NO_QUORUM, said)
        said = ", ".join(f"{tick.source} {tick.price_wad / WAD:g}" for tick in ticks)
        return Fault(Rejection.DEVIATION, f"the sources do not agree: {said}")
    if rules.contract_source is not None:
        return _of_the_contract(rules.contract_source, ticks, agreed)
    if rules.rule is PriceRule.PRIMARY:
        return agreed[0]
    return _median(agreed)


def _of_the_contract(source: str, ticks: Sequence[Tick], agreed: Sequence[Tick]) -> Price | Fault:
    for tick in agreed:
        if tick.source == source:
            return tick
    if any(tick.source == source for tick in ticks):
        return Fault(Rejection.DEVIATION, f"{source} does not agree with the other sources")
    return Fault(Rejection.NO_QUORUM, f"{source}, whose price the contract takes, has none fresh")


def _middle(ticks: Sequence[Tick]) -> tuple[Tick, Tick]:
    """Return the two middle ticks by price; of an odd number, the middle one twice."""
    ordered = sorted(ticks, key=lambda tick: tick.price_wad)
    return ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]


def _median(ticks: Sequence[Tick]) -> Price:
    """Return the middle tick itself, or one half way between two: that has no signed update."""
    low, high = _middle(ticks)
    if low is high:
        return low
    return replace(
        _older(low, high),
        source=f"{low.source}+{high.source}",
        price_wad=(low.price_wad + high.price_wad) // 2,
        conf_wad=max(low.conf_wad, high.conf_wad),
        payload=None,
    )


def _older(one: Tick, other: Tick) -> Tick:
    """Return a tick with the older publication and the later arrival of two, without an order."""
    return replace(
        one,
        published_ms=min(one.published_ms, other.published_ms),
        received_ms=max(one.received_ms, other.received_ms),
        received_ns=max(one.received_ns, other.received_ns),
        epoch=0,
        sequence=0,
    )


def divide(feed: FeedId, rules: FeedRules, over: Price | None, under: Price) -> Price | Fault:
    """Return the price of a derived feed; ``over`` None: the inverse. Rounded down.

    The relative confidence is the sum of both.
    """
    numerator_wad = over.price_wad if over else WAD
    price_wad = numerator_wad * WAD // under.price_wad
    relative_wad = -(-under.conf_wad * WAD // under.price_wad)
    if over is not None:
        relative_wad += -(-over.conf_wad * WAD // over.price_wad)
    tick = replace(
        _older(over or under, under),
        feed=feed,
        source=DERIVED,
        price_wad=price_wad,
        conf_wad=-(-relative_wad * price_wad // WAD),
        payload=None,
    )
    return implausible(tick) or too_wide(tick, rules) or tick


def implausible(tick: Tick) -> Fault | None:
    """Refuse what is no price at all."""
    if tick.price_wad <= 0:
        return Fault(Rejection.NOT_POSITIVE, f"price {tick.price_wad} wad")
    if not PRICE_WAD_MIN <= tick.price_wad <= PRICE_WAD_MAX:
        detail = f"price {tick.price_wad} wad is outside 1e-12 … 1e15 USD"
        return Fault(Rejection.ABSURD, detail)
    return None


def too_wide(tick: Tick, rules: FeedRules) -> Fault | None:
    """Refuse a price that its publisher is not sure of."""
    if 0 <= tick.conf_wad * PPM <= rules.conf_ppm_max * tick.price_wad:
        return None
    conf_ppm = tick.conf_wad * PPM // tick.price_wad
    return Fault(Rejection.WIDE_CONFIDENCE, f"confidence {conf_ppm} ppm > {rules.conf_ppm_max} ppm")
