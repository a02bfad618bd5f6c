"""Several sources as one price: against a reference written from the rules, and case by case."""

import statistics
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.config.feeds import PriceRule
from keeper.decide.hours import market_hours
from keeper.facts import FeedId, Price, Rejected, Rejection, Tick
from keeper.prices.board import FeedRules, PriceBoard
from keeper.units import WAD
from tests.prices.test_board import START_MS, SetClock

ETH, BTC, RATIO, INVERSE = (FeedId(name) for name in ("ETH/USD", "BTC/USD", "ETH/BTC", "USD/ETH"))
SOURCES = ("a", "b", "c", "d")
RULES = FeedRules(
    age_ms_max=1_000,
    future_ms_max=200,
    conf_ppm_max=10_000,
    change_ppm_max=10**9,  # the jump gate has tests of its own
    sources=SOURCES,
)
MEDIAN = replace(RULES, rule=PriceRule.MEDIAN)


def a_tick(source: str, usd: float, **fields: Any) -> Tick:  # noqa: ANN401 - any field
    tick = Tick(ETH, source, int(usd * 10**6) * 10**12, START_MS, START_MS, 1)
    return replace(tick, **fields)


def a_board(rules: FeedRules, **others: FeedRules) -> tuple[PriceBoard, SetClock]:
    clock = SetClock()
    named = {FeedId(name): each for name, each in others.items()}
    return PriceBoard({ETH: rules, **named}, clock), clock


def offered(board: PriceBoard, *ticks: Tick) -> list[Price | Rejected]:
    """Return what came of the last of these."""
    made: list[Price | Rejected] = []
    for tick in ticks:
        made = list(board.offer(tick))
    return made


def reasons(made: list[Price | Rejected]) -> list[Rejection]:
    return [each.reason for each in made if isinstance(each, Rejected)]


def usd(board: PriceBoard, feed: FeedId = ETH, at_ms: int = START_MS) -> float | None:
    price = board.fresh(feed, at_ms)
    return price.price_wad / WAD if price else None


# --- against a reference --------------------------------------------------------------------------


def reference(rules: FeedRules, lasts: dict[str, Tick], now_ms: int) -> Fraction | None:
    """The feed's price in wads by its definition, with exact fractions and the stdlib's median."""
    fresh = [
        lasts[source]
        for source in rules.sources
        if source in lasts
        and now_ms - rules.age_ms_max <= lasts[source].published_ms <= now_ms + rules.future_ms_max
    ]
    if not fresh:
        return None
    middle = statistics.median([Fraction(tick.price_wad) for tick in fresh])
    bound = Fraction(rules.deviation_ppm_max or 10**12, 10**6)
    agreed = [tick for tick in fresh if abs(tick.price_wad / middle - 1) <= bound]
    if len(agreed) < max(1, rules.quorum):
        return None
    if rules.contract_source is not None:
        prices = [t.price_wad for t in agreed if t.source == rules.contract_source]
        return Fraction(prices[0]) if prices else None
    if rules.rule is PriceRule.PRIMARY:
        return Fraction(agreed[0].price_wad)
    return statistics.median([Fraction(tick.price_wad) for tick in agreed])


STEPS = st.tuples(
    st.sampled_from([0, 1, 300, 700]),  # ms that pass before the tick
    st.sampled_from(SOURCES),
    st.one_of(
        st.integers(1_990 * WAD, 2_010 * WAD),
        st.sampled_from([2_000 * WAD, 2_000 * WAD + 1, 1_000 * WAD, 4_000 * WAD]),
    ),
    st.sampled_from([-900, -100, 0, 0, 200]),  # published, from now
)


@settings(max_examples=600, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=20),
    rule=st.sampled_from(PriceRule),
    quorum=st.integers(1, 4),
    deviation_ppm_max=st.sampled_from([None, 1, 2_000, 100_000]),
    contract_source=st.sampled_from([None, None, "b"]),
)
def test_the_price_is_the_reference_s(
    steps: list[tuple[int, str, int, int]],
    rule: PriceRule,
    quorum: int,
    deviation_ppm_max: int | None,
    contract_source: str | None,
) -> None:
    rules = replace(
        RULES,
        rule=rule,
        quorum=quorum,
        deviation_ppm_max=deviation_ppm_max,
        contract_source=contract_source,
    )
    board, clock = a_board(rules)
    lasts: dict[str, Tick] = {}
    for number, (wait_ms, source, price_wad, shift_ms) in enumerate(steps, start=1):
        clock.now_ms += wait_ms
        tick = a_tick(source, 0, price_wad=price_wad, published_ms=clock.now_ms + shift_ms)
        tick = replace(tick, epoch=1, sequence=number)
        made = offered(board, tick)
        lasts[source] = tick
        for at_ms in (clock.now_ms, clock.now_ms + 500):
            expected = reference(rules, lasts, at_ms)
            price = board.fresh(ETH, at_ms)
            assert (price is None) == (expected is None)
            assert (board.trouble(ETH, at_ms) == "") == (price is not None)
            if price is not None and expected is not None:
                assert price.price_wad == int(expected)
        now = board.fresh(ETH, clock.now_ms)
        assert [each for each in made if isinstance(each, Tick)] == ([] if now is None else [now])
        assert now is not None or reasons(made), "no price and no reason"


# --- case by case ---------------------------------------------------------------------------------


def test_without_a_quorum_there_is_no_price() -> None:
    board, clock = a_board(replace(RULES, quorum=2))
    assert reasons(offered(board, a_tick("a", 2_000))) == [Rejection.NO_QUORUM]
    assert board.trouble(ETH, START_MS) == "1 of 4 sources fresh, 2 needed"
    clock.now_ms += 900
    late = a_tick("b", 2_001, published_ms=clock.now_ms)
    assert next(each for each in offered(board, late) if isinstance(each, Tick)).source == "a"
    assert usd(board, at_ms=START_MS + 1_000) == 2_000
    assert usd(board, at_ms=START_MS + 1_001) is None, "one of the two has aged out"


def test_a_liar_is_outvoted_and_counted_and_two_that_differ_are_no_price() -> None:
    board, _ = a_board(replace(RULES, deviation_ppm_max=10_000))
    assert reasons(offered(board, a_tick("a", 1_000), a_tick("b", 2_000))) == [Rejection.DEVIATION]
    assert usd(board) is None
    assert board.trouble(ETH, START_MS) == "the sources do not agree: a 1000, b 2000"
    assert reasons(offered(board, a_tick("c", 2_001))) == []
    assert usd(board) == 2_000, "the fall-back, while the primary lies"
    lie = a_tick("a", 1_001, published_ms=START_MS + 1)
    made = offered(board, lie)
    assert reasons(made) == [Rejection.DEVIATION]
    assert [each.source for each in made] == ["a", "b"]


def test_a_median_of_an_odd_number_is_the_tick_with_its_signed_update() -> None:
    board, _ = a_board(MEDIAN)
    offered(board, a_tick("a", 2_000, payload=b"a"), a_tick("b", 2_002, payload=b"b"))
    between = board.fresh(ETH, START_MS)
    assert between is not None
    assert (between.price_wad, between.payload) == (2_001 * WAD, None)
    assert between.source == "a+b"
    offered(board, a_tick("c", 2_010, payload=b"c"))
    middle = board.fresh(ETH, START_MS)
    assert middle is not None
    assert (middle.price_wad, middle.payload, middle.source) == (2_002 * WAD, b"b", "b")


def test_the_contract_s_source_counts_and_the_others_only_have_to_agree() -> None:
    rules = replace(MEDIAN, contract_source="d", deviation_ppm_max=1_000)
    board, _ = a_board(rules)
    assert reasons(offered(board, a_tick("a", 2_000))) == [Rejection.NO_QUORUM]
    signed = a_tick("d", 2_000.5, payload=b"signed")
    assert offered(board, a_tick("b", 2_000), signed) == [signed]
    away = a_tick("d", 2_010, payload=b"away", published_ms=START_MS + 1)
    assert reasons(offered(board, away)) == [Rejection.DEVIATION]
    assert usd(board) is None
    assert board.trouble(ETH, START_MS) == "d does not agree with the other sources"


def derived(over: FeedId | None, under: FeedId, **changes: Any) -> FeedRules:  # noqa: ANN401
    return replace(RULES, sources=(), numerator=over, denominator=under, **changes)


def test_derived_prices_are_quotients() -> None:
    others = {RATIO: derived(ETH, BTC), INVERSE: derived(None, ETH), BTC: RULES}
    board, clock = a_board(RULES, **others)
    assert list(board.affected(BTC)) == [BTC, RATIO]
    assert board.trouble(RATIO, START_MS) == "no price yet"
    made = offered(board, a_tick("a", 2_000, conf_wad=2 * WAD))
    assert [each.feed for each in made] == [ETH, INVERSE]
    assert usd(board, INVERSE) == 0.0005
    clock.now_ms += 600
    bitcoin = a_tick("a", 60_000, feed=BTC, conf_wad=120 * WAD, published_ms=clock.now_ms)
    assert [each.feed for each in offered(board, bitcoin)] == [BTC, RATIO]
    ratio = board.fresh(RATIO, clock.now_ms)
    assert ratio is not None
    assert ratio.price_wad == 2_000 * WAD // 60_000
    assert ratio.conf_wad == pytest.approx(ratio.price_wad * 3 // 1_000, rel=1e-9)
    assert (ratio.published_ms, ratio.source, ratio.payload) == (START_MS, "derived", None)
    assert board.age_ms(RATIO, clock.now_ms) == 600
    assert board.fresh(RATIO, START_MS + 1_001) is None, "as old as its older part"
    assert board.trouble(RATIO, START_MS + 1_001) == "price is 1.0 s old"


def test_a_derived_price_has_gates_of_its_own() -> None:
    tight = derived(ETH, BTC, conf_ppm_max=2_999)
    quick = derived(None, ETH, age_ms_max=100)
    board, _ = a_board(RULES, **{RATIO: tight, BTC: RULES, INVERSE: quick})
    offered(board, a_tick("a", 2_000, conf_wad=2 * WAD))
    offered(board, a_tick("a", 60_000, feed=BTC, conf_wad=120 * WAD))
    assert usd(board, RATIO) is None
    assert "confidence" in board.trouble(RATIO, START_MS)
    assert usd(board, INVERSE, START_MS + 100) == 0.0005
    assert usd(board, INVERSE, START_MS + 101) is None


def test_a_derived_feed_can_be_part_of_another_and_never_of_itself() -> None:
    back = FeedId("BACK")
    board, _ = a_board(RULES, **{INVERSE: derived(None, ETH), back: derived(None, INVERSE)})
    assert [each.feed for each in offered(board, a_tick("a", 2_000))] == [ETH, INVERSE, back]
    assert usd(board, back) == 2_000
    with pytest.raises(ValueError, match="derived from itself"):
        a_board(RULES, **{INVERSE: derived(None, back), back: derived(None, INVERSE)})


# --- hours ----------------------------------------------------------------------------------------

NEW_YORK = ("Mon-Fri 09:30-16:00", "Sun 18:00-24:00")
OPEN_MS = 1_767_364_200_000  # Friday, 2 January 2026, 14:30 UTC: 9:30 in New York
SUMMER_MS = 1_782_480_600_000  # Friday, 26 June 2026, 13:30 UTC: likewise, an hour earlier


@pytest.mark.parametrize(
    ("at_ms", "is_open"),
    [
        (OPEN_MS - 1, False),
        (OPEN_MS, True),
        (OPEN_MS + 390 * 60_000 - 1, True),
        (OPEN_MS + 390 * 60_000, False),
        (OPEN_MS + 24 * 3_600_000, False),
        (OPEN_MS + (48 + 8) * 3_600_000, False),
        (OPEN_MS + (48 + 9) * 3_600_000, True),
        (SUMMER_MS - 1, False),
        (SUMMER_MS, True),
    ],
)
def test_market_hours_follow_the_clock_of_the_place(at_ms: int, *, is_open: bool) -> None:
    hours = market_hours(NEW_YORK, "America/New_York")
    assert hours is not None
    assert hours.open_at(at_ms) is is_open
    board, clock = a_board(replace(RULES, hours=hours))
    clock.now_ms = at_ms
    made = offered(board, a_tick("a", 2_000, published_ms=at_ms))
    assert reasons(made) == ([] if is_open else [Rejection.MARKET_CLOSED])
    assert (board.trouble(ETH, at_ms) == "") is is_open


@pytest.mark.parametrize(
    ("span", "zone"),
    [
        ("Mon-Fri", "UTC"),
        ("Fri-Mon 09:00-10:00", "UTC"),
        ("Mon 10:00-09:00", "UTC"),
        ("Mon 09:60-10:00", "UTC"),
        ("Mon 09:00-24:01", "UTC"),
        ("mon 09:00-10:00", "UTC"),
        ("Mon 09:00-10:00", "Mars/Olympus"),
        ("Mon 09:00-10:00", "../etc/passwd"),
    ],
)
def test_hours_that_are_none_are_refused(span: str, zone: str) -> None:
    with pytest.raises(ValueError, match=r"market hours|time zone"):
        market_hours([span], zone)
