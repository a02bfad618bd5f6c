"""A process that floods: ``ws RATE SECONDS`` serves, ``mqtt PORT TOPIC RATE SECONDS`` publishes.

Each price is the machine's monotonic clock in ns when it was sent; the last one has a half more.
With ``FIRST SECOND`` besides, JSON objects, it publishes the one and from half time on the other,
numbered, and says at which wall time (ms) that was.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from tests.prices.mqtt_rig import mqtt_packet, mqtt_text, payload_of
from tests.prices.streams import binance_mark

SLICES_PER_S = 100


async def flood(send: Callable[[str, int], Awaitable[None]], rate: int, seconds: int) -> None:
    """Send at the rate, in slices of 10 ms; what a slice was late is made up for."""
    start_s = time.monotonic()
    total, sent = rate * seconds, 0
    while sent < total:
        due = min(total, int((time.monotonic() - start_s + 1 / SLICES_PER_S) * rate))
        for number in range(sent, due):
            half = ".5" if number == total - 1 else ""
            await send(f"{time.monotonic_ns()}{half}", number + 1)
        sent = due
        await asyncio.sleep(1 / SLICES_PER_S)


async def serve(rate: int, seconds: int) -> None:
    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)

        async def send(price: str, _number: int) -> None:
            now_ms = time.time_ns() // 10**6
            await socket.send_str(binance_mark("ETHUSDT", price, now_ms).decode())

        await flood(send, rate, seconds)
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - for who started this
    await asyncio.Event().wait()


async def publish(port: int, topic: str, rate: int, seconds: int, *given: str) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(mqtt_packet(0x10, mqtt_text("MQTT") + bytes([4, 2, 0, 60]) + mqtt_text("flood")))
    kinds = [json.loads(text) for text in given]
    half = rate * seconds // 2

    async def send(price: str, number: int) -> None:
        fields = kinds[number >= half] if kinds else {"price": price, "epoch": 1}
        payload = payload_of(**fields | {"ts": time.time_ns() // 10**6, "seq": number})
        writer.write(mqtt_packet(0x30, mqtt_text(topic) + payload))
        await writer.drain()
        if kinds and number == half:
            print(time.time_ns() // 10**6, flush=True)  # noqa: T201 - for who started this

    await flood(send, rate, seconds)
    await asyncio.Event().wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ws", rate, seconds]:
            asyncio.run(serve(int(rate), int(seconds)))
        case ["mqtt", port, topic, rate, seconds, *given]:
            asyncio.run(publish(int(port), topic, int(rate), int(seconds), *given))
