"""Starting ``keeper`` as a user does, and looking at what it leaves behind."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.brokers import find_nats_server
from tests.nodes import find_anvil

REPOSITORY = Path(__file__).resolve().parents[2]
KEEPER = (sys.executable, "-m", "keeper")
POLL_S = 0.03
_MARK = "KEEPER_TEST_RUN"


def until(condition: Callable[[], bool], limit_s: float, say: Callable[[], str]) -> None:
    """Poll until the condition holds; fail with what ``say`` returns after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s:g} s: {say()}")
        time.sleep(POLL_S)


@dataclass
class Run:
    """A process of ours, its output in files, everything it starts marked through the environment.

    ``argv`` runs in the folder ``cwd``, with a temporary folder of its own.
    """

    folder: Path
    argv: tuple[str, ...]
    cwd: Path = field(init=False)
    temporary: Path = field(init=False)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.cwd, self.temporary = self.folder / "cwd", self.folder / "tmp"
        for folder in (self.cwd, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """Start it; ``extra`` joins our own environment."""
        own = {
            _MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(REPOSITORY),
            "ANVIL": str(find_anvil()),
            "NATS_SERVER": str(find_nats_server()),
            "PYTHONDONTWRITEBYTECODE": "",  # it would compile itself anew at every start
        }
        with self._file("stdout").open("ab") as out, self._file("stderr").open("ab") as err:
            self._process = subprocess.Popen(
                self.argv,
                cwd=self.cwd,
                env={**os.environ, **own, **(extra or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def _file(self, name: str) -> Path:
        return self.folder / name

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def running(self) -> bool:
        return self._running.poll() is None

    @property
    def stdout(self) -> str:
        return self._file("stdout").read_text()

    @property
    def stderr(self) -> str:
        return self._file("stderr").read_text()

    def signal(self, number: int) -> None:
        """Send a signal to the process itself."""
        self._running.send_signal(number)

    def wait(self, limit_s: float) -> int:
        """Return the exit code; fails when the process does not end in time."""
        try:
            return self._running.wait(limit_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {limit_s:g} s:\n{self.stderr[-3000:]}")

    def said(self, words: str, limit_s: float) -> None:
        """Wait until standard error holds these words; fails when it ends without them."""
        until(lambda: words in self.stderr or not self.running, limit_s, lambda: self.stderr)
        assert words in self.stderr, f"it ended without saying {words!r}:\n{self.stderr}"

    def end(self) -> None:
        """Kill it, by its pid; harmless when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def left_processes(self) -> list[str]:
        """Return the command lines of what was started in it and still runs (Linux)."""
        mark = f"{_MARK}={self.mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append(f"{folder.name}: {command.decode(errors='replace')}")
            except OSError:
                continue  # it ended meanwhile
        return found

    def left_files(self) -> list[str]:
        """Return what lies in its working and temporary folders."""
        folders = (self.cwd, self.temporary)
        return [str(path) for folder in folders for path in folder.rglob("*")]


def run_to_end(folder: Path, *arguments: str, limit_s: float = 30.0) -> tuple[int, str, str]:
    """Run ``keeper`` with these arguments; return exit code, stdout, stderr."""
    run = Run(folder, (*KEEPER, *arguments))
    run.start()
    try:
        return run.wait(limit_s), run.stdout, run.stderr
    finally:
        run.end()
