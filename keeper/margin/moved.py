"""What a move of prices changed."""

from dataclasses import dataclass
from typing import Generic

from keeper.margin.slab import IdT


@dataclass(frozen=True, slots=True)
class Moved(Generic[IdT]):
    """What one move changed, each id at most once in each tuple.

    under    ids that are in ``book.under`` now and were not before the move
    cured    ids that were in ``book.under`` before the move and are not now
    expired  ids whose envelope was left with this move, whichever side they were on: they count as
             under-margined until they are put again. One that was not under before is in ``under``
             too, unless it is still unpriced.
    """

    under: tuple[IdT, ...] = ()
    cured: tuple[IdT, ...] = ()
    expired: tuple[IdT, ...] = ()
