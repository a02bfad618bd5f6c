"""Real local chains for tests: anvil on loopback, one process a node, ended by its pid.

    with running_anvil("--no-mining") as node:
        node.rpc("eth_blockNumber")

Anvil is looked for as the demo does: the environment variable ANVIL, PATH, node_modules, the cache;
it is installed into the cache when it is nowhere. When that fails too a test is skipped; with
KEEPER_REQUIRE_ALL=1 it fails, so that CI cannot skip in silence.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keeper.demo import install
from keeper.demo.processes import DemoError

START_S_MAX = 20.0
END_S_MAX = 10.0
ANSWER_S_MAX = 60.0
PORT_TRIES_MAX = 5
OWN_PORTS = range(20_000, 32_000)
WORKERS_MAX = 4
OVERLOOKED_S = 0.25  # far longer than a transaction waits for a node that mines it at once


class NodeError(Exception):
    """The node refused a request. ``data`` is the revert data, 0x-hex, or empty."""

    def __init__(self, message: str, data: str) -> None:
        super().__init__(f"{message} {data}".strip())
        self.data = data


@dataclass
class Anvil:
    """A running node and a plain blocking JSON-RPC client to it."""

    port: int
    process: subprocess.Popen[bytes]
    states: Path | None = None  # where it puts old states when it holds many: gigabytes in the end
    _connection: http.client.HTTPConnection = field(init=False)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S_MAX)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def rpc(self, method: str, *params: object) -> Any:  # noqa: ANN401 - JSON
        """Return the result of one request; raises NodeError when the node refuses it."""
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        self._connection.request(
            "POST", "/", json.dumps(request), {"Content-Type": "application/json"}
        )
        answer = json.loads(self._connection.getresponse().read())
        if "error" in answer:
            error = answer["error"]
            raise NodeError(str(error.get("message")), str(error.get("data") or ""))
        return answer["result"]

    def pause(self) -> None:
        """Stop the process where it stands: it accepts connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(
            os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT
        )  # its threads go on till then

    def resume(self) -> None:
        """Let a paused process go on."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill the process, by its pid; harmless when it is gone already."""
        self._connection.close()
        self.process.kill()
        self.process.wait(END_S_MAX)
        if self.states is not None:
            shutil.rmtree(self.states, ignore_errors=True)


def find_anvil() -> Path:
    """Return the binary, installed if need be; else skip (or fail) the test that asks."""
    found = _anvil()
    if isinstance(found, Path):
        return found
    if os.environ.get("KEEPER_REQUIRE_ALL") == "1":
        pytest.fail(found)
    pytest.skip(found)


@functools.cache
def _anvil() -> Path | str:
    """Return the binary, or why there is none; asked once, for an install may take a while."""
    try:
        if found := install.find_anvil():
            return found
        # in a thread: the test that asks may have an event loop running
        with concurrent.futures.ThreadPoolExecutor(1, "install anvil") as thread:
            return thread.submit(asyncio.run, install.ensure_anvil(print)).result()
    except DemoError as error:
        return str(error)


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on right now.

    Each worker has its own, below those that the kernel gives away: none is taken between the look
    and the start of what is to listen there.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _own_ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    each = len(OWN_PORTS) // WORKERS_MAX
    start = OWN_PORTS.start + worker % WORKERS_MAX * each
    shift = os.getpid() % each  # two runs on one machine
    yield from itertools.cycle([*range(start + shift, start + each), *range(start, start + shift)])


_ports = _own_ports()


def start_anvil(*options: str, port: int | None = None) -> Anvil:
    """Start a node and return it once it answers; the caller ends it."""
    binary = find_anvil()
    for _ in range(1 if port else PORT_TRIES_MAX):
        chosen = port or free_port()
        states = Path(tempfile.mkdtemp(prefix="anvil-"))
        own = "--silent", "--host", "127.0.0.1", "--port", str(chosen), "--cache-path", str(states)
        process = subprocess.Popen(
            [binary, *own, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        node = Anvil(chosen, process, states)
        if _answers(node):
            return node
        node.end()
    pytest.fail(f"anvil did not start with options {options}")


@contextlib.contextmanager
def running_anvil(*options: str, port: int | None = None) -> Iterator[Anvil]:
    """Run a node for the length of the block; nothing that it should mine at once stays waiting."""
    node = start_anvil(*options, port=port)
    over = threading.Event()
    helper = threading.Thread(target=_mine_what_is_overlooked, args=(node, over), daemon=True)
    if not {"--no-mining", "--block-time"} & {*options}:
        helper.start()
    try:
        yield node
    finally:
        over.set()
        node.end()
        if helper.is_alive():
            helper.join()


def _mine_what_is_overlooked(node: Anvil, over: threading.Event) -> None:
    """Anvil, mining each transaction as it comes, may overlook one that comes while it mines."""
    own, waiting = Anvil(node.port, node.process), "0x0"
    while not over.wait(OVERLOOKED_S):
        try:
            before, waiting = waiting, own.rpc("txpool_status")["pending"]
            if before == waiting != "0x0" and own.rpc("anvil_getAutomine") and _mineable(own):
                own.rpc("evm_mine")
        except (OSError, http.client.HTTPException):
            own._connection.close()  # paused, or ended
    own._connection.close()


def _mineable(node: Anvil) -> bool:
    """Say whether something waits that pays the base fee: what offers less waits rightly."""
    return bool(node.rpc("eth_getBlockByNumber", "pending", *[False])["transactions"])


def _answers(node: Anvil) -> bool:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and node.process.poll() is None:
        try:
            node.rpc("eth_chainId")
        except OSError:
            node._connection.close()
            time.sleep(0.01)  # it takes about 80 ms to listen
        else:
            return True
    return False
