"""Mutated messages over a real broker and real sockets: nothing crashes, grows, or passes.

Long form: 200,000 messages a transport (``--slow``). A failure prints the seed of its messages.
"""

import asyncio
import json
import random
import resource
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import aiomqtt
import pytest

from keeper.facts import Rejected, Tick
from keeper.prices._sse import Event, EventParser
from keeper.prices.binance import BinanceSource
from keeper.prices.hermes import HermesSource
from keeper.prices.hyperliquid import HyperliquidSource
from keeper.units import WAD
from tests.brokers import Broker
from tests.prices.mqtt_rig import Rig, payload_of, until
from tests.prices.streams import (
    ETH_ID,
    Server,
    binance_mark,
    event,
    hermes_price,
    hermes_update,
    hyperliquid_context,
    taking,
)
from tests.prices.test_streams import Stand

LONG_S_MAX = 600.0  # of a whole storm
BATCH = 1_000  # sent before what came of it is looked at
GROWTH_BYTES_MAX = 12 << 20  # of the process over the second half of a run; the test keeps counts
SIZES = [pytest.param(20_000), pytest.param(200_000, marks=pytest.mark.slow)]
NASTY: list[Any] = [
    *(None, True, [], {}, "", " ", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999"),
    *(
        "0x10",
        "1_000",
        "\u0661",
        "1,5",
        "1.",
        ".5",
        "+1",
        "--1",
        "9" * 400,
        "\x00",
        "💥",
        "5" + " " * 9,
    ),
    *(0, -1, 1.5, 1e308, 10**30, -(10**30), [1], {"a": 1}, "0", "-0", "-1", "1e9", 2**64, 2**63),
]


MARKS: dict[str, Callable[[str], bytes]] = {
    "binance": lambda price: binance_mark("ETHUSDT", price),
    "hyperliquid": lambda price: hyperliquid_context("ETH", price),
}


class Mutator:
    """Valid messages and what a seed makes of them."""

    def __init__(self, seed: int, valid: Callable[[str], bytes]) -> None:
        self.random = random.Random(seed)  # noqa: S311 - the seed is the point
        self._valid = valid

    def message(self) -> bytes:
        price = f"{self.random.randrange(1, 10**9)}.{self.random.randrange(10**8):08d}"
        text = self._valid(price)
        how = self.random.randrange(8)
        if how == 0:
            return text
        if how <= 3:
            return self._nasty(text)
        return self._cut(text, how)

    def _nasty(self, text: bytes) -> bytes:
        """Put a nasty value in a place, or leave a key out."""
        document = json.loads(text)
        here: Any = document
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            key = self.random.choice(keys)
            below = here[key]
            if not isinstance(below, dict | list) or not below or self.random.random() < 0.2:
                break
            here = below
        if self.random.random() < 0.2:
            del here[key]
        else:
            here[key] = self.random.choice(NASTY)
        return json.dumps(document).encode()

    def _cut(self, text: bytes, how: int) -> bytes:
        at, other = sorted(self.random.randrange(len(text)) for _ in range(2))
        match how:
            case 4:
                return text[:at] + text[other:]
            case 5:
                return text[:at] + self.random.randbytes(self.random.randrange(1, 20)) + text[at:]
            case 6:
                return text[:at] + b"[" * self.random.randrange(1, 3_000) + text[at:]
            case _:
                changed = bytearray(text)
                changed[at] ^= 1 << self.random.randrange(8)
                return bytes(changed)


def resident_bytes() -> int:
    """The largest size that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


Send = Callable[[bytes], Awaitable[int]]  # returns how many ticks and refusals that makes
Counted = Callable[[str], int]


class Tally:
    """What came out, to be held against what went in."""

    def __init__(self, items: AsyncIterator[Tick | Rejected], counted: Counted) -> None:
        self._items = items
        self._counted = counted
        self.taken: Counter[str] = Counter()

    async def take(self) -> None:
        async for item in self._items:
            self.taken[item.reason if isinstance(item, Rejected) else "tick"] += 1

    def reaches(self, count: int) -> bool:
        return self.total >= count

    @property
    def total(self) -> int:
        told = ("price_conflated_total", "price_refusals_shed_total")
        return self.taken.total() + sum(self._counted(name) for name in told)


async def storm(tally: Tally, send: Send, mutator: Mutator, count: int) -> None:
    """Send mutated messages; each must come out as ticks or as counted refusals."""
    half_bytes = due = 0
    async with asyncio.TaskGroup() as group:
        taking_task = group.create_task(tally.take(), name="taking")
        for start in range(0, count, BATCH):
            for _ in range(BATCH):
                due += await send(mutator.message())
            await until(partial(tally.reaches, due))
            if start == count // 2:
                half_bytes = resident_bytes()
        assert tally.total == due > count // 2, tally.taken
        taking_task.cancel()
    assert resident_bytes() - half_bytes < GROWTH_BYTES_MAX
    assert tally.taken["tick"] > 0
    assert tally.taken["malformed"] > 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", SIZES)
async def test_mutated_messages_over_a_broker(broker: Broker, count: int) -> None:
    rig = Rig(broker, silence_ms_max=60_000)
    mutator = Mutator(1, lambda price: payload_of(price=price, conf="1", epoch=1, seq=7))

    async with aiomqtt.Client(broker.host, broker.port) as client:

        async def send(message: bytes) -> int:
            topic = mutator.random.choice(["BTC-USD", "ETH-USD", "WETH", "DOGE"])
            await client.publish(rig.topic(topic), message, qos=0)
            return 1

        async with taking(rig.source, LONG_S_MAX) as items:
            first = asyncio.ensure_future(anext(items))
            while not first.done():  # connected, and past what a new broker may lose
                await client.publish(rig.topic("BTC-USD"), payload_of(), qos=1)
                await asyncio.wait([first], timeout=0.2)
            await asyncio.sleep(0.2)
            tally = Tally(items, lambda name: rig.telemetry.counts[f"keeper_{name}", "mqtt-1"])
            await storm(tally, send, mutator, count)
    assert rig.reconnects == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", ["binance", "hyperliquid"])
async def test_mutated_messages_over_a_web_socket(kind: str, count: int) -> None:
    valid = MARKS[kind]
    async with Server().running() as server:
        stand = Stand(kind, server)
        source = stand.source(silence_ms_max=60_000)
        async with taking(source, LONG_S_MAX) as items:
            first = asyncio.ensure_future(anext(items))
            await until(lambda: server.open_streams == 1)
            server.push(valid("1"))
            await first

            async def send(message: bytes) -> int:
                server.push(message)
                return 1

            tally = Tally(items, stand.counted)
            await storm(tally, send, Mutator(2, valid), count)
    assert stand.counted("reconnects_total") == 0


def update(price: str) -> bytes:
    return hermes_update([hermes_price(ETH_ID, price.replace(".", ""))], "504e41550100")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", SIZES)
async def test_mutated_messages_over_server_sent_events(count: int) -> None:
    async with Server().running() as server:
        stand = Stand("hermes", server)
        source, parser = stand.source(silence_ms_max=60_000), EventParser(1 << 20)
        assert isinstance(source, HermesSource)
        async with taking(source, LONG_S_MAX) as items:
            first = asyncio.ensure_future(anext(items))
            await until(lambda: server.open_streams == 1)
            server.push(event(update("1.00000000")))
            await first

            async def send(message: bytes) -> int:
                framed = event(message)
                server.push(framed)
                return sum(len(list(source.decode(each))) for each in parser.feed(framed))

            tally = Tally(items, stand.counted)
            await storm(tally, send, Mutator(6, update), count)
    assert stand.counted("reconnects_total") == 0


def as_json(message: bytes) -> Any:  # noqa: ANN401 - JSON
    """Read a message whose other fields may hold bytes that are no text."""
    return json.loads(message.decode(errors="replace"))


# --- nothing that is no price ---------------------------------------------------------------------


def exactly(text: object) -> int:
    """A decimal in wads by another way than the keeper's."""
    return int(Fraction(Decimal(str(text))) * WAD)


@pytest.mark.parametrize("count", SIZES)
def test_an_accepted_message_says_what_its_tick_says(broker: Broker, count: int) -> None:
    rig = Rig(broker)
    mutator = Mutator(3, lambda price: payload_of(price=price, conf="1", epoch=1, seq=7))
    accepted = 0
    for _ in range(count):
        message = mutator.message()
        item = rig.source._decode(rig.topic("ETH-USD"), message)
        if isinstance(item, Tick):
            accepted += 1
            said = as_json(message)
            assert item.price_wad == exactly(said["price"]), message
            assert item.published_ms == said["ts"] > 0, message
            assert item.conf_wad == exactly(said.get("conf", 0)) >= 0, message
    assert accepted > count // 10


@pytest.mark.parametrize("count", SIZES)
def test_an_accepted_update_says_what_its_ticks_say(count: int) -> None:
    source = Stand("hermes", Server()).source()
    assert isinstance(source, HermesSource)

    mutator = Mutator(4, update)
    accepted = 0
    for _ in range(count):
        message = mutator.message()
        for item in source.decode(Event("message", message)):
            if isinstance(item, Tick):
                accepted += 1
                said = as_json(message)
                price = next(p["price"] for p in said["parsed"] if p["id"].lower() == ETH_ID)
                assert item.price_wad == int(
                    Fraction(int(price["price"])) * Fraction(10) ** (18 + price["expo"])
                ), message
                assert item.published_ms == 1000 * price["publish_time"]
                signed = bytes.fromhex(said["binary"]["data"][0].removeprefix("0x"))
                assert (item.payload or b"") == signed, message
    assert accepted > count // 10


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", ["binance", "hyperliquid"])
def test_an_accepted_mark_says_what_its_tick_says(kind: str, count: int) -> None:
    source = Stand(kind, Server()).source()
    assert isinstance(source, BinanceSource | HyperliquidSource)
    valid = MARKS[kind]
    mutator = Mutator(5, valid)
    accepted = 0
    for _ in range(count):
        message = mutator.message()
        item = source.decode(message)
        if isinstance(item, Tick):
            accepted += 1
            data = as_json(message)["data"]
            mark = data["p"] if kind == "binance" else data["ctx"]["markPx"]
            assert item.price_wad == exactly(mark), message
    assert accepted > count // 10
