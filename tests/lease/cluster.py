"""A real NATS cluster on loopback: three servers with JetStream, each ended by its pid."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.brokers import find_nats_server
from tests.nodes import free_port

SERVERS = 3
START_S_MAX = 60.0
END_S_MAX = 10.0
TOKEN = "of-the-cluster"  # noqa: S105 - of these servers


@dataclass
class Server:
    """One server: clients on ``port``, the others on ``route``."""

    folder: Path
    number: int
    port: int
    route: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return f"nats-{self.number}"

    @property
    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text() if file.exists() else ""

    def start(self, routes: list[int]) -> None:
        self.folder.mkdir(exist_ok=True)
        urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        (self.folder / "conf").write_text(f"""
            server_name: "{self.name}"
            host: "127.0.0.1"
            port: {self.port}
            log_file: "{self.folder}/log"
            jetstream {{ store_dir: "{self.folder}/store" }}
            authorization {{ token: "{TOKEN}" }}
            cluster {{
              name: "c", host: "127.0.0.1", port: {self.route}, routes: [{urls}], no_advertise: true
            }}
        """)
        self.process = subprocess.Popen(
            [find_nats_server(), "--config", str(self.folder / "conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(END_S_MAX)
            self.process = None


@dataclass
class Cluster:
    """The servers."""

    servers: list[Server]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def named(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Run three servers while inside."""
    servers = [Server(folder / str(n), n, free_port(), free_port()) for n in range(SERVERS)]
    try:
        for server in servers:
            server.start([other.route for other in servers if other is not server])
        deadline = time.monotonic() + START_S_MAX
        while not any("JetStream cluster new metadata leader" in one.log for one in servers):
            if time.monotonic() > deadline:
                pytest.fail("the cluster chose no leader:\n" + servers[0].log[-3000:])
            time.sleep(0.05)
        yield Cluster(servers)
    finally:
        for server in servers:
            server.kill()
