"""Which rows are nearest to liquidation, without a look at those that are far.

The rings (``keeper.margin.fence``) bound from below how far their rows are: once as many rows as
asked for are nearer than the rings outside can be, those need not be looked at.
"""

from collections.abc import Sequence

import numpy as np

from keeper.margin.fence import RADII, Fence, Floats
from keeper.margin.slab import IdT, Ints, Slab


def nearest(slabs: Sequence[Slab[IdT]], fence: Fence, count: int) -> list[tuple[IdT, float]]:
    """Return up to ``count`` ids by distance to liquidation in %, nearest first.

    All rows under-margined are looked at, they come first; then ring after ring.
    """
    found: list[tuple[IdT, float]] = []
    bounds = _bounds(fence)
    prices = fence.prices()
    for ring in range(-1, len(RADII) + 1):  # -1: who is under
        for slab in slabs:
            rows = _rows(slab, ring)
            distances = slab.distances(rows, fence.values, prices)
            if count < len(rows):
                close = np.argpartition(distances, count)[:count]
                rows, distances = rows[close], distances[close]
            found.extend(zip(slab.names(rows), distances.tolist(), strict=True))
        found.sort(key=lambda pair: pair[1])
        del found[count:]
        if len(found) == count and (not count or found[-1][1] <= bounds[ring + 1]):
            break
    return found


def _rows(slab: Slab[IdT], ring: int) -> Ints:
    """Return the priced rows of a ring that are not under, or (-1) all that are."""
    under = slab.under[: slab.size]
    if ring < 0:
        rows: Ints = np.flatnonzero(under)
        return rows
    rows = np.flatnonzero(slab.ring[: slab.size] == ring)
    priced: Ints = rows[~under.take(rows) & (slab.missing.take(rows) == 0)]
    return priced


def _bounds(fence: Fence) -> Floats:
    """Return the least distance in % of a row that is not under, in ring k or outside of it.

    The innermost ring and what is beyond the last have none: 0 and infinity.
    """
    prices = fence.prices()
    priced = prices > 0.0  # NaN without a value
    half = (fence.halves[priced] / prices[priced]).min(initial=np.inf)
    room = np.maximum(fence.room(), 0.0)
    bounds = np.concatenate([[0.0], np.where(room > 0.0, room * half * 100.0, 0.0), [np.inf]])
    return np.minimum.accumulate(bounds[::-1])[::-1]
