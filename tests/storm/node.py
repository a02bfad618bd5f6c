"""A chain with a clock of its own that may be killed and comes back with the blocks it had.

anvil keeps blocks in memory; a real node has them on disk. So its state is taken out before the
kill and is where the next start begins. What waited in the mempool is lost, as in reality.
"""

import contextlib
import gzip
import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.nodes import ANSWER_S_MAX, Anvil, start_anvil

GAS_LIMIT = 100_000_000  # a trader's bundle must leave room in the block
HALT_S = 0.1  # far longer than it takes to build a block of ours


@dataclass
class ClockedAnvil(Anvil):
    """An anvil that several threads may ask, each over a connection of its own."""

    folder: Path = field(default=Path())
    options: tuple[str, ...] = ()
    _connections: dict[tuple[int, int], http.client.HTTPConnection] = field(default_factory=dict)

    def rpc(self, method: str, *params: object) -> Any:  # noqa: ANN401 - JSON
        """Return the result of one request; raises NodeError, OSError while it is away."""
        key = threading.get_ident(), self.process.pid  # none outlives its process
        if key not in self._connections:
            fresh = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S_MAX)
            self._connections[key] = fresh
        asked = Anvil(self.port, self.process)
        asked._connection = self._connections[key]
        try:
            return asked.rpc(method, *params)
        except (OSError, http.client.HTTPException) as error:
            asked._connection.close()
            raise ConnectionError(str(error)) from error

    def end(self) -> None:
        """Kill the process, by its pid; the threads that asked it have ended or will fail."""
        super().end()
        while self._connections:
            _, connection = self._connections.popitem()
            connection.close()

    def halt(self) -> None:
        """Mine no more blocks; it still answers. A block already under way is waited for."""
        self.rpc("evm_setIntervalMining", 0)
        before, head = "", self.rpc("eth_blockNumber")
        while head != before:
            time.sleep(HALT_S)
            before, head = head, self.rpc("eth_blockNumber")

    def kill(self) -> None:
        """SIGKILL; every block that anybody has seen is kept. ``halt`` it first."""
        state: str = self.rpc("anvil_dumpState")
        unpacked = gzip.decompress(bytes.fromhex(state.removeprefix("0x")))
        self._state.write_bytes(unpacked)  # what --load-state takes
        self.end()

    def restart(self) -> None:
        """Start it again on its port."""
        options = *self.options, "--load-state", str(self._state)
        started = start_anvil(*options, port=self.port)
        started._connection.close()
        self.process, self.states = started.process, started.states

    @property
    def _state(self) -> Path:
        return self.folder / "chain-state.json"


@contextlib.contextmanager
def clocked_anvil(folder: Path, block_time_s: float | None) -> Iterator[ClockedAnvil]:
    """Run a node with a block every so many seconds; None: only when told."""
    clock = ("--no-mining",) if block_time_s is None else ("--block-time", f"{block_time_s:g}")
    options = *clock, "--gas-limit", str(GAS_LIMIT)
    started = start_anvil(*options)
    started._connection.close()
    node = ClockedAnvil(
        started.port, started.process, started.states, folder=folder, options=options
    )
    try:
        yield node
    finally:
        node.end()
