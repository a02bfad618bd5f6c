"""A seeded book of synthetic accounts, as arrays, and brute force over them.

Markets are drawn by Zipf's law, each account holds one of three collaterals and positions in
distinct markets, long or short, some to many dollars. How far an account is from liquidation, in
percent of its exposure, is lognormal: whoever is close is liquidated soon.
"""

from dataclasses import dataclass, replace
from math import exp
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from keeper.margin import MarginBook

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GUARD = 1e-12  # of gross: what the book promises
COLLATERALS = 3
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Shape:
    """What a book looks like."""

    accounts: int = 1_000_000
    exposures: int = 4  # of an account: one collateral, else positions
    factors: int = 53  # the collaterals' prices among them
    zipf: float = 1.0  # exponent of the markets' popularity
    median: float = 30.0  # percent to liquidation; the distances are lognormal
    sigma: float = 1.0  # of their logarithm
    seed: int = 1

    def with_near(self, count: int) -> "Shape":
        """Return a shape in which about ``count`` accounts are within 1 % of liquidation."""
        share = min(count / self.accounts, 0.5)
        below = NormalDist(sigma=self.sigma).inv_cdf(share)
        return replace(self, median=exp(-below))


class Accounts:
    """The arrays: row k has ``factors[k]``, rising, with ``weights[k]``; ``values`` of factors."""

    def __init__(self, shape: Shape) -> None:
        """Draw a book."""
        rng = np.random.default_rng(shape.seed)
        count, markets = shape.accounts, shape.factors - COLLATERALS
        self.names = [f"P{number}" for number in range(shape.factors)]
        self.values: Floats = np.exp(rng.uniform(np.log(0.01), np.log(1e5), shape.factors))
        self.factors: Ints = np.empty((count, shape.exposures), dtype=np.int64)
        self.factors[:, :-1] = _draw_markets(rng, count, shape.exposures - 1, markets, shape.zipf)
        self.factors[:, -1] = rng.integers(markets, shape.factors, count)
        usd = np.exp(rng.normal(8.0, 2.0, (count, shape.exposures)))
        side = rng.choice([-1.02, 0.98], (count, shape.exposures))  # margin of 2 %
        side[:, -1] = 0.9  # collateral after its haircut
        self.weights: Floats = side * usd / self.values[self.factors]
        distance = shape.median / 100 * np.exp(rng.normal(0.0, shape.sigma, count))
        terms = self.weights * self.values[self.factors]
        self.moving: Floats = np.abs(terms).sum(axis=1)
        self.constants: Floats = distance * self.moving - terms.sum(axis=1)

    def __len__(self) -> int:
        """Return the number of accounts."""
        return len(self.constants)

    def book(self) -> MarginBook[int]:
        """Return a book at the present values, empty."""
        book: MarginBook[int] = MarginBook(self.names)
        book.move(dict(zip(self.names, self.values.tolist(), strict=True)))
        return book

    def load(self, book: MarginBook[int], rows: Ints | None = None) -> None:
        """Load the accounts, or these."""
        chosen = np.arange(len(self)) if rows is None else rows
        width = self.factors.shape[1]
        book.load(
            chosen.tolist(),
            self.constants[chosen],
            np.arange(0, len(chosen) * width + 1, width),
            self.factors[chosen].ravel(),
            self.weights[chosen].ravel(),
        )

    def recompute(self, rows: Ints | None = None) -> npt.NDArray[np.bool_]:
        """Return who of all, or of these, is under-margined: the plain way, in numpy.

        Adds up from the left as the book promises to; in chunks that stay in the cache.
        """
        count = len(self) if rows is None else len(rows)
        under = np.empty(count, dtype=np.bool_)
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK) if rows is None else rows[start : start + _CHUNK]
            excess, gross = self.constants[part].copy(), np.abs(self.constants[part])
            terms = self.values.take(self.factors[part], mode="clip")
            terms *= self.weights[part]
            for k in range(terms.shape[1]):
                excess += terms[:, k]
                gross += np.abs(terms[:, k])
            under[start : start + _CHUNK] = excess < GUARD * gross
        return under

    def screen(self, rows: Ints | None = None) -> npt.NDArray[np.bool_]:
        """Return the same without a guard band: the fastest that numpy does."""
        count = len(self) if rows is None else len(rows)
        under = np.empty(count, dtype=np.bool_)
        terms = np.empty((_CHUNK, self.factors.shape[1]))
        ones = np.ones(terms.shape[1])
        for start in range(0, count, _CHUNK):
            part = slice(start, min(start + _CHUNK, count))
            at = part if rows is None else rows[part]
            product = terms[: part.stop - start]
            self.values.take(self.factors[at], out=product, mode="clip")
            product *= self.weights[at]
            under[part] = product @ ones + self.constants[at] < 0.0
        return under

    def naive(self, count: int) -> int:
        """Return how many of the first ``count`` are under-margined, in a plain Python loop."""
        constants, values = self.constants[:count].tolist(), self.values.tolist()
        factors, weights = self.factors[:count].tolist(), self.weights[:count].tolist()
        found = 0
        for constant, row, sizes in zip(constants, factors, weights, strict=True):
            excess = constant
            for factor, weight in zip(row, sizes, strict=True):
                excess += weight * values[factor]
            found += excess < 0.0
        return found

    def sink(self, rows: Ints) -> None:
        """Take so much from these accounts that no move here can cure them."""
        self.constants[rows] -= 100.0 * self.moving[rows]


def _draw_markets(
    rng: np.random.Generator, count: int, each: int, markets: int, zipf: float
) -> Ints:
    """Return ``each`` distinct markets a row, rising: weighted draws without replacement."""
    popularity = -zipf * np.log(np.arange(1, markets + 1))
    found: Ints = np.empty((count, each), dtype=np.int64)
    for start in range(0, count, 65_536):
        part = found[start : start + 65_536]
        keys = popularity + rng.gumbel(size=(len(part), markets))
        part[:] = np.sort(np.argpartition(-keys, each - 1, axis=1)[:, :each], axis=1)
    return found
