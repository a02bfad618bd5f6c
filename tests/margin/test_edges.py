"""Books whose accounts stand at their edge, moved to where rounding decides.

Thousands of random books of few accounts; a failure prints the seed of its book.
"""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.margin import MarginBook, Row
from keeper.margin.fence import ERROR, STEPS_MAX
from keeper.margin.slab import GUARD
from tests.margin.oracle import Oracle, follow

ULP = 2.0**-53  # of float64, relative: the most that one operation is wrong by
EXPOSURES_MAX = 100  # of a row, far more than an account has


class Edges:
    """A book, its oracle, and moves that look for trouble."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - not a secret
        prices = [f"P{n}" for n in range(self.rng.randint(1, 4))]
        self.oracle = Oracle()
        self.oracle.factors = [*prices, "F0"]
        self.book: MarginBook[object] = MarginBook(prices, ["F0"])
        scales = [self.rng.choice([1e-12, 1e-6, 1.0, 1.0, 1e12]) for _ in prices]
        values = {
            name: scale * self.rng.choice([1.0, 2.0, self.rng.uniform(0.5, 5.0)])
            for name, scale in zip(prices, scales, strict=True)
        }
        self.move({**values, "F0": self.rng.choice([0.0, self.rng.gauss(0, 1)])})
        for number in range(self.rng.randint(1, 12)):
            self.put(number)

    def put(self, number: int) -> None:
        """Put a row at its edge: just there, within the guard band, a few ulp or percent off."""
        held = self.rng.sample(self.oracle.factors, self.rng.randint(1, len(self.oracle.factors)))
        usd = 10.0 ** self.rng.choice([-9, 0, 0, 0, 9])  # dust and giants side by side
        weights = {}
        for name in held:
            value = abs(self.oracle.values[name]) or 1.0
            size = self.rng.choice([-1.0, 1.0, 2.0, self.rng.gauss(0, 1)])
            weights[name] = usd * size * self.rng.choice([1.0, 1.0, 1e-12]) / value
        bare = Row(0.0, weights)
        edge, gross = -self.oracle.excess(bare), self.oracle.gross(bare)
        off = self.rng.choice(
            [0.0, 0.0, ULP, -ULP, GUARD, 2 * GUARD, 3 * GUARD, -1e-9, 1e-9, 1e-3, -0.01, 0.03]
        )
        row = Row(edge + off * gross, weights)
        self.book.put(number, row)
        self.oracle.put(number, row)

    def move(self, values: dict[str, float]) -> None:
        """Move both; every change of side is reported once, and the sides are the oracle's."""
        follow(self.book, self.oracle, values)
        assert self.book.under == self.oracle.under()

    def turn(self) -> None:
        """Do one thing that may go wrong."""
        names, now = self.oracle.factors, self.oracle.values
        name = self.rng.choice(names)
        kind = self.rng.randrange(6)
        if kind == 0:
            self.put(self.rng.randrange(12))
        elif kind == 1:
            self.move({name: now[name]})
        elif kind == 2:
            self.to_an_edge(name)
        elif kind == 3:
            step = self.rng.choice([1e-16, 1e-13, 1e-9, 1e-4, 9e-3, 0.02, 0.3])
            self.move({name: now[name] * (1 + step * self.rng.choice([-1, 1]))})
        elif kind == 4:
            same = abs(now[name]) or 1.0
            self.move(dict.fromkeys(names, same))  # all prices equal
        else:
            gap = self.rng.choice([0.5, 0.9, 0.999, 1.001, 1.1, 2.0])
            self.move({one: now[one] * gap for one in names})

    def to_an_edge(self, name: str) -> None:
        """Take a factor to where a row's excess is zero, or a float beside it."""
        rows = [row for row in self.oracle.rows.values() if row.weights.get(name)]
        if not rows:
            return
        row = self.rng.choice(rows)
        rest = self.oracle.excess(row) - row.weights[name] * self.oracle.values[name]
        value = -rest / row.weights[name]
        for _ in range(self.rng.randint(0, 2)):
            value = math.nextafter(value, self.rng.choice([-math.inf, math.inf]))
        if 1e-18 < (abs(value) if name == "F0" else value) < 1e18:
            self.move({name: value})


@settings(max_examples=400)
@given(seed=st.integers(0, 2**63))
def test_accounts_at_their_edge_are_on_the_right_side(seed: int) -> None:
    edges = Edges(seed)
    for _ in range(12):
        edges.turn()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=20_000)
@given(seed=st.integers(0, 2**63))
def test_many_more_accounts_at_their_edge(seed: int) -> None:
    edges = Edges(seed)
    for _ in range(40):
        edges.turn()


# --- float errors ---------------------------------------------------------------------------------


def test_the_guard_band_covers_the_rounding_of_a_sum() -> None:
    """Of n terms added one by one the sum is wrong by at most n·u/(1 − n·u) of Σ |term|.

    Higham, Accuracy and Stability of Numerical Algorithms, 4.2; a product adds one u to its term.
    The conversion of weights, constant and prices to float64 adds three more.
    """
    operations = EXPOSURES_MAX + 1 + 3
    assert operations * ULP / (1 - operations * ULP) < GUARD / 50


def test_the_room_for_kept_sums_covers_all_their_steps() -> None:
    """A kept sum is wrong by what its steps, each three operations, add up to, and by its start."""
    operations = 3 * STEPS_MAX + EXPOSURES_MAX + 1
    drift = operations * ULP / (1 - operations * ULP)
    assert drift + GUARD < ERROR / 5


@settings(max_examples=100)
@given(seed=st.integers(0, 2**63))
def test_no_account_below_zero_is_called_safe(seed: int) -> None:
    """Whatever float64 does: an exact sum of the row below zero is under."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    names = [f"P{n}" for n in range(rng.randint(1, 30))]
    book: MarginBook[int] = MarginBook(names)
    values = {name: 10.0 ** rng.uniform(-12, 12) for name in names}
    book.move(values)
    for number in range(10):
        weights = {
            name: rng.gauss(0, 1) * 10.0 ** rng.uniform(-3, 3) / values[name] for name in names
        }
        exact = -sum(Fraction(weights[name]) * Fraction(values[name]) for name in names)
        gross = sum(abs(weights[name]) * values[name] for name in names)
        constant = float(exact) + rng.choice([0.0, -1e-16, 1e-16, -1e-15]) * gross
        book.put(number, Row(constant, weights))
        if Fraction(constant) < exact:
            assert book.is_under(number)
        book.put(number, Row(float(exact) + 4 * GUARD * gross, weights))
        assert not book.is_under(number), "nor is one called under that is further than the band"
