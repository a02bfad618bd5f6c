"""Broker, chain and market of the submit and start benchmarks, and the oracle of its prices."""

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import aiohttp
import aiomqtt
from coincurve import PrivateKey

from keeper.bench.ladder import START, Ladder, eth_at
from keeper.demo.broker import Broker
from keeper.demo.config_file import KEY_NAME, Wiring, write_config
from keeper.demo.contract import PriceSigner, SignedPrice, address_of
from keeper.demo.deploy import Deployment, deploy
from keeper.demo.install import Say, ensure_anvil, find_nats_server
from keeper.demo.jsonrpc import NodeRpc
from keeper.demo.node import STATES_KEPT, Node
from keeper.demo.processes import Child, DemoError, free_port
from keeper.demo.publisher import PREFIX
from keeper.demo.terms import FEED_BTC, FEED_ETH, FEEDS
from keeper.units import WAD

BLOCK_S = 0.25
WALLET_WEI = 100 * 10**18
READY_POLL_S = 0.05
REPEAT_S = 1.0  # a standing price is published again before it is stale
_CENT = WAD // 100


class Oracle:
    """Signs prices and publishes them, noting the monotonic time at which each left."""

    def __init__(self, signer: PriceSigner, client: aiomqtt.Client) -> None:
        """Start at the ladder's top."""
        self.eth = START.eth
        self._signer = signer
        self._client = client
        self._sequence = 0
        self._last_ms = 0
        self._lock = asyncio.Lock()  # prices leave in the order in which they were signed

    def signed(self, feed: int, price: int) -> SignedPrice:
        """Return a signed update of now; the contract wants strictly newer ones."""
        self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
        return self._signer.sign(feed, price, self._last_ms)

    async def publish(self, feed: int, price: int) -> tuple[int, SignedPrice]:
        """Publish a price; returns when it left (monotonic ns) and the update."""
        async with self._lock:
            update = self.signed(feed, price)
            self._sequence += 1
            message = {
                "price": str(Decimal(price // _CENT) / 100),
                "ts": update.published_ms,
                "epoch": 1,
                "seq": self._sequence,
                "payload": "0x" + update.payload.hex(),
            }
            body = json.dumps(message).encode()
            topic = f"{PREFIX}/prices/{FEEDS[feed].replace('/', '-')}"
            left_ns = time.monotonic_ns()
            await self._client.publish(topic, body, qos=1, retain=True)
            return left_ns, update

    async def descend(self, rung: int) -> tuple[int, SignedPrice]:
        """Publish the price of a rung."""
        self.eth = eth_at(rung)
        return await self.publish(FEED_ETH, self.eth)

    async def repeat(self) -> None:
        """Publish what stands, again and again, until cancelled."""
        while True:
            await self.publish(FEED_BTC, START.btc)
            await self.publish(FEED_ETH, self.eth)
            await asyncio.sleep(REPEAT_S)


@dataclass(frozen=True, slots=True)
class World:
    """What is measured in."""

    folder: Path
    node: Node
    rpc: NodeRpc
    mqtt_port: int
    place: Deployment
    oracle: Oracle
    ladder: Ladder
    config: Path
    http_port: int  # of the keeper
    say: Say


@asynccontextmanager
async def open_world(
    ladder: Ladder, say: Say, block_s: float = BLOCK_S, states_kept: int = STATES_KEPT
) -> AsyncIterator[World]:
    """Start the servers, deploy the market, publish its prices; nothing is left of it later."""
    with tempfile.TemporaryDirectory(prefix="keeper-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            broker = Broker(find_nats_server(), folder)
            node = Node(await ensure_anvil(say), folder, block_s, states_kept)
            for server in (broker, node):
                stack.push_async_callback(server.kill)
                await server.start()
            rpc = NodeRpc(node.url)
            stack.push_async_callback(rpc.close)
            key = PrivateKey()
            place = await deploy(rpc, address_of(key), ladder.population, seed=1)
            say(f"market with {len(ladder.population)} accounts, blocks of {block_s:g} s")
            client = aiomqtt.Client("127.0.0.1", broker.port)
            await stack.enter_async_context(client)
            oracle = Oracle(PriceSigner(key, place.chain_id, place.address), client)
            http_port = free_port()
            wiring = Wiring(
                chain_id=place.chain_id,
                http_url=node.url,
                ws_url=node.ws_url,
                mqtt_port=broker.port,
                http_port=http_port,
                market=place.address,
                start_block=place.block,
                block_time_s=block_s,
            )
            _keep(await funded(rpc), folder / KEY_NAME)
            config = write_config(folder, wiring)
            async with asyncio.TaskGroup() as group:
                repeating = group.create_task(oracle.repeat(), name="oracle")
                yield World(
                    folder, node, rpc, broker.port, place, oracle, ladder, config, http_port, say
                )
                repeating.cancel()


async def ready(world: World, keeper: Child, s_max: float) -> None:
    """Wait until a keeper in the world says that it is ready; raises DemoError when it does not."""
    url = f"http://127.0.0.1:{world.http_port}/readyz"
    reason = "not started"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(s_max):
            while reason and keeper.running:
                await asyncio.sleep(READY_POLL_S)
                try:
                    async with world.rpc.session.get(url) as answer:
                        reason = "" if answer.ok else await answer.text()
                except aiohttp.ClientError as error:
                    reason = repr(error)
    if reason:
        msg = f"the keeper did not get ready ({reason}):\n{keeper.tail()}"
        raise DemoError(msg)


async def funded(rpc: NodeRpc) -> PrivateKey:
    """Make a key with money on its address."""
    key = PrivateKey()
    await rpc.call("anvil_setBalance", address_of(key), hex(WALLET_WEI))
    return key


def _keep(key: PrivateKey, file: Path) -> None:
    """Write a key to a file only we can read."""
    file.touch(mode=0o600)
    file.write_text(f"0x{key.secret.hex()}\n", encoding="utf-8")
