"""``keeper bench start``: how long a keeper takes to be ready, cold and warm.

Real keepers on a real broker and chain on loopback: the first one knows nothing and reads all
accounts; while it is stopped some of them change; the second one begins with the snapshot that the
first has left, and reads those.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice

import click
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from keeper.bench.ladder import ladder_of
from keeper.bench.world import BLOCK_S, World, open_world, ready
from keeper.demo.node import STATES_KEPT
from keeper.demo.processes import Child, DemoError
from keeper.demo.traders import WALLET_USD
from keeper.units import WAD

DISTINCT = 1_000  # accounts that differ: to draw more takes longer than what is measured
RUNGS = 10  # of them near liquidation
CHANGED = 20  # accounts that somebody pays into while the keeper is stopped
READY_S_MAX = 600.0
STOP_S_MAX = 120.0  # it writes its snapshot meanwhile
SETTLE_S = 2.0  # a snapshot holds what was read as of a whole head
GAS = 200_000
# a node hashes and copies all its state with every block: 1 s and 80 MB with 100,000 accounts
ACCOUNTS_PER_BLOCK_S = 10_000
ACCOUNTS_KEPT_MAX = 1_600_000  # in all states together
COLUMNS = "accounts", "cold s", "cpu s", "read", "warm s", "cpu s", "read", "stop s", "snapshot MB"


@dataclass(frozen=True)
class Start:
    """What a start took."""

    ready_s: float  # from the process to a green /readyz
    cpu_s: float  # of a processor until then: what else runs on the machine does not count
    read: int  # accounts read from the chain until then
    accounts: int  # in the book by then


@dataclass(frozen=True)
class Measured:
    """A cold and a warm start with so many accounts."""

    accounts: int
    changed: int
    cold: Start
    warm: Start
    stop_s: float
    snapshot_bytes: int

    @property
    def complete(self) -> bool:
        """Say whether all accounts were there each time, and few were read for it the second."""
        found = {self.cold.accounts, self.warm.accounts}
        return found == {self.accounts} and self.warm.read < self.cold.read


async def measure(accounts: int, seed: int, console: Console) -> Measured:
    """Start a keeper twice; raises DemoError when something does not start."""
    assert WALLET_USD > CHANGED * WAD  # noqa: S101 - who pays in has that much
    ladder = ladder_of(min(accounts, DISTINCT), RUNGS, seed)
    ladder = replace(ladder, population=tuple(islice(cycle(ladder.population), accounts)))

    def say(line: str) -> None:
        console.print(line, markup=False, style="dim", soft_wrap=True)

    block_s = max(BLOCK_S, accounts / ACCOUNTS_PER_BLOCK_S)
    states_kept = min(STATES_KEPT, ACCOUNTS_KEPT_MAX // accounts)
    async with open_world(ladder, say, block_s, states_kept) as world:
        keeper = Child("the keeper", world.folder / "keeper.log")
        cold = await _start(world, keeper)
        await asyncio.sleep(SETTLE_S)
        began = time.perf_counter()
        await keeper.terminate(STOP_S_MAX)
        stop_s = time.perf_counter() - began
        sizes = [one.stat().st_size for one in world.folder.rglob("snapshot-*.jsonl")]
        await _pay_in(world, accounts)
        warm = await _start(world, keeper)
        await keeper.terminate(STOP_S_MAX)
    return Measured(accounts, CHANGED, cold, warm, round(stop_s, 2), sum(sizes))


async def _start(world: World, keeper: Child) -> Start:
    began = time.perf_counter()
    await keeper.start([sys.executable, "-m", "keeper", "run", "--config", str(world.config)])
    await ready(world, keeper, READY_S_MAX)
    ready_s = time.perf_counter() - began
    url = f"http://127.0.0.1:{world.http_port}"
    async with world.rpc.session.get(f"{url}/metrics") as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    samples = [sample for family in families for sample in family.samples]

    def total(name: str) -> float:
        return sum(sample.value for sample in samples if sample.name == name)

    read, found = total("keeper_accounts_read_total"), total("keeper_accounts")
    cpu_s = total("process_cpu_seconds_total")
    return Start(round(ready_s, 2), round(cpu_s, 2), int(read), int(found))


async def _pay_in(world: World, accounts: int) -> None:
    """Change some accounts, spread over all."""
    market, wallet = world.place.market, (await world.rpc.call("eth_accounts"))[1]
    hashes = []
    for number in range(CHANGED):
        data = market.data("deposit_cash", 1 + number * accounts // CHANGED, WAD)
        call = {"from": wallet, "to": world.place.address, "data": data, "gas": hex(GAS)}
        hashes.append(await world.rpc.call("eth_sendTransaction", call))
    for tx_hash in hashes:
        await world.rpc.receipt(tx_hash)


def main(sizes: Sequence[int], seed: int, *, as_json: bool) -> int:
    """Measure and print; return 1 when accounts were missing or the warm start read as much."""
    console = Console(stderr=True)
    table = Table(*COLUMNS, box=None, pad_edge=False)
    found = []
    for accounts in sizes:
        try:
            one = asyncio.run(measure(accounts, seed, console))
        except DemoError as error:
            console.print(str(error), markup=False, style="red")
            return 1
        found.append(one)
        cells: list[float] = [accounts]
        for start in (one.cold, one.warm):
            cells += [start.ready_s, start.cpu_s, start.read]
        cells += [one.stop_s, round(one.snapshot_bytes / 1e6, 1)]
        table.add_row(*(f"{cell:,}" for cell in cells))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        Console().print(table)
    return 0 if all(one.complete for one in found) else 1
