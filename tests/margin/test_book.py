"""The book against a brute-force oracle that keeps nothing but rows, values and what expired."""

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keeper.margin import MarginBook, Moved, Row
from tests.margin.oracle import (
    INDICES,
    PRICES,
    Oracle,
    csr,
    follow,
    positive,
    random_row,
    rows,
    signed,
)

IDS = [*(f"0x{n:02x}" for n in range(12)), 7, ("venue", "account")]
ids = st.sampled_from(IDS)
not_finite = st.sampled_from([math.nan, math.inf, -math.inf, 10**400])
bad_prices = not_finite | st.sampled_from([0.0, -0.0, -1.0])


class BookMachine(RuleBasedStateMachine):
    """Any sequence of operations, good and bad, leaves the book equal to the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.book: MarginBook[object] = MarginBook([])

    @initialize(known=st.integers(2, 8))
    def start(self, known: int) -> None:
        self.book = MarginBook(PRICES[:2], indices=INDICES[:1])
        self.oracle.factors = [*PRICES[:2], *INDICES[:1]]
        more = PRICES[2:known]
        self.book.add_factors(more)
        self.oracle.factors += more

    @rule()
    def add_factor(self) -> None:
        left = [name for name in (*PRICES, *INDICES) if name not in self.oracle.factors]
        if not left:
            return
        name = left[-1]
        if name in PRICES:
            self.book.add_factors([name])
        else:
            self.book.add_factors(indices=[name])
        self.oracle.factors.append(name)

    @rule(data=st.data(), fresh=st.sampled_from(["P100", "F100"]))
    def refuse_factors(self, data: st.DataObject, fresh: str) -> None:
        known = data.draw(st.sampled_from(self.oracle.factors))
        with pytest.raises(ValueError, match="twice"):
            self.book.add_factors([fresh], [known])
        with pytest.raises(ValueError, match="twice"):
            self.book.add_factors([fresh], [fresh])

    @rule(data=st.data(), id_=ids)
    def put(self, data: st.DataObject, id_: object) -> None:
        row = data.draw(rows(self.oracle.factors))
        self.book.put(id_, row)
        self.oracle.put(id_, row)

    @rule(data=st.data(), id_=ids, where=st.sampled_from(["weights", "envelope"]))
    def refuse_put(self, data: st.DataObject, id_: object, where: str) -> None:
        row = data.draw(rows(self.oracle.factors))
        bad = (
            Row(row.constant, {**row.weights, "nope": 1.0}, row.envelope)
            if where == "weights"
            else Row(row.constant, row.weights, {**row.envelope, "nope": (0.0, 1.0)})
        )
        with pytest.raises(KeyError, match="nope"):
            self.book.put(id_, bad)

    @rule(id_=ids)
    def drop(self, id_: object) -> None:
        if id_ in self.oracle.rows:
            self.book.drop(id_)
            del self.oracle.rows[id_]
            self.oracle.expired.discard(id_)
        else:
            for action in (self.book.drop, self.book.excess, self.book.row):
                with pytest.raises(KeyError, match="no row"):
                    action(id_)

    @rule(data=st.data(), chosen=st.lists(ids, unique=True))
    def load(self, data: st.DataObject, chosen: list[object]) -> None:
        given = {
            id_: Row(row.constant, row.weights)
            for id_ in chosen
            for row in [data.draw(rows(self.oracle.factors))]
        }
        self.book.load(*csr(given, self.oracle.factors))
        for id_, row in given.items():
            self.oracle.put(id_, row)

    @rule(data=st.data(), chosen=st.lists(ids, unique=True))
    def put_many(self, data: st.DataObject, chosen: list[object]) -> None:
        given = {id_: data.draw(rows(self.oracle.factors)) for id_ in chosen}
        self.book.put_many(given)
        for id_, row in given.items():
            self.oracle.put(id_, row)

    @rule(data=st.data(), chosen=st.lists(ids, unique=True, min_size=1))
    def refuse_put_many(self, data: st.DataObject, chosen: list[object]) -> None:
        given = {id_: data.draw(rows(self.oracle.factors)) for id_ in chosen}
        given[data.draw(st.sampled_from(chosen))] = Row(1.0, {}, {"nope": (0.0, 1.0)})
        with pytest.raises(KeyError, match="nope"):
            self.book.put_many(given)

    @rule(data=st.data(), kind=st.sampled_from(sorted(set(range(12)))))
    def refuse_load(self, data: st.DataObject, kind: int) -> None:
        given = {id_: Row(1.0, {self.oracle.factors[0]: 1.0}) for id_ in IDS[:2]}
        given[IDS[2]] = data.draw(rows(self.oracle.factors))
        arrays = csr(given, self.oracle.factors)
        error, text, spoil = SPOILS[kind]
        with pytest.raises(error, match=text):
            self.book.load(*spoil(*arrays))

    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(self.oracle.factors), unique=True))
        values = {n: data.draw(positive if n in PRICES else signed) for n in names}
        follow(self.book, self.oracle, values)

    @precondition(lambda self: len(self.oracle.values) < len(self.oracle.factors))
    @rule()
    def price_everything(self) -> None:
        follow(self.book, self.oracle, dict.fromkeys(self.oracle.factors, 100.0))

    @precondition(lambda self: self.oracle.values)
    @rule(data=st.data(), change=st.sampled_from([0.0, 1e-15, -1e-4, 1e-3, -0.2, 0.5]))
    def drift(self, data: st.DataObject, change: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.values)))
        follow(self.book, self.oracle, {name: self.oracle.values[name] * (1 + change)})

    @rule(data=st.data(), good=positive, amount=bad_prices, beyond=not_finite)
    def refuse_move(self, data: st.DataObject, good: float, amount: float, beyond: float) -> None:
        first, index = self.oracle.factors[0], INDICES[0]
        second = data.draw(st.sampled_from([n for n in self.oracle.factors if n in PRICES]))
        for bad in ({first: good, second: amount}, {first: good, index: beyond}):
            with pytest.raises(ValueError, match=r"must be (positive|a finite number)"):
                self.book.move(bad)
        with pytest.raises(KeyError, match="nope"):
            self.book.move({first: good, "nope": 1.0})

    @rule(count=st.integers(0, 20))
    def nearest(self, count: int) -> None:
        expected = self.oracle.distances()
        found = self.book.nearest(count)
        assert len(found) == min(count, len(expected)) == len({id_ for id_, _ in found})
        for id_, distance in found:
            assert distance == pytest.approx(expected[id_], rel=1e-9, abs=1e-9)
            assert self.book.distance(id_) == pytest.approx(distance, rel=1e-9, abs=1e-9)
        best = sorted(expected.values())[: len(found)]
        assert [d for _, d in found] == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert [d for _, d in found] == sorted(d for _, d in found)

    @invariant()
    def same_sides(self) -> None:
        assert self.book.under == self.oracle.under()
        assert {id_ for id_ in IDS if self.book.is_under(id_)} == self.book.under
        assert self.book.unpriced == self.oracle.unpriced()

    @invariant()
    def same_contents(self) -> None:
        assert len(self.book) == len(self.oracle.rows)
        assert self.book.values == self.oracle.values
        assert list(self.book.factors) == self.oracle.factors
        for id_ in IDS:
            assert (id_ in self.book) == (id_ in self.oracle.rows)
        for id_, row in self.oracle.rows.items():
            kept = self.book.row(id_)
            assert kept.constant == row.constant
            assert kept.envelope == row.envelope
            assert kept.weights == dict.fromkeys(row.envelope, 0.0) | dict(row.weights)
            excess = self.book.excess(id_)
            if id_ in self.oracle.unpriced():
                assert math.isnan(excess) or not row.weights.keys() - self.oracle.values.keys()
            else:
                assert excess == self.oracle.excess(row)


Spoil = Callable[..., tuple[Any, ...]]
SPOILS: list[tuple[type[Exception], str, Spoil]] = [
    (ValueError, "id comes twice", lambda i, c, p, f, w: ([*i[:-1], i[0]], c, p, f, w)),
    (
        ValueError,
        "constants must be finite",
        lambda i, c, p, f, w: (i, [*c[1:], math.nan], p, f, w),
    ),
    (ValueError, "constants must have shape", lambda i, c, p, f, w: (i, c[1:], p, f, w)),
    (
        ValueError,
        "constants must be numbers",
        lambda i, c, p, f, w: (i, [*c[1:], 10**400], p, f, w),
    ),
    (ValueError, "indptr must rise", lambda i, c, p, f, w: (i, c, [1, *p[1:]], f, w)),
    (ValueError, "indptr must rise", lambda i, c, p, f, w: (i, c, p[:-1], f, w)),
    (ValueError, "indptr must rise", lambda i, c, p, f, w: (i, c, [0, 2, 1, p[-1]], f, w)),
    (
        ValueError,
        "indptr must be a flat",
        lambda i, c, p, f, w: (i, c, [float(n) for n in p], f, w),
    ),
    (ValueError, "weights must be finite", lambda i, c, p, f, w: (i, c, p, f, [math.inf, *w[1:]])),
    (ValueError, "weights must have shape", lambda i, c, p, f, w: (i, c, p, f, [*w, 1.0])),
    (KeyError, "unknown factor", lambda i, c, p, f, w: (i, c, p, [*f[:-1], 99], w)),
    (
        ValueError,
        "names a factor twice",
        lambda i, c, p, f, w: (i, c, [*p[:-1], p[-1] + 3], [*f, 0, 1, 0], [*w, 1.0, 1.0, 1.0]),
    ),
]

TestBook = BookMachine.TestCase
TestBook.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.mark.parametrize(("seed", "step"), [(0, 0.02), (1, 0.02), (2, 1e-3), (3, 1e-4), (4, 1e-6)])
def test_a_long_life_of_many_accounts_equals_brute_force(seed: int, step: float) -> None:
    rng = random.Random(seed)  # noqa: S311 - a price path, not a secret
    oracle = Oracle()
    oracle.factors = [*PRICES, *INDICES]
    book: MarginBook[object] = MarginBook(PRICES, INDICES)
    first = {name: rng.uniform(10, 1000) for name in oracle.factors}
    book.move(first)
    oracle.move(first)
    seen: Counter[str] = Counter()
    for _ in range(1000):
        id_, turn = rng.randrange(150), rng.random()
        if turn < 0.5:
            row = random_row(oracle, rng, near=2.5 * step)
            book.put(id_, row)
            oracle.put(id_, row)
        elif turn < 0.65 and id_ in oracle.rows:
            book.drop(id_)
            del oracle.rows[id_]
            oracle.expired.discard(id_)
        elif turn < 0.67:
            given: dict[object, Row] = {
                n: random_row(oracle, rng, near=2.5 * step) for n in rng.sample(range(150), 20)
            }
            if rng.random() < 0.5:
                given = {n: Row(row.constant, row.weights) for n, row in given.items()}
                book.load(*csr(given, oracle.factors))
            else:
                book.put_many(given)
            for loaded, row in given.items():
                oracle.put(loaded, row)
        elif turn > 0.75:
            names = rng.sample(oracle.factors, rng.choice([1, 1, 2, 12]))
            values = {n: oracle.values[n] * (1 + rng.gauss(0, step)) for n in names}
            moved = follow(book, oracle, values)
            seen.update(under=len(moved.under), cured=len(moved.cured), expired=len(moved.expired))
        assert book.under == oracle.under()
    assert min(seen[name] for name in ("under", "cured", "expired")) > 20
    expected = sorted(oracle.distances().values())
    assert [d for _, d in book.nearest(30)] == pytest.approx(expected[:30], rel=1e-9, abs=1e-9)


@pytest.fixture
def book() -> MarginBook[str]:
    return MarginBook(["ETH", "BTC", "WETH"], indices=["F:ETH"])


def test_a_long_crosses_down_once_and_is_cured_once(book: MarginBook[str]) -> None:
    book.move({"ETH": 2000.0, "WETH": 2000.0})
    book.put("a", Row(constant=-8_000.0, weights={"ETH": 2.0, "WETH": 2.5}))
    assert book.excess("a") == 1000.0
    [(id_, distance)] = book.nearest(1)
    assert (id_, distance) == ("a", 100 * 1000 / 9000)
    assert book.move({"ETH": 1499.0}) == Moved(under=("a",))
    assert book.move({"ETH": 1400.0}) == Moved()
    assert book.under == {"a"}
    assert book.move({"ETH": 1501.0}) == Moved(cured=("a",))
    assert book.under == set()


def test_the_guard_band_takes_an_account_at_exactly_zero(book: MarginBook[str]) -> None:
    book.move({"ETH": 100.0})
    book.put("zero", Row(-100.0, {"ETH": 1.0}))
    book.put("inside", Row(-100.0 + 1e-10, {"ETH": 1.0}))  # gross 200: the band is 2e-10
    book.put("outside", Row(-100.0 + 3e-10, {"ETH": 1.0}))
    book.put("nothing", Row(0.0))
    assert book.under == {"zero", "inside"}


def test_an_envelope_once_left_stays_left_until_put_again(book: MarginBook[str]) -> None:
    row = Row(1.0, {"ETH": 1.0}, {"ETH": (1500.0, 2600.0), "BTC": (1.0, 9e4)})
    book.move({"ETH": 2000.0})
    book.put("a", row)
    assert book.unpriced == {"a"}
    assert book.move({"BTC": 9e4}) == Moved()
    assert book.move({"ETH": 1500.0}) == Moved()
    assert book.move({"ETH": 1499.9}) == Moved(under=("a",), expired=("a",))
    assert book.move({"ETH": 1400.0}) == Moved()
    assert book.move({"ETH": 2000.0, "BTC": 1e5}) == Moved()
    assert book.under == {"a"}
    assert book.nearest(1) == [("a", 0.0)]
    book.move({"BTC": 1.0})
    book.put("a", row)
    assert book.under == set()
    book.put("a", Row(1.0, {}, {"ETH": (1.0, 1999.0)}))
    assert book.under == {"a"}


def test_expiring_while_under_is_no_change_of_side(book: MarginBook[str]) -> None:
    book.move({"ETH": 100.0})
    book.put("a", Row(-150.0, {"ETH": 1.0}, {"ETH": (50.0, 200.0)}))
    assert book.move({"ETH": 300.0}) == Moved(expired=("a",))
    assert book.under == {"a"}


def test_a_first_value_prices_and_sinks_in_one_move(book: MarginBook[str]) -> None:
    book.put("a", Row(-10.0, {"ETH": 1.0, "F:ETH": -1.0}))
    assert book.move({"ETH": 5.0}) == Moved()
    assert math.isnan(book.excess("a"))
    assert book.nearest(5) == []
    assert math.isnan(book.distance("a"))
    assert book.move({"F:ETH": -1.0}) == Moved(under=("a",))
    assert book.unpriced == set()


def test_a_row_that_no_price_moves_is_infinitely_far(book: MarginBook[str]) -> None:
    book.move({"F:ETH": -2.0})
    book.put("sunk", Row(-1.0))
    book.put("safe", Row(1.0, {"F:ETH": 0.25}))
    assert book.nearest(2) == [("sunk", -math.inf), ("safe", math.inf)]
    assert (book.distance("sunk"), book.distance("safe")) == (-math.inf, math.inf)


def test_it_tells_who_stands_on_a_factor(book: MarginBook[str]) -> None:
    book.put("a", Row(1.0, {"ETH": 1.0}))
    book.put("b", Row(1.0, dict.fromkeys(book.factors, 1.0)))
    assert (book.exposed("ETH"), book.exposed("BTC")) == (2, 1)
    book.drop("a")
    assert book.exposed("ETH") == 1
    with pytest.raises(KeyError):
        book.exposed("DOGE")


def test_a_sum_beyond_float64_counts_as_under(book: MarginBook[str]) -> None:
    book.put("a", Row(0.0, {"ETH": 1e308, "BTC": -1e308}))
    moved = book.move({"ETH": 1e10, "BTC": 1e10})
    assert moved.under == ("a",)
    assert book.nearest(1) == [("a", -math.inf)]
    assert book.distance("a") == -math.inf


def test_snapshots_do_not_change_under_the_reader(book: MarginBook[str]) -> None:
    book.move({"ETH": 1.0})
    book.put("a", Row(-2.0, {"ETH": 1.0}))
    seen = book.under
    for id_ in seen:
        book.drop(id_)
    assert seen == {"a"}
    assert book.under == set()


def test_rows_are_used_again_after_a_drop(book: MarginBook[str]) -> None:
    for turn in range(200):
        book.put(f"a{turn}", Row(1.0, {"ETH": 1.0, "BTC": 1.0}))
        if turn >= 3:
            book.drop(f"a{turn - 3}")
    assert len(book) == 3
    assert [one.slab.size for one in book._followers.values()] == [4]


def test_an_id_that_cannot_be_hashed_changes_nothing(book: MarginBook[object]) -> None:
    book.move({"ETH": 1.0})
    with pytest.raises(TypeError):
        book.put(["a"], Row(-1.0))
    book.load([], [], [0], [], [])  # nothing at all is fine
    with pytest.raises(TypeError):
        book.load(["b", ["a"]], [-1.0, -1.0], [0, 0, 0], [], [])
    assert len(book) == 0
    assert book.under == set()


def test_equal_distances_still_fill_the_list(book: MarginBook[str]) -> None:
    book.move({"ETH": 100.0})
    for name in "abcdefgh":
        book.put(name, Row(0.0, {"ETH": 1.0}))
    assert [distance for _, distance in book.nearest(3)] == [100.0] * 3


def test_a_large_load_is_followed_to_the_last_row() -> None:
    count, width = 20_000, 3  # more rows than are worked on at a time
    rng = np.random.default_rng(5)
    large: MarginBook[int] = MarginBook(PRICES)
    prices = rng.uniform(1, 1000, len(PRICES))
    large.move(dict(zip(PRICES, prices.tolist(), strict=True)))
    factors = np.array([rng.choice(len(PRICES), width, replace=False) for _ in range(count)])
    sizes = rng.normal(size=(count, width))
    edge = -(sizes * prices[factors]).sum(axis=1)
    constants = edge + rng.normal(size=count) * 20
    indptr = np.arange(0, count * width + 1, width)
    large.load(range(count), constants, indptr, factors.ravel(), sizes.ravel())
    for change in (1.0, 1.01, 0.97):
        prices *= change
        before = large.under
        moved = large.move(dict(zip(PRICES, prices.tolist(), strict=True)))
        excess = constants + (sizes * prices[factors]).sum(axis=1)
        assert np.abs(excess).min() > 1e-6  # nobody so near that the order of adding decides
        assert large.under == set(np.flatnonzero(excess < 0).tolist())
        assert set(moved.under) == large.under - before
        assert set(moved.cured) == before - large.under
        assert len(moved.under) > 100 or change == 1.0


def test_a_negative_count_is_refused(book: MarginBook[str]) -> None:
    with pytest.raises(ValueError, match="negative"):
        book.nearest(-1)


def test_a_factor_is_named_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        MarginBook(["ETH"], indices=["ETH"])
