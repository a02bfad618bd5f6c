"""How far each factor may move before the rows have to be looked at again.

Every factor has an *anchor*, the value at which its rows' middles were taken, and a *fence* of
``half`` to both sides. Rows that no movement inside all fences can take to their edge need no
look at a tick; the others are in the watch (``keeper.margin.watch``).
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

HALF = 0.01  # of a price. Narrower: fewer rows to watch; wider: fewer passes over a column
INDEX_HALF = 1e-3  # of an index, at least
INDEX_STEPS = 32  # and of its last step: an index that creeps leaves its fence this seldom
STRETCH_INDEX = 16  # halves that an index may go from where its half was set
STEPS_MAX = 500_000  # added up before everything is worked out from scratch again
ERROR = 1e-9  # of gross: float64 errors are some 1e-16 an addition, for half a million of them


class Fence:
    """Values, anchors and fences of all factors, by number; number 0 is padding."""

    def __init__(self) -> None:
        """Start with the padding alone: its value is 0 and stays."""
        self.values: Floats = np.zeros(1)
        self.anchors: Floats = np.zeros(1)
        self.spreads: Floats = np.zeros(1)  # half + ERROR * largest value: see ``Slab.settle``
        self.scales: Floats = np.zeros(1)  # largest absolute value that rows' reaches count with
        self.low = [0.0]  # of the fence, or the next envelope end inside it
        self.high = [0.0]
        self._half = [0.0]
        self._stretch = [(0.0, 0.0)]  # where the half fits the value
        self._is_price = [False]
        self.rebuilds = 0  # anchors set so far

    def add(self, prices: int, indices: int) -> None:
        """Add factors without a value; a first one lies beyond every fence."""
        count = prices + indices
        self.values = np.append(self.values, [math.nan] * count)
        self.anchors = np.append(self.anchors, [math.nan] * count)
        self.spreads = np.append(self.spreads, [0.0] * count)
        self.scales = np.append(self.scales, [0.0] * count)
        self.low += [math.inf] * count
        self.high += [-math.inf] * count
        self._half += [0.0] * count
        self._stretch += [(math.inf, -math.inf)] * count
        self._is_price += [True] * prices + [False] * indices

    def is_price(self, number: int) -> bool:
        """Say whether a factor is a price; the others are indices."""
        return self._is_price[number]

    def prices(self) -> Floats:
        """Return all values with those of indices as zero."""
        return np.where(self._is_price, self.values, 0.0)

    def has_left(self, number: int) -> bool:
        """Say whether a factor's value is outside its fence."""
        distance = abs(self.values[number] - self.anchors[number])
        return not distance <= self._half[number]

    def anchor(self, number: int, before: float) -> bool:
        """Anchor a factor at its value; ``before``: the one before the move, NaN if none.

        True: its half has changed with it, and every row's reach must be worked out again.
        """
        value = float(self.values[number])
        self.rebuilds += 1
        self.anchors[number] = value
        low, high = self._stretch[number]
        resized = not low <= value <= high
        if resized:
            if self._is_price[number]:
                half, low, high = HALF * value, value / 2, value * 2
            else:
                step = 0.0 if math.isnan(before) else abs(value - before)
                half = max(INDEX_HALF * abs(value), INDEX_STEPS * step, 1e-12)
                low, high = value - STRETCH_INDEX * half, value + STRETCH_INDEX * half
            self._half[number], self._stretch[number] = half, (low, high)
            self.scales[number] = max(abs(low), abs(high)) + half
            self.spreads[number] = half + ERROR * self.scales[number]
        self.open(number)
        return resized

    def ends(self, number: int) -> tuple[float, float]:
        """Return where a factor's fence ends; NaN before its first value."""
        anchor, half = float(self.anchors[number]), self._half[number]
        return anchor - half, anchor + half

    def open(self, number: int) -> None:
        """Let a factor move to the ends of its fence again: see ``narrow``."""
        self.low[number], self.high[number] = self.ends(number)

    def narrow(self, number: int, low: float, high: float) -> None:
        """Let the fence end at an envelope's end, if that is nearer."""
        self.low[number] = max(self.low[number], low)
        self.high[number] = min(self.high[number], high)
