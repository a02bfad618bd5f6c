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
        self._step: Floats = np.zeros(_START)
        self._size = 0  # places ever used
        self._free: list[int] = []

    def __len__(self) -> int:
        """Return the number of rows watched."""
        return self._size - len(self._free)

    def add_factors(self, count: int) -> None:
        """Make room for more factors."""
        more = np.zeros((count, self._weight.shape[1]))
        self._weight = np.concatenate([self._weight, more])

    def take(self, width: int, rows: Ints) -> Ints:
        """Return a place for each row; ``set`` must follow."""
        used = min(len(rows), len(self._free))
        places = [self._free.pop() for _ in range(used)]
        places.extend(range(self._size, self._size + len(rows) - used))
        self._size += len(rows) - used
        if self._size > len(self._room):
            self._grow(max(self._size, 2 * len(self._room)))
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

        ``excess`` and ``weights`` (n × width) are signed; ``error`` is what float64 may add up to.
        """
        self._room[places] = excess - error
        self._error[places] = error
        self._weight[:, places] = 0.0
        self._weight[factors, places[:, None]] = weights
        self._weight[0] = 0.0

    def flip(self, places: Ints) -> None:
        """Turn rows round that have changed sides."""
        self._room[places] = -self._room[places] - 2.0 * self._error[places]
        self._weight[:, places] *= -1.0

    def free(self, places: Ints) -> None:
        """Empty these places."""
        self._room[places] = np.inf
        self._weight[:, places] = 0.0
        self.slab[places] = 0
        self._free.extend(places.tolist())

    def move(self, numbers: Sequence[int], steps: Sequence[float]) -> None:
        """Follow a step of each of these factors."""
        size = self._size
        room, step = self._room[:size], self._step[:size]
        if len(numbers) <= _EACH_MAX:
            for number, by in zip(numbers, steps, strict=True):
                np.multiply(self._weight[number, :size], by, out=step)
                np.add(room, step, out=room)
            return
        by_number = np.zeros(len(self._weight))
        by_number[list(numbers)] = steps
        np.add(room, by_number @ self._weight[:, :size], out=room)

    def flagged(self) -> Ints:
        """Return the places without room; a sum that overflowed counts as none."""
        room = self._room[: self._size]
        if self._size == 0 or room.min() >= 0.0:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero(~(room >= 0.0))

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self._room)
        self.slab = np.concatenate([self.slab, np.zeros(more, dtype=np.intp)])
        self.row = np.concatenate([self.row, np.zeros(more, dtype=np.intp)])
        self._room = np.concatenate([self._room, np.full(more, np.inf)])
        self._error = np.concatenate([self._error, np.zeros(more)])
        self._step = np.zeros(capacity)
        weight = np.zeros((len(self._weight), capacity))
        weight[:, : self._weight.shape[1]] = self._weight
        self._weight = weight
