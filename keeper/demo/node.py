"""The demo's chain: anvil with a clock of its own, never mined on demand, safe from SIGKILL."""

import asyncio
import gzip
import re
from pathlib import Path

from keeper.demo.jsonrpc import NodeRpc
from keeper.demo.processes import Child

START_LIMIT_S = 15.0
GAS_LIMIT = 2_000_000_000  # the judge reads hundreds of accounts in one call
HALT_S = 0.2  # far longer than a block of ours takes to build
STATES_KEPT = 128  # older states are never asked for; each is a copy of all accounts, in memory


class Node:
    """anvil on loopback, keeping its port and its state over restarts."""

    def __init__(
        self, binary: Path, folder: Path, block_time_s: float, states_kept: int = STATES_KEPT
    ) -> None:
        """Keep state and log under ``folder``."""
        self.port = 0  # known after the first start
        self.block_time_s = block_time_s
        self._states_kept = states_kept
        self._binary = binary
        self._folder = folder
        self._state = folder / "chain-state.json"
        self._child = Child("anvil", folder / "chain.log")

    @property
    def url(self) -> str:
        """HTTP endpoint; the same port takes WebSockets."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid

    async def start(self) -> None:
        """Start (from the saved state, if any) and wait until it listens; raises DemoError."""
        argv = [str(self._binary), "--host", "127.0.0.1", "--port", str(self.port)]
        argv += ["--block-time", f"{self.block_time_s:g}", "--gas-limit", str(GAS_LIMIT)]
        argv += [
            "--prune-history",
            str(self._states_kept),
            "--cache-path",
            str(self._folder / "chain"),
        ]
        if self._state.exists():
            argv += ["--load-state", str(self._state)]
        await self._child.start(argv)
        self.port = int(await self._child.wait_output(_port, START_LIMIT_S))

    async def halt(self, rpc: NodeRpc) -> None:
        """Mine no more blocks; it still answers. A block already under way is waited for."""
        await rpc.call("evm_setIntervalMining", 0)
        before, head = "", await rpc.call("eth_blockNumber")
        while head != before:
            await asyncio.sleep(HALT_S)
            before, head = head, await rpc.call("eth_blockNumber")

    async def save(self, rpc: NodeRpc) -> None:
        """Take out the state that the next start begins with.

        A real node has its blocks on disk, anvil in memory: halt and save it before a kill, and
        every block that anybody has seen is there again. The mempool is lost, as in reality.
        """
        state: str = await rpc.call("anvil_dumpState")
        packed = bytes.fromhex(state.removeprefix("0x"))
        self._state.write_bytes(gzip.decompress(packed))  # --load-state wants it unpacked

    async def kill(self) -> None:
        """End it at once (SIGKILL)."""
        await self._child.kill()


def _port(output: str) -> str | None:
    found = re.search(r"Listening on 127\.0\.0\.1:(\d+)", output)
    return found[1] if found else None
