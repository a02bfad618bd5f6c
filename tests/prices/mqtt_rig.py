"""A source with its parts, publishers, and faults between it and a real broker."""

import asyncio
import contextlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import aiomqtt

from keeper.facts import FeedId, Rejected, Tick
from keeper.prices.mqtt import MqttSource, Settings, build
from tests.brokers import Broker
from tests.fakes import NoRpc

FEEDS = [FeedId("BTC/USD"), FeedId("ETH/USD"), FeedId("WETH")]
BTC, ETH, WETH = FEEDS
S_MAX = 10.0  # for anything a test waits for
PASSWORD = "correct horse"  # noqa: S105 - of a broker on loopback that lives for one test
_numbers = itertools.count()


class CountingClock:
    """The machine's clocks. The source asks once a message: ``arrivals`` counts messages."""

    def __init__(self) -> None:
        self.arrivals = 0

    def wall_ms(self) -> int:
        return time.time_ns() // 10**6

    def monotonic_ns(self) -> int:
        self.arrivals += 1
        return time.monotonic_ns()


class CountingTelemetry:
    """Keeps the counters, by name and stream."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def count(self, metric: str, amount: float = 1.0, /, **labels: str) -> None:
        self.counts[metric, labels["stream"]] += int(amount)

    def gauge(self, _metric: str, _value: float, /, **_labels: str) -> None:
        raise AssertionError

    def observe(self, _metric: str, _seconds: float, /, **_labels: str) -> None:
        raise AssertionError


class Rig:
    """A source and its parts, under a prefix of its own: what is retained stays with one test."""

    def __init__(self, broker: Broker, *, port: int | None = None, **settings: object) -> None:
        self.broker = broker
        self.prefix = f"test/{next(_numbers)}"
        self.clock = CountingClock()
        self.telemetry = CountingTelemetry()
        values = {
            "host": broker.host,
            "port": port or broker.port,
            "prefix": self.prefix,
            "reconnect_ms_min": 10,
            "reconnect_ms_max": 100,
        }
        self.settings = Settings.model_validate(values | settings)
        self.source = build(self.settings, "mqtt-1", FEEDS, self.clock, self.telemetry, NoRpc())

    @property
    def reconnects(self) -> int:
        return self.telemetry.counts["keeper_reconnects_total", "mqtt-1"]

    def topic(self, label: str) -> str:
        return f"{self.prefix}/prices/{label}"

    @contextlib.asynccontextmanager
    async def publisher(self) -> AsyncIterator["Publisher"]:
        async with aiomqtt.Client(
            self.broker.host,
            self.broker.port,
            username=self.broker.user,
            password=self.broker.password,
        ) as client:
            yield Publisher(self, client)


class Publisher:
    """Publishes to the topics of one rig with QoS 1: it returns once the broker has the message."""

    def __init__(self, rig: Rig, client: aiomqtt.Client) -> None:
        self._rig = rig
        self._client = client

    async def raw(self, label: str, payload: bytes, *, retain: bool = False) -> None:
        await self._client.publish(self._rig.topic(label), payload, qos=1, retain=retain)

    async def price(self, label: str, **fields: object) -> None:
        await self.raw(label, payload_of(**fields), retain=True)


def payload_of(**fields: object) -> bytes:
    return json.dumps({"price": "100", "ts": 1_767_225_600_123} | fields).encode()


@contextlib.asynccontextmanager
async def reading(source: MqttSource) -> AsyncIterator[AsyncIterator[Tick | Rejected]]:
    async def said() -> AsyncGenerator[Tick | Rejected, None]:
        async for item in ticks:
            if item is not None:  # a sign of life
                yield item

    async with (
        contextlib.aclosing(source.ticks()) as ticks,
        contextlib.aclosing(said()) as items,
        asyncio.timeout(S_MAX),
    ):
        yield items


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(S_MAX):
        while not true():  # noqa: ASYNC110 - what it waits for is outside this loop
            await asyncio.sleep(0.005)


async def first_tick(ticks: AsyncIterator[Tick | Rejected], sequence: int) -> Tick:
    """Skip what is repeated or refused, up to the tick with this number."""
    async for item in ticks:
        if isinstance(item, Tick) and item.sequence == sequence:
            return item
    raise AssertionError


def mqtt_text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def mqtt_packet(kind: int, body: bytes) -> bytes:
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length.append(digit | (0x80 if rest else 0))
        if not rest:
            return bytes([kind]) + bytes(length) + body


async def flood(broker: Broker, messages: list[tuple[str, bytes]]) -> None:
    """Publish with QoS 0 as fast as the socket takes it: no client is that fast."""
    reader, writer = await asyncio.open_connection(broker.host, broker.port)
    try:
        connect = mqtt_text("MQTT") + bytes([4, 2, 0, 60]) + mqtt_text("flood")
        writer.write(mqtt_packet(0x10, connect))
        assert await reader.readexactly(4) == bytes([0x20, 2, 0, 0])
        for topic, payload in messages:
            writer.write(mqtt_packet(0x30, mqtt_text(topic) + payload))
        await writer.drain()
        writer.write(mqtt_packet(0xE0, b""))
        await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


class Proxy:
    """A TCP proxy. ``freeze``: present connections stay open and carry nothing any more."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._frozen_before = 0
        self.accepted = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        self._frozen_before = self.accepted

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.accepted
        self.accepted += 1
        to_reader, to_writer = await asyncio.open_connection(self._broker.host, self._broker.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(number, reader, to_writer), name=f"up {number}")
            group.create_task(self._pump(number, to_reader, writer), name=f"down {number}")

    async def _pump(
        self, number: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(65_536):
            if number >= self._frozen_before:
                sink.write(data)
        sink.close()
        with contextlib.suppress(ConnectionError):
            await sink.wait_closed()


def open_sockets() -> int:
    return sum(1 for name in Path("/proc/self/fd").iterdir() if is_socket(name))


def is_socket(name: Path) -> bool:
    try:
        return os.readlink(name).startswith("socket:")  # noqa: PTH115 - the target is no path
    except FileNotFoundError:
        return False
