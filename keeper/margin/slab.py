"""Rows of one width class in a structure of arrays, and which of them each factor touches.

A slab holds rows of at most ``width`` exposures; shorter ones are padded with factor 0, whose value
is always 0. An exposure is addressed by its *entry*, ``row * width + k``. For every factor a column
lists the entries exposed to it, and ``place`` says where in its column an entry stands, so that a
row leaves in a time that does not depend on how many others share its factors.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

IdT = TypeVar("IdT", bound=Hashable)
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
_ArrayT = TypeVar("_ArrayT", Floats, Ints, Bools)

GUARD = 1e-12  # of gross: thousands of times the rounding error of a float64 sum of a row's length
_CHUNK = 8192  # rows at a time: intermediate results stay in the cache, three times as fast
_START = 16  # rows or entries allocated at first; doubled from there


def _grown(array: _ArrayT, need: int) -> _ArrayT:
    """Return ``array`` with room for ``need`` items along its first axis; new items are zero."""
    have = len(array)
    if need <= have:
        return array
    larger = np.zeros((max(need, 2 * have, _START), *array.shape[1:]), dtype=array.dtype)
    larger[:have] = array
    return larger


class Column:
    """The entries exposed to one factor, dense and in no particular order."""

    __slots__ = ("_entries", "_size")

    def __init__(self) -> None:
        """Start empty."""
        self._entries: Ints = np.zeros(0, dtype=np.intp)
        self._size = 0

    @property
    def entries(self) -> Ints:
        """The entries; valid until the column changes."""
        return self._entries[: self._size]

    def append(self, entry: int) -> int:
        """Add one entry and return its place."""
        place = self._size
        self._entries = _grown(self._entries, place + 1)
        self._entries[place] = entry
        self._size = place + 1
        return place

    def extend(self, entries: Ints) -> int:
        """Add entries and return the place of the first."""
        place = self._size
        self._size = place + len(entries)
        self._entries = _grown(self._entries, self._size)
        self._entries[place : self._size] = entries
        return place

    def remove(self, place: int) -> int:
        """Fill ``place`` with the last entry and return that one: it stands there now."""
        self._size -= 1
        last = int(self._entries[self._size])
        self._entries[place] = last
        return last


class Exposure(NamedTuple):
    """One factor of a row: its number (≥ 1), weight, and envelope (±inf: none)."""

    factor: int
    weight: float
    low: float
    high: float


class Changes(NamedTuple):
    """Rows of one slab that changed with a move."""

    under: Ints
    cured: Ints
    expired: Ints
    priced: Ints


class Slab(Generic[IdT]):
    """Rows of at most ``width`` exposures (a power of two)."""

    def __init__(self, width: int) -> None:
        """Start empty."""
        self.width = width
        self.ids: list[IdT | None] = []  # by row; None: free
        self._shift = width.bit_length() - 1
        self._free: list[int] = []
        self._columns: dict[int, Column] = {}
        self._constant: Floats = np.zeros(0)
        self._weight: Floats = np.zeros((0, width))
        self._low: Floats = np.zeros((0, width))
        self._high: Floats = np.zeros((0, width))
        self._factor: Ints = np.zeros((0, width), dtype=np.intp)
        self._place: Ints = np.zeros((0, width), dtype=np.intp)
        self._missing: Ints = np.zeros(0, dtype=np.intp)
        self._live: Bools = np.zeros(0, dtype=np.bool_)
        self._under: Bools = np.zeros(0, dtype=np.bool_)
        self._expired: Bools = np.zeros(0, dtype=np.bool_)

    # --- rows come and go -------------------------------------------------------------------------

    def insert(self, id_: IdT, constant: float, exposures: Sequence[Exposure]) -> int:
        """Store a row and return its number; ``start`` must follow."""
        row = self._allocate([id_])[0]
        count = len(exposures)
        self._constant[row] = constant
        self._blank(row)
        if count:
            factors, weights, lows, highs = zip(*exposures, strict=True)
            self._factor[row, :count] = factors
            self._weight[row, :count] = weights
            self._low[row, :count] = lows
            self._high[row, :count] = highs
            base = row << self._shift
            for k, factor in enumerate(factors):
                self._place[row, k] = self._column(factor).append(base + k)
        return row

    def insert_many(
        self, ids: Sequence[IdT], constants: Floats, counts: Ints, factors: Ints, weights: Floats
    ) -> Ints:
        """Store rows without envelopes and return their numbers; ``start`` must follow.

        ``counts`` has the exposures of each row; ``factors`` and ``weights`` are laid end to end.
        """
        rows: Ints = np.array(self._allocate(ids), dtype=np.intp)
        self._constant[rows] = constants
        self._blank(rows)
        starts = np.cumsum(counts) - counts
        entries = np.arange(len(factors)) + np.repeat((rows << self._shift) - starts, counts)
        self._factor.reshape(-1)[entries] = factors
        self._weight.reshape(-1)[entries] = weights
        order = np.argsort(factors, kind="stable")
        by_factor, entries = factors[order], entries[order]
        place = self._place.reshape(-1)
        cuts = np.flatnonzero(np.diff(by_factor)) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(entries)], strict=True):
            if first == last:
                continue
            at = self._column(int(by_factor[first])).extend(entries[first:last])
            place[entries[first:last]] = np.arange(at, at + last - first)
        return rows

    def remove(self, row: int) -> None:
        """Free a row; its number is used again."""
        base = row << self._shift
        place = self._place.reshape(-1)
        for k, factor in enumerate(self._factor[row].tolist()):
            if factor:
                at = int(place[base + k])
                place[self._columns[factor].remove(at)] = at
        self.ids[row] = None
        self._live[row] = self._under[row] = self._expired[row] = False
        self._missing[row] = 0
        self._free.append(row)

    def _column(self, factor: int) -> Column:
        column = self._columns.get(factor)
        if column is None:
            column = self._columns[factor] = Column()
        return column

    def _blank(self, rows: int | Ints) -> None:
        self._factor[rows] = 0
        self._weight[rows] = 0.0
        self._low[rows] = -np.inf
        self._high[rows] = np.inf

    def _allocate(self, ids: Sequence[IdT]) -> list[int]:
        """Take freed rows first, then fresh ones."""
        rows = [self._free.pop() for _ in range(min(len(ids), len(self._free)))]
        fresh = range(len(self.ids), len(self.ids) + len(ids) - len(rows))
        rows.extend(fresh)
        self.ids.extend([None] * len(fresh))
        for row, id_ in zip(rows, ids, strict=True):
            self.ids[row] = id_
        need = len(self.ids)
        if need > len(self._constant):
            self._constant = _grown(self._constant, need)
            self._weight, self._low = _grown(self._weight, need), _grown(self._low, need)
            self._high, self._factor = _grown(self._high, need), _grown(self._factor, need)
            self._place, self._missing = _grown(self._place, need), _grown(self._missing, need)
            self._live, self._under = _grown(self._live, need), _grown(self._under, need)
            self._expired = _grown(self._expired, need)
        self._live[rows] = True
        return rows

    # --- looking ----------------------------------------------------------------------------------

    def constant(self, row: int) -> float:
        """Return a row's constant."""
        return float(self._constant[row])

    def exposures(self, row: int) -> list[Exposure]:
        """Return a row's exposures in factor order."""
        columns = (self._factor[row], self._weight[row], self._low[row], self._high[row])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Exposure(*items) for items in rows if items[0]]

    def names(self, rows: Ints) -> list[IdT]:
        """Return the ids of rows in use."""
        return [self.ids[row] for row in rows.tolist()]

    def excess(self, rows: Ints, values: Floats) -> tuple[Floats, Floats]:
        """Return (excess, gross) of rows, NaN where a factor has no value.

        Added up from the left in factor order, always from scratch: no error is carried along.
        """
        excess = self._constant.take(rows)
        gross = np.abs(excess)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(rows), _CHUNK):
                part = slice(start, start + _CHUNK)
                terms = values.take(self._factor.take(rows[part], axis=0))
                terms *= self._weight.take(rows[part], axis=0)
                for k in range(self.width):
                    excess[part] += terms[:, k]
                np.abs(terms, out=terms)
                for k in range(self.width):
                    gross[part] += terms[:, k]
        return excess, gross

    def distances(self, values: Floats, prices: Floats) -> tuple[Ints, Floats]:
        """Return (rows, distance to liquidation in %) of all rows that are priced.

        ``prices`` is ``values`` with the indices set to zero.
        """
        rows = np.flatnonzero(self._live & (self._missing == 0))
        excess, gross = self.excess(rows, values)
        distance = np.where(excess >= GUARD * gross, np.inf, -np.inf)  # if no price moves it
        with np.errstate(over="ignore", invalid="ignore"):
            moving = (np.abs(self._weight[rows]) * prices[self._factor[rows]]).sum(axis=1)
            np.divide(excess, moving, out=distance, where=moving > 0.0)
            distance *= 100.0
        distance[np.isnan(distance)] = -np.inf  # overflowed: under, see _now_under
        return rows, np.where(self._expired[rows], np.minimum(distance, 0.0), distance)

    # --- prices -----------------------------------------------------------------------------------

    def start(self, rows: Ints, values: Floats) -> tuple[Bools, Bools]:
        """Work out the state of rows just inserted: (under, unpriced)."""
        factors = self._factor[rows]
        at = values[factors]
        self._missing[rows] = np.isnan(at).sum(axis=1)
        self._expired[rows] = ((at < self._low[rows]) | (at > self._high[rows])).any(axis=1)
        self._under[rows] = under = self._now_under(rows, values)
        return under, self._missing[rows] > 0

    def move(self, changed: Sequence[int], fresh: Sequence[int], values: Floats) -> Changes | None:
        """Follow a change of these factors' values; ``fresh`` ones had none before."""
        touched = [
            (factor, self._columns[factor].entries) for factor in changed if factor in self._columns
        ]
        if not touched:
            return None
        was_missing = self._missing > 0 if fresh else None
        for factor in fresh:
            if factor in self._columns:
                self._missing[self._columns[factor].entries >> self._shift] -= 1
        expired = self._expire(touched, values)
        if len(touched) == 1:
            rows = touched[0][1] >> self._shift
        else:
            mask = np.zeros(len(self._constant), dtype=np.bool_)
            for _, entries in touched:
                mask[entries >> self._shift] = True
            rows = np.flatnonzero(mask)
        now = self._now_under(rows, values)
        flipped = now != self._under[rows]
        self._under[rows] = now
        if was_missing is None:
            priced = rows[:0]
        else:
            priced = np.flatnonzero(was_missing & (self._missing == 0))
        return Changes(rows[flipped & now], rows[flipped & ~now], expired, priced)

    def _expire(self, touched: Sequence[tuple[int, Ints]], values: Floats) -> Ints:
        """Mark rows whose envelope was left and return those that were inside before."""
        found = []
        low, high = self._low.reshape(-1), self._high.reshape(-1)
        for factor, entries in touched:
            outside = (low.take(entries) > values[factor]) | (high.take(entries) < values[factor])
            rows = entries[outside] >> self._shift
            rows = rows[~self._expired[rows]]
            self._expired[rows] = True
            found.append(rows)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _now_under(self, rows: Ints, values: Floats) -> Bools:
        """Decide the side. Sums that overflowed are NaN and count as under: never one too few."""
        excess, gross = self.excess(rows, values)
        under: Bools = ~(excess >= GUARD * gross) | self._expired[rows]
        under &= self._missing[rows] == 0
        return under
