"""The demo's MQTT broker: nats-server, retained messages on disk, so that a SIGKILL loses none."""

import re
from pathlib import Path

from keeper.demo.processes import Child

START_LIMIT_S = 15.0

_CONFIG = """\
server_name: "keeper-demo"
listen: "127.0.0.1:-1"
jetstream {{ store_dir: "{store}", max_memory_store: 16MB, max_file_store: 256MB }}
mqtt {{ listen: "127.0.0.1:{port}" }}
"""  # MQTT needs a server name, and JetStream for its sessions and retained messages


class Broker:
    """nats-server on loopback, keeping its port and its store over restarts."""

    def __init__(self, binary: Path, folder: Path) -> None:
        """Keep store, configuration and log under ``folder``."""
        self.port = 0  # known after the first start
        self._binary = binary
        self._folder = folder
        self._child = Child("nats-server", folder / "broker.log")

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid

    async def start(self) -> None:
        """Start, or start again, and wait until MQTT clients may connect; raises DemoError."""
        config = self._folder / "broker.conf"
        port = self.port or -1  # the first time the server chooses: nobody can take it before us
        config.write_text(_CONFIG.format(store=self._folder / "broker", port=port))
        await self._child.start([str(self._binary), "-c", str(config)])
        self.port = int(await self._child.wait_output(_mqtt_port, START_LIMIT_S))

    async def kill(self) -> None:
        """End it at once (SIGKILL)."""
        await self._child.kill()


def _mqtt_port(output: str) -> str | None:
    found = re.search(r"MQTT clients on \w+://127\.0\.0\.1:(\d+)", output)
    return found[1] if found and "Server is ready" in output else None
