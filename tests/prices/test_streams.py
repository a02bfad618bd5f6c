"""Hermes, Binance and Hyperliquid against local servers that speak as they do."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from keeper.clock import SystemClock
from keeper.config import SecretRef, find_module
from keeper.errors import ConfigError, TransientError
from keeper.facts import Rejected, Rejection, Tick
from keeper.prices import _stream
from keeper.prices._stream import StreamSource
from keeper.units import WAD
from tests.fakes import CountingTelemetry, NoRpc
from tests.prices.mqtt_rig import open_sockets, until
from tests.prices.streams import (
    BTC,
    BTC_ID,
    ETH,
    ETH_ID,
    NOW_S,
    Server,
    binance_mark,
    event,
    hermes_price,
    hermes_update,
    hyperliquid_context,
    taking,
)

KINDS = ("hermes", "binance", "hyperliquid")
SYMBOLS = {
    "hermes": (f"0x{BTC_ID.upper()}", ETH_ID),
    "binance": ("BTCUSDT", "ethusdt"),
    "hyperliquid": ("BTC", "ETH"),
}


class Stand:
    """A server of one kind, and a source connected to it."""

    def __init__(self, kind: str, server: Server) -> None:
        self.kind = kind
        self.server = server
        self.telemetry = CountingTelemetry()

    def source(self, **settings: object) -> StreamSource:
        module = find_module("prices", self.kind)
        scheme = "http" if self.kind == "hermes" else "ws"
        values = {
            "url": f"{scheme}://127.0.0.1:{self.server.port}",
            "feeds": dict(zip(SYMBOLS[self.kind], (BTC, ETH), strict=True)),
            "reconnect_ms_min": 10,
            "reconnect_ms_max": 100,
        }
        parsed = module.Settings.model_validate(values | settings)
        built: StreamSource = module.build(
            parsed, "main", [BTC, ETH], SystemClock(), self.telemetry, NoRpc()
        )
        return built

    def push(self, usd: int) -> None:
        """Publish a price of ETH."""
        match self.kind:
            case "hermes":
                self.server.push(event(hermes_update([hermes_price(ETH_ID, f"{usd}00000000")])))
            case "binance":
                self.server.push(binance_mark("ETHUSDT", f"{usd}.00000000"))
            case _:
                self.server.push(hyperliquid_context("ETH", f"{usd}.0"))

    def junk(self) -> None:
        self.server.push(event(b"{") if self.kind == "hermes" else b"{")

    def huge(self) -> None:
        text = b'{"data":"' + b"x" * 200_000 + b'"}'
        self.server.push(event(text) if self.kind == "hermes" else text)

    def counted(self, metric: str) -> int:
        return self.telemetry.counts[f"keeper_{metric}", "main"]


@pytest.fixture(params=KINDS)
async def stand(request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    async with Server().running() as server:
        yield Stand(request.param, server)


@pytest.fixture
async def hermes() -> AsyncIterator[Stand]:
    async with Server().running() as server:
        yield Stand("hermes", server)


async def ended(waiting: asyncio.Future[Tick | Rejected]) -> None:
    waiting.cancel()
    await asyncio.wait([waiting])


# --- what every stream does -----------------------------------------------------------------------


async def test_prices_arrive_and_the_socket_is_closed_when_nobody_takes_more(stand: Stand) -> None:
    sockets_before = open_sockets()
    async with taking(stand.source()) as items:
        task_count = len(asyncio.all_tasks())
        first = asyncio.ensure_future(anext(items))  # starts the reading
        await until(lambda: stand.server.open_streams == 1)
        stand.push(2_000)
        tick = await first
        assert isinstance(tick, Tick)
        assert (tick.feed, tick.source, tick.price_wad) == (ETH, "main", 2_000 * WAD)
        assert len(asyncio.all_tasks()) > task_count
    await until(lambda: stand.server.open_streams == 0)
    await until(lambda: open_sockets() == sockets_before)


async def test_a_lost_server_is_found_again_and_counted(stand: Stand) -> None:
    async with taking(stand.source()) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: stand.server.open_streams == 1)
        stand.push(2_000)
        await first
        stand.server.end_streams()  # as every server does after 24 hours
        second = asyncio.ensure_future(anext(items))
        await until(lambda: len(stand.server.requests) == 2)
        await until(lambda: stand.server.open_streams == 1)
        stand.push(2_001)
        tick = await second
    assert isinstance(tick, Tick)
    assert tick.price_wad == 2_001 * WAD
    assert stand.counted("reconnects_total") == 1


async def test_a_stream_that_stays_open_and_falls_silent_is_replaced(stand: Stand) -> None:
    async with taking(stand.source(silence_ms_max=150)) as items:
        waiting = asyncio.ensure_future(anext(items))
        with capture_logs() as logs:
            await until(lambda: len(stand.server.requests) >= 3)
        await ended(waiting)
    assert stand.counted("reconnects_total") >= 2
    assert "no message on any feed for 150 ms" in {entry.get("error") for entry in logs}


async def test_keep_alives_do_not_pass_for_prices(hermes: Stand) -> None:
    async with taking(hermes.source(silence_ms_max=200)) as items:
        waiting = asyncio.ensure_future(anext(items))
        async with asyncio.timeout(10):
            while len(hermes.server.requests) < 2:
                hermes.server.push(b":\n\n")
                await asyncio.sleep(0.02)
        await ended(waiting)


async def test_junk_is_refused_and_the_stream_goes_on(stand: Stand) -> None:
    async with taking(stand.source()) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: stand.server.open_streams == 1)
        stand.junk()
        stand.push(2_000)
        refused, tick = await first, await anext(items)
    assert isinstance(refused, Rejected)
    assert refused.reason is Rejection.MALFORMED
    assert isinstance(tick, Tick)
    assert stand.counted("reconnects_total") == 0


async def test_a_message_too_large_is_counted_and_its_connection_replaced(stand: Stand) -> None:
    key = "event_bytes_max" if stand.kind == "hermes" else "message_bytes_max"
    async with taking(stand.source(**{key: 65_536})) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: stand.server.open_streams == 1)
        stand.huge()
        refused = await first
        assert isinstance(refused, Rejected)
        assert refused.reason is Rejection.OVERSIZED
        second = asyncio.ensure_future(anext(items))
        await until(lambda: len(stand.server.requests) == 2)
        await until(lambda: stand.server.open_streams == 1)
        stand.push(2_000)
        assert isinstance(await second, Tick)


async def test_a_slow_consumer_gets_the_newest_and_the_rest_is_counted(stand: Stand) -> None:
    async with taking(stand.source()) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: stand.server.open_streams == 1)
        stand.push(1_000)
        await first
        for usd in range(1_001, 1_301):
            stand.push(usd)
        await until(lambda: stand.counted("price_conflated_total") == 299)
        tick = await anext(items)
    assert isinstance(tick, Tick)
    assert tick.price_wad == 1_300 * WAD


@pytest.mark.parametrize(
    ("status", "retry_after", "retry_ms"),
    [(401, "", 100), (404, "", 100), (429, "7", 7_000), (429, "", 60_000)],
)
async def test_a_refusal_is_an_error_and_is_not_hurried(
    stand: Stand, status: int, retry_after: str, retry_ms: int
) -> None:
    stand.server.status = status
    stand.server.headers = {"Retry-After": retry_after, "Location": "http://127.0.0.1:1/"}
    async with taking(stand.source()) as items:
        with capture_logs() as logs:
            waiting = asyncio.ensure_future(anext(items))
            await until(lambda: bool(logs))
        await ended(waiting)
    assert logs[0]["event"] == "price source refuses the keeper"
    assert logs[0]["log_level"] == "error"
    assert logs[0]["retry_ms"] == retry_ms
    assert f"HTTP {status}" in logs[0]["error"]


async def test_check_names_what_has_no_price(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "CHECK_S_MAX", 0.5)
    check = asyncio.ensure_future(stand.source().check())
    await until(lambda: stand.server.open_streams == 1)
    stand.push(2_000)
    scheme = "http" if stand.kind == "hermes" else "ws"
    server = f"{scheme}://127.0.0.1:{stand.server.port}"
    assert await check == f"{server} answered, 1 of 2 feeds have a price; none for BTC/USD"


async def test_check_says_why_nothing_answered(stand: Stand) -> None:
    stand.server.status = 503
    with pytest.raises(TransientError, match=r"^main: .*127\.0\.0\.1:\d+: HTTP 503"):
        await stand.source().check()
    stand.server.status = 404
    with pytest.raises(TransientError, match="HTTP 404 Not Found"):
        await stand.source().check()


@pytest.mark.parametrize("kind", KINDS)
def test_every_feed_needs_one_symbol(kind: str) -> None:
    stand = Stand(kind, Server())
    bitcoin, ether = SYMBOLS[kind]
    with pytest.raises(ConfigError, match=r"main: feed ETH/USD names this source, which has no"):
        stand.source(feeds={bitcoin: BTC})
    with pytest.raises(ConfigError, match="main: feed BTC/USD has 2 "):
        stand.source(feeds={bitcoin: BTC, ether: BTC})


# --- Hermes ---------------------------------------------------------------------------------------


async def test_hermes_is_asked_with_the_key_and_keeps_the_signed_update(
    hermes: Stand, secret: Callable[[str], SecretRef]
) -> None:
    source = hermes.source(api_key=secret("sesame"))
    async with taking(source) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: hermes.server.open_streams == 1)
        prices = [
            hermes_price(BTC_ID, "6412345000000", conf="1230000000", publish_time=NOW_S + 1),
            hermes_price(ETH_ID, "31", expo=2, conf="0"),
        ]
        hermes.server.push(event(hermes_update(prices, "504e41550100")))
        bitcoin, ether = await first, await anext(items)
    (request,) = hermes.server.requests
    assert request.path == "/v2/updates/price/stream"
    assert request.headers["Authorization"] == "Bearer sesame"
    assert request.query.getall("ids[]") == [f"0x{BTC_ID}", f"0x{ETH_ID}"]
    assert (request.query["encoding"], request.query["parsed"]) == ("hex", "true")
    assert isinstance(bitcoin, Tick)
    assert isinstance(ether, Tick)
    assert (bitcoin.price_wad, bitcoin.conf_wad) == (64_123_450_000 * WAD // 10**6, 123 * WAD // 10)
    assert bitcoin.published_ms == (NOW_S + 1) * 1000
    assert (ether.price_wad, ether.conf_wad) == (3_100 * WAD, 0)
    assert bitcoin.payload == ether.payload == bytes.fromhex("504e41550100")
    assert "sesame" not in repr(vars(source))


async def test_hermes_is_not_followed_to_another_place(hermes: Stand) -> None:
    hermes.server.status, hermes.server.headers = 302, {"Location": "http://127.0.0.1:1/"}
    with pytest.raises(TransientError, match="HTTP 302 Found"):
        await hermes.source().check()


async def test_a_key_never_shows_in_what_is_said(
    hermes: Stand, secret: Callable[[str], SecretRef]
) -> None:
    hermes.server.status = 401
    with pytest.raises(TransientError) as caught:
        await hermes.source(api_key=secret("sesame")).check()
    assert "401 Unauthorized" in str(caught.value)
    assert "sesame" not in str(caught.value)


def altered(**changes: Any) -> bytes:  # noqa: ANN401 - any JSON
    update = json.loads(hermes_update([hermes_price(ETH_ID, "1")]))
    for path, value in changes.items():
        *above, last = path.split("__")
        here = update
        for step in above:
            here = here[int(step) if step.isdecimal() else step]
        here[last] = value
    return json.dumps(update).encode()


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"backend gone", "error", Rejection.MALFORMED),
        (b"null", "", Rejection.MALFORMED),
        (altered(binary__encoding="base64"), "", Rejection.MALFORMED),
        (altered(binary__data=[]), "", Rejection.MALFORMED),
        (altered(binary__data=["00", "01"]), "", Rejection.MALFORMED),
        (altered(binary__data=["zz"]), "", Rejection.MALFORMED),
        (altered(parsed__0__price__price="1e9"), "", Rejection.MALFORMED),
        (altered(parsed__0__price__price=5), "", Rejection.MALFORMED),
        (altered(parsed__0__price__expo=19), "", Rejection.MALFORMED),
        (altered(parsed__0__price__publish_time=0), "", Rejection.MALFORMED),
        (altered(parsed__0__price__publish_time=10**30), "", Rejection.MALFORMED),
        (altered(parsed__0__id="00"), "", Rejection.UNKNOWN_FEED),
    ],
)
async def test_what_hermes_must_not_say(
    hermes: Stand, data: bytes, kind: str, reason: Rejection
) -> None:
    async with taking(hermes.source()) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: hermes.server.open_streams == 1)
        hermes.server.push(event(data, kind))
        hermes.push(2_000)
        refused, tick = await first, await anext(items)
    assert isinstance(refused, Rejected)
    assert refused.reason is reason
    assert isinstance(tick, Tick)


# --- exchanges ------------------------------------------------------------------------------------


@pytest.fixture
async def binance() -> AsyncIterator[Stand]:
    async with Server().running() as server:
        yield Stand("binance", server)


async def test_binance_is_asked_for_the_mark_of_every_symbol(binance: Stand) -> None:
    async with taking(binance.source()) as items:
        first = asyncio.ensure_future(anext(items))
        await until(lambda: binance.server.open_streams == 1)
        binance.server.push(binance_mark("BTCUSDT", "64123.45678901", NOW_S * 1000 + 7))
        binance.server.push(binance_mark("SOLUSDT", "1"))
        binance.server.push(binance_mark("ETHUSDT", "1", e="aggTrade"))
        binance.server.push(binance_mark("ETHUSDT", "0x1"))
        tick, *refused = [await first] + [await anext(items) for _ in range(3)]
    (request,) = binance.server.requests
    assert request.path_qs == "/stream?streams=btcusdt@markPrice@1s/ethusdt@markPrice@1s"
    assert isinstance(tick, Tick)
    assert tick.price_wad == 6_412_345_678_901 * WAD // 10**8
    assert tick.published_ms == NOW_S * 1000 + 7
    assert [item.reason for item in refused if isinstance(item, Rejected)] == [
        Rejection.UNKNOWN_FEED,
        Rejection.MALFORMED,
        Rejection.MALFORMED,
    ]


async def test_hyperliquid_is_asked_for_every_coin_and_may_answer_with_numbers() -> None:
    async with Server().running() as server:
        stand = Stand("hyperliquid", server)
        async with taking(stand.source()) as items:
            first = asyncio.ensure_future(anext(items))
            await until(lambda: len(server.said) == 2)
            server.push(b'{"channel":"subscriptionResponse","data":{"method":"subscribe"}}')
            server.push(b'{"channel":"pong"}')
            server.push(hyperliquid_context("ETH", 2_000.25))
            server.push(b'{"channel":"error","data":"no such coin"}')
            server.push(hyperliquid_context("SOL", "1"))
            server.push(hyperliquid_context("ETH", None))
            tick, *refused = [await first] + [await anext(items) for _ in range(3)]
    assert [json.loads(said)["subscription"] for said in server.said] == [
        {"type": "activeAssetCtx", "coin": "BTC"},
        {"type": "activeAssetCtx", "coin": "ETH"},
    ]
    assert isinstance(tick, Tick)
    assert tick.price_wad == 200_025 * WAD // 100
    assert tick.published_ms == tick.received_ms
    assert [item.reason for item in refused if isinstance(item, Rejected)] == [
        Rejection.MALFORMED,
        Rejection.UNKNOWN_FEED,
        Rejection.MALFORMED,
    ]
