"""What the same path costs without a keeper, and what a good typical peer takes.

The floor: a bare MQTT hop, a bare simulation of the same liquidation, one journal commit, a bare
signature and ``eth_sendRawTransaction``. The peer: at every block raw batched reads of every
account's verdict at the newest price, then send.
"""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import aiomqtt

from keeper.bench.ladder import eth_at
from keeper.bench.world import World, funded
from keeper.chain.signer import KeySigner, Unsigned
from keeper.decide.economics import Fee
from keeper.demo.contract import SignedPrice
from keeper.demo.terms import FEED_ETH, UPDATE_FEE_WEI
from keeper.facts import Call
from keeper.units import GWEI

TOPIC = "bench/ping"
PAYLOAD_BYTES = 600  # as many as a price with its signed update
ROW_BYTES = 1_000  # a signed transaction and what is noted beside it
GAS = 1_000_000
READS_PER_BATCH = 500
POLL_S = 0.02
PEER_S_MAX = 60.0


@dataclass
class Sender:
    """A wallet of the benchmark's own."""

    signer: KeySigner
    chain_id: int
    nonce: int = 0

    def signed(self, call: Call) -> str:
        """Return the raw bytes of the next transaction, 0x-hex."""
        unsigned = Unsigned(call, self.nonce, GAS, Fee(100 * GWEI, GWEI), self.chain_id)
        self.nonce += 1
        return "0x" + self.signer.signed(unsigned)[1].hex()


async def sender_of(world: World) -> Sender:
    """Make a funded wallet."""
    key = await funded(world.rpc)
    return Sender(KeySigner(key.secret), world.place.chain_id)


def liquidation(world: World, rung: int, update: SignedPrice) -> Call:
    """Return the call that liquidates a rung's account at a signed price."""
    account = world.ladder.account(rung)
    data = world.place.market.data("liquidate_with_prices", account, [astuple(update)])
    return Call(world.place.address, bytes.fromhex(data[2:]), UPDATE_FEE_WEI)


class Floor:
    """Measures the bare parts of the path, one after the other."""

    def __init__(self, world: World, sender: Sender, client: aiomqtt.Client) -> None:
        """``client`` has subscribed to ``TOPIC``."""
        self._world = world
        self._sender = sender
        self._client = client
        self._journal = _journal(world.folder / "floor.sqlite")

    async def measure(self, rung: int) -> dict[str, float]:
        """Return milliseconds by part, for the liquidation of a rung that is not due yet."""
        rpc = self._world.rpc
        update = self._world.oracle.signed(FEED_ETH, eth_at(rung))
        call = liquidation(self._world, rung, update)
        marks = [time.monotonic_ns()]
        await self._client.publish(TOPIC, b"x" * PAYLOAD_BYTES, qos=0)
        await anext(aiter(self._client.messages))
        marks.append(time.monotonic_ns())
        message = {
            "from": self._sender.signer.address,
            "to": call.to,
            "input": "0x" + call.data.hex(),
            "value": hex(call.value_wei),
        }
        done = await rpc.call(
            "eth_simulateV1", {"blockStateCalls": [{"calls": [message]}]}, "latest"
        )
        marks.append(time.monotonic_ns())
        assert done[0]["calls"][0]["status"] == "0x1"  # noqa: S101 - else it was not the same call
        with self._journal:
            self._journal.execute("INSERT INTO rows VALUES (?)", (b"x" * ROW_BYTES,))
        marks.append(time.monotonic_ns())
        raw = self._sender.signed(Call(self._sender.signer.address, b""))
        marks.append(time.monotonic_ns())
        await rpc.call("eth_sendRawTransaction", raw)
        marks.append(time.monotonic_ns())
        names = ("receive", "simulate", "journal", "sign", "send")
        parts = {
            name: (end - begin) / 1e6
            for name, begin, end in zip(names, marks, marks[1:], strict=False)
        }
        return {"total": (marks[-1] - marks[0]) / 1e6, **parts}

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def _journal(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS rows (row BLOB)")
    return database


class Peer:
    """A keeper as they commonly are: at each block it reads all, then it acts."""

    def __init__(self, world: World, sender: Sender) -> None:
        """Watch the accounts of the whole population."""
        self._world = world
        self._sender = sender
        self._accounts = range(1, len(world.ladder.population) + 1)

    async def measure(self, rung: int) -> float:
        """Publish a rung's price; return the milliseconds until its liquidation is accepted."""
        left_ns, update = await self._world.oracle.descend(rung)
        async with asyncio.timeout(PEER_S_MAX):
            while True:
                await self._next_block()
                for account in await self._due([update]):
                    number = account - self._world.ladder.first
                    raw = self._sender.signed(liquidation(self._world, number, update))
                    await self._world.rpc.call("eth_sendRawTransaction", raw)
                    if number == rung:
                        return (time.monotonic_ns() - left_ns) / 1e6

    async def _next_block(self) -> None:
        rpc = self._world.rpc
        before = head = await rpc.call("eth_blockNumber")
        while head == before:
            await asyncio.sleep(POLL_S)
            head = await rpc.call("eth_blockNumber")

    async def _due(self, updates: Sequence[SignedPrice]) -> list[int]:
        """Return the accounts whose verdict, each read by itself, is liquidatable."""
        place, found = self._world.place, []
        for start in range(0, len(self._accounts), READS_PER_BATCH):
            some = self._accounts[start : start + READS_PER_BATCH]
            calls = [
                {"to": place.address, "data": place.market.preview([account], updates)}
                for account in some
            ]
            requests = [("eth_call", [call, "latest"]) for call in calls]
            answers = await self._world.rpc.batch(requests)
            verdicts = [place.market.result("preview_liquidatable", one)[0] for one in answers]
            found += [account for account, due in zip(some, verdicts, strict=True) if due]
        return found
