"""A stranger follows the README from nothing to a first venue: every command as it stands there.

What a stranger puts in (endpoint, source, addresses, an account) is put in; nothing else changes.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from keeper.units import WAD
from tests.e2e.runs import REPOSITORY, Run, until
from tests.nodes import free_port
from tests.prices.streams import ETH_ID, Server, event, hermes_price, hermes_update
from tests.synthetix.scenario import DAVE, ETH
from tests.synthetix.world import World, usd

TITLE = "## From nothing to a first venue, in a dry run\n"
BACKGROUND = "keeper run --dry-run"
LIMIT_S = 60.0
PUBLISHED_EVERY_S = 0.3


def blocks() -> list[str]:
    """Return the commands of the walk, block by block."""
    text = (REPOSITORY / "README.md").read_text().split(TITLE)[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


@dataclass
class Oracle:
    """Hermes, in a thread of its own: signed prices of the world, as of now."""

    world: World
    port: int = 0
    closing: bool = False

    async def _serve(self) -> None:
        async with Server().running() as server:
            self.port = server.port
            while not self.closing:
                now_s = self.world.chain.now_s()
                price = self.world.prices[ETH]
                signed = self.world.updates(now_s)[list(self.world.prices).index(ETH)]
                quote = hermes_price(ETH_ID, str(price * 10**8 // WAD), publish_time=now_s)
                server.push(event(hermes_update([quote], signed.hex())))
                await asyncio.sleep(PUBLISHED_EVERY_S)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        thread.start()
        until(lambda: self.port > 0, LIMIT_S, lambda: "Hermes is not up")
        return thread


@pytest.fixture
def oracle(pull: World) -> Iterator[Oracle]:
    """A falling market that makes blocks and has a price now; nobody has liquidated yet."""
    pull.chain.node.rpc("evm_setIntervalMining", 1)
    pull.set_prices({ETH: usd(1_700)})
    serving = Oracle(pull)
    thread = serving.start()
    try:
        yield serving
    finally:
        serving.closing = True
        thread.join(LIMIT_S)
        pull.chain.node.rpc("evm_setIntervalMining", 0)


class Stranger:
    """Somebody with a terminal in a folder."""

    def __init__(self, folder: Path, world: World, oracle: Oracle) -> None:
        self.folder = folder
        self.port = free_port()
        self._put_in = {
            ". .venv/bin/activate\n": "",  # it is active
            "#:schema ../keeper": f"#:schema {REPOSITORY}/keeper",
            "id = 8453": "id = 31337",
            "https://your-node.example": f"http://127.0.0.1:{world.chain.node.port}",
            "https://hermes.example": f"http://127.0.0.1:{oracle.port}",
            "0x0000000000000000000000000000000000000001": world.perps.address,
            "0x0000000000000000000000000000000000000002": str(
                world.system.pyth and world.system.pyth.address
            ),
            "ACCOUNT ": f"{DAVE} ",
            # the chain's clock was put forward while orders were settled; it waits for blocks
            'sources = ["pyth"]\n': 'sources = ["pyth"]\n'
            "future_ms_max = 60_000\nage_ms_max = 60_000\n",
            "[chain]\n": f"[http]\nport = {self.port}\n\n[chain]\n",
        }
        self._used: set[str] = set()

    def follows(self, block: str, code: int = 0) -> str:
        """Paste a block; return what it printed."""
        for placeholder, value in self._put_in.items():
            if placeholder in block:
                self._used.add(placeholder)
                block = block.replace(placeholder, value)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert done.returncode == code, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def why(self, account: int) -> str:
        """Return why an account is not being liquidated; "" while it is not known."""
        url = f"http://127.0.0.1:{self.port}/api/v1/accounts/perps/{account}"
        try:
            with urlopen(url) as answer:
                return str(json.load(answer)["why"])
        except HTTPError:
            return ""

    @property
    def unused(self) -> set[str]:
        return set(self._put_in) - self._used


def test_every_command_does_what_the_text_says(tmp_path: Path, pull: World, oracle: Oracle) -> None:
    begin, config, check, run, look, wallet = blocks()
    stranger = Stranger(tmp_path, pull, oracle)
    stranger.follows(begin)
    stranger.folder = tmp_path / "first"
    stranger.follows(config)
    asked = stranger.follows(check)
    assert "failed" not in asked
    warned = [line.split("  ")[1].strip() for line in asked.splitlines() if "warning" in line]
    assert warned == ["wallets", "venue perps"]
    assert "no feed follows market 200" in asked
    assert "name one in the feeds of venue perps" in asked

    assert run == f"{BACKGROUND}\n"
    keeper = Run(tmp_path / "run", (sys.executable, "-m", "keeper", "run", "--dry-run"))
    keeper.cwd = stranger.folder
    keeper.start()
    try:
        keeper.said("http listening", LIMIT_S)
        status, explain, stress = look.splitlines()
        until(lambda: stranger.why(DAVE) == "dry_run", LIMIT_S, lambda: keeper.stderr)
        assert re.search(rf"perps +{DAVE} .*dry_run", stranger.follows(status))
        told = stranger.follows(explain)
        assert f"perps, account {DAVE}: dry_run" in told
        assert "exactly: liquidatable" in told
        assert "ETH/USD -10 %" in stranger.follows(stress)
    finally:
        keeper.signal(signal.SIGINT)
        code = keeper.wait(LIMIT_S)
        keeper.end()
    assert code == 0, keeper.stderr

    said = stranger.follows(wallet, code=1)
    assert re.search(r"^0x[0-9a-fA-F]{40}$", said, re.MULTILINE), "the wallet's address"
    assert stranger.unused == set()
