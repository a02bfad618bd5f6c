"""``keeper`` with the venue kinds of ``tests/e2e/kinds`` added to its own, for subprocesses."""

from pathlib import Path

import keeper.venues
from keeper.cli import main

if __name__ == "__main__":
    keeper.venues.__path__.append(str(Path(__file__).parent / "kinds"))
    main()
