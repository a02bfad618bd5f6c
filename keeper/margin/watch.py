"""The rows near their edge, dense, so that a tick is a few operations on short arrays.

A *place* holds one row: its weights by factor, signed so that its *room* shrinks towards its edge.
Room below zero says: look at the row exactly. An empty place has infinite room.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_START = 64
_NONE: Ints = np.zeros(0, dtype=np.intp)
_EACH_MAX = 6  # factors followed one by one; more are one product of a vector and a matrix


class Watch:
    """Places by number; ``slab`` and ``row`` say which row stands there."""

    def __init__(self) -> None:
        """Start empty."""
        self.slab: Ints = np.zeros(_START, dtype=np.intp)  # the slab's width
        self.row: Ints = np.zeros(_START, dtype=np.intp)
        self._room: Floats = np.full(_START, np.inf)
        self._error: Floats = np.zeros(_START)
        self._weight: Floats = np.zeros((1, _START))
        self._size = 0  # places ever used
        self._free: list[int] = []
        self._cut()

    def __len__(self) -> int:
        """Return the number of rows watched."""
        return self._size - len(self._free)

    def add_factors(self, count: int) -> None:
        """Make room for more factors."""
        more = np.zeros((count, self._weight.shape[1]))
        self._weight = np.concatenate([self._weight, more])
        self._cut()

    def take(self, width: int, rows: Ints) -> Ints:
        """Return a place for each row; ``set`` must follow."""
        used = min(len(rows), len(self._free))
        places = self._free[len(self._free) - used :]
        del self._free[len(self._free) - used :]
        places.extend(range(self._size, self._size + len(rows) - used))
        self._size += len(rows) - used
        if self._size > len(self._room):
            self._grow(max(self._size, 2 * len(self._room)))
        self._cut()
        found: Ints = np.array(places, dtype=np.intp)
        self.slab[found], self.row[found] = width, rows
        return found

    def rows(self, width: int) -> Ints:
        """Return the rows of one slab that are watched."""
        rows: Ints = self.row[self.slab == width]
        return rows

    def set(
        self, places: Ints, excess: Floats, error: Floats, factors: Ints, weights: Floats
    ) -> None:
        """Store rows by what is between them and their edge, and weights by factor number.

        ``excess`` and ``weights`` are signed; ``error`` is what float64 may add up to. Shapes: n;
        ``factors`` and ``weights`` n × the slab's width.
        """
        self._room[places] = excess - error
        self._error[places] = error
        self._weight[factors, places[:, None]] = weights

    def flip(self, places: Ints, factors: Ints) -> None:
        """Turn rows round that have changed sides."""
        self._room[places] = -self._room[places] - 2.0 * self._error[places]
        at = factors, places[:, None]
        self._weight[at] = -self._weight[at]

    def free(self, places: Ints, factors: Ints) -> None:
        """Empty these places, of rows that have these factors."""
        self._room[places] = np.inf
        self._weight[factors, places[:, None]] = 0.0
        self.slab[places] = 0
        self._free.extend(places.tolist())

    def move(self, numbers: Sequence[int], steps: Sequence[float]) -> None:
        """Follow a step of each of these factors."""
        room, step = self._used, self._step
        if len(numbers) <= _EACH_MAX:
            for number, by in zip(numbers, steps, strict=True):
                np.multiply(self._lines[number], by, out=step)
                np.add(room, step, out=room)
            return
        by_number = np.zeros(len(self._weight))
        by_number[list(numbers)] = steps
        np.add(room, by_number @ self._weight[:, : self._size], out=room)

    def flagged(self) -> Ints:
        """Return the places without room; a sum that overflowed counts as none."""
        if np.minimum.reduce(self._used, initial=0.0) >= 0.0:
            return _NONE
        return np.flatnonzero(~(self._used >= 0.0))

    def _cut(self) -> None:
        """Keep views of the part in use: making them would take a tick longer than using them."""
        self._used = self._room[: self._size]
        self._lines = list(self._weight[:, : self._size])
        self._step: Floats = np.empty(self._size)

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self._room)
        self.slab = np.concatenate([self.slab, np.zeros(more, dtype=np.intp)])
        self.row = np.concatenate([self.row, np.zeros(more, dtype=np.intp)])
        self._room = np.concatenate([self._room, np.full(more, np.inf)])
        self._error = np.concatenate([self._error, np.zeros(more)])
        weight = np.zeros((len(self._weight), capacity))
        weight[:, : self._weight.shape[1]] = self._weight
        self._weight = weight
