"""One slab's rows as prices move: who changes sides, and who is near enough to be watched.

A row's *middle* is its excess at the anchors, its *reach* how far any movement of its factors
inside their fences can take the excess from there, float64 errors included. Beyond its reach a
middle's sign is the row's side; the rows within are decided from scratch, and watched.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple

import numpy as np

from keeper.margin.fence import ERROR, Fence
from keeper.margin.slab import CHUNK, Bools, IdT, Ints, Slab
from keeper.margin.watch import Watch

_HUGE = 1e290  # of gross: beyond, sums may overflow and a row is decided from scratch every time
_WHOLE = 0.4  # of a slab's rows: a pass over all of them in order is faster than over a column
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
        """Work out the state of rows just inserted: (under, unpriced)."""
        slab, fence = self.slab, self._fence
        factors = slab.factor[rows]
        at = fence.values[factors]
        slab.missing[rows] = np.isnan(at).sum(axis=1)
        if slab.bounded:
            low, high = slab.low[rows], slab.high[rows]
            slab.expired[rows] = ((at < low) | (at > high)).any(axis=1)
            for k, j in np.argwhere((low > -np.inf) | (high < np.inf)).tolist():
                self._mind(int(factors[k, j]), np.array([(rows[k] << slab.shift) + j]))
        self._settle(rows)
        slab.under[rows] = slab.now_under(rows, fence.values)
        self._rewatch(rows)
        return slab.under[rows], slab.missing[rows] > 0

    def remove(self, row: int) -> None:
        """Remove a row."""
        place = int(self.slab.watched[row])
        if place:
            self._watch.free(np.array([place - 1]))
        self.slab.remove(row)

    # --- moves ------------------------------------------------------------------------------------

    def look(self, rows: Ints) -> Changes:
        """Decide watched rows from scratch and return who changed sides."""
        flipped = self._decide(rows)
        if len(flipped):
            self._watch.flip(self._places(flipped))
        return self._changes(flipped, _NONE, _NONE)

    def settle_all(self) -> None:
        """Work out everything from scratch, so that float64 errors do not add up for ever."""
        rows = np.flatnonzero(self.slab.live)
        self._settle(rows)
        self._rewatch(rows)

    def move(self, beyond: Beyond) -> Changes:
        """Follow factors beyond their fences."""
        slab = self.slab
        was_missing = slab.missing > 0 if beyond.fresh else None
        for factor in beyond.fresh:
            slab.missing[self._rows(factor)] -= 1
        expired = self._expire(beyond)
        self._encode(expired)
        resized = self._union(beyond.resized)
        anchored = [pair for pair in beyond.anchored if pair[0] in slab.columns]
        if len(resized) + sum(len(slab.columns[f]) for f, _ in anchored) > _WHOLE * len(slab.ids):
            near, flipped = self._pass_all(resized)
        else:
            for factor, step in anchored:
                self._shift(factor, step)
            self._settle(resized)
            rows = self._union([*beyond.resized, *(f for f, _ in anchored)])
            near, flipped = self._compare(rows)
        changed = expired[~slab.under[expired] & (slab.missing[expired] == 0)]
        slab.under[changed] = True
        flipped = np.concatenate([flipped, changed, self._decide(near)])
        watched = self._watch.rows(slab.width)
        gone = watched[np.abs(slab.middle[watched]) > slab.reach[watched]]
        self._rewatch(np.concatenate([near, gone]))
        priced = _NONE
        if was_missing is not None:
            priced = np.flatnonzero(was_missing & (slab.missing == 0))
        return self._changes(flipped, expired, priced)

    def _changes(self, flipped: Ints, expired: Ints, priced: Ints) -> Changes:
        now = self.slab.under[flipped]
        return Changes(flipped[now], flipped[~now], expired, priced)

    def _decide(self, rows: Ints) -> Ints:
        """Decide rows from scratch and return those that changed sides."""
        now = self.slab.now_under(rows, self._fence.values)
        changed = now != self.slab.under[rows]
        self.slab.under[rows] = now
        flipped: Ints = rows[changed]
        return flipped

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
        slab, fence = self.slab, self._fence
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            factors, weights = slab.factor.take(part, axis=0), slab.weight.take(part, axis=0)
            constants = slab.constant.take(part)
            with np.errstate(over="ignore", invalid="ignore"):
                slab.middle[part] = (fence.anchors.take(factors) * weights).sum(axis=1) + constants
                np.abs(weights, out=weights)
                np.abs(constants, out=constants)
                reach = (fence.spreads.take(factors) * weights).sum(axis=1) + ERROR * constants
                gross = (fence.scales.take(factors) * weights).sum(axis=1) + constants
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

    def _shift(self, factor: int, step: float) -> None:
        """Take the middles of a factor's rows along with its anchor."""
        slab, entries = self.slab, self.slab.columns[factor].entries
        weight = slab.weight.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(entries), CHUNK):
                part = entries[start : start + CHUNK].astype(np.intp)
                steps = weight.take(part)
                steps *= step
                part >>= slab.shift
                steps += slab.middle.take(part)
                slab.middle[part] = steps

    def _compare(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return (rows within their reach, rows beyond it that changed sides)."""
        slab, near, flipped = self.slab, [_NONE], [_NONE]
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            middle = slab.middle.take(part)
            clear = np.abs(middle) > slab.reach.take(part)
            changed = ((middle < 0.0) != slab.under.take(part)) & clear
            near.append(part[~clear])
            flipped.append(part[changed])
        turned = np.concatenate(flipped)
        slab.under[turned] ^= True
        return np.concatenate(near), turned

    def _pass_all(self, resized: Ints) -> tuple[Ints, Ints]:
        """Work out all middles from scratch, and compare them: as ``_compare``."""
        slab, anchors = self.slab, self._fence.anchors
        size, ones = len(slab.ids), np.ones(slab.width)
        product = np.empty((CHUNK, slab.width))
        for start in range(0, size, CHUNK):
            part = slice(start, min(start + CHUNK, size))
            terms = product[: part.stop - start]
            anchors.take(slab.factor[part], out=terms, mode="clip")
            with np.errstate(over="ignore", invalid="ignore"):
                terms *= slab.weight[part]
                middle = terms @ ones
                middle += slab.constant[part]
            fixed = np.isinf(slab.middle[part])
            if fixed.any():
                middle[fixed] = slab.middle[part][fixed]
            slab.middle[part] = middle
        self._settle(resized)
        near, flipped = [_NONE], [_NONE]
        for start in range(0, size, CHUNK):
            part = slice(start, min(start + CHUNK, size))
            middle = slab.middle[part]
            clear = np.abs(middle) > slab.reach[part]
            changed = ((middle < 0.0) != slab.under[part]) & clear
            near.append(np.flatnonzero(~clear) + start)
            flipped.append(np.flatnonzero(changed) + start)
        turned = np.concatenate(flipped)
        slab.under[turned] ^= True
        return np.concatenate(near), turned

    # --- the watch --------------------------------------------------------------------------------

    def _rewatch(self, rows: Ints) -> None:
        """Let the watch hold exactly those of these rows that are near their edge."""
        slab = self.slab
        near = ~(np.abs(slab.middle[rows]) > slab.reach[rows])
        gone = rows[~near & (slab.watched[rows] > 0)]
        if len(gone):
            gone = np.unique(gone)
            self._watch.free(self._places(gone))
            slab.watched[gone] = 0
        rows = np.unique(rows[near])
        new = rows[slab.watched[rows] == 0]
        if len(new):
            slab.watched[new] = self._watch.take(slab.width, new) + 1
        if len(rows):
            self._set(rows)

    def _set(self, rows: Ints) -> None:
        """Tell the watch how these rows stand at present values."""
        slab, fence = self.slab, self._fence
        factors, weights = slab.factor[rows], slab.weight[rows]
        excess, _ = slab.excess(rows, fence.values)
        sign = np.where(slab.under[rows], -1.0, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            error = (np.abs(weights) * fence.scales[factors]).sum(axis=1)
            error += np.abs(slab.constant[rows])
            error *= ERROR
        huge = np.isinf(slab.reach[rows])
        excess[huge], weights[huge], error[huge] = np.nan, 0.0, 0.0  # looked at every time
        signed = weights * sign[:, None]
        self._watch.set(self._places(rows), excess * sign, error, factors, signed)

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
