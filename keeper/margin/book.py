"""Which accounts are under-margined after this price move.

A sparse matrix of rows by factors that knows no protocol: venues compile accounts to rows
(``keeper.margin.rows``), the book follows the factors. A screen in float64; the guard band makes it
nominate an account too many rather than one too few.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import numpy.typing as npt

from keeper.margin.rows import Row, finite
from keeper.margin.slab import Exposure, Floats, IdT, Ints, Slab

_WIDTH_MIN = 4  # exposures of the narrowest slab; a venue's accounts mostly hold few positions


@dataclass(frozen=True, slots=True)
class Moved(Generic[IdT]):
    """What one move changed, each id at most once in each tuple.

    under    ids that are in ``book.under`` now and were not before the move
    cured    ids that were in ``book.under`` before the move and are not now
    expired  ids whose envelope was left with this move, whichever side they were on: they count as
             under-margined until they are put again. One that was not under before is in ``under``
             too, unless it is still unpriced.
    """

    under: tuple[IdT, ...] = ()
    cured: tuple[IdT, ...] = ()
    expired: tuple[IdT, ...] = ()


class MarginBook(Generic[IdT]):
    """All accounts as rows, and the present value of every factor.

    *Excess* of a row is ``constant + w₁·v₁ + w₂·v₂ + …``, added from the left in the order in which
    the factors were added to the book, always from scratch. *Gross* is the same sum of absolute
    values. An id is **under** when excess < 1e-12 * gross, or when a factor has left the row's
    envelope since the row was put (even if it came back). The band is wider than what rounding does
    to the sum; summed in another order, an id within a few ulp * gross of its edge may differ. A
    sum that overflows float64 counts as under.

    An id is **unpriced** while one of the factors in its weights or its envelope has no value; it
    is never under meanwhile.

    ``put``, ``drop`` and ``load`` show in ``under`` at once and are not reported by the next move.
    Ids are any hashable. Every method that raises leaves the book as it was. Not thread-safe: one
    writer.
    """

    def __init__(self, prices: Sequence[str], indices: Sequence[str] = ()) -> None:
        """Name the factors: ``prices`` are > 0, ``indices`` any finite number (funding)."""
        self._factors: dict[str, int] = {}  # name → number; 0 is the padding of short rows
        self._names: list[str] = [""]
        self._is_price: npt.NDArray[np.bool_] = np.zeros(1, dtype=np.bool_)
        self._values: Floats = np.zeros(1)
        self._slabs: dict[int, Slab[IdT]] = {}
        self._home: dict[IdT, tuple[Slab[IdT], int]] = {}
        self._under: set[IdT] = set()
        self._unpriced: set[IdT] = set()
        self._under_seen: frozenset[IdT] | None = frozenset()
        self.add_factors(prices, indices)

    # --- factors ----------------------------------------------------------------------------------

    def add_factors(self, prices: Sequence[str] = (), indices: Sequence[str] = ()) -> None:
        """Add factors, prices first. Raises ValueError for a name the book already has."""
        names = [*prices, *indices]
        twice = [n for k, n in enumerate(names) if n in self._factors or n in names[:k]]
        if twice:
            msg = f"factors named twice: {', '.join(map(repr, twice))}"
            raise ValueError(msg)
        self._factors.update(zip(names, range(len(self._names), 2**31), strict=False))
        self._names.extend(names)
        self._is_price = np.append(self._is_price, [True] * len(prices) + [False] * len(indices))
        self._values = np.append(self._values, [np.nan] * len(names))

    @property
    def factors(self) -> tuple[str, ...]:
        """The factors' names in the order in which they were added: what ``load`` counts in."""
        return tuple(self._names[1:])

    @property
    def values(self) -> dict[str, float]:
        """The present value of every factor that has one."""
        pairs = zip(self._names, self._values.tolist(), strict=True)
        return {name: value for name, value in pairs if name and not math.isnan(value)}

    # --- rows -------------------------------------------------------------------------------------

    def put(self, id_: IdT, row: Row, /) -> None:
        """Insert or replace one row. Raises KeyError for a factor that the book does not have."""
        exposures = self._exposures(row)
        self._forget(id_)
        slab = self._slab(len(exposures))
        number = slab.insert(id_, row.constant, exposures)
        self._home[id_] = (slab, number)
        self._start(slab, np.array([number], dtype=np.intp))

    def drop(self, id_: IdT, /) -> None:
        """Remove one row. Raises KeyError for an id that is not in the book."""
        self._find(id_)
        self._forget(id_)

    def load(
        self,
        ids: Iterable[IdT],
        constants: npt.ArrayLike,
        indptr: npt.ArrayLike,
        factors: npt.ArrayLike,
        weights: npt.ArrayLike,
    ) -> None:
        """Insert or replace many rows without envelopes: the same as a ``put`` of each, but faster.

        Row k has the factors ``factors[indptr[k]:indptr[k + 1]]`` (positions in ``book.factors``)
        with the weights at the same places. Shapes: ids and constants (n), indptr (n + 1), factors
        and weights (indptr[-1]). Raises ValueError when they do not fit, a number is not finite, or
        an id or a factor within a row comes twice; KeyError for an unknown factor.
        """
        names = list(ids)
        if len(set(names)) != len(names):
            msg = "an id comes twice in one load"
            raise ValueError(msg)
        starts = _int_array(indptr, "indptr")
        numbers = _int_array(factors, "factors")
        sizes = _float_array(weights, "weights", len(numbers))
        bases = _float_array(constants, "constants", len(names))
        counts = _row_counts(starts, len(names), len(numbers))
        unknown = numbers[(numbers < 0) | (numbers >= len(self._names) - 1)]
        if len(unknown):
            msg = f"unknown factor number {unknown[0]}: the book has {len(self._names) - 1}"
            raise KeyError(msg)
        numbers, sizes = _in_factor_order(counts, numbers, sizes)
        for id_ in names:
            self._forget(id_)
        widths = np.array([_width(n) for n in range(int(counts.max(initial=0)) + 1)])[counts]
        for width in np.unique(widths).tolist():
            chosen = widths == width
            part = np.flatnonzero(chosen)
            inside = np.repeat(chosen, counts)
            slab = self._slab(width)
            rows = slab.insert_many(
                [names[k] for k in part.tolist()],
                bases[part],
                counts[part],
                numbers[inside] + 1,
                sizes[inside],
            )
            for k, row in zip(part.tolist(), rows.tolist(), strict=True):
                self._home[names[k]] = (slab, row)
            self._start(slab, rows)

    def row(self, id_: IdT, /) -> Row:
        """Return an id's row; a factor that only its envelope names has weight 0.

        Raises KeyError for an id that is not in the book.
        """
        slab, number = self._find(id_)
        named = [(self._names[e.factor], e) for e in slab.exposures(number)]
        return Row(
            constant=slab.constant(number),
            weights={name: e.weight for name, e in named},
            envelope={name: (e.low, e.high) for name, e in named if e.low > -np.inf},
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._home)

    def __contains__(self, id_: object) -> bool:
        """Say whether an id has a row."""
        return id_ in self._home

    # --- prices -----------------------------------------------------------------------------------

    def move(self, values: Mapping[str, float], /) -> Moved[IdT]:
        """Set factors to new values and return what that changed.

        Raises KeyError for an unknown factor; ValueError for a value that is not finite, or a price
        that is not positive.
        """
        changed, fresh = self._set(self._checked(values))
        under: list[IdT] = []
        cured: list[IdT] = []
        expired: list[IdT] = []
        for slab in self._slabs.values() if changed else ():
            changes = slab.move(changed, fresh, self._values)
            if changes is None:
                continue
            under += slab.names(changes.under)
            cured += slab.names(changes.cured)
            expired += slab.names(changes.expired)
            self._unpriced.difference_update(slab.names(changes.priced))
        if under or cured:
            self._under.update(under)
            self._under.difference_update(cured)
            self._under_seen = None
        return Moved(tuple(under), tuple(cured), tuple(expired))

    @property
    def under(self) -> frozenset[IdT]:
        """All ids under-margined now, expired ones included until they are put again.

        A snapshot: it does not follow later changes.
        """
        if self._under_seen is None:
            self._under_seen = frozenset(self._under)
        return self._under_seen

    def is_under(self, id_: IdT, /) -> bool:
        """Say whether an id is in ``under``, without a snapshot; False for an unknown id."""
        return id_ in self._under

    @property
    def unpriced(self) -> frozenset[IdT]:
        """The ids that wait for the first value of one of their factors. A snapshot."""
        return frozenset(self._unpriced)

    def excess(self, id_: IdT, /) -> float:
        """Return a row's excess at present values, in USD; NaN while the id is unpriced.

        Raises KeyError for an id that is not in the book.
        """
        slab, number = self._find(id_)
        excess, _ = slab.excess(np.array([number], dtype=np.intp), self._values)
        return float(excess[0])

    def nearest(self, count: int) -> list[tuple[IdT, float]]:
        """Return up to ``count`` ids by distance to liquidation in %, nearest first.

        The distance is the smallest relative move of all price factors at once, each against the
        account, that takes its excess to zero: ``100 * excess / Σ |weight| * price`` over prices;
        indices stand still. Negative when under-margined, at most 0 when expired, ±inf for a row
        that no price moves. Unpriced ids have no distance. A pass over the whole book: for people
        and metrics, not for every tick. Raises ValueError for a negative count.
        """
        if count < 0:
            msg = f"count must not be negative, got {count}"
            raise ValueError(msg)
        prices = np.where(self._is_price, self._values, 0.0)
        found: list[tuple[IdT, float]] = []
        for slab in self._slabs.values():
            rows, distances = slab.distances(self._values, prices)
            if count < len(rows):
                limit = np.partition(distances, count)[count]
                close = distances <= limit
                rows, distances = rows[close], distances[close]
            found.extend(zip(slab.names(rows), distances.tolist(), strict=True))
        found.sort(key=lambda pair: pair[1])
        return found[:count]

    # --- inside -----------------------------------------------------------------------------------

    def _checked(self, values: Mapping[str, float]) -> dict[int, float]:
        """Return number → value, or raise before anything has changed."""
        checked = {}
        for name, value in values.items():
            number = self._number(name)
            amount = finite(value, f"value of {name}")
            if amount <= 0.0 and self._is_price[number]:
                msg = f"price of {name} must be positive, got {value!r}"
                raise ValueError(msg)
            checked[number] = amount
        return checked

    def _set(self, values: Mapping[int, float]) -> tuple[list[int], list[int]]:
        """Store values; return the factors that changed, and those that had no value before."""
        before = {number: float(self._values[number]) for number in values}
        for number, value in values.items():
            self._values[number] = value
        changed = [number for number, value in values.items() if before[number] != value]
        return changed, [number for number in changed if math.isnan(before[number])]

    def _number(self, name: str) -> int:
        number = self._factors.get(name)
        if number is None:
            msg = f"unknown factor {name!r}: not among the book's {len(self._factors)}"
            raise KeyError(msg)
        return number

    def _find(self, id_: IdT) -> tuple[Slab[IdT], int]:
        home = self._home.get(id_)
        if home is None:
            msg = f"no row for {id_!r}"
            raise KeyError(msg)
        return home

    def _exposures(self, row: Row) -> list[Exposure]:
        """Return a row's exposures in factor order: those of its weights and of its envelope."""
        names = {name: self._number(name) for name in (*row.weights, *row.envelope)}
        return sorted(
            Exposure(
                number, row.weights.get(name, 0.0), *row.envelope.get(name, (-math.inf, math.inf))
            )
            for name, number in names.items()
        )

    def _slab(self, exposures: int) -> Slab[IdT]:
        """Return the slab for rows of so many exposures."""
        width = _width(exposures)
        slab = self._slabs.get(width)
        if slab is None:
            slab = self._slabs[width] = Slab(width)
        return slab

    def _start(self, slab: Slab[IdT], rows: Ints) -> None:
        """Take the state of rows just inserted into the book's sets."""
        under, unpriced = slab.start(rows, self._values)
        self._unpriced.update(slab.names(rows[unpriced]))
        entered = slab.names(rows[under])
        if entered:
            self._under.update(entered)
            self._under_seen = None

    def _forget(self, id_: IdT) -> None:
        """Remove an id wherever it stands; unknown ones are fine."""
        home = self._home.pop(id_, None)
        if home is None:
            return
        home[0].remove(home[1])
        self._unpriced.discard(id_)
        if id_ in self._under:
            self._under.remove(id_)
            self._under_seen = None


def _width(exposures: int) -> int:
    """Return the slab width for a row: the next power of two, so that at most half is padding."""
    return max(_WIDTH_MIN, 1 << max(exposures - 1, 0).bit_length())


def _int_array(numbers: npt.ArrayLike, name: str) -> Ints:
    """Return a flat array of integers, or raise ValueError."""
    array = np.asarray(numbers)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        msg = f"{name} must be a flat array of integers, got {array.ndim}-d {array.dtype}"
        raise ValueError(msg)
    return array.astype(np.intp)


def _float_array(numbers: npt.ArrayLike, name: str, length: int) -> Floats:
    """Return a flat array of ``length`` finite floats, or raise ValueError."""
    try:
        array = np.asarray(numbers, dtype=np.float64)
    except (TypeError, OverflowError) as error:
        msg = f"{name} must be numbers: {error}"
        raise ValueError(msg) from None
    if array.shape != (length,):
        msg = f"{name} must have shape ({length},), got {array.shape}"
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{name} must be finite"
        raise ValueError(msg)
    return array


def _row_counts(indptr: Ints, rows: int, exposures: int) -> Ints:
    """Return the exposures of each row, or raise ValueError if ``indptr`` does not fit."""
    counts = np.diff(indptr)
    whole = len(indptr) == rows + 1 and indptr[0] == 0 and indptr[-1] == exposures
    if not whole or (counts < 0).any():
        msg = (
            f"indptr must rise from 0 to {exposures} in {rows + 1} steps, one a row; "
            f"got {len(indptr)} numbers"
        )
        raise ValueError(msg)
    return counts


def _in_factor_order(counts: Ints, factors: Ints, weights: Floats) -> tuple[Ints, Floats]:
    """Sort each row's exposures by factor; raises ValueError if a row names one twice."""
    keys = np.repeat(np.arange(len(counts)), counts) * (factors.max(initial=0) + 1) + factors
    if (np.diff(keys) > 0).all():
        return factors, weights
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        msg = "a row names a factor twice"
        raise ValueError(msg)
    return factors[order], weights[order]
