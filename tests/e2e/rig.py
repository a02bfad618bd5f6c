"""A market on a real node, prices on a real broker, and keepers as an operator runs them.

    with opened(folder, node, broker) as rig, rig.keeper() as keeper:
        keeper.until_ready()
        account = rig.open_under()
        keeper.until(lambda: rig.liquidated(account), 5.0)

Everything here is synchronous; the keepers are processes of their own.
"""

import contextlib
import itertools
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families

from keeper.chain.journal_read import AttemptRow, read_attempts
from keeper.demo.contract import address_of
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.runs import KEEPER, Run, until
from tests.market_chain import (
    FEE_WEI,
    START_PRICES,
    MarketChain,
    furnish,
    payload_of,
    under_eth_long,
)
from tests.market_chain import FEEDS as FEED_NAMES
from tests.nodes import Anvil, free_port

READY_S_MAX = 20.0
STOP_S_MAX = 5.0  # what the keeper promises
ANSWER_S_MAX = 5.0
REPEAT_S = 0.5  # between two publications of the standing prices
ETHER = 10**18
_numbers = itertools.count(1)

CONFIG = """\
[keeper]
state_dir = "state"

[log]
level = "info"
format = "json"

[http]
port = {http_port}

[chain]
id = {chain_id}
http = {http}
ws = {ws}
native_feed = "ETH/USD"
poll_ms = 50
rpc_timeout_ms = 500
confirmations = {confirmations}
head_age_ms_max = {head_age_ms_max}
{chain}
{wallet}
[[sources]]
kind = "{source_kind}"
name = "broker"
host = "127.0.0.1"
port = {mqtt_port}
prefix = "{prefix}"
{feeds}
[[venues]]
kind = "{kind}"
id = "demo"
address = "{address}"
{venue}
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What differs between the configs of the tests; None: as the rig has it."""

    http: str | Sequence[str] | None = None
    ws: str | None = ""
    http_port: int | None = None
    mqtt_port: int | None = None
    chain_id: int | None = None
    address: str | None = None
    key: str | None = None  # the line in [[wallets]]; "": no wallet
    head_age_ms_max: int = 30_000
    confirmations: int = 1
    kind: str = "demo_market"
    source_kind: str = "mqtt"
    chain: str = ""  # more lines of the chain's table
    venue: str = ""  # likewise


class Oracle(threading.Thread):
    """Signs and publishes the prices of a rig, and repeats them while they stand."""

    def __init__(self, chain: MarketChain, broker: Broker, prefix: str) -> None:
        super().__init__(name="oracle", daemon=True)
        self.prices = dict(START_PRICES)
        self.calm = threading.Lock()  # held: nothing is published
        self._chain = chain
        self._prefix = prefix
        self._sequence = 0
        self.last_ms = 0
        self._ended = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def run(self) -> None:
        while not self._ended.wait(REPEAT_S):
            with self.calm:
                self.publish()

    def publish(self) -> None:
        """Publish all prices now; hold ``calm`` for it."""
        for feed, price in self.prices.items():
            self.last_ms = max(time.time_ns() // 1_000_000, self.last_ms + 1)
            self._sequence += 1
            update = self._chain.sign(feed, price, self.last_ms)
            message = {
                "price": f"{price / WAD:.2f}",
                "ts": self.last_ms,
                "epoch": 1,
                "seq": self._sequence,
                "payload": "0x" + payload_of(update).hex(),
            }
            self.send(topic_of(FEED_NAMES[feed]), json.dumps(message).encode(), retain=True)

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish anything under the rig's prefix and wait for the broker to take it."""
        sent = self._client.publish(f"{self._prefix}/{topic}", payload, qos=1, retain=retain)
        sent.wait_for_publish(ANSWER_S_MAX)
        assert sent.is_published(), f"the broker did not take {topic}"

    def set(self, feed: int, price: int) -> None:
        """Let this be the price from now on."""
        with self.calm:
            self.prices[feed] = price
            self.publish()

    def end(self) -> None:
        self._ended.set()
        self.join()
        self._client.disconnect()
        self._client.loop_stop()


def topic_of(feed: str) -> str:
    return f"prices/{feed.replace('/', '-')}"


@dataclass
class KeeperProcess:
    """``keeper run`` on a config of its own, with its HTTP endpoints."""

    run: Run
    config: Path
    http_port: int
    wallet: str

    def start(self) -> None:
        self.run.start()

    def until(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Poll while the process runs; fails with its log when it ends or time is up."""
        until(lambda: not self.run.running or condition(), limit_s, self._tail)
        assert self.run.running, f"the keeper ended:\n{self._tail()}"

    def _tail(self) -> str:
        return self.run.stderr[-4000:]

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body; status 0 while nothing listens."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_S_MAX) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def healthy(self) -> bool:
        return self.get("/healthz")[0] == 200

    def unready(self) -> list[str]:
        """Return the reasons of /readyz; one made up while nobody answers."""
        _, body = self.get("/readyz")
        return list(json.loads(body)["reasons"]) if body else ["no answer"]

    def until_ready(self) -> None:
        self.until(lambda: not self.unready(), READY_S_MAX)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels."""
        _, body = self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def stop(self) -> None:
        """SIGTERM: it ends within its promise, with 0."""
        self.run.signal(signal.SIGTERM)
        assert self.run.wait(STOP_S_MAX) == 0, self._tail()

    def kill(self) -> None:
        self.run.end()

    def journal(self) -> list[AttemptRow]:
        """Return the attempts; the keeper must not run."""
        return read_attempts(self.config.parent / "state" / "journal.sqlite")


@dataclass
class Rig:
    """A market of its own on a node and a broker that may be shared."""

    folder: Path
    node: Anvil
    broker: Broker
    chain: MarketChain
    prefix: str
    oracle: Oracle

    def open_under(self, equity_part: float = 0.3) -> int:
        """Open an ETH long that is liquidatable at once, in one step; return its id."""
        return self.chain.seed([under_eth_long(equity_part)])[0]

    def open_safe(self) -> int:
        """Open an ETH long that a fall of 4 % sinks, to be closed in one step; return its id."""
        return self.chain.seed([under_eth_long(5.0)])[0]

    def liquidations(self) -> list[dict[str, Any]]:
        """Return the fields of every ``Liquidated`` event, its ``tx`` and ``block`` added."""
        query = {"address": self.chain.address, "fromBlock": "0x0", "toBlock": "latest"}
        found = []
        for log in self.node.rpc("eth_getLogs", query):
            name, fields = self.chain.event(log)
            if name == "Liquidated":
                found.append({**fields, "tx": log["transactionHash"]})
        return found

    def liquidated(self, account: int) -> bool:
        return any(one["account"] == account for one in self.liquidations())

    def nonce(self, wallet: str, tag: str = "latest") -> int:
        return int(self.node.rpc("eth_getTransactionCount", wallet, tag), 16)

    def usd(self, wallet: str) -> int:
        """Return the wallet's rewards on chain, USD wads."""
        balance: int = self.chain.call("balanceOf", wallet)
        return balance

    def configure(self, folder: Path, options: Options) -> tuple[Path, int, str]:
        """Write config and key into ``folder``; return config, HTTP port, wallet."""
        folder.mkdir(parents=True, exist_ok=True)
        key = PrivateKey()
        file = folder / "wallet.key"
        file.touch(mode=0o600)
        file.write_text(f"0x{key.secret.hex()}\n")
        wallet = address_of(key)
        self.node.rpc("anvil_setBalance", wallet, hex(10 * ETHER))
        line = 'key = { file = "wallet.key" }' if options.key is None else options.key
        ws = self.node.ws_url if options.ws is None else options.ws
        http = options.http or self.node.url
        http_port = options.http_port or free_port()
        text = CONFIG.format(
            http_port=http_port,
            chain_id=options.chain_id or self.chain.chain_id,
            http=json.dumps([http] if isinstance(http, str) else list(http)),
            ws=json.dumps([ws] if ws else []),
            head_age_ms_max=options.head_age_ms_max,
            chain=options.chain,
            confirmations=options.confirmations,
            wallet=f"[[wallets]]\n{line}\n" if line else "",
            source_kind=options.source_kind,
            mqtt_port=options.mqtt_port or self.broker.port,
            prefix=self.prefix,
            feeds="".join(
                f'[[feeds]]\nid = "{name}"\nsources = ["broker"]\n' for name in FEED_NAMES
            ),
            kind=options.kind,
            address=options.address or self.chain.address,
            venue=options.venue,
        )
        config = folder / "config.toml"
        config.write_text(text)
        return config, http_port, wallet

    @contextlib.contextmanager
    def keeper(
        self,
        options: Options | None = None,
        *arguments: str,
        command: Sequence[str] = KEEPER,
    ) -> Iterator[KeeperProcess]:
        """Run a keeper, with a fresh wallet, for the length of the block."""
        folder = self.folder / f"keeper-{next(_numbers)}"
        config, http_port, wallet = self.configure(folder, options or Options())
        run = Run(folder, (*command, "run", "--config", str(config), *arguments))
        process = KeeperProcess(run, config, http_port, wallet)
        process.start()
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def opened(folder: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    """Deploy a market and let its prices be published for the length of the block."""
    chain = MarketChain(node, max_price_age_s=600, update_fee_wei=FEE_WEI)
    furnish(chain)
    prefix = f"rig-{next(_numbers)}"
    oracle = Oracle(chain, broker, prefix)
    oracle.start()
    try:
        yield Rig(folder, node, broker, chain, prefix, oracle)
    finally:
        oracle.end()


@contextlib.contextmanager
def busy_port() -> Iterator[int]:
    """Listen on a loopback port for the length of the block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
