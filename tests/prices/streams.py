"""Local servers that speak as Hermes, Binance and Hyperliquid do, and sources connected to them.

They serve what a test pushes, on loopback, at a port of the system's choice.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from aiohttp import WSMsgType, web

from keeper.facts import FeedId, Rejected, Tick
from keeper.ports import PriceSource
from tests.prices.mqtt_rig import S_MAX

BTC, ETH = FeedId("BTC/USD"), FeedId("ETH/USD")
BTC_ID = "e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43"
ETH_ID = "ff61491a931112ddf1bd8147cd1b641375f79f5825126d665480874634fd0ace"
NOW_S = 1_767_225_600


class Server:
    """Accepts connections and sends each of them what was pushed since it came.

    ``status``: what new connections are answered instead. ``requests``: what was asked.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests: list[web.Request] = []
        self.said: list[str] = []  # by the clients, over WebSocket
        self.port = 0
        self._streams: list[asyncio.Queue[bytes | None]] = []

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def push(self, piece: bytes) -> None:
        for stream in self._streams:
            stream.put_nowait(piece)

    def end_streams(self) -> None:
        """End every connection in good order."""
        for stream in self._streams:
            stream.put_nowait(None)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(
            app, shutdown_timeout=0.1, access_log=None, handler_cancellation=True
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            self.end_streams()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.status != 200:
            return web.Response(status=self.status, headers=self.headers)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._web_socket(request)
        return await self._events(request)

    @contextlib.asynccontextmanager
    async def _stream(self) -> AsyncIterator[asyncio.Queue[bytes | None]]:
        stream: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.append(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        async with self._stream() as stream:
            while (piece := await stream.get()) is not None:
                await answer.write(piece)
        return answer

    async def _web_socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async with self._stream() as stream, asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(socket), name="listening")
            while (piece := await stream.get()) is not None:
                await socket.send_str(piece.decode(errors="replace"))
            await socket.close()
            listening.cancel()
        return socket

    async def _listen(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                self.said.append(message.data)


@contextlib.asynccontextmanager
async def taking(
    source: PriceSource, s_max: float = S_MAX
) -> AsyncIterator[AsyncIterator[Tick | Rejected]]:
    """Take what the source says, signs of life left out."""

    async def said() -> AsyncGenerator[Tick | Rejected, None]:
        async for item in ticks:
            if item is not None:
                yield item

    async with (
        contextlib.aclosing(source.ticks()) as ticks,
        contextlib.aclosing(said()) as items,
        asyncio.timeout(s_max),
    ):
        yield items


# --- messages -------------------------------------------------------------------------------------


def hermes_price(symbol: str, price: str, **changes: object) -> dict[str, Any]:
    values = {"price": price, "conf": "12", "expo": -8, "publish_time": NOW_S} | changes
    return {
        "id": symbol,
        "price": values,
        "ema_price": values,
        "metadata": {"slot": 1, "proof_available_time": NOW_S, "prev_publish_time": NOW_S - 1},
    }


def hermes_update(prices: Sequence[Mapping[str, Any]], update: str = "504e4155") -> bytes:
    return json.dumps(
        {"binary": {"encoding": "hex", "data": [update]}, "parsed": list(prices)}
    ).encode()


def event(data: bytes, kind: str = "") -> bytes:
    named = f"event:{kind}\n".encode() if kind else b""
    return named + b"data:" + data + b"\n\n"


def binance_mark(symbol: str, price: str, at_ms: int = NOW_S * 1000, **changes: object) -> bytes:
    mark = {
        "e": "markPriceUpdate",
        "E": at_ms,
        "s": symbol,
        "p": price,
        "i": price,
        "P": price,
        "r": "0.00010000",
        "T": at_ms + 3_600_000,
    }
    stream = f"{symbol.lower()}@markPrice@1s"
    return json.dumps({"stream": stream, "data": mark | changes}).encode()


def hyperliquid_context(coin: str, mark: object) -> bytes:
    context = {"markPx": mark, "midPx": mark, "oraclePx": mark, "funding": "0.0000125"}
    data = {"coin": coin, "ctx": context}
    return json.dumps({"channel": "activeAssetCtx", "data": data}).encode()


def pieces(text: bytes, size: int) -> Iterable[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))
