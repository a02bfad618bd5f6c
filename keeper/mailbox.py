"""A latest-wins mailbox: one value per key, never a backlog.

It stands where I/O begins, so that a consumer that falls behind reads fewer and newer values
instead of a queue of stale ones.
"""

import asyncio
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LatestWins(Generic[K, V]):
    """The newest value of each key, in the order in which the keys were first put.

    Any number of producers, one consumer, all on one event loop (no locks, not for threads)::

        while True:
            await box.wait()
            for key, value in box.take().items():
                ...

    It holds at most one value per key: its size is bounded by the number of keys in use.
    """

    __slots__ = ("_filled", "_values")

    def __init__(self) -> None:
        """Start empty."""
        self._values: dict[K, V] = {}
        self._filled = asyncio.Event()

    def put(self, key: K, value: V) -> None:
        """Set the value; a key that waits already keeps its place and takes the new value."""
        self._values[key] = value
        self._filled.set()

    def take(self) -> dict[K, V]:
        """Return everything and leave the box empty; an empty dict when there is nothing."""
        values, self._values = self._values, {}
        self._filled.clear()
        return values

    async def wait(self) -> None:
        """Return once there is something to take.

        Lets the other tasks run at least once, so that a consumer that puts keys back for itself
        cannot starve the loop.
        """
        if self._values:
            await asyncio.sleep(0)
        else:
            await self._filled.wait()

    def __contains__(self, key: K) -> bool:
        """Say whether a value waits under this key."""
        return key in self._values

    def __len__(self) -> int:
        """Return the number of keys that wait."""
        return len(self._values)
