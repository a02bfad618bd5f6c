"""The rows near their edge, dense, so that a tick is a few operations on short arrays.

A *place* holds one row: its weights by factor, and its *room*, how far its excess is from the edge
on the side on which it stands, less what float64 may be wrong by. A row without room has changed
sides, or may have. An empty place has infinite room.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Compact = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

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
        self._sign: Floats = np.ones(_START)  # of what adds to the room: −1 for rows that are under
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

    def take(self, width: int, rows: Ints, factors: Compact, weights: Floats) -> Ints:
        """Return a place for each row, with its weights by factor number; ``stand`` must follow.

        Shapes: n; ``factors`` and ``weights`` n × the slab's width.
        """
        used = min(len(rows), len(self._free))
        freed = self._free[len(self._free) - used :]
        del self._free[len(self._free) - used :]
        fresh = np.arange(self._size, self._size + len(rows) - used)
        places: Ints = np.concatenate([np.array(freed, dtype=np.intp), fresh])
        self._size += len(fresh)
        if self._size > len(self._room):
            self._grow(max(self._size, 2 * len(self._room)))
        self._cut()
        self.slab[places], self.row[places] = width, rows
        self._weigh(places, factors, weights)
        return places

    def rows(self, width: int) -> Ints:
        """Return the rows of one slab that are watched."""
        rows: Ints = self.row[self.slab == width]
        return rows

    def stand(self, places: Ints, excess: Floats, error: Floats, under: Bools) -> None:
        """Say how rows stand; ``error`` is what float64 may add up to."""
        sign = np.where(under, -1.0, 1.0)
        self._sign[places], self._error[places] = sign, error
        self._room[places] = excess * sign - error

    def crossed(self, places: Ints) -> Bools:
        """Say which rows have changed sides for certain; the others are for whoever adds up."""
        certain: Bools = self._room.take(places) < -2.0 * self._error.take(places)
        return certain

    def turn(self, places: Ints) -> None:
        """Turn rows round that have changed sides."""
        self._room[places] = -self._room.take(places) - 2.0 * self._error.take(places)
        self._sign[places] = -self._sign.take(places)

    def free(self, places: Ints, factors: Compact) -> None:
        """Empty these places, of rows that have these factors."""
        if len(places) == len(self):
            self._weight[:, : self._size] = 0.0  # in order: much faster than one by one
            self._room[: self._size], self.slab[: self._size] = np.inf, 0
            self._size, self._free = 0, []
            self._cut()
            return
        self._room[places] = np.inf
        self._weigh(places, factors, 0.0)
        self.slab[places] = 0
        self._free.extend(places.tolist())

    def move(self, numbers: Sequence[int], steps: Sequence[float]) -> None:
        """Follow a step of each of these factors."""
        room, step, sign = self._used, self._step, self._signs
        if len(numbers) <= _EACH_MAX:
            for number, by in zip(numbers, steps, strict=True):
                np.multiply(self._lines[number], by, out=step)
                np.multiply(step, sign, out=step)
                np.add(room, step, out=room)
            return
        by_number = np.zeros(len(self._weight))
        by_number[list(numbers)] = steps
        np.matmul(by_number, self._weight[:, : len(step)], out=step)
        np.multiply(step, sign, out=step)
        np.add(room, step, out=room)

    def flagged(self) -> Ints:
        """Return the places without room; a sum that overflowed counts as none."""
        if np.minimum.reduce(self._used) >= 0.0:
            return _NONE
        return (~(self._used >= 0.0)).nonzero()[0]

    def _weigh(self, places: Ints, factors: Compact, weights: Floats | float) -> None:
        at = factors * np.intp(len(self._room)) + places[:, None]
        self._weight.reshape(-1)[at] = weights  # flat: twice as fast as by row and column

    def _cut(self) -> None:
        """Keep views of the part in use: making them would take a tick longer than using them."""
        size = max(self._size, 1)  # one at least, that a minimum may be taken
        self._used, self._signs = self._room[:size], self._sign[:size]
        self._lines = list(self._weight[:, :size])
        self._step: Floats = np.empty(size)

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self._room)
        self.slab = np.concatenate([self.slab, np.zeros(more, dtype=np.intp)])
        self.row = np.concatenate([self.row, np.zeros(more, dtype=np.intp)])
        self._room = np.concatenate([self._room, np.full(more, np.inf)])
        self._error = np.concatenate([self._error, np.zeros(more)])
        self._sign = np.concatenate([self._sign, np.ones(more)])
        weight = np.zeros((len(self._weight), capacity))
        weight[:, : self._weight.shape[1]] = self._weight
        self._weight = weight
