"""The protocol's contracts for tests: sources from npm, compiled by the compiler from npm.

Both are done once and kept outside the repository, under the keeper's cache folder: the packages
by the hash of the lock file, the compiled contracts by the hash of what went into the compiler.
Several test runs may do so at once. Without npm, or off line, a test is skipped; with
KEEPER_REQUIRE_ALL=1 it fails, so that CI cannot skip in silence.

Sources below ``contracts/replaced`` stand in for files that are on npm in another form or not at
all; the others in ``contracts`` are our own.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import posixpath
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from keeper.demo import install

NPM = Path(__file__).parents[1] / "npm"
CONTRACTS = Path(__file__).with_name("contracts")
REPLACED = CONTRACTS / "replaced"
OWN = "keeper-tests/"  # import path of our own contracts
PERPS = "@synthetixio/perps-market/contracts/"
ORACLE = "@synthetixio/oracle-manager/contracts/"
PERPS_MODULES = (
    "CoreModule",
    "PerpsMarketFactoryModule",
    "PerpsAccountModule",
    "PerpsMarketModule",
    "AsyncOrderModule",
    "AsyncOrderSettlementPythModule",
    "AsyncOrderCancelModule",
    "FeatureFlagModule",
    "LiquidationModule",
    "MarketConfigurationModule",
    "CollateralConfigurationModule",
    "GlobalPerpsMarketModule",
)
ORACLE_MODULES = ("CoreModule", "NodeModule")
ENTRIES = (
    *(f"{PERPS}modules/{name}.sol" for name in PERPS_MODULES),
    f"{PERPS}Proxy.sol",
    *(f"{ORACLE}modules/{name}.sol" for name in ORACLE_MODULES),
    f"{ORACLE}Proxy.sol",
    "@pythnetwork/pyth-sdk-solidity/MockPyth.sol",
    *(f"{OWN}{path.name}" for path in sorted(CONTRACTS.glob("*.sol"))),
)
INSTALL_S_MAX = 240
COMPILE_S_MAX = 240
NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")
IMPORT = re.compile(r'^\s*import\s+(?:[^;"\']*?from\s+)?["\']([^"\']+)["\']', re.MULTILINE)
COMPILE_JS = """\
const solc = require(process.argv[1]);
const input = require("fs").readFileSync(0, "utf8");
process.stdout.write(solc.compile(input));"""

Abi = list[dict[str, Any]]


class PackageError(Exception):
    """The packages cannot be had, or the compiler refuses them."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract: its ABI, creation code and runtime code (0x-hex)."""

    abi: Abi
    bytecode: str
    runtime: str


def artifacts() -> Mapping[str, Artifact]:
    """Return the compiled contracts by source and name, as ``a/B.sol:B``; or skip the test."""
    found = _artifacts()
    return _missing(found) if isinstance(found, str) else found


def modules() -> Path:
    """Return the folder ``node_modules`` with the packages; or skip the test."""
    found = _modules()
    return _missing(found) if isinstance(found, str) else found


def _missing(found: str) -> NoReturn:
    if os.environ.get("KEEPER_REQUIRE_ALL") == "1":
        pytest.fail(found)
    pytest.skip(found)


@functools.cache
def _modules() -> Path | str:
    """Return the folder, or why there is none; asked once, for an install takes a while."""
    try:
        return _installed()
    except PackageError as error:
        return str(error)


@functools.cache
def _artifacts() -> Mapping[str, Artifact] | str:
    """Return the artifacts, or why there are none; asked once, for an install takes a while."""
    try:
        return _compiled(_installed())
    except PackageError as error:
        return str(error)


def _cache() -> Path:
    folder = install.cache_dir() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold a lock beside a place in the cache: one process makes it, the others wait."""
    with place.with_name(f".{place.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def _installed() -> Path:
    """Return ``node_modules`` with what the lock file names, installed if need be."""
    lock = NPM / "package-lock.json"
    place = _cache() / f"npm-{_digest(lock.read_bytes())}"
    with _alone(place):
        if not place.exists():
            _install(place)
    return place / "node_modules"


def _install(place: Path) -> None:
    """Install beside the place and move there whole: half an install is never seen."""
    npm = install.npm_command()
    if npm is None:
        msg = "the contracts under test come from npm, and there is no npm here"
        raise PackageError(msg)
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=place.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        for file in ("package.json", "package-lock.json"):
            shutil.copy(NPM / file, made / file)
        _run([*npm, "ci", *NPM_OPTIONS], INSTALL_S_MAX, folder=made)
        made.rename(place)


def _run(argv: list[str], limit_s: float, *, folder: Path, stdin: str = "") -> str:
    """Run a program and return its output; raises PackageError with what it complained about."""
    path = os.pathsep.join([str(Path(argv[0]).parent), os.environ.get("PATH", "")])
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=limit_s,
            check=False,
            env={**os.environ, "PATH": path},  # npm starts `node` by name
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackageError(str(error)) from error
    if done.returncode != 0:
        msg = f"{' '.join(argv[:3])} failed with {done.returncode}:\n{done.stderr[-2000:]}"
        raise PackageError(msg)
    return done.stdout


def node_command() -> str:
    """Return the node that npm runs on: from PATH, else beside the npm of the Python package."""
    npm = install.npm_command()
    found = shutil.which("node") or (npm[0] if npm and len(npm) > 1 else None)
    if found is None:
        msg = "the compiler runs on node, and there is none here"
        raise PackageError(msg)
    return found


def _source(modules: Path, unit: str) -> str:
    """Return the text behind an import path: our own, a stand-in, or the package's."""
    if unit.startswith(OWN):
        return (CONTRACTS / unit.removeprefix(OWN)).read_text(encoding="utf-8")
    replaced = REPLACED / unit
    return (replaced if replaced.exists() else modules / unit).read_text(encoding="utf-8")


def _sources(modules: Path, entries: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return every source the entries need, as the compiler takes them."""
    found: dict[str, dict[str, str]] = {}
    todo = list(entries)
    while todo:
        unit = todo.pop()
        if unit in found:
            continue
        text = _source(modules, unit)
        found[unit] = {"content": text}
        here = posixpath.dirname(unit)
        todo += [
            posixpath.normpath(posixpath.join(here, name)) if name.startswith(".") else name
            for name in IMPORT.findall(text)
        ]
    return found


def _compiled(modules: Path) -> Mapping[str, Artifact]:
    """Return the artifacts, compiled if need be (about 12 s)."""
    wanted = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]
    task = {
        "language": "Solidity",
        "sources": _sources(modules, ENTRIES),
        "settings": {
            "optimizer": {"enabled": True, "runs": 200},
            "outputSelection": {unit: {"*": wanted} for unit in ENTRIES},
        },
    }
    text = json.dumps(task, sort_keys=True)
    compiler = (modules / "solc" / "package.json").read_bytes()
    place = _cache() / f"contracts-{_digest(text.encode() + compiler)}.json"
    with _alone(place):
        if not place.exists():
            _compile(modules, text, place)
    found = json.loads(place.read_text(encoding="utf-8"))
    return {name: Artifact(**parts) for name, parts in found.items()}


def _compile(modules: Path, task: str, place: Path) -> None:
    argv = [node_command(), "-e", COMPILE_JS, str(modules / "solc")]
    answer = json.loads(_run(argv, COMPILE_S_MAX, folder=place.parent, stdin=task))
    refused = [
        problem["formattedMessage"]
        for problem in answer.get("errors", [])
        if problem["severity"] == "error"
    ]
    if refused:
        raise PackageError("\n".join(refused[:5]))
    made = {
        f"{unit}:{name}": {
            "abi": contract["abi"],
            "bytecode": "0x" + code,
            "runtime": "0x" + contract["evm"]["deployedBytecode"]["object"],
        }
        for unit, contracts in answer["contracts"].items()
        for name, contract in contracts.items()
        if (code := contract["evm"]["bytecode"]["object"])
    }
    part = place.with_suffix(".part")
    part.write_text(json.dumps(made), encoding="utf-8")
    part.rename(place)
