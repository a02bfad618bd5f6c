"""The book's definitions written down once more, slowly, and rows to try them on."""

import math
import random
from collections import Counter

from hypothesis import strategies as st

from keeper.margin import MarginBook, Moved, Row

PRICES = [f"P{n}" for n in range(9)]
INDICES = [f"F{n}" for n in range(3)]
GUARD = 1e-12

# small whole numbers make exact ties and cancellations, the others make rounding errors
weights = st.integers(-3, 3).map(float) | st.floats(-50, 50)
constants = st.integers(-300, 300).map(float) | st.floats(-1e4, 1e4)
positive = st.sampled_from([50.0, 100.0, 200.0]) | st.floats(1e-3, 1e4)
signed = st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1e3, 1e3)


class Oracle:
    """The definitions of the docstrings, written down once more and slowly."""

    def __init__(self) -> None:
        self.factors: list[str] = []
        self.values: dict[str, float] = {}
        self.rows: dict[object, Row] = {}
        self.expired: set[object] = set()

    def terms(self, row: Row) -> list[tuple[str, float]]:
        return [(name, row.weights[name]) for name in self.factors if name in row.weights]

    def waits(self, row: Row) -> bool:
        return any(name not in self.values for name in {*row.weights, *row.envelope})

    def excess(self, row: Row) -> float:
        total = row.constant
        for name, weight in self.terms(row):
            total += weight * self.values[name]
        return total

    def gross(self, row: Row) -> float:
        total = abs(row.constant)
        for name, weight in self.terms(row):
            total += abs(weight * self.values[name])
        return total

    def left(self, row: Row) -> bool:
        return any(
            not low <= self.values[name] <= high
            for name, (low, high) in row.envelope.items()
            if name in self.values
        )

    def put(self, id_: object, row: Row) -> None:
        self.rows[id_] = row
        self.expired.discard(id_)
        if self.left(row):
            self.expired.add(id_)

    def move(self, values: dict[str, float]) -> set[object]:
        self.values |= values
        fresh = {i for i, row in self.rows.items() if i not in self.expired and self.left(row)}
        self.expired |= fresh
        return fresh

    def unpriced(self) -> set[object]:
        return {id_ for id_, row in self.rows.items() if self.waits(row)}

    def under(self) -> set[object]:
        return {
            id_
            for id_, row in self.rows.items()
            if not self.waits(row)
            and (id_ in self.expired or self.excess(row) < GUARD * self.gross(row))
        }

    def distances(self) -> dict[object, float]:
        found = {}
        for id_, row in self.rows.items():
            if self.waits(row):
                continue
            excess = self.excess(row)
            moving = sum(abs(w) * self.values[n] for n, w in row.weights.items() if n in PRICES)
            if moving:
                distance = 100 * excess / moving
            else:
                distance = -math.inf if excess < GUARD * self.gross(row) else math.inf
            found[id_] = min(distance, 0.0) if id_ in self.expired else distance
        return found


@st.composite
def rows(draw: st.DrawFn, factors: list[str]) -> Row:
    chosen = draw(st.lists(st.sampled_from(factors), unique=True, max_size=10))
    bounded = draw(st.lists(st.sampled_from(factors), unique=True, max_size=2))
    edges = st.tuples(signed | positive, signed | positive).map(sorted)
    return Row(
        constant=draw(constants),
        weights={name: draw(weights) for name in chosen},
        envelope={name: (pair[0], pair[1]) for name in bounded for pair in [draw(edges)]},
    )


def follow(book: MarginBook[object], oracle: Oracle, values: dict[str, float]) -> Moved[object]:
    """Move both; the report must name every change once and nothing else."""
    before = oracle.under()
    expired = oracle.move(values)
    after = oracle.under()
    moved = book.move(values)
    assert Counter(moved.under) == Counter(after - before)
    assert Counter(moved.cured) == Counter(before - after)
    assert Counter(moved.expired) == Counter(expired)
    return moved


Csr = tuple[list[object], list[float], list[int], list[int], list[float]]


def csr(given: dict[object, Row], factors: list[str]) -> Csr:
    """Lay rows out as arrays, each row's factors in the order in which it names them."""
    pairs = [(factors.index(n), w) for row in given.values() for n, w in row.weights.items()]
    indptr = [0]
    for row in given.values():
        indptr.append(indptr[-1] + len(row.weights))
    return (
        list(given),
        [row.constant for row in given.values()],
        indptr,
        [number for number, _ in pairs],
        [weight for _, weight in pairs],
    )


def random_row(oracle: Oracle, rng: random.Random, near: float = 0.05) -> Row:
    """A row ``near`` its edge at present values; every other has a narrow envelope."""
    chosen = rng.sample(oracle.factors, rng.choice([0, 1, 2, 3, 4, 5, 8, 9]))
    weights = {name: rng.choice([-1.0, 1.0, rng.gauss(0, 5)]) for name in chosen}
    bare = Row(0.0, weights)
    now = {name: oracle.values.get(name, 100.0) for name in oracle.factors}
    envelope = {
        name: (
            now[name] - abs(now[name]) * rng.random() * near * 2,
            now[name] + abs(now[name]) * near * 2,
        )
        for name in rng.sample(oracle.factors, rng.choice([0, 1]))
    }
    edge = -sum(weight * now[name] for name, weight in weights.items())
    return Row(
        edge + oracle.gross(bare) * rng.choice([0.0, 1e-13, rng.gauss(0, near)]), weights, envelope
    )
