"""One slab's rows as prices move: who changes sides, and who is near enough to be watched.

A row's *middle* is its excess at the anchors, its *reach* how far any movement of its factors
inside their fences can take the excess from there, float64 errors included. Beyond its reach a
middle's sign is the row's side; the rows within are decided from scratch, and watched.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple

import numpy as np

from keeper.margin.fence import ERROR, Fence
from keeper.margin.slab import CHUNK, GUARD, Bools, Exposure, Floats, IdT, Ints, Slab
from keeper.margin.watch import Watch

_HUGE = 1e290  # of gross: beyond, sums may overflow and a row is decided from scratch every time
_WHOLE = 0.8  # of a slab's rows, in columns: fewer are faster followed column by column
_NONE: Ints = np.zeros(0, dtype=np.intp)


class Changes(NamedTuple):
    """Rows of one slab that changed with a move."""

    under: Ints
    cured: Ints
    expired: Ints
    priced: Ints


class Beyond(NamedTuple):
    """Factors that a move took beyond their fence, by number."""

    anchored: list[tuple[int, float]]  # and the step of their anchor
    resized: list[int]  # whose half changed too; those with a first value among them
    fresh: list[int]  # with a first value
    ends: list[int]  # that met the end of an envelope inside their fence


class Follower(Generic[IdT]):
    """A slab that follows prices."""

    def __init__(self, slab: Slab[IdT], fence: Fence, watch: Watch) -> None:
        """Follow ``slab``; fence and watch are those of the whole book."""
        self.slab = slab
        self._fence = fence
        self._watch = watch
        self._ends: dict[int, Ints] = {}  # factor → entries whose envelope ends inside its fence

    # --- rows come and go -------------------------------------------------------------------------

    def start(self, rows: Ints) -> tuple[Bools, Bools]:
        """Work out the state of many rows just inserted, without envelopes: (under, unpriced)."""
        slab, fence = self.slab, self._fence
        if np.isnan(fence.values).any():
            slab.missing[rows] = np.isnan(fence.values.take(slab.factor[rows])).sum(axis=1)
        self._settle(rows)
        under, excess = slab.now_under(rows, fence.values)
        slab.under[rows] = under
        near = self._near(rows)
        self._add(rows[near], excess[near])
        return under, slab.missing[rows] > 0

    def start_one(
        self, row: int, constant: float, exposures: Sequence[Exposure]
    ) -> tuple[bool, bool]:
        """Work out the state of a row just inserted: (under, unpriced).

        Without arrays, which is faster; the sums are those of ``_settle`` and ``Slab.excess``.
        """
        slab, fence = self.slab, self._fence
        excess = middle = constant
        gross = largest = abs(constant)
        reach, missing, expired = ERROR * gross, 0, False
        for number, weight, low, high in exposures:
            value, size = fence.values.item(number), abs(weight)
            if math.isnan(value):
                missing += 1
                continue
            excess += weight * value
            gross += abs(weight * value)
            middle += weight * fence.anchors.item(number)
            reach += size * fence.spreads.item(number)
            largest += size * fence.scales.item(number)
            expired = expired or not low <= value <= high
        slab.missing[row], slab.expired[row] = missing, expired
        slab.under[row] = under = not missing and (expired or not excess >= GUARD * gross)
        slab.middle[row], slab.reach[row] = middle, reach * (1.0 + ERROR)
        if not largest <= _HUGE:
            slab.reach[row] = math.inf
        if slab.bounded:
            for k, (number, _, low, high) in enumerate(exposures):
                if low > -math.inf or high < math.inf:
                    self._mind(number, np.array([(row << slab.shift) + k]))
        if missing or expired:
            self._encode(np.array([row]))
        elif not abs(middle) > slab.reach[row]:
            self._add(np.array([row]), np.array([excess]))
        return under, missing > 0

    def remove(self, row: int) -> None:
        """Remove a row."""
        if self.slab.watched[row]:
            self._unwatch(np.array([row]))
        self.slab.remove(row)

    # --- moves ------------------------------------------------------------------------------------

    def look(self, places: Ints) -> Changes:
        """Turn watched rows round that have changed sides; ``places`` are without room."""
        slab, watch = self.slab, self._watch
        rows, changed = watch.row.take(places), watch.crossed(places)
        if not changed.all():
            doubtful = np.flatnonzero(~changed)
            changed[doubtful] = self._differ(rows[doubtful])[0]
            places, rows = places[changed], rows[changed]
        watch.turn(places)
        now = ~slab.under.take(rows)
        slab.under[rows] = now
        return Changes(rows[now], rows[~now], _NONE, _NONE)

    def settle_all(self) -> None:
        """Work out everything from scratch, so that float64 errors do not add up for ever."""
        rows = np.flatnonzero(self.slab.live)
        self._settle(rows)
        self._unwatch(self._watch.rows(self.slab.width))
        near = rows[self._near(rows)]
        self._add(near, self.slab.excess(near, self._fence.values)[0])

    def passes_all(self, beyond: Beyond) -> bool:
        """Say whether following takes all rows in order: faster when it would be most anyhow."""
        columns = self.slab.columns
        factors = (*beyond.resized, *(factor for factor, _ in beyond.anchored))
        touched = sum(len(columns[factor]) for factor in factors if factor in columns)
        return touched > _WHOLE * self.slab.size

    def move(self, beyond: Beyond) -> Changes:
        """Follow factors beyond their fences; watched rows have moved, unless ``passes_all``."""
        slab = self.slab
        was_missing = slab.missing > 0 if beyond.fresh else None
        for factor in beyond.fresh:
            slab.missing[self._rows(factor)] -= 1
        expired = self._expire(beyond)
        self._encode(expired)
        whole = self.passes_all(beyond)
        resized = self._union(beyond.resized)
        with np.errstate(over="ignore", invalid="ignore"):
            near, flipped = self._pass_all(resized) if whole else self._pass(beyond, resized)
        changed = expired[~slab.under[expired] & (slab.missing[expired] == 0)]
        slab.under[changed] = True
        watched = self._watch.rows(slab.width)
        if not whole:
            stale = ~self._near(watched)
            if len(resized):  # other errors count now
                stale |= np.isin(watched, near)
            watched = watched[stale]
        self._unwatch(watched)
        turned = [self._decide(near[start : start + CHUNK]) for start in range(0, len(near), CHUNK)]
        flipped = np.concatenate([flipped, changed, *turned])
        priced = _NONE
        if was_missing is not None:
            priced = np.flatnonzero(was_missing & (slab.missing == 0))
        now = slab.under[flipped]
        return Changes(flipped[now], flipped[~now], expired, priced)

    def _decide(self, rows: Ints) -> Ints:
        """Decide and watch rows within their reach; return those that changed sides."""
        differ, excess = self._differ(rows)
        turned = rows[differ]
        self.slab.under[turned] ^= True
        self._watch.turn(self._places(turned[self.slab.watched[turned] > 0]))
        self._add(rows, excess)
        return turned

    def _differ(self, rows: Ints) -> tuple[Bools, Floats]:
        """Add rows up from scratch; return whether they have changed sides, and the excess."""
        excess, gross = self.slab.excess(rows, self._fence.values)
        changed: Bools = ~(excess >= GUARD * gross) ^ self.slab.under.take(rows)
        return changed, excess

    # --- middles and reaches ----------------------------------------------------------------------

    def _rows(self, factor: int) -> Ints:
        """Return the rows exposed to a factor."""
        column = self.slab.columns.get(factor)
        if column is None:
            return _NONE
        rows: Ints = column.entries.astype(np.intp)
        rows >>= self.slab.shift
        return rows

    def _union(self, factors: Sequence[int]) -> Ints:
        """Return the rows exposed to any of these factors, each once."""
        if len(factors) <= 1:
            return self._rows(factors[0]) if factors else _NONE
        mask = np.zeros(len(self.slab.constant), dtype=np.bool_)
        for factor in factors:
            mask[self._rows(factor)] = True
        rows: Ints = np.flatnonzero(mask)
        return rows

    def _settle(self, rows: Ints) -> None:
        """Work out middle and reach of rows from scratch."""
        slab, fence, ones = self.slab, self._fence, np.ones(self.slab.width)
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            factors, weights = slab.factor.take(part, axis=0), slab.weight.take(part, axis=0)
            constants = slab.constant.take(part)
            with np.errstate(over="ignore", invalid="ignore"):
                slab.middle[part] = (fence.anchors.take(factors) * weights) @ ones + constants
                np.abs(weights, out=weights)
                np.abs(constants, out=constants)
                reach = (fence.spreads.take(factors) * weights) @ ones + ERROR * constants
                gross = (fence.scales.take(factors) * weights) @ ones + constants
            slab.reach[part] = np.where(gross <= _HUGE, reach * (1.0 + ERROR), np.inf)
        self._encode(rows)

    def _encode(self, rows: Ints) -> None:
        """Set the middle of rows that no price decides: unpriced ones, else expired ones."""
        slab = self.slab
        if slab.bounded:
            expired = rows[slab.expired[rows]]
            slab.middle[expired], slab.reach[expired] = -np.inf, 0.0
        unpriced = rows[slab.missing[rows] > 0]
        slab.middle[unpriced], slab.reach[unpriced] = np.inf, 0.0

    def _pass(self, beyond: Beyond, resized: Ints) -> tuple[Ints, Ints]:
        """Follow anchors; return (rows within their reach, rows beyond it that changed sides).

        ``resized``: the rows of ``beyond.resized``, which are worked out from scratch.
        """
        anchored = [pair for pair in beyond.anchored if pair[0] in self.slab.columns]
        if len(anchored) == 1 and not len(resized):
            return self._compare(self._shift(*anchored[0]))
        for factor, step in anchored:
            for _ in self._shift(factor, step):
                pass
        self._settle(resized)
        rows = self._union([*beyond.resized, *(factor for factor, _ in anchored)])
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        return self._compare((part, self.slab.middle.take(part)) for part in chunks)

    def _shift(self, factor: int, step: float) -> Iterator[tuple[Ints, Floats]]:
        """Take the middles of a factor's rows along with its anchor; yield (rows, middles)."""
        slab, column = self.slab, self.slab.columns[factor]
        entries, weights = column.entries, column.weights
        for start in range(0, len(entries), CHUNK):
            rows = entries[start : start + CHUNK].astype(np.intp)
            rows >>= slab.shift
            middle = weights[start : start + CHUNK] * step
            middle += slab.middle.take(rows)
            slab.middle[rows] = middle
            yield rows, middle

    def _pass_all(self, resized: Ints) -> tuple[Ints, Ints]:
        """Work out all middles from scratch: as ``_pass``."""
        self._settle(resized)
        return self._compare(self._middles())

    def _middles(self) -> Iterator[tuple[slice, Floats]]:
        """Work out every middle from scratch and yield (rows, middles)."""
        slab, anchors = self.slab, self._fence.anchors
        ones, product = np.ones(slab.width), np.empty((CHUNK, slab.width))
        aside = ~slab.live | slab.expired | (slab.missing > 0)  # no price decides these
        for start in range(0, slab.size, CHUNK):
            part = slice(start, min(start + CHUNK, slab.size))
            terms, middle = product[: part.stop - start], slab.middle[part]
            others = np.flatnonzero(aside[part]) if aside[part].any() else _NONE
            kept = middle[others]
            anchors.take(slab.factor[part], out=terms, mode="clip")
            terms *= slab.weight[part]
            np.matmul(terms, ones, out=middle)
            middle += slab.constant[part]
            middle[others] = kept
            yield part, middle

    def _compare(self, chunks: Iterable[tuple[Ints | slice, Floats]]) -> tuple[Ints, Ints]:
        """Sort rows by their middles: as ``_pass``."""
        slab, near, turned = self.slab, [_NONE], [_NONE]
        for rows, middle in chunks:
            if isinstance(rows, slice):
                under, reach = slab.under[rows], slab.reach[rows]
            else:
                under, reach = slab.under.take(rows), slab.reach.take(rows)
            chosen = (middle < 0.0) ^ under
            close = ~(np.abs(middle) > reach)
            chosen |= close
            found = np.flatnonzero(chosen)
            if len(found):
                close = close.take(found)
                found = found + rows.start if isinstance(rows, slice) else rows.take(found)
                near.append(found[close])
                turned.append(found[~close])
        flipped = np.concatenate(turned)
        slab.under[flipped] ^= True
        return np.concatenate(near), flipped

    # --- the watch --------------------------------------------------------------------------------

    def _near(self, rows: Ints) -> Bools:
        """Say which rows are within their reach of their edge."""
        near: Bools = ~(np.abs(self.slab.middle[rows]) > self.slab.reach[rows])
        return near

    def _unwatch(self, rows: Ints) -> None:
        """Take rows out of the watch."""
        if len(rows):
            self._watch.free(self._places(rows), self.slab.factor.take(rows, axis=0))
            self.slab.watched[rows] = 0

    def _add(self, rows: Ints, excess: Floats) -> None:
        """Watch those of these rows, each named once, that are not yet; ``excess``: the present."""
        slab, fence = self.slab, self._fence
        new = slab.watched[rows] == 0
        rows, excess = rows[new], excess[new]
        if not len(rows):
            return
        factors, weights = slab.factor.take(rows, axis=0), slab.weight.take(rows, axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            error = (np.abs(weights) * fence.scales.take(factors)) @ np.ones(slab.width)
            error += np.abs(slab.constant.take(rows))
            error *= ERROR
        huge = np.isinf(slab.reach[rows])
        excess[huge], weights[huge], error[huge] = np.nan, 0.0, 0.0  # looked at every time
        places = self._watch.take(slab.width, rows, factors, weights)
        self._watch.stand(places, excess, error, slab.under[rows])
        slab.watched[rows] = places + 1

    def _places(self, rows: Ints) -> Ints:
        """Return the places of watched rows."""
        places: Ints = self.slab.watched[rows].astype(np.intp)
        places -= 1
        return places

    # --- envelopes --------------------------------------------------------------------------------

    def _expire(self, beyond: Beyond) -> Ints:
        """Mark rows whose envelope was left and return those that were inside before."""
        if not self.slab.bounded:
            return _NONE
        looked_at = {factor: self._ends.get(factor, _NONE) for factor in beyond.ends}
        for factor in (*(f for f, _ in beyond.anchored), *beyond.resized):
            column = self.slab.columns.get(factor)
            if column is not None:
                looked_at[factor] = column.entries.astype(np.intp)
        found = [self._leave(factor, entries) for factor, entries in looked_at.items()]
        for factor, entries in looked_at.items():
            self._mind(factor, entries, afresh=True)
        return np.concatenate([_NONE, *found])

    def _leave(self, factor: int, entries: Ints) -> Ints:
        """Expire the rows of entries outside of which their factor is, and return them."""
        slab, value = self.slab, self._fence.values[factor]
        outside = (slab.low.take(entries) > value) | (slab.high.take(entries) < value)
        outside &= slab.factor.take(entries) == factor  # an entry may have changed hands
        rows: Ints = np.unique(entries[outside] >> slab.shift)
        rows = rows[~slab.expired[rows]]
        slab.expired[rows] = True
        return rows

    def _mind(self, factor: int, entries: Ints, *, afresh: bool = False) -> None:
        """Remember which of these entries' envelopes end inside the fence, and narrow it."""
        slab, fence = self.slab, self._fence
        first, last = fence.ends(factor)
        low, high = slab.low.take(entries), slab.high.take(entries)
        inside = ((low > first) | (high < last)) & ~slab.expired[entries >> slab.shift]
        inside &= slab.factor.take(entries) == factor
        entries, low, high = entries[inside], low[inside], high[inside]
        if not afresh and factor in self._ends:
            entries = np.concatenate([self._ends[factor], entries])
            if len(entries) > 2 * len(slab.columns[factor]):  # the same ones, put again and again
                entries = np.unique(entries)
        self._ends[factor] = entries
        fence.narrow(factor, low.max(initial=-np.inf), high.min(initial=np.inf))
