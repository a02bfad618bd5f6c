"""The embedded world: broker, chain, market, accounts, prices, judge, and the keeper's process.

``open_world`` sets it up and takes it down without a trace; in between a run is driven by the
methods of ``World``, and so are faults: every part can be killed and started again.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from coincurve import PrivateKey

from keeper.chain.journal_read import read_attempts
from keeper.demo.broker import Broker
from keeper.demo.config_file import KEY_NAME, Wiring, journal_path, write_config
from keeper.demo.contract import PriceSigner, address_of
from keeper.demo.deploy import Deployment, deploy
from keeper.demo.install import Say, ensure_anvil, find_nats_server
from keeper.demo.jsonrpc import NodeRpc
from keeper.demo.judge import Case, Judge
from keeper.demo.node import Node
from keeper.demo.options import DemoOptions
from keeper.demo.path import PricePath
from keeper.demo.population import draw_population
from keeper.demo.processes import Child, DemoError, free_port
from keeper.demo.publisher import PriceRecord, Publisher, play
from keeper.demo.report import Evidence, Report, make_report
from keeper.demo.traders import GasMarket, Traders

READY_LIMIT_S = 60.0
STOP_LIMIT_S = 8.0  # the keeper promises 5
CATCH_UP_LIMIT_S = 60.0
QUIET_BLOCKS = 5  # without a liquidation or anybody to liquidate: the keeper's receipts are in
WALLET_WEI = 100 * 10**18
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """What a world is made of, all of it running."""

    folder: Path
    options: DemoOptions
    path: PricePath
    broker: Broker
    node: Node
    rpc: NodeRpc
    deployment: Deployment
    wallet: str  # of the keeper
    record: PriceRecord
    publisher: Publisher
    judge: Judge
    traders: Traders
    gas_market: GasMarket
    keeper: Child
    http_port: int  # of the keeper
    config: Path


class World:
    """A run and its parts. Made by ``open_world``."""

    def __init__(self, parts: Parts, say: Say) -> None:
        """Drive these parts; ``say`` gets the progress."""
        self.parts = parts
        self.say = say

    @property
    def http_url(self) -> str:
        """Where the keeper's HTTP endpoints are."""
        return f"http://127.0.0.1:{self.parts.http_port}"

    @property
    def journal(self) -> Path:
        """The keeper's journal."""
        return journal_path(self.parts.folder)

    # --- the keeper -------------------------------------------------------------------------------

    async def start_keeper(self) -> None:
        """Run ``keeper run`` on the written config and wait until it is ready; raises DemoError."""
        keeper = self.parts.keeper
        argv = [sys.executable, "-m", "keeper", "run", "--config", str(self.parts.config)]
        await keeper.start(argv)
        self.say(f"waiting for the keeper at {self.http_url}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_LIMIT_S
        while (reason := await self._unready()) is not None:
            if not keeper.running:
                msg = f"the keeper ended with exit code {keeper.returncode}:\n{keeper.tail()}"
                raise DemoError(msg)
            if loop.time() > deadline:
                msg = f"the keeper did not get ready ({reason}):\n{keeper.tail()}"
                raise DemoError(msg)
            await asyncio.sleep(_POLL_S)

    async def _unready(self) -> str | None:
        try:
            async with self.parts.rpc.session.get(f"{self.http_url}/readyz") as answer:
                return None if answer.ok else await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return repr(error)

    async def kill_keeper(self) -> None:
        """Kill it (SIGKILL)."""
        await self.parts.keeper.kill()

    async def stop_keeper(self) -> int | None:
        """Ask it to stop (SIGTERM); return its exit code."""
        return await self.parts.keeper.terminate(STOP_LIMIT_S)

    # --- faults -----------------------------------------------------------------------------------

    async def kill_broker(self) -> None:
        """Kill the broker (SIGKILL)."""
        await self.parts.broker.kill()

    async def restart_broker(self) -> None:
        """Start the broker again where it was, with what it retained."""
        await self.parts.broker.start()

    async def kill_node(self) -> None:
        """Kill the chain (SIGKILL): it keeps its blocks, as on a disk, and loses its mempool."""
        await self.parts.node.halt(self.parts.rpc)
        async with asyncio.timeout(CATCH_UP_LIMIT_S):
            # the states before the last block are gone after a restart
            await self.parts.judge.caught_up(await self._head())
        await self.parts.node.save(self.parts.rpc)
        await self.parts.node.kill()

    async def restart_node(self) -> None:
        """Start the chain again where it was."""
        await self.parts.node.start()

    # --- the run ----------------------------------------------------------------------------------

    async def play(self) -> None:
        """Play the whole path, candles in step with blocks: the first begins with the next one."""
        async with asyncio.timeout(CATCH_UP_LIMIT_S):
            await self.parts.judge.caught_up(await self._head() + 1)
        await play(self.parts.path, self.parts.publisher, self.parts.options.speed)

    async def settle(self) -> None:
        """Let the last prices stand until all is quiet, at most for the grace."""
        verdicts = self.parts.judge.verdicts
        start = await self._head()
        grace = max(self.parts.options.grace_blocks, QUIET_BLOCKS)
        for number in range(start + 1, start + grace + 1):
            async with asyncio.timeout(CATCH_UP_LIMIT_S):
                await self.parts.judge.caught_up(number)
            quiet_since = max(verdicts.last_liquidation or 0, start)
            if number >= quiet_since + QUIET_BLOCKS and not verdicts.pending:
                return

    async def _head(self) -> int:
        return int(await self.parts.rpc.call("eth_blockNumber"), 16)

    async def report(self) -> Report:
        """Judge the run; the keeper must have been stopped, for its journal is read."""
        parts = self.parts
        left_wei = int(await parts.rpc.call("eth_getBalance", parts.wallet, "latest"), 16)
        evidence = Evidence(
            seed=parts.options.seed,
            accounts=parts.options.accounts,
            ticks=parts.record.ticks,
            wallet=parts.wallet,
            verdicts=parts.judge.verdicts,
            findings=parts.judge.findings,
            journal=read_attempts(self.journal) if self.journal.exists() else [],
            keeper_exit=parts.keeper.returncode,
            spent_wei=WALLET_WEI - left_wei,
        )
        return make_report(evidence)


@asynccontextmanager
async def open_world(options: DemoOptions, say: Say) -> AsyncIterator[World]:
    """Set a world up in a temporary folder; on the way out nothing of it is left.

    The prices stand at the path's start and the judge is at work; the keeper is not started yet.
    Raises DemoError.
    """
    options.check()
    path = options.path()
    say(f"price path: {path.note}")
    with tempfile.TemporaryDirectory(prefix="keeper-demo-", ignore_cleanup_errors=True) as name:
        async with AsyncExitStack() as stack:
            world = World(await _set_up(Path(name), options, path, say, stack), say)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(world.parts.publisher.run(), name="publisher"),
                    group.create_task(world.parts.traders.run(), name="traders"),
                    group.create_task(world.parts.gas_market.run(), name="gas market"),
                    group.create_task(world.parts.judge.run(), name="judge"),
                ]
                yield world
                for task in tasks:
                    task.cancel()


async def _set_up(
    folder: Path, options: DemoOptions, path: PricePath, say: Say, stack: AsyncExitStack
) -> Parts:
    """Start the servers, deploy, seed, fund the keeper; ``stack`` undoes it."""
    broker, node = await _start_servers(folder, options, say, stack)
    rpc = NodeRpc(node.url)
    stack.push_async_callback(rpc.close)
    oracle = PrivateKey()
    population = draw_population(options.seed, options.accounts, path.start)
    place = await deploy(rpc, address_of(oracle), population, options.seed)
    say(f"market {place.address} with {len(population)} accounts")
    wallet = await _fund_keeper(folder, rpc)
    http_port = free_port()
    wiring = Wiring(
        chain_id=place.chain_id,
        http_url=node.url,
        ws_url=node.ws_url,
        mqtt_port=broker.port,
        http_port=http_port,
        market=place.address,
        start_block=place.block,
        block_time_s=options.block_time_s,
    )
    record = PriceRecord()
    signer = PriceSigner(oracle, place.chain_id, place.address)
    publisher = Publisher(signer, record, broker.port)
    publisher.offer(path.start)
    case = Case(place.market, place.address, range(1, options.accounts + 1), wallet)
    keeper = Child("the keeper", folder / "keeper.log")
    stack.push_async_callback(keeper.kill)
    return Parts(
        folder=folder,
        options=options,
        path=path,
        broker=broker,
        node=node,
        rpc=rpc,
        deployment=place,
        wallet=wallet,
        record=record,
        publisher=publisher,
        judge=Judge(rpc, node.ws_url, case, record),
        traders=Traders(rpc, place.market, place.address, place.holders, options.seed),
        gas_market=GasMarket(rpc, options.block_time_s, options.seed),
        keeper=keeper,
        http_port=http_port,
        config=write_config(folder, wiring),
    )


async def _start_servers(
    folder: Path, options: DemoOptions, say: Say, stack: AsyncExitStack
) -> tuple[Broker, Node]:
    nats, anvil = find_nats_server(), await ensure_anvil(say)
    broker = Broker(nats, folder)
    stack.push_async_callback(broker.kill)
    await broker.start()
    node = Node(anvil, folder, options.block_time_s)
    stack.push_async_callback(node.kill)
    await node.start()
    say(f"broker on MQTT port {broker.port}, chain at {node.url}")
    return broker, node


async def _fund_keeper(folder: Path, rpc: NodeRpc) -> str:
    """Make a wallet for the keeper: a fresh key in a file only we can read, and some ether."""
    key = PrivateKey()
    file = folder / KEY_NAME
    file.touch(mode=0o600)
    file.write_text(f"0x{key.secret.hex()}\n", encoding="utf-8")
    await rpc.call("anvil_setBalance", address_of(key), hex(WALLET_WEI))
    return address_of(key)
