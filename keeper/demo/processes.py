"""Child processes of the demo: servers that log to a file and never outlive it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keeper.errors import FatalError

LOG_TAIL_BYTES = 6_000
_POLL_S = 0.02  # a server of ours starts in about 0.1 s

# Linux sends the child a SIGKILL when we die, however we die; elsewhere `finally` has to do.
_TIE_TO_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class DemoError(FatalError):
    """The embedded world could not be set up; the message says what to do about it."""


def free_port() -> int:
    """Return a loopback TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tied(argv: Sequence[str]) -> list[str]:
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT, str(os.getpid()), *argv]


class Child:
    """One child process; output goes to ``log_path``, appended over restarts."""

    def __init__(self, name: str, log_path: Path) -> None:
        """Name it for error messages."""
        self.name = name
        self.log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        """How the last run ended (negative: by that signal)."""
        return None if self._process is None else self._process.returncode

    async def start(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it; ``argv[0]`` is an absolute path, ``env`` is added to our own environment."""
        if self.running:
            msg = f"{self.name} runs already"
            raise DemoError(msg)
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_tied(argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,  # never a pipe: a server whose pipe is full stops serving
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # Ctrl-C on the terminal is for us to pass on
            )

    def output(self) -> str:
        """Return what it has written since it was last started."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """Return the end of its log."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    async def wait_output(self, ready: Callable[[str], str | None], limit_s: float) -> str:
        """Wait until ``ready`` finds what it looks for in the output, and return that.

        Raises DemoError with the log's end when the child ends or ``limit_s`` passes first.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while (found := ready(self.output())) is None:
            if not self.running or loop.time() > deadline:
                state = f"ended with {self.returncode}" if not self.running else "is silent"
                msg = f"{self.name} did not start: it {state}\n{self.tail()}"
                raise DemoError(msg)
            await asyncio.sleep(_POLL_S)
        return found

    async def terminate(self, limit_s: float) -> int | None:
        """Ask it to stop, kill it after ``limit_s``; return its exit code."""
        if self._process is None:
            return None
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                return await self._process.wait()
        except TimeoutError:
            await self.kill()
            return self._process.returncode

    async def kill(self) -> None:
        """End it and its children at once (SIGKILL); nothing happens when it has ended."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.running:
            return
        try:
            os.killpg(self._process.pid, number)  # start_new_session made it a group of its own
        except ProcessLookupError:
            return
