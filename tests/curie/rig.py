"""A keeper as an operator runs it, on the real contracts, with prices on a real broker.

    with opened(folder) as rig:
        rig.populate(...)
        with rig.keeper() as keeper: ...

The node mines at once, and a block every ``BLOCK_S`` besides; its time may be moved on. Everything
here is synchronous; the keeper is a process of its own.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coincurve import PrivateKey
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from keeper.chain.journal_read import AttemptRow
from keeper.demo.contract import address_of
from keeper.units import WAD
from tests.brokers import Broker, running_broker
from tests.curie.deploy import USD, deploy
from tests.curie.world import World, furnished
from tests.e2e.rig import ETHER, KeeperProcess, topic_of
from tests.e2e.runs import KEEPER, Run
from tests.nodes import free_port
from tests.storm.node import ClockedAnvil, clocked_anvil
from tests.synthetix.chain import RevertedError
from tests.synthetix.packages import modules

BLOCK_S = 0.25
PREFIX = "curie"
UNIT = WAD // USD
QUIET_BLOCKS = 6  # with nobody under and nothing in flight: it is over
WAIT_S = 40.0
TRIES_MAX = 4
CONFIG = """\
[keeper]
state_dir = "state"

[log]
level = "info"
format = "json"

[http]
port = {http_port}

[chain]
id = 31337
http = ["{http}"]
ws = ["{ws}"]
native_feed = "ETH/USD"
poll_ms = 100
rpc_timeout_ms = 3000
confirmations = 1

[gate]
backoff_ms_min = 250
backoff_ms_max = 1000
hold_ms = 250
transaction_cost_wei_max = 1_000_000_000_000_000_000

[[wallets]]
key = {{ file = "wallet.key" }}

[[sources]]
kind = "mqtt"
name = "broker"
host = "127.0.0.1"
port = {mqtt_port}
prefix = "curie"

[[feeds]]
id = "ETH/USD"
sources = ["broker"]

[[feeds]]
id = "BTC/USD"
sources = ["broker"]

[[venues]]
kind = "perp_curie"
id = "curie"
address = "{address}"
vault = "{vault}"
collateral = {collateral}
feeds = {feeds}
{venue}

[[venues]]
kind = "perp_curie_collateral"
id = "collateral"
address = "{address}"
vault = "{vault}"
collateral = {collateral}
feeds = {feeds}
"""


class Clock(threading.Thread):
    """With every tick a block, and the prices that stand to the broker."""

    def __init__(self, node: ClockedAnvil, broker: Broker, prices: Mapping[str, float]) -> None:
        super().__init__(name="clock", daemon=True)
        self.prices = dict(prices)
        self._node = node
        self._ended = threading.Event()
        self._sequence = 0
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def run(self) -> None:
        while not self._ended.wait(BLOCK_S):
            self._node.rpc("evm_mine")
            for feed, price in list(self.prices.items()):
                self._sequence += 1
                now_ms = time.time_ns() // 1_000_000
                message = {"price": f"{price:.2f}", "ts": now_ms, "epoch": 1, "seq": self._sequence}
                topic = f"{PREFIX}/{topic_of(feed)}"
                self._client.publish(topic, json.dumps(message), qos=1, retain=True)

    def end(self) -> None:
        self._ended.set()
        self.join()
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Rig:
    """A furnished market, and the keeper's wallet."""

    folder: Path
    node: ClockedAnvil
    broker: Broker
    world: World
    clock: Clock
    wallet: str
    seen_under: set[str] = field(default_factory=set)

    # --- the market -------------------------------------------------------------------------------

    def move(self, market: str, price: float, settle_s: int = 2_000) -> None:
        """Take oracle, pool and the broker's price there."""
        self.clock.prices[f"{market}/USD"] = price
        self.world.move(market, price, settle_s=settle_s)

    def under(self) -> set[str]:
        """Return who the contract calls liquidatable right now, by name.

        The node may run a call with the time of the block before its state: then it is asked again.
        """
        for _ in range(TRIES_MAX):
            with contextlib.suppress(RevertedError):
                return self._under()
        return self._under()

    def _under(self) -> set[str]:
        curie, found = self.world.curie, set[str]()
        for name, who in self.world.people.items():
            held = curie.balances.call("getBaseTokens", who)
            value = curie.house.call("getAccountValue", who) if held else 0
            sizes = [curie.balances.call("getLiquidatablePositionSize", who, base, value)
                     for base in held]  # fmt: skip
            if any(sizes):
                found.add(name)
        self.seen_under |= found
        return found

    def in_debt(self) -> set[str]:
        """Return whose collateral the contract lets anybody buy right now, by name."""
        for _ in range(TRIES_MAX):
            with contextlib.suppress(RevertedError):
                return self._in_debt()
        return self._in_debt()

    def _in_debt(self) -> set[str]:
        vault = self.world.curie.vault
        return {
            name for name, who in self.world.people.items() if vault.call("isLiquidatable", who)
        }

    def liquidations(self) -> list[Mapping[str, object]]:
        last = self.world.chain.number()
        return [one.fields for one in self.world.curie.house.logs(0, last)
                if one.name == "PositionLiquidated"]  # fmt: skip

    # --- the keeper -------------------------------------------------------------------------------

    def assets(self) -> int:
        """Return all that the keeper has in the settlement token, wads."""
        curie, who = self.world.curie, self.wallet
        owed, unrealised, _ = curie.balances.call("getPnlAndPendingFee", who)
        cash = curie.usdc.call("balanceOf", who) + curie.vault.call("getBalance", who)
        pending = curie.exchange.call("getAllPendingFundingPayment", who)
        return int(cash * UNIT + owed + unrealised - pending)

    def gas_wei(self) -> int:
        return int(self.node.rpc("eth_getBalance", self.wallet, "latest"), 16)

    def flat(self) -> bool:
        """Say whether the keeper holds no position."""
        return self.world.curie.balances.call("getBaseTokens", self.wallet) in ((), [])

    @contextlib.contextmanager
    def keeper(self, venue: str) -> Iterator[KeeperProcess]:
        """Run one on the wallet's journal for the length of the block."""
        home, http_port, curie = self.folder / "keeper", free_port(), self.world.curie
        config = home / "config.toml"
        feeds = ", ".join(
            f'"{one.base.address}" = "{one.listing.feed}"' for one in curie.markets.values()
        )
        config.write_text(
            CONFIG.format(
                http_port=http_port,
                http=self.node.url,
                ws=self.node.ws_url,
                mqtt_port=self.broker.port,
                address=curie.house.address,
                vault=curie.vault.address,
                collateral=json.dumps([curie.weth.address]),
                feeds=f"{{ {feeds} }}",
                venue=venue,
            )
        )
        run = Run(home, (*KEEPER, "run", "--config", str(config)))
        process = KeeperProcess(run, config, http_port, self.wallet)
        process.start()
        try:
            yield process
        finally:
            process.kill()

    def until_quiet(self, keeper: KeeperProcess, *, flat: bool = True) -> None:
        """Wait until nobody is under, nothing is in flight, and no position is left (if flat)."""
        head, quiet, deadline = self.world.chain.number(), 0, time.monotonic() + WAIT_S
        while quiet < QUIET_BLOCKS:
            assert time.monotonic() < deadline, self._trouble(keeper)
            busy = bool(self.under() | self.in_debt()) or keeper.metric("keeper_open_attempts") > 0
            busy = busy or (flat and not self.flat())
            number = self.world.chain.number()
            quiet = 0 if busy else quiet + (number > head)
            head = number
            time.sleep(BLOCK_S / 2)

    def until(self, keeper: KeeperProcess, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self._trouble(keeper)
            time.sleep(BLOCK_S / 4)

    def _trouble(self, keeper: KeeperProcess) -> str:
        status = keeper.get("/api/v1/status")[1]
        said = f"under {self.under()}, in debt {self.in_debt()}, flat {self.flat()}"
        return f"{said}\n{status}\n{keeper.run.stderr[-6000:]}"


@contextlib.contextmanager
def opened(folder: Path, usd: int) -> Iterator[Rig]:
    """Furnish a market; the keeper's wallet has so much of the settlement token."""
    modules()  # installed before the node's clock starts
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(clocked_anvil(folder, None))
        node.rpc("evm_setAutomine", True)  # noqa: FBT003 - JSON-RPC
        broker = stack.enter_context(running_broker(folder / "broker"))
        world = furnished(World(deploy(node)))
        wallet = _wallet(folder / "keeper")
        node.rpc("anvil_setBalance", wallet, hex(100 * ETHER))
        world.curie.usdc.send("mint", wallet, usd * USD)
        prices = {
            one.listing.feed: float(one.listing.price) for one in world.curie.markets.values()
        }
        clock = Clock(node, broker, prices)
        clock.start()
        stack.callback(clock.end)
        yield Rig(folder, node, broker, world, clock, wallet)


def _wallet(home: Path) -> str:
    home.mkdir()
    key = PrivateKey()
    file = home / "wallet.key"
    file.touch(mode=0o600)
    file.write_text(f"0x{key.secret.hex()}\n")
    return address_of(key)


def table(name: str, journal: Sequence[AttemptRow], price: float) -> str:
    """Return the net P&L of a scenario, in USD, gas at a price of the native token."""
    parts: dict[str, int] = {}
    for row in journal:
        for part, wad in row.gains.items():
            parts[part] = parts.get(part, 0) + wad
    gas = sum(row.cost_wei for row in journal)
    jobs: dict[str, int] = {}
    for row in journal:
        key = f"{row.job}/{row.outcome}"
        jobs[key] = jobs.get(key, 0) + 1
    net = sum(parts.values()) - gas * price
    lines = [f"{name}: " + ", ".join(f"{key} {count}" for key, count in sorted(jobs.items()))]
    lines += [f"  {part:12s} {wad / WAD:12.4f} USD" for part, wad in sorted(parts.items())]
    lines += [
        f"  {'gas':12s} {-gas / WAD * price:12.4f} USD",
        f"  {'net':12s} {net / WAD:12.4f} USD",
    ]
    return "\n".join(lines)
