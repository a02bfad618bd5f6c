"""What systemd would hear: the datagram socket that ``NOTIFY_SOCKET`` names."""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HEARD_BYTES_MAX = 4096  # systemd ignores a longer datagram


@dataclass
class Manager:
    """Keeps every message in order, each as its lines by name."""

    path: Path
    heard: list[dict[str, str]] = field(default_factory=list)
    _socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))

    def next(self, limit_s: float) -> dict[str, str]:
        """Wait for a message; raises TimeoutError without one."""
        self._socket.settimeout(limit_s)
        data = self._socket.recv(HEARD_BYTES_MAX + 1)
        assert len(data) <= HEARD_BYTES_MAX
        message = dict(line.split("=", 1) for line in data.decode().split("\n"))
        self.heard.append(message)
        return message

    def until(self, name: str, limit_s: float, value: str = "") -> dict[str, str]:
        """Wait for a message with this line, its value beginning so."""
        while True:
            message = self.next(limit_s)
            if name in message and message[name].startswith(value):
                return message

    def until_silent(self, silence_s: float, limit_s: float) -> None:
        """Take what comes until nothing does; raises AssertionError when it does not end."""
        deadline = time.monotonic() + limit_s
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while time.monotonic() < deadline:
                self.next(silence_s)
            pytest.fail(f"it still talks: {self.heard[-1]}")

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def listening(path: Path) -> Iterator[Manager]:
    manager = Manager(path)
    try:
        yield manager
    finally:
        manager.close()
