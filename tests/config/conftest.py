"""Two kinds, added as an integrator adds them: one file each in a room."""

import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.config.support import SOURCE, VENUE


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add ``venues/acme.py`` and ``prices/tape.py``, and modules beside them that are no kinds.

    They come first: somebody may have a venue of that name, which is what the template proposes.
    """
    files = {
        "venues/acme.py": VENUE,
        "venues/_template.py": VENUE,
        "venues/arithmetic.py": "Settings = 1\n",
        "prices/tape.py": SOURCE,
        "prices/half.py": SOURCE.replace("build", "_build"),
    }
    for name, text in files.items():
        file = tmp_path / "rooms" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for room in ("venues", "prices"):
        package = importlib.import_module(f"keeper.{room}")
        folder = str(tmp_path / "rooms" / room)
        monkeypatch.setattr(package, "__path__", [folder, *package.__path__])
    importlib.invalidate_caches()
    _forget(files)
    yield
    _forget(files)


def _forget(files: Iterable[str]) -> None:
    for name in files:
        sys.modules.pop("keeper." + name.removesuffix(".py").replace("/", "."), None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"
