"""One slab's rows as prices move: who changes sides, and who is near enough to be watched.

A row's *middle* is its excess at the anchors, its *reach* how far a move of all its factors by one
half can take the excess, float64 errors included. Middle by reach, in halves, says in which ring a
row stands (``keeper.margin.fence``). Beyond its reach a middle's sign is the row's side; the rows
within are decided from scratch, and watched.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Generic, NamedTuple

import numpy as np

from keeper.margin.fence import ERROR, ROUNDING, SCALE_MAX, Beyond, Fence
from keeper.margin.slab import (
    CHUNK,
    GUARD,
    OUTSIDE,
    Bools,
    Compact,
    Exposure,
    Exposures,
    Floats,
    IdT,
    Ints,
    Slab,
    sums,
)
from keeper.margin.watch import Watch

_HUGE = 1e290  # of gross: beyond, sums may overflow and a row is decided from scratch every time
_SCAN = 32_768  # entries of a column at a time
_NONE: Ints = np.zeros(0, dtype=np.intp)


class Changes(NamedTuple):
    """Rows of one slab that changed with a move."""

    under: Ints
    cured: Ints
    expired: Ints
    priced: Ints


class Follower(Generic[IdT]):
    """A slab that follows prices."""

    def __init__(self, slab: Slab[IdT], fence: Fence, watch: Watch) -> None:
        """Follow ``slab``; fence and watch are those of the whole book."""
        self.slab = slab
        self._fence = fence
        self._watch = watch
        self._ends: dict[int, Ints] = {}  # factor → entries whose envelope ends inside its fence

    # --- rows come and go -------------------------------------------------------------------------

    def insert(self, ids: Sequence[IdT], constants: Floats, exposures: Exposures) -> Ints:
        """Store rows and return their numbers, which rise with their rings; ``start`` must follow.

        So a gap finds the rows that it reaches side by side in memory: half the time.
        """
        counts, factors, weights, _ = exposures
        held = np.flatnonzero(counts)
        starts = (np.cumsum(counts) - counts).take(held)
        middle, reach = constants.copy(), ERROR * np.abs(constants)
        with np.errstate(all="ignore"):
            if len(held):
                middle[held] += np.add.reduceat(self._fence.anchors.take(factors) * weights, starts)
                spreads = self._fence.spreads.take(factors) * np.abs(weights)
                reach[held] += np.add.reduceat(spreads, starts)
            ring = self._fence.ring_of(np.abs(middle) / reach)
        return self.slab.insert_many(ids, constants, exposures, np.argsort(ring, kind="stable"))

    def start(self, rows: Ints) -> tuple[Bools, Bools]:
        """Work out the state of many rows just inserted: (under, unpriced)."""
        slab, fence = self.slab, self._fence
        if not fence.complete:
            slab.missing[rows] = np.isnan(fence.values.take(slab.factor[rows])).sum(axis=1)
        for start in range(0, len(rows) if slab.bounded else 0, CHUNK):
            part = rows[start : start + CHUNK]
            slab.expired[part] = self._outside(part)
        self._place(rows, resized=True)
        self._mind(rows[slab.ring.take(rows) == 0])
        return slab.under.take(rows), slab.missing.take(rows) > 0

    def start_one(
        self, row: int, constant: float, exposures: Sequence[Exposure]
    ) -> tuple[bool, bool]:
        """Work out the state of a row just inserted: (under, unpriced).

        Without arrays, which is faster; the sums are those of ``_place`` and ``Slab.excess``.
        """
        slab, fence = self.slab, self._fence
        excess = middle = constant
        gross = largest = abs(constant)
        reach, missing, expired, inside = ERROR * gross, 0, False, math.inf
        for number, weight, low, high in exposures:
            value, size = fence.values.item(number), abs(weight)
            if math.isnan(value):
                missing += 1
                continue
            anchor, half = fence.anchors.item(number), fence.halves.item(number)
            excess += weight * value
            gross += abs(weight * value)
            middle += weight * anchor
            reach += size * fence.spreads.item(number)
            largest += size * fence.scales.item(number)
            expired = expired or not low <= value <= high
            inside = min(inside, (anchor - low) / half, (high - anchor) / half)
        reach = reach * (1.0 + ERROR) if largest <= _HUGE else math.inf
        under = not missing and (expired or not excess >= GUARD * gross)
        near = not (missing or expired or abs(middle) > reach)
        slab.missing[row], slab.expired[row], slab.under[row] = missing, expired, under
        slab.reach[row] = reach
        if expired:
            slab.ring[row] = OUTSIDE
        else:
            away = math.inf if missing or not reach else abs(middle) / reach
            slab.ring[row] = 0 if near else bisect_left(fence.thresholds, min(away, inside))
        if inside <= 1.0 + ROUNDING:
            self._mind(np.array([row]))
        if near:
            at = slice(row, row + 1)
            weights = slab.weight[at].copy()
            self._add(np.array([row]), slab.factor[at], weights, np.array([excess]))
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
            excess, gross = slab.excess(rows[doubtful], self._fence.values)
            changed[doubtful] = ~(excess >= GUARD * gross) ^ slab.under.take(rows[doubtful])
            places, rows = places[changed], rows[changed]
        watch.turn(places)
        now = ~slab.under.take(rows)
        slab.under[rows] = now
        return Changes(rows[now], rows[~now], _NONE, _NONE)

    def settle(self) -> None:
        """Work out watched rows from scratch, so that float64 errors do not add up for ever."""
        rows = self._watch.rows(self.slab.width)
        self._unwatch(rows)
        factors, weights = self.slab.factor.take(rows, axis=0), self.slab.weight.take(rows, axis=0)
        self._add(rows, factors, weights, self.slab.excess(rows, self._fence.values)[0])

    def exposed(self, factor: int) -> int:
        """Return how many rows stand on a factor."""
        return len(self.slab.columns.get(factor, ()))

    def inside(self, rings: int) -> int:
        """Return how many rows stand within so many rings."""
        return int(np.count_nonzero(self.slab.ring[: self.slab.size] <= rings))

    def move(self, beyond: Beyond) -> Changes:
        """Follow factors beyond their fences; watched rows have moved, unless ``all_watched``."""
        slab = self.slab
        was_missing = slab.missing > 0 if beyond.fresh else None
        for factor in beyond.fresh:
            slab.missing[self._rows(factor)] -= 1
        touched = self._touched(beyond)
        expired = self._expire(touched, beyond)
        if beyond.all_watched:
            self._unwatch(self._watch.rows(slab.width))
        else:
            inmost = touched.take(np.flatnonzero(slab.ring.take(touched) == 0))
            gone = np.concatenate([inmost, expired])
            self._unwatch(np.unique(gone[slab.watched.take(gone) > 0]))
        flipped = self._place(touched, resized=bool(beyond.resized))
        if slab.bounded:
            self._mind(touched[slab.ring.take(touched) == 0])
        changed = expired[~slab.under[expired] & (slab.missing[expired] == 0)]
        slab.under[changed] = True
        flipped = np.concatenate([flipped, changed])
        priced = _NONE
        if was_missing is not None:
            priced = np.flatnonzero(was_missing & (slab.missing == 0))
        now = slab.under[flipped]
        return Changes(flipped[now], flipped[~now], expired, priced)

    def _touched(self, beyond: Beyond) -> Ints:
        """Return the rows that have to be placed again, each once."""
        slab, rings = self.slab, self.slab.ring[: self.slab.size]
        inside = rings <= beyond.rings
        parts = [self._rows(factor) for factor in beyond.resized]
        parts += [self._rows(factor, inside) for factor in beyond.anchored or ()]
        if beyond.anchored is not None and len(parts) <= 1:
            return parts[0] if parts else _NONE
        mask = inside if beyond.anchored is None else np.zeros(slab.size, np.bool_)
        for rows in parts:
            mask[rows] = True
        touched: Ints = np.flatnonzero(mask)
        return touched

    def _rows(self, factor: int, among: Bools | None = None) -> Ints:
        """Return the rows exposed to a factor; ``among``: only those that are marked there."""
        column, found = self.slab.columns.get(factor), [_NONE]
        entries = column.entries if column is not None else _NONE
        for start in range(0, len(entries), _SCAN):
            rows = (entries[start : start + _SCAN] >> self.slab.shift).astype(np.intp)
            found.append(rows if among is None else rows.take(np.flatnonzero(among.take(rows))))
        return np.concatenate(found)

    # --- rings ------------------------------------------------------------------------------------

    def _place(self, rows: Ints, *, resized: bool) -> Ints:
        """Put rows, none of which is watched, into their rings; return those that changed sides.

        ``resized``: their reaches have changed.
        """
        slab, turned = self.slab, [_NONE]
        near: list[tuple[Ints, Compact, Floats]] = []  # with their factors and weights
        aside = slab.bounded or not self._fence.complete  # else no row is unpriced or expired
        ones, product = np.ones(slab.width), np.empty((min(CHUNK, len(rows)), slab.width))
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            factors, weights = slab.factor.take(part, axis=0), slab.weight.take(part, axis=0)
            terms = product[: len(part)]
            with np.errstate(all="ignore"):
                self._fence.anchors.take(factors, out=terms, mode="clip")  # without a copy
                terms *= weights
                middle = terms @ ones
                middle += slab.constant.take(part)
                if resized:
                    slab.reach[part] = self._reach(part, factors, weights)
                reach = slab.reach.take(part)
                if aside:
                    self._set_aside(part, middle, reach)
                away = np.abs(middle)
                close = ~(away > reach)
                away /= reach
            if slab.bounded:
                np.fmin(away, self._inside(part, factors), out=away)
            ring = self._fence.ring_of(away)
            ring *= ~close
            if slab.bounded:
                ring[slab.expired.take(part)] = OUTSIDE
            slab.ring[part] = ring
            changed = ((middle < 0.0) ^ slab.under.take(part)) & ~close
            turned.append(part.take(np.flatnonzero(changed)))
            if len(at := np.flatnonzero(close)):
                near.append((part.take(at), factors.take(at, axis=0), weights.take(at, axis=0)))
        flipped = np.concatenate(turned)
        slab.under[flipped] ^= True
        if not near:
            return flipped
        return np.concatenate(
            [flipped, self._decide(*map(np.concatenate, zip(*near, strict=True)))]
        )

    def _reach(self, rows: Ints, factors: Compact, weights: Floats) -> Floats:
        """Return how far one half of all factors takes rows; inf where sums may overflow."""
        fence, ones = self._fence, np.ones(self.slab.width)
        sizes, constants = np.abs(weights), np.abs(self.slab.constant.take(rows))
        reach = (fence.spreads.take(factors) * sizes) @ ones + ERROR * constants
        gross = (fence.scales.take(factors) * sizes) @ ones + constants
        return np.where(gross <= _HUGE, reach * (1.0 + ERROR), np.inf)

    def _set_aside(self, rows: Ints, middle: Floats, reach: Floats) -> None:
        """Set the middle of rows that no price decides: unpriced ones, else expired ones."""
        slab = self.slab
        if slab.bounded:
            expired = slab.expired.take(rows)
            middle[expired], reach[expired] = -np.inf, 0.0
        unpriced = slab.missing.take(rows) > 0
        middle[unpriced], reach[unpriced] = np.inf, 0.0

    def _inside(self, rows: Ints, factors: Compact) -> Floats:
        """Return how many halves the anchors are inside the rows' envelopes; NaN: unknown."""
        slab, fence = self.slab, self._fence
        anchors, halves = fence.anchors.take(factors), fence.halves.take(factors)
        with np.errstate(over="ignore"):  # beyond any number of halves is far enough
            below = (anchors - slab.low.take(rows, axis=0)) / halves
            above = (slab.high.take(rows, axis=0) - anchors) / halves
        nearest: Floats = np.fmin.reduce(np.fmin(below, above), axis=1)
        return nearest

    # --- the watch --------------------------------------------------------------------------------

    def _decide(self, rows: Ints, factors: Compact, weights: Floats) -> Ints:
        """Decide and watch rows within their reach; return those that changed sides."""
        slab = self.slab
        excess, gross = sums(slab.constant.take(rows), factors, weights, self._fence.values)
        turned = rows[~(excess >= GUARD * gross) ^ slab.under.take(rows)]
        slab.under[turned] ^= True
        self._add(rows, factors, weights, excess)
        return turned

    def _unwatch(self, rows: Ints) -> None:
        """Take watched rows out of the watch."""
        if len(rows):
            places = self.slab.watched[rows].astype(np.intp) - 1
            self._watch.free(places, self.slab.factor.take(rows, axis=0))
            self.slab.watched[rows] = 0

    def _add(self, rows: Ints, factors: Compact, weights: Floats, excess: Floats) -> None:
        """Watch these rows, none of which is watched; ``excess``: the present.

        Weights and excess are used up.
        """
        slab = self.slab
        reach = slab.reach.take(rows)
        with np.errstate(over="ignore"):
            error = ERROR * (SCALE_MAX * reach + np.abs(slab.constant.take(rows)))
        huge = np.isinf(reach)
        excess[huge], weights[huge], error[huge] = np.nan, 0.0, 0.0  # looked at every time
        places = self._watch.take(slab.width, rows, factors, weights)
        self._watch.stand(places, excess, error, slab.under[rows])
        slab.watched[rows] = places + 1

    # --- envelopes --------------------------------------------------------------------------------

    def _expire(self, touched: Ints, beyond: Beyond) -> Ints:
        """Mark rows whose envelope was left and return those that were inside before."""
        slab = self.slab
        if not slab.bounded:
            return _NONE
        found = [_NONE]
        for factor in beyond.ends:
            entries = self._ends.pop(factor, _NONE)
            found.append(self._leave(factor, entries))
            self._remember(factor, entries)
        anchored = self._ends.copy() if beyond.anchored is None else beyond.anchored
        for factor in (*anchored, *beyond.resized):
            self._ends.pop(factor, None)
        for start in range(0, len(touched), CHUNK):
            rows = touched[start : start + CHUNK]
            rows = rows[self._outside(rows) & ~slab.expired.take(rows)]
            slab.expired[rows] = True
            found.append(rows)
        return np.concatenate(found)

    def _outside(self, rows: Ints) -> Bools:
        """Say which rows have a factor outside of their envelope."""
        slab = self.slab
        now = self._fence.values.take(slab.factor.take(rows, axis=0))
        outside = (slab.low.take(rows, axis=0) > now) | (slab.high.take(rows, axis=0) < now)
        any_outside: Bools = np.logical_or.reduce(outside, axis=1)
        return any_outside

    def _leave(self, factor: int, entries: Ints) -> Ints:
        """Expire the rows of entries outside of which their factor is, and return them."""
        slab, value = self.slab, self._fence.values[factor]
        outside = (slab.low.take(entries) > value) | (slab.high.take(entries) < value)
        outside &= slab.factor.take(entries) == factor  # an entry may have changed hands
        rows: Ints = np.unique(entries[outside] >> slab.shift)
        rows = rows[~slab.expired[rows]]
        slab.expired[rows] = True
        slab.ring[rows] = OUTSIDE
        return rows

    def _mind(self, rows: Ints) -> None:
        """Remember which envelopes of these rows, all in the inmost ring, end inside a fence."""
        slab = self.slab
        if not slab.bounded:
            return
        entries = ((rows << slab.shift)[:, None] + np.arange(slab.width)).ravel()
        factors = slab.factor.take(entries)
        for factor in np.unique(factors).tolist():
            self._remember(factor, entries[factors == factor])

    def _remember(self, factor: int, entries: Ints) -> None:
        """Remember which of these entries' envelopes end inside the fence, and narrow it."""
        slab, fence = self.slab, self._fence
        first, last = fence.ends(factor)
        low, high = slab.low.take(entries), slab.high.take(entries)
        inside = ((low > first) | (high < last)) & ~slab.expired[entries >> slab.shift]
        inside &= slab.factor.take(entries) == factor
        entries, low, high = entries[inside], low[inside], high[inside]
        if not len(entries):
            return
        if factor in self._ends:
            entries = np.concatenate([self._ends[factor], entries])
            if len(entries) > 2 * len(slab.columns[factor]):  # the same ones, put again and again
                entries = np.unique(entries)
        self._ends[factor] = entries
        fence.narrow(factor, low.max(initial=-np.inf), high.min(initial=np.inf))
