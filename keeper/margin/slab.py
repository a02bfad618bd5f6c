"""Rows of one width class in a structure of arrays, and which of them each factor touches.

A slab holds rows of at most ``width`` exposures; shorter ones are padded with factor 0, whose value
is always 0. An exposure is addressed by its *entry*, ``row * width + k``. For every factor a column
lists the entries exposed to it, and ``place`` says where in its column an entry stands, so that a
row leaves in a time that does not depend on how many others share its factors.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

IdT = TypeVar("IdT", bound=Hashable)
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Compact = npt.NDArray[np.int32]  # entries and places: half the memory
Small = npt.NDArray[np.uint8]
Objects = npt.NDArray[Any]
_ArrayT = TypeVar("_ArrayT", Floats, Ints, Bools, Compact, Small, Objects)

WIDTH_MIN = 4  # exposures of the narrowest slab; a venue's accounts mostly hold few positions
GUARD = 1e-12  # of gross: thousands of times the rounding error of a float64 sum of a row's length
CHUNK = 8192  # rows at a time: intermediate results stay in the cache, three times as fast
OUTSIDE = 255  # the ring of rows that no price decides any more
_NAMES = 2048  # at a time
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
        self._entries: Compact = np.zeros(0, dtype=np.int32)
        self._size = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._size

    @property
    def entries(self) -> Compact:
        """The entries; valid until the column changes."""
        return self._entries[: self._size]

    def append(self, entry: int) -> int:
        """Add one entry and return its place."""
        place = self._size
        if place == len(self._entries):
            self._entries = _grown(self._entries, place + 1)
        self._entries[place] = entry
        self._size = place + 1
        return place

    def extend(self, entries: Compact) -> int:
        """Add entries and return the place of the first."""
        place = self._size
        self._size = place + len(entries)
        self._entries = _grown(self._entries, self._size)
        self._entries[place : self._size] = entries
        return place

    def remove(self, place: int) -> int:
        """Fill ``place`` with the last entry and return that one: it stands there now."""
        self._size -= 1
        last = self._entries.item(self._size)
        self._entries[place] = last
        return last


class Exposure(NamedTuple):
    """One factor of a row: its number (≥ 1), weight, and envelope (±inf: none)."""

    factor: int
    weight: float
    low: float = -math.inf
    high: float = math.inf


class Exposures(NamedTuple):
    """The exposures of many rows, laid end to end, each row's in factor order."""

    counts: Ints  # of each row
    factors: Ints
    weights: Floats
    ends: tuple[Floats, Floats] | None = None  # of their envelopes; None: there are none

    def of(self, rows: Bools) -> "Exposures":
        """Return those of the rows that are marked."""
        inside = np.repeat(rows, self.counts)
        ends = self.ends and (self.ends[0][inside], self.ends[1][inside])
        return Exposures(self.counts[rows], self.factors[inside], self.weights[inside], ends)


class Slab(Generic[IdT]):
    """Rows of at most ``width`` exposures (a power of two)."""

    def __init__(self, width: int) -> None:
        """Start empty."""
        self.width = width
        self.size = 0  # rows ever used
        self.ids: Objects = np.zeros(0, dtype=object)  # an array: no work for the garbage collector
        self.shift = width.bit_length() - 1
        self.bounded = False  # whether a row ever had an envelope: most memory goes there
        self.columns: dict[int, Column] = {}
        self.constant: Floats = np.zeros(0)
        self.weight: Floats = np.zeros((0, width))
        self.low: Floats = np.zeros((0, width))
        self.high: Floats = np.zeros((0, width))
        self.factor: Compact = np.zeros((0, width), dtype=np.int32)
        self.missing: Ints = np.zeros(0, dtype=np.int16)  # factors without a value
        self.under: Bools = np.zeros(0, dtype=np.bool_)
        self.expired: Bools = np.zeros(0, dtype=np.bool_)
        self.reach: Floats = np.zeros(0)  # how far one half of all factors can take the excess
        self.ring: Small = np.zeros(0, dtype=np.uint8)  # see ``keeper.margin.fence``
        self.watched: Compact = np.zeros(0, dtype=np.int32)  # place in the watch + 1; 0: none
        self._free: list[int] = []
        self._place: Compact = np.zeros((0, width), dtype=np.int32)

    # --- rows come and go -------------------------------------------------------------------------

    def insert(self, id_: IdT, constant: float, exposures: Sequence[Exposure]) -> int:
        """Store a row and return its number; ``start`` must follow."""
        if self._free:
            row = self._free.pop()
        else:
            row = self.size
            self.size += 1
            self._grow(self.size)
        self.ids[row] = id_
        self.constant[row] = constant
        padding = [0] * (self.width - len(exposures))
        self.factor[row] = [one.factor for one in exposures] + padding
        self.weight[row] = [one.weight for one in exposures] + padding
        base = row << self.shift
        places, bounded = [], self.bounded
        for k, one in enumerate(exposures):
            places.append(self._column(one.factor).append(base + k))
            bounded = bounded or one.low > -math.inf or one.high < math.inf
        self._place[row] = places + padding
        if bounded:
            self._bound()
        if self.bounded:
            self.low[row] = [one.low for one in exposures] + [-math.inf] * len(padding)
            self.high[row] = [one.high for one in exposures] + [math.inf] * len(padding)
        return row

    def insert_many(
        self, ids: Sequence[IdT], constants: Floats, exposures: Exposures, order: Ints
    ) -> Ints:
        """Store rows, in this order, and return their numbers; ``start`` must follow."""
        counts, factors, weights, ends = exposures
        rows = np.empty(len(ids), dtype=np.intp)
        rows[order] = self._allocate(len(ids))
        self.ids[rows] = np.fromiter(ids, dtype=object, count=len(ids))
        self.constant[rows] = constants
        before = (rows << self.shift) - (np.cumsum(counts) - counts)
        entries = np.arange(len(factors), dtype=np.int32)
        entries += np.repeat(before.astype(np.int32), counts)
        self.factor.reshape(-1)[entries] = factors
        self.weight.reshape(-1)[entries] = weights
        if ends is not None and np.isfinite(ends).any():
            self._bound()
        if self.bounded:
            self.low[rows], self.high[rows] = -np.inf, np.inf
            if ends is not None:
                self.low.reshape(-1)[entries], self.high.reshape(-1)[entries] = ends
        # numpy sorts 16 bits by radix, several times as fast
        narrow = factors.astype(np.uint16) if factors.max(initial=0) < 2**16 else factors
        order = np.argsort(narrow, kind="stable")
        place = self._place.reshape(-1)
        first = 0
        for factor, count in enumerate(np.bincount(factors).tolist()):
            if count:
                chosen = order[first : first + count]
                its = entries.take(chosen)
                its.sort()
                at = self._column(factor).extend(its)
                place[its] = np.arange(at, at + count)
                first += count
        return rows

    def remove(self, row: int) -> None:
        """Free a row; its number is used again."""
        base = row << self.shift
        place = self._place.reshape(-1)
        for k, factor in enumerate(self.factor[row].tolist()):
            if factor:
                at = int(place[base + k])
                place[self.columns[factor].remove(at)] = at
        self.ids[row] = None
        self.under[row] = self.expired[row] = False
        self.missing[row] = 0
        self.factor[row], self.weight[row] = 0, 0.0
        self.reach[row], self.ring[row] = 0.0, OUTSIDE
        self._free.append(row)

    def _bound(self) -> None:
        """Make room for envelopes."""
        if not self.bounded:
            self.bounded = True
            self.low = np.full_like(self.weight, -np.inf)
            self.high = np.full_like(self.weight, np.inf)

    def _column(self, factor: int) -> Column:
        column = self.columns.get(factor)
        if column is None:
            column = self.columns[factor] = Column()
        return column

    def _allocate(self, count: int) -> Ints:
        """Take freed rows first, then fresh ones."""
        freed = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = np.arange(self.size, self.size + count - len(freed))
        rows: Ints = np.concatenate([np.array(freed, dtype=np.intp), fresh])
        self.size += len(fresh)
        self._grow(self.size)
        return rows

    def _grow(self, need: int) -> None:
        """Make room for so many rows."""
        if need <= len(self.constant):
            return
        self.ids, self.constant = _grown(self.ids, need), _grown(self.constant, need)
        self.weight, self.factor = _grown(self.weight, need), _grown(self.factor, need)
        if self.bounded:
            self.low, self.high = _grown(self.low, need), _grown(self.high, need)
        self._place, self.missing = _grown(self._place, need), _grown(self.missing, need)
        self.under = _grown(self.under, need)
        self.expired, self.watched = _grown(self.expired, need), _grown(self.watched, need)
        self.reach, self.ring = _grown(self.reach, need), _grown(self.ring, need)

    # --- looking ----------------------------------------------------------------------------------

    def exposures(self, row: int) -> list[Exposure]:
        """Return a row's exposures in factor order."""
        columns = [self.factor[row], self.weight[row]]
        if self.bounded:
            columns += [self.low[row], self.high[row]]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Exposure(*items) for items in rows if items[0]]

    def names(self, rows: Ints) -> tuple[IdT, ...]:
        """Return the ids of rows in use."""
        ids: list[IdT] = []
        for start in range(0, len(rows), _NAMES):
            ids += self.ids.take(rows[start : start + _NAMES]).tolist()
        return tuple(ids)

    def excess(self, rows: Ints, values: Floats) -> tuple[Floats, Floats]:
        """Return (excess, gross) of rows, NaN where a factor has no value.

        Added up from the left in factor order, always from scratch: no error is carried along.
        """
        parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        if len(parts) == 1:
            return self._sums(rows, values)
        excess, gross = np.empty(len(rows)), np.empty(len(rows))
        for number, part in enumerate(parts):
            at = slice(number * CHUNK, number * CHUNK + len(part))
            excess[at], gross[at] = self._sums(part, values)
        return excess, gross

    def excess_of(self, row: int, values: Floats) -> tuple[float, float]:
        """Return (excess, gross) of one row."""
        excess = self.constant.item(row)
        gross = abs(excess)
        pairs = zip(self.factor[row].tolist(), self.weight[row].tolist(), strict=True)
        for factor, weight in pairs:
            term = weight * values.item(factor)
            excess += term
            gross += abs(term)
        return excess, gross

    def _sums(self, rows: Ints, values: Floats) -> tuple[Floats, Floats]:
        """Return (excess, gross) of a few rows."""
        factors, weights = self.factor.take(rows, axis=0), self.weight.take(rows, axis=0)
        return sums(self.constant.take(rows), factors, weights, values)

    def distances(self, rows: Ints, values: Floats, prices: Floats) -> Floats:
        """Return the distances to liquidation of priced rows in %.

        ``prices`` is ``values`` with the indices set to zero.
        """
        excess, gross = self.excess(rows, values)
        distance = np.where(excess >= GUARD * gross, np.inf, -np.inf)  # if no price moves it
        with np.errstate(over="ignore", invalid="ignore"):
            moving = (np.abs(self.weight[rows]) * prices[self.factor[rows]]).sum(axis=1)
            np.divide(excess, moving, out=distance, where=moving > 0.0)
            distance *= 100.0
        distance[np.isnan(distance)] = -np.inf  # overflowed: under
        return np.where(self.expired[rows], np.minimum(distance, 0.0), distance)

    def distance_of(self, row: int, values: Floats, is_price: Callable[[int], bool]) -> float:
        """Return the distance to liquidation of one row in %, NaN while it is unpriced."""
        if self.missing[row]:
            return math.nan
        excess = self.constant.item(row)
        gross, moving = abs(excess), 0.0
        pairs = zip(self.factor[row].tolist(), self.weight[row].tolist(), strict=True)
        for factor, weight in pairs:
            term = weight * values.item(factor)
            excess += term
            gross += abs(term)
            moving += abs(term) if is_price(factor) else 0.0
        distance = math.inf if excess >= GUARD * gross else -math.inf  # if no price moves it
        if moving > 0.0:
            distance = 100.0 * (excess / moving)
        if math.isnan(distance):  # overflowed: under
            distance = -math.inf
        return min(distance, 0.0) if self.expired[row] else distance


def sums(
    constants: Floats, factors: Compact, weights: Floats, values: Floats
) -> tuple[Floats, Floats]:
    """Return (excess, gross) of rows; the first array is used up."""
    excess, gross = constants, np.abs(constants)
    with np.errstate(over="ignore", invalid="ignore"):
        terms = values.take(factors)
        terms *= weights
        for term in terms.T:
            excess += term
        np.abs(terms, out=terms)
        for term in terms.T:
            gross += term
    return excess, gross


def width_of(exposures: int) -> int:
    """Return the slab width for a row: the next power of two, so that at most half is padding."""
    return max(WIDTH_MIN, 1 << max(exposures - 1, 0).bit_length())
