"""What is installed and what is shipped: locked, listed, and made of the same bytes every time."""

import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import DEPLOY, ROOT, run, tool, tracked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = PROJECT["name"]
BACKEND = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
LOCKS = {
    "requirements.txt": "",
    "requirements-nats.txt": "nats",
    "requirements-demo.txt": "demo",
    "requirements-dev.txt": "dev",
}
CLONE_DATE = "1700000000"


def pins(lock: str) -> dict[str, Requirement]:
    """Return what a lock file pins on this machine, by name."""
    lines = re.findall(r"^([a-zA-Z0-9].*?) *\\$", (DEPLOY / lock).read_text(), re.MULTILINE)
    found = [Requirement(line) for line in lines]
    return {
        canonicalize_name(one.name): one
        for one in found
        if one.marker is None or one.marker.evaluate()
    }


def wanted(extra: str) -> list[Requirement]:
    """Return what pyproject asks for, with what an extra adds."""
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, [])]
    return [Requirement(line) for line in lines]


def needs(requirement: Requirement) -> Iterator[Requirement]:
    """Yield what an installed package asks for in turn, with the extras asked of it."""
    if requirement.name == NAME:
        for extra in requirement.extras:
            yield from wanted(extra)
        return
    for line in distribution(requirement.name).requires or ():
        need = Requirement(line)
        asked = [{"extra": extra} for extra in ("", *requirement.extras)]
        if need.marker is None or any(need.marker.evaluate(each) for each in asked):
            yield need


def closure(first: Iterable[Requirement]) -> list[Requirement]:
    """Return everything that is asked for, directly or not."""
    found: dict[str, Requirement] = {}
    waiting = list(first)
    while waiting:
        requirement = waiting.pop()
        if str(requirement) not in found:
            found[str(requirement)] = requirement
            waiting += needs(requirement)
    return [requirement for requirement in found.values() if requirement.name != NAME]


@pytest.mark.parametrize(("lock", "extra"), LOCKS.items())
def test_a_lock_pins_what_pyproject_asks_for_and_nothing_else(lock: str, extra: str) -> None:
    pinned = pins(lock)
    for requirement in closure(wanted(extra)):
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{lock} lacks {requirement}"
        (version,) = pin.specifier
        assert requirement.specifier.contains(version.version), f"{lock}: {pin}, not {requirement}"
    assert set(pinned) == {canonicalize_name(one.name) for one in closure(wanted(extra))}


def test_locks_agree_and_are_what_is_installed() -> None:
    everything = pins("requirements-dev.txt")
    for lock in LOCKS:
        assert pins(lock).items() <= everything.items()
    if os.environ.get("KEEPER_REQUIRE_ALL"):
        installed = {name: distribution(name).version for name in everything}
        assert installed == {name: str(pin.specifier)[2:] for name, pin in everything.items()}


def test_what_builds_it_is_pinned_too() -> None:
    pinned = pins("requirements-build.txt")
    for line in BACKEND:
        (version,) = pinned[canonicalize_name(Requirement(line).name)].specifier
        assert Requirement(line).specifier.contains(version.version)


def documented(command: str) -> str:
    """Return the line of the README that runs a command, continued lines joined."""
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(rf"^.*{re.escape(command)}.*$", readme, re.MULTILINE)
    return str(line).split("#")[0]


def test_the_bill_of_materials_is_valid_and_whole(tmp_path: Path) -> None:
    tool("cyclonedx-py")  # it validates what it writes
    line = documented("cyclonedx-py").replace("sbom.json", str(tmp_path / "sbom.json"))
    run("bash", "-c", line)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", NAME)
    listed = {one["name"]: one for one in bill["components"]}
    assert set(pins("requirements.txt")) <= set(listed)
    for one in listed.values():
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}"
        hashes = [found for where in one["externalReferences"] for found in where["hashes"]]
        assert hashes, one["name"]


def clone(folder: Path, age_s: int) -> Path:
    """Write the tracked files elsewhere, as of another time and with other modes."""
    for name in tracked():
        if name.startswith(("tests/", "grafana/")):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        target.chmod(0o600 if age_s else 0o644)
        os.utime(target, (1_750_000_000 - age_s,) * 2)
    return folder


def test_two_builds_are_equal_to_the_byte(tmp_path: Path) -> None:
    line = documented("-m build").replace("$(git log -1 --format=%ct)", CLONE_DATE)
    assert CLONE_DATE in line
    made = []
    for age_s in (0, 1_000_000):
        folder = clone(tmp_path / f"clone-{age_s}", age_s)
        run("bash", "-c", line.replace(".venv", str(ROOT / ".venv")), cwd=folder)
        made.append({path.name: path.read_bytes() for path in (folder / "dist").iterdir()})
    assert made[0].keys() == made[1].keys()
    assert len(made[0]) == 2
    assert [name for name, data in made[0].items() if data != made[1][name]] == []


def test_a_wheel_has_all_that_the_package_has(tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone", 0)
    run("bash", "-c", f"{tool('python')} -m build -q --no-isolation --wheel", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    names = set(run(tool("python"), "-m", "zipfile", "-l", wheel).split())
    shipped = {str(path.relative_to(folder)) for path in (folder / "keeper").rglob("*.*")}
    assert {name for name in shipped if "__pycache__" not in name} <= names
