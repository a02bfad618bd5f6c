"""Floods on one feed, from a process of their own: the newest price is taken, the rest is counted.

With ``-s`` they say how old the prices were when they were taken.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from keeper.clock import SystemClock
from keeper.facts import Rejected, Tick
from keeper.prices.board import FeedRules, PriceBoard
from keeper.units import WAD
from tests.brokers import Broker
from tests.prices.mqtt_rig import ETH, Rig
from tests.prices.streams import Server, taking
from tests.prices.test_streams import Stand

SECONDS = 3
CALM = 20  # messages a second, to compare with
RULES = FeedRules(60_000, 2_000, 10_000, 10**9, ("main", "mqtt-1"))


@contextlib.contextmanager
def flooder(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.prices.flooder", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def taken_to_the_last(items: AsyncIterator[Tick | Rejected]) -> list[float]:
    """Put the ticks through a board, up to the last one; return how old they were, in ms."""
    clock = SystemClock()
    board = PriceBoard({ETH: RULES}, clock)
    ages_ms: list[float] = []
    async for item in items:
        assert isinstance(item, Tick), item
        if item.feed != ETH:
            continue  # a sign that the connection stands
        board.offer(item)
        price = board.fresh(ETH, clock.wall_ms())
        assert price is not None
        ages_ms.append((time.monotonic_ns() - price.price_wad // WAD) / 1e6)
        if item.price_wad % WAD:
            assert price is item, "the newest is the price"
            return ages_ms
    raise AssertionError


def say(transport: str, rate: int, ages_ms: list[float], conflated: int) -> None:
    ages_ms.sort()
    p50, p99 = ages_ms[len(ages_ms) // 2], ages_ms[len(ages_ms) * 99 // 100]
    took = f"{len(ages_ms)} taken, {conflated} conflated"
    print(f"{transport} {rate} msg/s: {took}, p50 {p50:.2f} ms, p99 {p99:.2f} ms old")  # noqa: T201


@pytest.mark.parametrize("rate", [CALM, 20_000])
async def test_a_flood_over_a_web_socket(rate: int) -> None:
    with flooder("ws", rate, SECONDS) as process:
        assert process.stdout is not None
        server = Server()
        server.port = int(process.stdout.readline())
        stand = Stand("binance", server)
        async with taking(stand.source(), 60) as items:
            ages_ms = await taken_to_the_last(items)
    conflated = stand.counted("price_conflated_total")
    say("web socket", rate, ages_ms, conflated)
    assert len(ages_ms) + conflated == rate * SECONDS
    assert stand.counted("reconnects_total") == 0


@pytest.mark.parametrize("rate", [CALM, 3_000])
async def test_a_flood_over_mqtt(broker: Broker, rate: int) -> None:
    rig = Rig(broker)
    async with rig.publisher() as publisher, taking(rig.source, 60) as items:
        await publisher.price("BTC-USD", ts=1)
        await anext(items)
        with flooder("mqtt", broker.port, rig.topic("ETH-USD"), rate, SECONDS):
            ages_ms = await taken_to_the_last(items)
    conflated = rig.telemetry.counts["keeper_price_conflated_total", "mqtt-1"]
    say("mqtt", rate, ages_ms, conflated)
    assert len(ages_ms) + conflated == rate * SECONDS
    assert rig.reconnects == 0
