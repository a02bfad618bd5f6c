"""For every kind of price source the real thing behind it, told to say a price of ETH, or junk.

A new kind needs a scene here: ``test_contract.py`` takes every source that it finds through it.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from keeper.ports import PriceSource
from keeper.prices.replay import Settings as ReplaySettings
from keeper.prices.replay import build as build_replay
from tests.brokers import running_broker
from tests.fakes import CountingTelemetry, ManualClock, NoRpc
from tests.nodes import running_anvil
from tests.prices import test_chainlink as chainlink
from tests.prices import test_streams as streams
from tests.prices import test_template as template
from tests.prices.mqtt_rig import Rig, until
from tests.prices.streams import BTC, ETH, NOW_S, Server


@dataclass
class Scene:
    """A source, and its counterpart at work. ``price`` and ``junk`` wait until it listens."""

    source: PriceSource
    price: Callable[[int], Awaitable[None]]  # of ETH, USD
    junk: Callable[[], Awaitable[None]]


Stage = Callable[[Path], AbstractAsyncContextManager[Scene]]


def _pushing(server: Server, source: PriceSource, price: Callable[[int], object]) -> Scene:
    async def publish(usd: int) -> None:
        await until(lambda: server.open_streams == 1)
        price(usd)

    return Scene(source, publish, lambda: _said(lambda: price(-1)))


async def _said(say: Callable[[], object]) -> None:
    say()


def _stream(kind: str) -> Stage:
    @contextlib.asynccontextmanager
    async def stage(_folder: Path) -> AsyncIterator[Scene]:
        async with Server().running() as server:
            stand = streams.Stand(kind, server)
            scene = _pushing(server, stand.source(), stand.push)
            scene.junk = lambda: _said(stand.junk)
            yield scene

    return stage


@contextlib.asynccontextmanager
async def _template(_folder: Path) -> AsyncIterator[Scene]:
    async with Server().running() as server:
        source = template.source_of(server.port)
        scene = _pushing(server, source, lambda usd: server.push(template.price(str(usd))))
        scene.junk = lambda: _said(lambda: server.push(b"{"))
        yield scene


@contextlib.asynccontextmanager
async def _mqtt(folder: Path) -> AsyncIterator[Scene]:
    with running_broker(folder / "nats") as broker:
        rig = Rig(broker)
        async with rig.publisher() as publisher:

            async def price(usd: int) -> None:
                await publisher.price("ETH-USD", price=str(usd), seq=usd)

            async def junk() -> None:
                await publisher.raw("ETH-USD", b"{")

            yield Scene(rig.source, price, junk)


@contextlib.asynccontextmanager
async def _chainlink(_folder: Path) -> AsyncIterator[Scene]:
    with running_anvil() as node:
        async with aiohttp.ClientSession() as session:
            stand = chainlink.Stand(node, session)
            stand.bitcoin.answer(60_000 * 10**18)

            async def price(usd: int) -> None:
                stand.ether.answer(usd * chainlink.UNIT, NOW_S + usd)

            async def junk() -> None:
                stand.ether.answer(0, NOW_S)

            yield Scene(stand.source, price, junk)


@contextlib.asynccontextmanager
async def _replay(folder: Path) -> AsyncIterator[Scene]:
    """Everything is said beforehand."""
    rows = ["ts,feed,price", *(f"{NOW_S * 1000 + n},ETH/USD,{usd}" for n, usd in _SAID)]
    file = folder / "prices.csv"
    file.write_text("\n".join(rows) + "\n")
    settings = ReplaySettings(file=file, speed=10)
    clock = ManualClock()
    source = build_replay(settings, "file", [ETH, BTC], clock, CountingTelemetry(), NoRpc())

    async def nothing(*_: int) -> None:
        clock.advance(1)

    yield Scene(source, nothing, nothing)


FIRST_USD, SECOND_USD = 2_000, 2_001
_SAID = ((0, FIRST_USD), (1, json.dumps("x")), (2, SECOND_USD))
SCENES: dict[str, Stage] = {
    "_template": _template,
    "binance": _stream("binance"),
    "chainlink": _chainlink,
    "hermes": _stream("hermes"),
    "hyperliquid": _stream("hyperliquid"),
    "mqtt": _mqtt,
    "replay": _replay,
}
