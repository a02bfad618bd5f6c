"""One gated price per feed: what passes here is what the keeper computes with.

Pure but for the clock passed in: the same ticks at the same times give the same answers.
"""

from collections.abc import Iterator, Mapping, Sequence

from keeper.facts import FeedId, Price, Rejected, Rejection, Tick
from keeper.ports import Clock
from keeper.prices._fusing import (
    Fault,
    FeedRules,
    agreeing,
    divide,
    fuse,
    implausible,
    is_fresh,
    too_wide,
)
from keeper.units import PPM

__all__ = ["FeedRules", "PriceBoard", "is_older", "is_repeat"]


class PriceBoard:
    """Implements ``ports.Board``.

    A feed's price is made, by its rule, of the last accepted tick of each of its sources that is
    fresh and agrees with the others, or of the prices of other feeds. A refused tick changes
    nothing, but that a jump is remembered until another tick bears it out.
    """

    def __init__(self, rules: Mapping[FeedId, FeedRules], clock: Clock) -> None:
        """Start without any price. Raises ValueError for feeds derived from themselves."""
        self._rules = dict(rules)
        self._clock = clock
        self._last: dict[tuple[FeedId, str], Tick] = {}
        self._jumped: dict[tuple[FeedId, str], Tick] = {}  # not borne out yet
        self._closed = ""
        self._affected: dict[FeedId, list[FeedId]] = {feed: [feed] for feed in rules}
        for feed in rules:
            for part in self._parts(feed, ()):
                if feed not in self._affected[part]:
                    self._affected[part].append(feed)

    def adopt(self, rules: Mapping[FeedId, FeedRules]) -> None:
        """Pass ticks and prices by other limits; the feeds are the same, and made of the same."""
        self._rules = dict(rules)

    def close(self, why: str) -> None:
        """Have no price of any feed until it is called with an empty text."""
        self._closed = why

    def affected(self, feed: FeedId) -> Sequence[FeedId]:
        """Return the feeds whose price moves with this one's, itself first."""
        return self._affected.get(feed, ())

    def offer(self, tick: Tick) -> Sequence[Price | Rejected]:
        """Pass the tick through the gates and say what came of it.

        The price of each feed that it affects and that has one after it; and why it was refused, or
        why its feed has no price yet: a tick is kept that only lacks the company of others.
        """
        now_ms = self._clock.wall_ms()
        fault = self._fault(tick, now_ms)
        if fault is not None:
            return [_refusal(tick, fault)]
        self._last[tick.feed, tick.source] = tick
        self._jumped.pop((tick.feed, tick.source), None)
        fault = self._disagreement(tick, now_ms)
        refusals = [] if fault is None else [_refusal(tick, fault)]
        prices = [self.fresh(feed, now_ms) for feed in self.affected(tick.feed)]
        return [*refusals, *(price for price in prices if price is not None)]

    def fresh(self, feed: FeedId, now_ms: int) -> Price | None:
        """Return the feed's price unless there is none that has passed every gate.

        A price from further ahead than ``future_ms_max`` is not fresh either: our clock was set
        back since, and its age cannot be told.
        """
        price = self._price(feed, now_ms)
        return price if isinstance(price, Tick) else None

    def trouble(self, feed: FeedId, now_ms: int) -> str:
        """Say why the feed has no price; empty when it has one."""
        price = self._price(feed, now_ms)
        if isinstance(price, Tick):
            return ""
        if price.reason is not Rejection.STALE:
            return price.detail
        age_ms = self.age_ms(feed, now_ms)
        return "no price yet" if age_ms is None else f"price is {age_ms / 1000:.1f} s old"

    def age_ms(self, feed: FeedId, now_ms: int) -> int | None:
        """Return the age of the feed's price, or of the newest one once none is fresh; ≥ 0.

        None: no price was ever accepted.
        """
        price = self.fresh(feed, now_ms)
        if price is not None:
            return max(0, now_ms - price.published_ms)
        rules = self._rules.get(feed)
        if rules is None:
            return None
        if not rules.sources:
            ages = [self.age_ms(part, now_ms) for part in _parts_of(rules)]
            return None if None in ages else max(age for age in ages if age is not None)
        known = [self._last[feed, name] for name in rules.sources if (feed, name) in self._last]
        if not known:
            return None
        return max(0, now_ms - max(last.published_ms for last in known))

    # --- one price of a feed ----------------------------------------------------------------------

    def _price(self, feed: FeedId, now_ms: int) -> Price | Fault:
        rules = self._rules.get(feed)
        if rules is None:
            return Fault(Rejection.UNKNOWN_FEED, f"no [[feeds]] table has the id {feed!r}")
        if self._closed:
            return Fault(Rejection.SEQUENCER_DOWN, self._closed)
        if rules.hours is not None and not rules.hours.open_at(now_ms):
            return Fault(Rejection.MARKET_CLOSED, "its market is closed")
        if rules.sources:
            return fuse(rules, self._fresh_ticks(feed, rules, now_ms))
        return self._derived(feed, rules, now_ms)

    def _fresh_ticks(self, feed: FeedId, rules: FeedRules, now_ms: int) -> list[Tick]:
        lasts = (self._last.get((feed, source)) for source in rules.sources)
        return [last for last in lasts if last is not None and is_fresh(last, rules, now_ms)]

    def _derived(self, feed: FeedId, rules: FeedRules, now_ms: int) -> Price | Fault:
        parts: list[Price] = []
        for part in _parts_of(rules):
            price = self._price(part, now_ms)
            if isinstance(price, Fault):
                return Fault(price.reason, f"{part}: {price.detail}")
            parts.append(price)
        over = parts[0] if rules.numerator is not None else None
        price = divide(feed, rules, over, parts[-1])
        if isinstance(price, Tick) and not is_fresh(price, rules, now_ms):
            return Fault(Rejection.STALE, "what it is derived from is too old for it")
        return price

    def _disagreement(self, tick: Tick, now_ms: int) -> Fault | None:
        """Say why an accepted tick does not count, or not yet."""
        price = self._price(tick.feed, now_ms)
        if isinstance(price, Fault):
            return price
        rules = self._rules[tick.feed]
        ticks = self._fresh_ticks(tick.feed, rules, now_ms)
        if any(each is tick for each in agreeing(rules, ticks)):
            return None
        return Fault(Rejection.DEVIATION, "the other sources do not agree")

    def _parts(self, feed: FeedId, above: tuple[FeedId, ...]) -> Iterator[FeedId]:
        """Yield every feed below a derived one."""
        if feed in above:
            msg = f"feed {feed} is derived from itself"
            raise ValueError(msg)
        for part in _parts_of(self._rules[feed]):
            yield part
            yield from self._parts(part, (*above, feed))

    # --- the gates of one tick --------------------------------------------------------------------

    def _fault(self, tick: Tick, now_ms: int) -> Fault | None:
        rules = self._rules.get(tick.feed)
        if rules is None:
            return Fault(Rejection.UNKNOWN_FEED, f"no feed {tick.feed!r} is configured")
        if tick.source not in rules.sources:
            detail = f"{tick.source!r} is not a source of {tick.feed!r}"
            return Fault(Rejection.UNKNOWN_FEED, detail)
        return (
            implausible(tick)
            or _badly_timed(tick, rules, now_ms)
            or self._misordered(tick, rules, now_ms)
            or too_wide(tick, rules)
            or self._jump(tick, rules, now_ms)
        )

    def _misordered(self, tick: Tick, rules: FeedRules, now_ms: int) -> Fault | None:
        last = self._last.get((tick.feed, tick.source))
        # Once the last price has aged out its order binds no longer: a publisher that comes back
        # with a lower epoch must not freeze the feed for good. Old ticks are refused by their age.
        if last is None or not is_fresh(last, rules, now_ms):
            return None
        if is_repeat(tick, last):
            return Fault(Rejection.DUPLICATE, f"{_order(tick)} was accepted already")
        if is_older(tick, last):
            return Fault(Rejection.OUT_OF_ORDER, f"{_order(tick)} after {_order(last)}")
        return None

    def _jump(self, tick: Tick, rules: FeedRules, now_ms: int) -> Fault | None:
        """Refuse a move away from a fresh price until a second source or tick bears it out."""
        present = self.fresh(tick.feed, now_ms)
        if present is None or _is_near(tick, present, rules):
            return None
        if any(_is_near(tick, other, rules) for other in self._witnesses(tick, rules, now_ms)):
            return None
        self._jumped[tick.feed, tick.source] = tick
        change_ppm = abs(tick.price_wad - present.price_wad) * PPM // present.price_wad
        detail = f"changed by {change_ppm} ppm > {rules.change_ppm_max} ppm, borne out by nothing"
        return Fault(Rejection.JUMP, detail)

    def _witnesses(self, tick: Tick, rules: FeedRules, now_ms: int) -> Iterator[Tick]:
        """Yield what other sources say, and what this one has said before."""
        for source in rules.sources:
            jumped = self._jumped.get((tick.feed, source))
            last = self._last.get((tick.feed, source))
            if source != tick.source:
                said = [jumped, last]
            elif jumped is None or is_repeat(tick, jumped) or is_older(tick, jumped):
                said = []
            else:
                said = [jumped]
            yield from (one for one in said if one is not None and is_fresh(one, rules, now_ms))


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


def _parts_of(rules: FeedRules) -> list[FeedId]:
    return [part for part in (rules.numerator, rules.denominator) if part is not None]


def _refusal(tick: Tick, fault: Fault) -> Rejected:
    return Rejected(tick.source, fault.reason, tick.feed, fault.detail)


def _is_near(tick: Tick, other: Tick, rules: FeedRules) -> bool:
    change_wad = abs(tick.price_wad - other.price_wad)
    return change_wad * PPM <= rules.change_ppm_max * other.price_wad


def _badly_timed(tick: Tick, rules: FeedRules, now_ms: int) -> Fault | None:
    age_ms = now_ms - tick.published_ms
    if age_ms < -rules.future_ms_max:
        detail = f"published {-age_ms} ms ahead > {rules.future_ms_max} ms"
        return Fault(Rejection.FUTURE, detail)
    if age_ms > rules.age_ms_max:
        return Fault(Rejection.STALE, f"age {age_ms} ms > {rules.age_ms_max} ms")
    return None
