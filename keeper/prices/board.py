"""One gated price per feed: what passes here is what the keeper computes with.

Pure but for the clock passed in: the same ticks at the same times give the same answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keeper.facts import FeedId, Price, Rejected, Rejection, Tick
from keeper.ports import Clock
from keeper.units import PPM, WAD

# Below 1e-12 USD a wad keeps fewer than six significant digits. Above 1e15 USD nothing is quoted:
# it is a mistake of unit (a price sent in wads, or in a token's smallest part).
PRICE_WAD_MIN = WAD // 10**12
PRICE_WAD_MAX = WAD * 10**15

_Fault = tuple[Rejection, str]


@dataclass(frozen=True, slots=True)
class FeedRules:
    """The gates of one feed. ``sources``: names of its sources, the primary first.

    ``age_ms_max`` and ``future_ms_max`` compare the publisher's clock with ours; ``conf_ppm_max``
    bounds confidence / price, ``change_ppm_max`` one step away from a price that is still fresh.
    """

    age_ms_max: int
    future_ms_max: int
    conf_ppm_max: int
    change_ppm_max: int
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse rules under which no price could ever pass."""
        limits = (self.age_ms_max, self.change_ppm_max)
        if min(limits) <= 0 or self.future_ms_max < 0 or self.conf_ppm_max < 0:
            msg = f"limits must be positive: {self}"
            raise ValueError(msg)
        if not self.sources or len(set(self.sources)) != len(self.sources):
            msg = f"a feed needs at least one source, each named once, got {self.sources}"
            raise ValueError(msg)


class PriceBoard:
    """Implements ``ports.Board``: primary source with fall-back.

    A feed's price is the last accepted tick of the first listed source that has a fresh one. A
    rejected tick changes nothing.
    """

    def __init__(self, rules: Mapping[FeedId, FeedRules], clock: Clock) -> None:
        """Start without any price."""
        self._rules = dict(rules)
        self._clock = clock
        self._last: dict[tuple[FeedId, str], Tick] = {}

    def offer(self, tick: Tick) -> Price | Rejected:
        """Pass the tick through the gates and return the feed's price after it, or the refusal.

        The price returned is the tick itself unless an earlier listed source has a fresh price;
        then the tick is only kept to fall back on.
        """
        now_ms = self._clock.wall_ms()
        rules = self._rules.get(tick.feed)
        fault: _Fault | None
        if rules is None:
            fault = Rejection.UNKNOWN_FEED, f"no feed {tick.feed!r} is configured"
        elif tick.source not in rules.sources:
            fault = Rejection.UNKNOWN_FEED, f"{tick.source!r} is not a source of {tick.feed!r}"
        else:
            fault = self._fault(tick, rules, now_ms)
        if fault is not None:
            return Rejected(tick.source, fault[0], tick.feed, fault[1])
        self._last[tick.feed, tick.source] = tick
        return self.fresh(tick.feed, now_ms) or tick

    def fresh(self, feed: FeedId, now_ms: int) -> Price | None:
        """Return the feed's price unless there is none or it is older than its ``age_ms_max``.

        A price from further ahead than ``future_ms_max`` is not fresh either: our clock was set
        back since, and its age cannot be told.
        """
        rules = self._rules.get(feed)
        if rules is None:
            return None
        for source in rules.sources:
            last = self._last.get((feed, source))
            if last is not None and _is_fresh(last, rules, now_ms):
                return last
        return None

    def age_ms(self, feed: FeedId, now_ms: int) -> int | None:
        """Return the age of the feed's price, or of the newest one once none is fresh; ≥ 0.

        None: no price was ever accepted.
        """
        price = self.fresh(feed, now_ms)
        if price is not None:
            return max(0, now_ms - price.published_ms)
        rules = self._rules.get(feed)
        sources = rules.sources if rules is not None else ()
        known = [self._last[feed, name] for name in sources if (feed, name) in self._last]
        if not known:
            return None
        return max(0, now_ms - max(last.published_ms for last in known))

    def _fault(self, tick: Tick, rules: FeedRules, now_ms: int) -> _Fault | None:
        return (
            _implausible(tick)
            or _badly_timed(tick, rules, now_ms)
            or self._misordered(tick, rules, now_ms)
            or _too_wide(tick, rules)
            or self._jumped(tick, rules, now_ms)
        )

    def _misordered(self, tick: Tick, rules: FeedRules, now_ms: int) -> _Fault | None:
        last = self._last.get((tick.feed, tick.source))
        # Once the last price has aged out its order binds no longer: a publisher that comes back
        # with a lower epoch must not freeze the feed for good. Old ticks are refused by their age.
        if last is None or not _is_fresh(last, rules, now_ms):
            return None
        if is_repeat(tick, last):
            return Rejection.DUPLICATE, f"{_order(tick)} was accepted already"
        if is_older(tick, last):
            return Rejection.OUT_OF_ORDER, f"{_order(tick)} after {_order(last)}"
        return None

    def _jumped(self, tick: Tick, rules: FeedRules, now_ms: int) -> _Fault | None:
        present = self.fresh(tick.feed, now_ms)
        if present is None:
            return None
        change_wad = abs(tick.price_wad - present.price_wad)
        if change_wad * PPM <= rules.change_ppm_max * present.price_wad:
            return None
        change_ppm = change_wad * PPM // present.price_wad
        return Rejection.JUMP, f"changed by {change_ppm} ppm > {rules.change_ppm_max} ppm"


def is_repeat(tick: Tick, last: Tick) -> bool:
    """Say whether the tick is the same message as ``last``, of the same feed and source.

    By (epoch, sequence) when both have it, else by time of publication and price.
    """
    if _sequenced(tick) and _sequenced(last):
        return (tick.epoch, tick.sequence) == (last.epoch, last.sequence)
    return (tick.published_ms, tick.price_wad) == (last.published_ms, last.price_wad)


def is_older(tick: Tick, last: Tick) -> bool:
    """Say whether the tick comes before ``last``, of the same feed and source.

    By (epoch, sequence) when both have it, else by time of publication.
    """
    if _sequenced(tick) and _sequenced(last):
        return (tick.epoch, tick.sequence) < (last.epoch, last.sequence)
    return tick.published_ms < last.published_ms


def _sequenced(tick: Tick) -> bool:
    return (tick.epoch, tick.sequence) != (0, 0)


def _order(tick: Tick) -> str:
    if _sequenced(tick):
        return f"epoch {tick.epoch} sequence {tick.sequence}"
    return f"published at {tick.published_ms} ms"


def _is_fresh(tick: Tick, rules: FeedRules, now_ms: int) -> bool:
    return -rules.future_ms_max <= now_ms - tick.published_ms <= rules.age_ms_max


def _implausible(tick: Tick) -> _Fault | None:
    if tick.price_wad <= 0:
        return Rejection.NOT_POSITIVE, f"price {tick.price_wad} wad"
    if not PRICE_WAD_MIN <= tick.price_wad <= PRICE_WAD_MAX:
        return Rejection.ABSURD, f"price {tick.price_wad} wad is outside 1e-12 … 1e15 USD"
    return None


def _badly_timed(tick: Tick, rules: FeedRules, now_ms: int) -> _Fault | None:
    age_ms = now_ms - tick.published_ms
    if age_ms < -rules.future_ms_max:
        return Rejection.FUTURE, f"published {-age_ms} ms ahead > {rules.future_ms_max} ms"
    if age_ms > rules.age_ms_max:
        return Rejection.STALE, f"age {age_ms} ms > {rules.age_ms_max} ms"
    return None


def _too_wide(tick: Tick, rules: FeedRules) -> _Fault | None:
    if 0 <= tick.conf_wad * PPM <= rules.conf_ppm_max * tick.price_wad:
        return None
    conf_ppm = tick.conf_wad * PPM // tick.price_wad
    return Rejection.WIDE_CONFIDENCE, f"confidence {conf_ppm} ppm > {rules.conf_ppm_max} ppm"
