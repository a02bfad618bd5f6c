"""The board against a brute-force oracle, and each gate alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.prices.board import FeedRules, PriceBoard
from keeper.units import WAD

if TYPE_CHECKING:
    from keeper.ports import Board

ETH = FeedId("ETH/USD")
BTC = FeedId("BTC/USD")
START_MS = 1_767_225_600_000
RULES = FeedRules(
    age_ms_max=1_000,
    future_ms_max=200,
    conf_ppm_max=10_000,
    change_ppm_max=100_000,
    sources=("main", "spare"),
)


@dataclass
class SetClock:
    """A clock that stands where the test puts it."""

    now_ms: int = START_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.now_ms * 10**6


def a_tick(published_ms: int = START_MS, price_wad: int = 2_000 * WAD, **fields: object) -> Tick:
    tick = Tick(ETH, "main", price_wad, published_ms, received_ms=START_MS, received_ns=1)
    return replace(tick, **fields)  # type: ignore[arg-type]  # a test names real fields


def a_board(rules: FeedRules = RULES) -> tuple[PriceBoard, SetClock]:
    clock = SetClock()
    return PriceBoard({ETH: rules}, clock), clock


def reason_of(made: Sequence[Tick | Rejected]) -> Rejection | None:
    refused = [each for each in made if isinstance(each, Rejected)]
    return refused[0].reason if refused else None


# --- each gate ------------------------------------------------------------------------------------


def test_it_is_the_port() -> None:
    board: Board = a_board()[0]
    assert board.fresh(ETH, START_MS) is None


def test_an_accepted_tick_is_the_price_until_it_is_too_old() -> None:
    board, clock = a_board()
    assert board.age_ms(ETH, clock.now_ms) is None
    tick = a_tick()
    assert board.offer(tick) == [tick]
    assert board.fresh(ETH, START_MS + 1_000) is tick
    assert board.fresh(ETH, START_MS + 1_001) is None
    assert board.age_ms(ETH, START_MS + 1_001) == 1_001


@pytest.mark.parametrize(
    ("tick", "reason"),
    [
        (a_tick(feed=BTC), Rejection.UNKNOWN_FEED),
        (a_tick(source="stranger"), Rejection.UNKNOWN_FEED),
        (a_tick(price_wad=0), Rejection.NOT_POSITIVE),
        (a_tick(price_wad=-1), Rejection.NOT_POSITIVE),
        (a_tick(price_wad=10**6 - 1), Rejection.ABSURD),
        (a_tick(price_wad=10**6), None),
        (a_tick(price_wad=10**33), None),
        (a_tick(price_wad=10**33 + 1), Rejection.ABSURD),
        (a_tick(START_MS + 200), None),
        (a_tick(START_MS + 201), Rejection.FUTURE),
        (a_tick(START_MS - 1_000), None),
        (a_tick(START_MS - 1_001), Rejection.STALE),
        (a_tick(conf_wad=20 * WAD), None),
        (a_tick(conf_wad=20 * WAD + 1), Rejection.WIDE_CONFIDENCE),
        (a_tick(conf_wad=-1), Rejection.WIDE_CONFIDENCE),
    ],
)
def test_gates_of_a_first_tick(tick: Tick, reason: Rejection | None) -> None:
    board, _ = a_board()
    made = board.offer(tick)
    assert reason_of(made) is reason
    answer = made[0]
    if isinstance(answer, Rejected):
        assert (answer.source, answer.feed) == (tick.source, tick.feed)
        assert answer.detail
        assert board.fresh(tick.feed, START_MS) is None
        assert board.age_ms(tick.feed, START_MS) is None


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (a_tick(epoch=1, sequence=5), a_tick(epoch=1, sequence=5), Rejection.DUPLICATE),
        (a_tick(epoch=1, sequence=5), a_tick(START_MS + 1, epoch=1, sequence=4), "out"),
        (a_tick(epoch=1, sequence=5), a_tick(START_MS - 1, epoch=1, sequence=6), None),
        (a_tick(epoch=1, sequence=5), a_tick(epoch=2, sequence=0), None),
        (a_tick(epoch=2, sequence=0), a_tick(START_MS + 1, epoch=1, sequence=9), "out"),
        (a_tick(), a_tick(), Rejection.DUPLICATE),
        (a_tick(), a_tick(price_wad=2_001 * WAD), None),
        (a_tick(), a_tick(START_MS - 1), "out"),
        (a_tick(), a_tick(START_MS + 1), None),
        (a_tick(epoch=1, sequence=5), a_tick(START_MS + 1), None),
        (a_tick(epoch=1, sequence=5), a_tick(START_MS - 1), "out"),
        (a_tick(), a_tick(START_MS - 1, source="spare"), None),
        (a_tick(), a_tick(START_MS + 1, price_wad=2_200 * WAD), None),
        (a_tick(), a_tick(START_MS + 1, price_wad=2_200 * WAD + 1), Rejection.JUMP),
        (a_tick(), a_tick(START_MS + 1, price_wad=1_800 * WAD - 1), Rejection.JUMP),
        (a_tick(), a_tick(START_MS + 1, price_wad=2_201 * WAD, source="spare"), Rejection.JUMP),
    ],
)
def test_gates_of_a_second_tick(first: Tick, second: Tick, reason: Rejection | str | None) -> None:
    board, _ = a_board()
    assert board.offer(first) == [first]
    expected = Rejection.OUT_OF_ORDER if reason == "out" else reason
    assert reason_of(board.offer(second)) is expected
    if expected is not None:
        assert board.fresh(ETH, START_MS) is first


def test_a_new_level_is_accepted_once_the_old_price_has_aged_out() -> None:
    board, clock = a_board()
    board.offer(a_tick())
    clock.now_ms += 1_000
    crash = a_tick(clock.now_ms, price_wad=1_000 * WAD)
    assert reason_of(board.offer(crash)) is Rejection.JUMP
    clock.now_ms += 1
    assert board.offer(crash) == [crash]


@pytest.mark.parametrize(
    "witness",
    [
        a_tick(START_MS + 1, price_wad=1_050 * WAD),
        a_tick(START_MS, price_wad=1_001 * WAD),
        a_tick(START_MS - 1, price_wad=1_000 * WAD, source="spare"),
    ],
)
def test_a_jump_needs_a_second_tick_or_source(witness: Tick) -> None:
    board, _ = a_board()
    board.offer(a_tick(START_MS - 1))
    crash = a_tick(price_wad=1_000 * WAD)
    assert reason_of(board.offer(crash)) is Rejection.JUMP
    assert reason_of(board.offer(crash)) is Rejection.JUMP, "said twice is said once"
    assert reason_of(board.offer(witness)) is None


@pytest.mark.parametrize(
    "other",
    [
        a_tick(START_MS + 1, price_wad=1_101 * WAD),
        a_tick(START_MS + 1, price_wad=4_000 * WAD),
        a_tick(START_MS - 1, price_wad=1_000 * WAD),
    ],
)
def test_another_jump_bears_none_out(other: Tick) -> None:
    board, clock = a_board()
    board.offer(a_tick(START_MS - 2))
    assert reason_of(board.offer(a_tick(price_wad=1_000 * WAD))) is Rejection.JUMP
    assert reason_of(board.offer(other)) is Rejection.JUMP
    price = board.fresh(ETH, clock.now_ms)
    assert price is not None
    assert price.price_wad == 2_000 * WAD


def test_a_publisher_back_with_a_lower_epoch_freezes_the_feed_for_no_longer_than_an_age() -> None:
    board, clock = a_board()
    board.offer(a_tick(epoch=2**60, sequence=9))
    clock.now_ms += 1_000
    reset = a_tick(clock.now_ms, epoch=1, sequence=1)
    assert reason_of(board.offer(reset)) is Rejection.OUT_OF_ORDER
    clock.now_ms += 1
    assert board.offer(reset) == [reset]


def test_a_later_source_counts_only_while_no_earlier_one_is_fresh() -> None:
    board, clock = a_board()
    spare = a_tick(source="spare", price_wad=2_010 * WAD)
    assert board.offer(spare) == [spare]
    main = a_tick()
    assert board.offer(main) == [main]
    clock.now_ms += 900
    newer = a_tick(clock.now_ms, price_wad=2_020 * WAD, source="spare")
    assert board.offer(newer) == [main], "the feed's price is still the primary's"
    assert board.age_ms(ETH, clock.now_ms) == 900
    clock.now_ms += 101
    assert board.fresh(ETH, clock.now_ms) is newer
    assert board.age_ms(ETH, clock.now_ms) == 101
    back = a_tick(clock.now_ms)
    assert board.offer(back) == [back]


def test_a_clock_set_back_makes_prices_of_the_future_unusable() -> None:
    board, clock = a_board()
    board.offer(a_tick())
    assert board.fresh(ETH, clock.now_ms - 200) is not None
    assert board.fresh(ETH, clock.now_ms - 201) is None
    assert board.age_ms(ETH, clock.now_ms - 201) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"age_ms_max": 0},
        {"change_ppm_max": 0},
        {"future_ms_max": -1},
        {"conf_ppm_max": -1},
        {"sources": ()},
        {"sources": ("a", "a")},
        {"denominator": BTC},
        {"quorum": 3},
        {"quorum": 0},
    ],
)
def test_rules_that_nothing_could_pass_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be positive|at least one source|quorum"):
        replace(RULES, **change)  # type: ignore[arg-type]  # wrong on purpose


# --- against an oracle ----------------------------------------------------------------------------


class Oracle:
    """The rules read off their definition, over the whole history of accepted ticks."""

    def __init__(self, rules: FeedRules) -> None:
        self.rules = rules
        self.accepted: list[Tick] = []
        self.jumped: dict[str, Tick] = {}

    def fresh(self, now_ms: int) -> Tick | None:
        usable = range(now_ms - self.rules.age_ms_max, now_ms + self.rules.future_ms_max + 1)
        for source in self.rules.sources:
            mine = [tick for tick in self.accepted if tick.source == source]
            if mine and mine[-1].published_ms in usable:
                return mine[-1]
        return None

    def offer(self, tick: Tick, now_ms: int) -> Rejection | None:
        reason = next((reason for reason, bad in self.gates(tick, now_ms) if bad()), None)
        if reason is None:
            self.accepted.append(tick)
            self.jumped.pop(tick.source, None)
        if reason is Rejection.JUMP:
            self.jumped[tick.source] = tick
        return reason

    def near(self, tick: Tick, other: Tick) -> bool:
        change = abs(Fraction(tick.price_wad, other.price_wad) - 1)
        return change <= Fraction(self.rules.change_ppm_max, 10**6)

    def witnesses(self, tick: Tick, now_ms: int) -> list[Tick]:
        """What bears a jump out: another source, or a later tick of its own."""
        lasts = {old.source: old for old in self.accepted}
        others = [
            old for old in [*self.jumped.values(), *lasts.values()] if old.source != tick.source
        ]
        mine = self.jumped.get(tick.source)
        if mine is not None:
            numbered = all(one.epoch + one.sequence > 0 for one in (mine, tick))
            before, after = (
                (one.epoch, one.sequence) if numbered else (one.published_ms,)
                for one in (mine, tick)
            )
            same = before == after and (numbered or mine.price_wad == tick.price_wad)
            if after >= before and not same:
                others.append(mine)
        return [
            old
            for old in others
            if now_ms - self.rules.age_ms_max
            <= old.published_ms
            <= now_ms + self.rules.future_ms_max
        ]

    def gates(self, tick: Tick, now_ms: int) -> list[tuple[Rejection, Callable[[], bool]]]:
        rules, price = self.rules, Fraction(tick.price_wad, WAD)
        mine = [old for old in self.accepted if old.source == tick.source][-1:]
        bound = [
            old
            for old in mine
            if now_ms - rules.age_ms_max <= old.published_ms <= now_ms + rules.future_ms_max
        ]
        present = self.fresh(now_ms)

        def key(one: Tick, other: Tick) -> tuple[int, ...]:
            numbered = one.epoch + one.sequence > 0 and other.epoch + other.sequence > 0
            return (one.epoch, one.sequence) if numbered else (one.published_ms,)

        def same(old: Tick) -> bool:
            equal = key(tick, old) == key(old, tick)
            return equal and (len(key(tick, old)) == 2 or tick.price_wad == old.price_wad)

        return [
            (Rejection.UNKNOWN_FEED, lambda: tick.feed != ETH or tick.source not in rules.sources),
            (Rejection.NOT_POSITIVE, lambda: price <= 0),
            (Rejection.ABSURD, lambda: not Fraction(1, 10**12) <= price <= 10**15),
            (Rejection.FUTURE, lambda: tick.published_ms - now_ms > rules.future_ms_max),
            (Rejection.STALE, lambda: now_ms - tick.published_ms > rules.age_ms_max),
            (Rejection.DUPLICATE, lambda: any(same(old) for old in bound)),
            (Rejection.OUT_OF_ORDER, lambda: any(key(tick, old) < key(old, tick) for old in bound)),
            (
                Rejection.WIDE_CONFIDENCE,
                lambda: (
                    Fraction(tick.conf_wad, tick.price_wad) > Fraction(rules.conf_ppm_max, 10**6)
                ),
            ),
            (
                Rejection.JUMP,
                lambda: (
                    present is not None
                    and not self.near(tick, present)
                    and not any(self.near(tick, other) for other in self.witnesses(tick, now_ms))
                ),
            ),
        ]


Step = tuple[int, FeedId, str, int, int, int, tuple[int, int]]
PRICES = st.one_of(
    st.integers(1_700, 2_300).map(lambda usd: usd * WAD),
    st.sampled_from([-WAD, 0, 1, 10**6 - 1, 10**6, 10**33, 10**33 + 1, 2_000 * WAD]),
)
STEPS = st.tuples(
    st.sampled_from([0, 1, 150, 400, 1_001]),  # ms that pass before the tick
    st.sampled_from([ETH] * 9 + [BTC]),
    st.sampled_from(["main", "main", "main", "spare", "spare", "stranger"]),
    PRICES,
    st.sampled_from([-1_200, -1_000, -300, -10, 0, 0, 0, 10, 200, 201]),  # published, from now
    st.sampled_from([0, 0, 0, 18 * WAD, 20 * WAD, 25 * WAD]),
    st.one_of(st.just((0, 0)), st.tuples(st.integers(0, 2), st.integers(0, 4))),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_every_verdict_and_price_is_the_oracle_s(steps: list[Step]) -> None:
    board, clock = a_board()
    oracle = Oracle(RULES)
    for wait_ms, feed, source, price_wad, shift_ms, conf_wad, (epoch, sequence) in steps:
        clock.now_ms += wait_ms
        now_ms = clock.now_ms
        tick = Tick(
            feed, source, price_wad, now_ms + shift_ms, now_ms, 0, conf_wad, epoch, sequence
        )
        expected = oracle.offer(tick, now_ms)
        made = board.offer(tick)
        assert reason_of(made) is expected
        if expected is None:
            assert made == [oracle.fresh(now_ms)]
        for at_ms in (now_ms - 201, now_ms, now_ms + 500, now_ms + 1_000, now_ms + 1_300):
            assert board.fresh(ETH, at_ms) == oracle.fresh(at_ms)
        assert board.fresh(BTC, now_ms) is None
