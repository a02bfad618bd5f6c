"""The contracts come from exactly what the lock file says, and are made once."""

import concurrent.futures
import json
import re
import shutil
from pathlib import Path

import pytest

from keeper.demo import install
from tests.synthetix import packages
from tests.synthetix.packages import NPM, artifacts

LOCK = json.loads((NPM / "package-lock.json").read_text())


def test_versions_are_exact_and_the_same_in_the_lock() -> None:
    wanted = json.loads((NPM / "package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
        assert LOCK["packages"][f"node_modules/{name}"]["version"] == version


def test_every_locked_package_has_a_hash_and_no_address() -> None:
    locked = {name: entry for name, entry in LOCK["packages"].items() if name}
    assert len(locked) > 10
    for name, entry in locked.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name


def test_two_runs_at_once_make_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = packages._cache()
    artifacts()  # whatever is missing is made there, not here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    installed = packages._cache() / f"npm-{packages._digest(_lock_bytes())}"
    installs: list[Path] = []

    def install_once(place: Path) -> None:
        installs.append(place)
        shutil.copytree(made / place.name, place)

    monkeypatch.setattr(packages, "_install", install_once)
    with concurrent.futures.ThreadPoolExecutor(2) as both:
        places = {done.result() for done in [both.submit(packages._installed) for _ in "ab"]}
    assert places == {installed / "node_modules"}
    assert installs == [installed]


def test_without_npm_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(install, "npm_command", lambda: None)
    with pytest.raises(packages.PackageError, match="no npm here"):
        packages._installed()


def _lock_bytes() -> bytes:
    return (NPM / "package-lock.json").read_bytes()
