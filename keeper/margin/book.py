"""Which accounts are under-margined after this price move.

A sparse matrix of rows by factors that knows no protocol: venues compile accounts to rows
(``keeper.margin.rows``), the book follows the factors. A screen in float64; the guard band makes it
nominate an account too many rather than one too few.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from keeper.margin.arrays import exposures_of, exposures_of_many, float_array, row_arrays
from keeper.margin.fence import STEPS_MAX, Beyond, Fence
from keeper.margin.follow import Changes, Follower
from keeper.margin.moved import Moved
from keeper.margin.near import nearest
from keeper.margin.rows import Row, finite
from keeper.margin.slab import Exposures, Floats, IdT, Ints, Slab, width_of
from keeper.margin.watch import Watch

SCAN = 4  # entries of columns that may be looked through to place one row less
_WIDTH_BITS = 5  # of a home: what says in which slab it is
_WIDTH_MASK = (1 << _WIDTH_BITS) - 1


_NOTHING: Moved[Any] = Moved()


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
        self._fence = Fence()
        self._watch = Watch()
        self._followers: dict[int, Follower[IdT]] = {}  # by the width of their slab
        self._home: dict[IdT, int] = {}  # row << _WIDTH_BITS | log2(width of its slab)
        self._unpriced: set[IdT] = set()
        self._steps = 0  # of factors since everything was worked out from scratch
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
        self._fence.add(len(prices), len(indices))
        self._watch.add_factors(len(names))

    @property
    def factors(self) -> tuple[str, ...]:
        """The factors' names in the order in which they were added: what ``load`` counts in."""
        return tuple(self._names[1:])

    @property
    def values(self) -> dict[str, float]:
        """The present value of every factor that has one."""
        pairs = zip(self._names, self._fence.values.tolist(), strict=True)
        return {name: value for name, value in pairs if name and not math.isnan(value)}

    # --- rows -------------------------------------------------------------------------------------

    def put(self, id_: IdT, row: Row, /) -> None:
        """Insert or replace one row. Raises KeyError for a factor that the book does not have."""
        exposures = exposures_of(row, self._number)
        self._forget(id_)
        follower = self._follower(len(exposures))
        number = follower.slab.insert(id_, row.constant, exposures)
        self._home[id_] = number << _WIDTH_BITS | follower.slab.shift
        under, unpriced = follower.start_one(number, row.constant, exposures)
        if unpriced:
            self._unpriced.add(id_)
        if under:
            self._under_seen = None

    def put_many(self, rows: Mapping[IdT, Row], /) -> None:
        """Insert or replace rows: the same as a ``put`` of each, but faster."""
        exposures = exposures_of_many(rows.values(), self._number)
        constants = np.array([row.constant for row in rows.values()], dtype=np.float64)
        self._insert(list(rows), constants, exposures)

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
        bases = float_array(constants, "constants", len(names))
        exposures = row_arrays(len(names), indptr, factors, weights, len(self._names) - 1)
        self._insert(names, bases, exposures)

    def _insert(self, names: Sequence[IdT], constants: Floats, exposures: Exposures) -> None:
        """Insert or replace many rows."""
        if self._home:
            for id_ in names:
                self._forget(id_)
        counts = exposures.counts
        widths = np.array([width_of(n) for n in range(int(counts.max(initial=0)) + 1)])[counts]
        for width in np.flatnonzero(np.bincount(widths)).tolist():
            chosen = widths == width
            part = list(itertools.compress(names, chosen.tolist()))
            follower = self._follower(width)
            rows = follower.insert(part, constants[chosen], exposures.of(chosen))
            homes = rows << _WIDTH_BITS | follower.slab.shift
            self._home.update(zip(part, homes.tolist(), strict=True))
            under, unpriced = follower.start(rows)
            self._unpriced.update(follower.slab.names(rows[unpriced]))
            if under.any():
                self._under_seen = None

    def row(self, id_: IdT, /) -> Row:
        """Return an id's row; a factor that only its envelope names has weight 0.

        Raises KeyError for an id that is not in the book.
        """
        follower, number = self._find(id_)
        slab = follower.slab
        named = [(self._names[e.factor], e) for e in slab.exposures(number)]
        return Row(
            constant=float(slab.constant[number]),
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
        checked = self._checked(values)
        numbers: list[int] = []
        steps: list[float] = []
        left: list[tuple[int, float]] = []
        fence = self._fence
        for number, value in checked.items():
            before = fence.values.item(number)
            if before == value:
                continue
            fence.values[number] = value
            if not math.isnan(before):
                numbers.append(number)
                steps.append(value - before)
            if not fence.low[number] <= value <= fence.high[number]:
                left.append((number, before))
        changes = []
        if left:
            changes = self._beyond(numbers, steps, left)
        else:
            self._watch.move(numbers, steps)
        self._steps += len(steps)
        if self._steps > STEPS_MAX:
            self._settle_all()
        flagged = self._watch.flagged()
        if len(flagged):
            changes += self._look(flagged)
        return self._moved(changes) if changes else _NOTHING

    def _beyond(
        self, numbers: Sequence[int], steps: Sequence[float], left: Sequence[tuple[int, float]]
    ) -> list[tuple[Slab[IdT], Changes]]:
        """Follow a move on which these factors left their fences; ``left``: with values before."""
        fence, followers = self._fence, self._followers.values()
        gone = [(number, before) for number, before in left if fence.has_left(number)]
        ends = [number for number, _ in left if not fence.has_left(number)]
        for number in ends:
            fence.open(number)
        resized = [number for number, before in gone if fence.resize(number, before)]
        if resized:
            fence.anchor(resized)
        others: list[int] | None = [number for number, _ in gone if number not in resized]
        rings = 0
        if others:
            exposed = sum(one.exposed(number) for one in followers for number in others)
            rings = fence.rings_left()
            if exposed > SCAN * sum(one.inside(rings) for one in followers):
                fence.anchor_all(rings)
                others = None
            else:
                rings = fence.rings_left(others)
                fence.anchor(others, rings)
        fresh = [number for number, before in gone if math.isnan(before)]
        beyond = Beyond(resized, fresh, rings, others, ends)
        if not beyond.all_watched:
            with np.errstate(over="ignore", invalid="ignore"):
                self._watch.move(numbers, steps)
        return [(one.slab, one.move(beyond)) for one in followers]

    def _look(self, places: Ints) -> list[tuple[Slab[IdT], Changes]]:
        """Turn watched rows round that have changed sides."""
        if len(self._followers) == 1:
            [only] = self._followers.values()
            return [(only.slab, only.look(places))]
        widths = self._watch.slab[places]
        return [
            (self._followers[width].slab, self._followers[width].look(places[widths == width]))
            for width in np.unique(widths).tolist()
        ]

    def _moved(self, changes: Sequence[tuple[Slab[IdT], Changes]]) -> Moved[IdT]:
        """Name the rows that changed."""
        under: tuple[IdT, ...] = ()
        cured: tuple[IdT, ...] = ()
        expired: tuple[IdT, ...] = ()
        for slab, change in changes:
            under += slab.names(change.under)
            cured += slab.names(change.cured)
            expired += slab.names(change.expired)
            self._unpriced.difference_update(slab.names(change.priced))
        if under or cured:
            self._under_seen = None
        return Moved(under, cured, expired)

    def _settle_all(self) -> None:
        self._steps = 0
        for follower in self._followers.values():
            follower.settle()

    @property
    def under(self) -> frozenset[IdT]:
        """All ids under-margined now, expired ones included until they are put again.

        A snapshot: it does not follow later changes.
        """
        if self._under_seen is None:
            found: list[IdT] = []
            for follower in self._followers.values():
                found += follower.slab.names(np.flatnonzero(follower.slab.under))
            self._under_seen = frozenset(found)
        return self._under_seen

    def is_under(self, id_: IdT, /) -> bool:
        """Say whether an id is in ``under``, without a snapshot; False for an unknown id."""
        if id_ not in self._home:
            return False
        follower, number = self._find(id_)
        return bool(follower.slab.under[number])

    @property
    def watched(self) -> int:
        """How many ids are near enough to their edge that a tick may have to look at them."""
        return len(self._watch)

    @property
    def rebuilds(self) -> int:
        """How often a value has left its fence so far, so that rows had to be passed over."""
        return self._fence.rebuilds

    def exposed(self, factor: str, /) -> int:
        """Return how many rows stand on a factor. Raises KeyError for one that is unknown."""
        number = self._number(factor)
        return sum(one.exposed(number) for one in self._followers.values())

    @property
    def unpriced(self) -> frozenset[IdT]:
        """The ids that wait for the first value of one of their factors. A snapshot."""
        return frozenset(self._unpriced)

    def excess(self, id_: IdT, /) -> float:
        """Return a row's excess at present values, in USD; NaN while the id is unpriced.

        Raises KeyError for an id that is not in the book.
        """
        follower, number = self._find(id_)
        return follower.slab.excess_of(number, self._fence.values)[0]

    def distance(self, id_: IdT, /) -> float:
        """Return a row's distance to liquidation in %, as ``nearest`` does; NaN while unpriced.

        Raises KeyError for an id that is not in the book.
        """
        follower, number = self._find(id_)
        return follower.slab.distance_of(number, self._fence.values, self._fence.is_price)

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
        return nearest([one.slab for one in self._followers.values()], self._fence, count)

    # --- inside -----------------------------------------------------------------------------------

    def _checked(self, values: Mapping[str, float]) -> dict[int, float]:
        """Return number → value, or raise before anything has changed."""
        checked = {}
        for name, value in values.items():
            number = self._factors.get(name) or self._number(name)
            if type(value) is not float or not -math.inf < value < math.inf:
                value = finite(value, f"value of {name}")  # noqa: PLW2901 - as the book keeps it
            if value <= 0.0 and self._fence.is_price(number):
                msg = f"price of {name} must be positive, got {value!r}"
                raise ValueError(msg)
            checked[number] = value
        return checked

    def _number(self, name: str) -> int:
        number = self._factors.get(name)
        if number is None:
            msg = f"unknown factor {name!r}: not among the book's {len(self._factors)}"
            raise KeyError(msg)
        return number

    def _find(self, id_: IdT) -> tuple[Follower[IdT], int]:
        home = self._home.get(id_)
        if home is None:
            msg = f"no row for {id_!r}"
            raise KeyError(msg)
        return self._followers[1 << (home & _WIDTH_MASK)], home >> _WIDTH_BITS

    def _follower(self, exposures: int) -> Follower[IdT]:
        """Return what follows the rows of so many exposures."""
        width = width_of(exposures)
        follower = self._followers.get(width)
        if follower is None:
            follower = self._followers[width] = Follower(Slab(width), self._fence, self._watch)
        return follower

    def _forget(self, id_: IdT) -> None:
        """Remove an id wherever it stands; unknown ones are fine."""
        if id_ not in self._home:
            return
        follower, number = self._find(id_)
        del self._home[id_]
        self._unpriced.discard(id_)
        if follower.slab.under[number]:
            self._under_seen = None
        follower.remove(number)
