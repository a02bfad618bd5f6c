"""Rows as arrays: those that ``MarginBook.load`` takes, checked, and those made of rows."""

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
import numpy.typing as npt

from keeper.margin.rows import Row
from keeper.margin.slab import Exposure, Exposures, Floats, Ints

_UNBOUNDED = -math.inf, math.inf


def exposures_of(row: Row, number_of: Callable[[str], int]) -> list[Exposure]:
    """Return a row's exposures in factor order: those of its weights and of its envelope."""
    found = [
        Exposure(number_of(name), weight, *row.envelope.get(name, _UNBOUNDED))
        for name, weight in row.weights.items()
    ]
    for name, (low, high) in row.envelope.items():
        if name not in row.weights:
            found.append(Exposure(number_of(name), 0.0, low, high))
    found.sort()
    return found


def exposures_of_many(rows: Collection[Row], number_of: Callable[[str], int]) -> Exposures:
    """Return the exposures of rows as arrays."""
    weights = [_weights(row) for row in rows]
    pairs = zip(rows, weights, strict=True)
    ends = [row.envelope.get(name, _UNBOUNDED) for row, named in pairs for name in named]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return _in_factor_order(
        Exposures(
            counts=np.array([len(named) for named in weights], dtype=np.intp),
            factors=np.array([number_of(name) for named in weights for name in named], np.intp),
            weights=np.array([weight for named in weights for weight in named.values()]),
            ends=(low, high),
        )
    )


def _weights(row: Row) -> Mapping[str, float]:
    """Return a row's weights, 0 for a factor that only its envelope names."""
    if row.envelope.keys() <= row.weights.keys():
        return row.weights
    return dict.fromkeys(row.envelope, 0.0) | dict(row.weights)


def _int_array(numbers: npt.ArrayLike, name: str) -> Ints:
    """Return a flat array of integers, or raise ValueError."""
    array = np.asarray(numbers)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        msg = f"{name} must be a flat array of integers, got {array.ndim}-d {array.dtype}"
        raise ValueError(msg)
    return array.astype(np.intp, copy=False)


def float_array(numbers: npt.ArrayLike, name: str, length: int) -> Floats:
    """Return a flat array of ``length`` finite floats, or raise ValueError."""
    try:
        array = np.asarray(numbers, dtype=np.float64)
    except (TypeError, OverflowError) as error:
        msg = f"{name} must be numbers: {error}"
        raise ValueError(msg) from None
    if array.shape != (length,):
        msg = f"{name} must have shape ({length},), got {array.shape}"
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{name} must be finite"
        raise ValueError(msg)
    return array


def row_arrays(
    rows: int, indptr: npt.ArrayLike, factors: npt.ArrayLike, weights: npt.ArrayLike, known: int
) -> Exposures:
    """Return these arrays of factors' positions and weights as exposures.

    Raises ValueError if they do not fit, KeyError for a factor that is not among ``known``.
    """
    starts = _int_array(indptr, "indptr")
    numbers = _int_array(factors, "factors")
    sizes = float_array(weights, "weights", len(numbers))
    counts = np.diff(starts)
    whole = len(starts) == rows + 1 and starts[0] == 0 and starts[-1] == len(numbers)
    if not whole or (counts < 0).any():
        msg = (
            f"indptr must rise from 0 to {len(numbers)} in {rows + 1} steps, one a row; "
            f"got {len(starts)} numbers"
        )
        raise ValueError(msg)
    unknown = numbers[(numbers < 0) | (numbers >= known)]
    if len(unknown):
        msg = f"unknown factor number {unknown[0]}: the book has {known}"
        raise KeyError(msg)
    return _in_factor_order(Exposures(counts, numbers + 1, sizes))


def _in_factor_order(exposures: Exposures) -> Exposures:
    """Sort each row's exposures by factor; raises ValueError if a row names one twice."""
    counts, factors, weights, ends = exposures
    rising = factors[1:] > factors[:-1]
    firsts = np.cumsum(counts)[:-1]
    rising[firsts[(firsts > 0) & (firsts < len(factors))] - 1] = True  # from a row to the next
    if rising.all():
        return exposures
    keys = np.repeat(np.arange(len(counts)), counts) * (factors.max(initial=0) + 1) + factors
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        msg = "a row names a factor twice"
        raise ValueError(msg)
    ends = ends and (ends[0][order], ends[1][order])
    return Exposures(counts, factors[order], weights[order], ends)
