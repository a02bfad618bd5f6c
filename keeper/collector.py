"""The garbage collector kept off what it finds nothing in: everything stands still while it looks.

With a hundred thousand accounts one full collection takes a second.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_rest() -> Iterator[None]:
    """Have it not look through what is being made inside."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def leave_alone() -> None:
    """Have it never look again through what there is now.

    What is no longer used is freed all the same, but for cycles: so this is to be done seldom.
    """
    gc.freeze()
