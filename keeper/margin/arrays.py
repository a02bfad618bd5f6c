"""The arrays that ``MarginBook.load`` takes, checked."""

import numpy as np
import numpy.typing as npt

from keeper.margin.slab import Floats, Ints


def int_array(numbers: npt.ArrayLike, name: str) -> Ints:
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


def row_counts(indptr: Ints, rows: int, exposures: int) -> Ints:
    """Return the exposures of each row, or raise ValueError if ``indptr`` does not fit."""
    counts = np.diff(indptr)
    whole = len(indptr) == rows + 1 and indptr[0] == 0 and indptr[-1] == exposures
    if not whole or (counts < 0).any():
        msg = (
            f"indptr must rise from 0 to {exposures} in {rows + 1} steps, one a row; "
            f"got {len(indptr)} numbers"
        )
        raise ValueError(msg)
    return counts


def in_factor_order(counts: Ints, factors: Ints, weights: Floats) -> tuple[Ints, Floats]:
    """Sort each row's exposures by factor; raises ValueError if a row names one twice."""
    rising = factors[1:] > factors[:-1]
    firsts = np.cumsum(counts)[:-1]
    rising[firsts[(firsts > 0) & (firsts < len(factors))] - 1] = True  # from a row to the next
    if rising.all():
        return factors, weights
    keys = np.repeat(np.arange(len(counts)), counts) * (factors.max(initial=0) + 1) + factors
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        msg = "a row names a factor twice"
        raise ValueError(msg)
    return factors[order], weights[order]
