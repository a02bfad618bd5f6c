"""How far factors may move before which rows have to be looked at again.

A factor's *half* is the unit in which its moves are measured. Rows stand in *rings* by how many
halves, of all their factors at once, lie between them and their edge. Every ring remembers its
*anchors*, the values from which it counts, and has a radius: while all factors are within as many
halves of its anchors, none of its rows can have changed sides. So a move of a few percent concerns
the few rows of the inner rings, however many stand further out.

The *fence* of a factor is one half to both sides of the innermost anchor. A tick inside all fences
concerns the rows within one half only: they are in the watch (``keeper.margin.watch``).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

HALF = 0.01  # of a price. Narrower: fewer rows to watch; wider: rings are left less often
INDEX_HALF = 1e-3  # of an index, at least
INDEX_STEPS = 32  # and of its last step: an index that creeps leaves its fence this seldom
STRETCH_INDEX = 16  # halves that an index may go from where its half was set
STEPS_MAX = 500_000  # added up before everything is worked out from scratch again
ERROR = 1e-9  # of gross: float64 errors are some 1e-16 an addition, for half a million of them
SCALE_MAX = 1 / INDEX_HALF + STRETCH_INDEX + 1  # of the largest value rows count with, in halves
ROUNDING = 1e-9  # of a distance in halves: far more than float64 makes
# The leading bits of float64s from 1 to 512, in eight steps an octave: numpy searches more slowly
_SHIFT = 49
_FIRST = np.array([1.0]).view(np.int64)[0] >> _SHIFT
_STEPS: Floats = (np.arange(_FIRST, _FIRST + 72) << _SHIFT).view(np.float64)
# From 2.25 on, so that leaving the fence does not leave the second ring too. Until its half is set
# anew a price moves 150 halves at most, from half to twice what it was: no further ring is left.
RADII: Floats = np.append(1.0, _STEPS[9:62] * (1 - 10 * ROUNDING))


class Beyond(NamedTuple):
    """What a move took beyond; factors by number."""

    resized: Sequence[int]  # factors with a new half, and new anchors in all rings
    fresh: Sequence[int]  # those of them that had no value before
    rings: int  # so many rings, from the innermost, have new anchors
    anchored: Sequence[int] | None  # of these factors; None: of all
    ends: Sequence[int]  # factors that met the end of an envelope inside their fence

    @property
    def all_watched(self) -> bool:
        """Whether every watched row has to be placed again."""
        return self.anchored is None


class Fence:
    """Values, halves and anchors of all factors, by number; number 0 is padding."""

    def __init__(self) -> None:
        """Start with the padding alone: its value is 0 and stays."""
        self.values: Floats = np.zeros(1)
        self.halves: Floats = np.ones(1)
        self.spreads: Floats = np.zeros(1)  # half + ERROR * largest value: see ``Follower._reach``
        self.scales: Floats = np.zeros(1)  # largest absolute value that rows' reaches count with
        self.low = [0.0]  # of the fence, or the next envelope end inside it
        self.high = [0.0]
        self.rebuilds = 0  # how often anchors were set
        self._rings: Floats = np.zeros((len(RADII), 1))  # the anchors of each, innermost first
        self._stretch = [(0.0, 0.0)]  # where the half fits the value
        self._is_price = [False]
        self._reckon()

    def add(self, prices: int, indices: int) -> None:
        """Add factors without a value; a first one lies beyond every fence."""
        count = prices + indices
        self.values = np.append(self.values, [math.nan] * count)
        self.halves = np.append(self.halves, [math.nan] * count)
        self.spreads = np.append(self.spreads, [0.0] * count)
        self.scales = np.append(self.scales, [0.0] * count)
        self.low += [math.inf] * count
        self.high += [-math.inf] * count
        nowhere = np.full((len(RADII), count), math.nan)
        self._rings = np.concatenate([self._rings, nowhere], axis=1)
        self._stretch += [(math.inf, -math.inf)] * count
        self._is_price += [True] * prices + [False] * indices
        self._reckon()

    def is_price(self, number: int) -> bool:
        """Say whether a factor is a price; the others are indices."""
        return self._is_price[number]

    @property
    def complete(self) -> bool:
        """Whether all factors have a value."""
        return not np.isnan(self.values).any()

    def prices(self) -> Floats:
        """Return all values with those of indices as zero."""
        return np.where(self._is_price, self.values, 0.0)

    # --- one factor -------------------------------------------------------------------------------

    def has_left(self, number: int) -> bool:
        """Say whether a factor is beyond its fence, not only beyond an envelope inside it."""
        distance = abs(self.values.item(number) - self.anchors.item(number))
        return not distance <= self.halves.item(number)

    def resize(self, number: int, before: float) -> bool:
        """Set a factor's half if the old one no longer fits its value, and say whether it was.

        ``before``: the value before the move, NaN if none.
        """
        value = self.values.item(number)
        low, high = self._stretch[number]
        if low <= value <= high:
            return False
        if self._is_price[number]:
            half, low, high = HALF * value, value / 2, value * 2
        else:
            step = 0.0 if math.isnan(before) else abs(value - before)
            half = max(INDEX_HALF * abs(value), INDEX_STEPS * step, 1e-12)
            low, high = value - STRETCH_INDEX * half, value + STRETCH_INDEX * half
        self.halves[number], self._stretch[number] = half, (low, high)
        self.scales[number] = max(abs(low), abs(high)) + half
        self.spreads[number] = half + ERROR * self.scales[number]
        return True

    def ends(self, number: int) -> tuple[float, float]:
        """Return where a factor's fence ends; NaN before its first value."""
        anchor, half = self.anchors.item(number), self.halves.item(number)
        return anchor - half, anchor + half

    def open(self, number: int) -> None:
        """Let a factor move to the ends of its fence again: see ``narrow``."""
        self.low[number], self.high[number] = self.ends(number)

    def narrow(self, number: int, low: float, high: float) -> None:
        """Let the fence end at an envelope's end, if that is nearer."""
        self.low[number] = max(self.low[number], low)
        self.high[number] = min(self.high[number], high)

    # --- anchors ----------------------------------------------------------------------------------

    def anchor(self, numbers: Sequence[int], rings: int = len(RADII)) -> None:
        """Anchor factors in the innermost rings; their rows on these have to be placed again."""
        for number in numbers:
            self._rings[:rings, number] = self.values[number]
            self.open(number)
        self.rebuilds += 1
        self._reckon()

    def anchor_all(self, rings: int) -> None:
        """Anchor all factors in the innermost rings, whose rows all have to be placed again."""
        self._rings[:rings] = self.values
        self.low = (self.anchors - self.halves).tolist()
        self.high = (self.anchors + self.halves).tolist()
        self.rebuilds += 1
        self._reckon()

    def rings_left(self, numbers: Sequence[int] | slice = slice(None)) -> int:
        """Return how many rings, from the innermost, these factors (or all) have left.

        Or may leave before one of them is beyond its fence again.
        """
        left = np.flatnonzero(self._away(self.values, numbers) > RADII - 1.0)
        return int(left[-1]) + 1 if len(left) else 0

    def room(self) -> Floats:
        """Return how many halves the rows of each ring are from their edge now, at least."""
        room: Floats = RADII - self._away(self.values) - ROUNDING
        return room

    def ring_of(self, halves: Floats) -> npt.NDArray[np.uint8]:
        """Return the ring of rows that are so many halves from their edge at the anchors.

        Of a negative number the innermost, of NaN any.
        """
        steps = halves.view(np.int64) >> _SHIFT
        steps -= _FIRST
        return self._ring_of_step.take(steps, mode="clip")

    def _away(self, values: Floats, numbers: Sequence[int] | slice = slice(None)) -> Floats:
        """Return for each ring how many halves the factor furthest from its anchor is away."""
        steps = np.abs(values[numbers] - self._rings[:, numbers])
        away: Floats = np.fmax.reduce(steps / self.halves[numbers], axis=1)
        return away

    def _reckon(self) -> None:
        """Work out what follows from the rings' anchors."""
        self.anchors = self._rings[0]
        least = np.maximum.accumulate(RADII + self._away(self.anchors)) * (1.0 + ROUNDING)
        self.thresholds: list[float] = (
            least.tolist()
        )  # a ring's rows were further from their edge, in halves
        self._ring_of_step = least.searchsorted(_STEPS).astype(np.uint8)
