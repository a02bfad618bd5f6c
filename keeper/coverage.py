"""Ranges of blocks whose logs have been read, and the holes between them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Covered:
    """Blocks whose logs have been read, both ends included. ``hash``: that of the last one."""

    first: int
    last: int
    hash: str


def holes(ranges: Iterable[Covered], first: int, last: int) -> list[range]:
    """Return the blocks from ``first`` to ``last`` that are in none of these ranges."""
    found: list[range] = []
    for one in sorted(ranges, key=lambda one: one.first):
        if one.first > last:
            break
        if one.first > first:
            found.append(range(first, one.first))
        first = max(first, one.last + 1)
    if first <= last:
        found.append(range(first, last + 1))
    return found
