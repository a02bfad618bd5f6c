"""Rows far from their edge are left alone, and none is missed: rings, and who is nearest."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.margin import MarginBook, Row
from keeper.margin.fence import RADII, Fence
from keeper.margin.slab import Slab
from tests.margin.oracle import INDICES, PRICES, Oracle, follow

ROWS = 120
MANY = 24  # rings


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, bool]]:
    """Count which way was gone: by ring or by column, of few rings or of many."""
    seen: Counter[tuple[str, bool]] = Counter()
    anchor, anchor_all = Fence.anchor, Fence.anchor_all

    def some(fence: Fence, numbers: list[int], rings: int = len(RADII)) -> None:
        seen["column", rings > MANY] += 1
        anchor(fence, numbers, rings)

    def all_(fence: Fence, rings: int) -> None:
        seen["ring", rings > MANY] += 1
        anchor_all(fence, rings)

    monkeypatch.setattr(Fence, "anchor", some)
    monkeypatch.setattr(Fence, "anchor_all", all_)
    return seen


class Spread:
    """A book whose accounts stand anywhere from under water to far away, and its oracle."""

    def __init__(self, seed: int, rows: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a price path, not a secret
        self.oracle = Oracle()
        self.oracle.factors = [*PRICES, *INDICES]
        self.book: MarginBook[object] = MarginBook(PRICES, INDICES)
        values = {name: 10 ** self.rng.uniform(-3, 5) for name in PRICES}
        follow(self.book, self.oracle, values | {name: self.rng.gauss(0, 1) for name in INDICES})
        for number in range(rows):
            self.put(number)

    def put(self, number: int) -> None:
        now = self.oracle.values
        names = self.rng.sample(PRICES, self.rng.choice([1, 2, 3, 4, 6]))
        names += self.rng.sample(INDICES, self.rng.choice([0, 0, 1]))
        weights = {name: self.rng.gauss(0, 1) / abs(now[name]) for name in names}
        bare = Row(0.0, weights)
        distance = self.rng.choice([1, 1, 1, -1]) * self.rng.lognormvariate(-2.5, 1.5)
        bounded = self.rng.sample(names, self.rng.choice([0, 0, 0, 1]))
        wide = {name: abs(now[name]) * self.rng.lognormvariate(-2, 1.5) for name in bounded}
        row = Row(
            distance * self.oracle.gross(bare) - self.oracle.excess(bare),
            weights,
            {name: (now[name] - wide[name], now[name] + wide[name]) for name in bounded},
        )
        self.book.put(number, row)
        self.oracle.put(number, row)

    def move(self) -> None:
        names = self.rng.sample(PRICES, self.rng.choice([1, 1, 1, 2, len(PRICES)]))
        size = self.rng.choice([1e-3, 8e-3, 0.02, 0.05, 0.1, 0.3, 0.7])
        side = self.rng.choice([-1, 1])
        values = {
            name: self.oracle.values[name] * (1 + side * size) ** self.rng.uniform(0.5, 1)
            for name in names
        }
        if self.rng.random() < 0.2:
            index = self.rng.choice(INDICES)
            step = self.rng.gauss(0, 10 ** -self.rng.uniform(0, 4))
            values[index] = self.oracle.values[index] + step
        follow(self.book, self.oracle, values)
        assert self.book.under == self.oracle.under()


@pytest.mark.parametrize("seed", range(3))
def test_gaps_of_any_size_miss_nobody_at_any_distance(
    seed: int, ways: Counter[tuple[str, bool]]
) -> None:
    spread = Spread(seed, ROWS)
    for turn in range(120):
        spread.move()
        for _ in range(turn % 3):
            spread.put(spread.rng.randrange(ROWS))
    assert len(ways) == 4
    assert min(ways.values()) > 0


@settings(max_examples=25)
@given(seed=st.integers(0, 2**63))
def test_the_nearest_are_those_of_brute_force(seed: int) -> None:
    """In whichever ring they stand, however far prices have gone from its anchors."""
    rows = 40
    spread = Spread(seed, rows)
    for _ in range(5):
        spread.move()
        spread.put(spread.rng.randrange(rows))
        expected = spread.oracle.distances()
        best = sorted(expected.values())
        for count in (0, 1, 2, 7, 30, rows, rows + 1):
            found = spread.book.nearest(count)
            assert len({id_ for id_, _ in found}) == len(found) == min(count, rows)
            assert [d for _, d in found] == pytest.approx(best[:count], rel=1e-9, abs=1e-9)
            assert [d for _, d in found] == pytest.approx(
                [expected[id_] for id_, _ in found], rel=1e-9, abs=1e-9
            )


def test_the_nearest_few_are_found_among_the_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 accounts, one at every 0.01 %, some thousand are looked at for fifty."""
    book: MarginBook[int] = MarginBook(["ETH"])
    book.move({"ETH": 100.0})
    for number in range(20_000):
        book.put(number, Row(-100.0 + number / 100, {"ETH": 1.0}))
    looked_at = 0
    distances = Slab.distances

    def counted(self: Slab[int], rows: object, *more: object) -> object:
        nonlocal looked_at
        looked_at += len(rows)  # type: ignore[arg-type]
        return distances(self, rows, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Slab, "distances", counted)
    for price in (100.0, 100.9, 97.0, 90.0):
        book.move({"ETH": price})
        looked_at = 0
        assert {id_ for id_, _ in book.nearest(50)} == set(range(50)), (
            "the deepest under come first"
        )
        assert looked_at < len(book.under) + 1_000


def test_what_is_put_at_once_lies_by_its_distance() -> None:
    """A gap then finds the rows that it reaches side by side, whatever the order of their ids."""
    rng = random.Random(4)  # noqa: S311 - not a secret
    book: MarginBook[int] = MarginBook(["P0", "P1"])
    book.move({"P0": 100.0, "P1": 10.0})
    held = {"P0": 1.0, "P1": -2.0}
    book.put_many({id_: Row(120 * 1.5 ** rng.uniform(-9, 3) - 80, held) for id_ in range(500)})
    (follower,) = book._followers.values()
    rings = follower.slab.ring[:500].tolist()
    assert rings == sorted(rings)
    assert len(set(rings)) > 20
    assert {follower.slab.ids[row] for row in range(500)} == set(range(500))
