"""Which of several keepers may send: the contracts of the lease.

Keepers that share wallets share a lease. Who holds it leads, in numbered terms; the others are its
standbys: they watch, read and decide, and send nothing.
"""

from dataclasses import dataclass
from typing import Protocol


class Leading(Protocol):
    """Whether this keeper may send now. Asked right before signing and before sending."""

    @property
    def term(self) -> int | None:
        """Return the number of this keeper's term; None: it may not send.

        A new number means that another keeper may have sent from the same wallets meanwhile.
        """
        ...


class Alone:
    """A keeper without a lease leads in one term."""

    term = 1


ALONE: Leading = Alone()


@dataclass(frozen=True, slots=True)
class Record:
    """What is written in a lease. ``version`` is its store's, "" before it was stored.

    ``holder``: "" when it was given up. ``acquired_ms`` and ``changes`` (of the holder) are for
    people: nothing is decided by a wall clock.
    """

    holder: str
    ttl_s: int
    acquired_ms: int
    changes: int
    version: str = ""


class Lease(Protocol):
    """A store of one record that is only written over the version that was read."""

    async def read(self) -> Record | None:
        """Return what is stored; None: nothing yet. Raises TransientError."""
        ...

    async def write(self, record: Record) -> Record | None:
        """Write over the version that the record names ("": create it); return what is stored.

        None: it has another version by now. Raises TransientError, and may have written all the
        same.
        """
        ...
