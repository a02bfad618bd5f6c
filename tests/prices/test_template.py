"""The price source that newcomers copy, against a server that speaks as its docstring says."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from keeper.clock import SystemClock
from keeper.errors import ConfigError, TransientError
from keeper.facts import Rejected, Rejection, Tick
from keeper.prices._template import Settings, TemplateSource, build
from keeper.units import WAD
from tests.fakes import CountingTelemetry, NoRpc
from tests.prices.mqtt_rig import open_sockets, until
from tests.prices.streams import BTC, ETH, NOW_S, Server, taking


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as server:
        yield server


def source_of(port: int, **settings: object) -> TemplateSource:
    values = {
        "url": f"ws://127.0.0.1:{port}",
        "feeds": {"ETH": ETH, "BTC": BTC},
        "reconnect_ms_min": 10,
        "reconnect_ms_max": 100,
    }
    parsed = Settings.model_validate(values | settings)
    return build(parsed, "main", [BTC, ETH], SystemClock(), CountingTelemetry(), NoRpc())


def price(usd: object, symbol: str = "ETH") -> bytes:
    return json.dumps({"symbol": symbol, "price": usd, "ts": NOW_S * 1000}).encode()


def names_of_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


async def test_prices_and_junk_come_out_and_a_lost_connection_comes_back(server: Server) -> None:
    source = source_of(server.port)
    async with taking(source) as items:
        first = asyncio.ensure_future(anext(items))  # starts the reading
        await until(lambda: server.open_streams == 1)
        server.push(price("2000.5"))
        tick = await first
        assert isinstance(tick, Tick)
        assert (tick.feed, tick.source, tick.price_wad) == (ETH, "main", 2_000 * WAD + WAD // 2)
        assert tick.published_ms == NOW_S * 1000
        for junk in (b"{", b"[]", b"\xff", price("NaN"), price("1e999"), price(7), price("x")):
            server.push(junk)
            refused = await anext(items)
            assert isinstance(refused, Rejected)
            assert refused.reason is Rejection.MALFORMED
        server.push(price("1", symbol="DOGE"))
        unknown = await anext(items)
        assert isinstance(unknown, Rejected)
        assert unknown.reason is Rejection.UNKNOWN_FEED
        server.end_streams()
        await until(lambda: len(server.requests) == 2 and server.open_streams == 1)
        server.push(price("2001"))
        again = await anext(items)
        assert isinstance(again, Tick)
        assert again.price_wad == 2_001 * WAD


async def test_cancelling_leaves_nothing_open(server: Server) -> None:
    sockets = open_sockets()
    async with taking(source_of(server.port)) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: server.open_streams == 1)
        server.push(price("2000"))
        assert isinstance(await first, Tick)
        assert {"reading main", "one connection"} <= names_of_tasks()
    await until(lambda: server.open_streams == 0 and open_sockets() == sockets)
    assert not {"reading main", "one connection"} & names_of_tasks()


async def test_a_server_that_is_not_there_is_transient_and_a_missing_symbol_a_mistake() -> None:
    with pytest.raises(TransientError):
        await source_of(1).check()
    with pytest.raises(ConfigError, match="no symbol for it"):
        source_of(1, feeds={"ETH": ETH})
