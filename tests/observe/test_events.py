"""The stream of events, read over real sockets on loopback."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from keeper.observe import events
from keeper.observe.http import serve
from tests.observe.test_http import HOST, State

LIMIT_S = 20.0


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[aiohttp.ClientResponse]:
    base = f"http://{HOST}:{port}"
    async with (
        aiohttp.ClientSession(base, read_bufsize=2**20) as session,
        session.get(events.PATH) as answer,
    ):
        assert answer.status == 200
        yield answer


async def event(answer: aiohttp.ClientResponse) -> Any:  # noqa: ANN401 - JSON
    """Return the data of the next event."""
    async with asyncio.timeout(LIMIT_S):
        while text := await answer.content.readuntil(b"\n\n"):
            if b"\ndata: " in text:
                return json.loads(text.split(b"\ndata: ")[1])
    pytest.fail("the stream ended")


async def test_everybody_is_sent_the_status_document_again_and_again() -> None:
    state = State(status={"profit_wei": str(3 * 10**20 + 1)})
    async with (
        serve(HOST, 0, state.views(), request_s_max=0.2) as port,
        listening(port) as one,
        listening(port) as other,
    ):
        assert one.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert one.headers["Cache-Control"] == "no-store"
        for answer in (one, other):
            assert await event(answer) == {"next_ms": 1_000, "status": state.status}
        state.status = {"profit_wei": "0"}
        for answer in (one, other):  # longer than any other request may take
            assert (await event(answer))["status"] == state.status


async def test_clients_are_bounded_and_one_that_left_makes_room() -> None:
    async with (
        serve(HOST, 0, State().views()) as port,
        AsyncExitStack() as stack,
        aiohttp.ClientSession(f"http://{HOST}:{port}") as session,
    ):
        for _ in range(events.CLIENTS_MAX):
            await event(await stack.enter_async_context(listening(port)))
        async with session.get(events.PATH) as answer:
            assert answer.status == 503
            assert "16 clients listen already" in (await answer.json())["error"]
        await stack.aclose()
        async with asyncio.timeout(LIMIT_S):
            while True:
                async with session.get(events.PATH) as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.05)


async def test_what_takes_long_to_work_out_is_worked_out_less_often() -> None:
    worked_out = list[float]()

    def status() -> dict[str, object]:
        worked_out.append(time.monotonic())
        while time.monotonic() - worked_out[-1] < 0.12:
            pass  # it keeps the loop, as a look through a book does
        return {}

    stream = events.Events(status)
    stream._refresh()
    stream._refresh()
    assert len(worked_out) == 1
    assert json.loads(stream._event.split(b"data: ")[1])["next_ms"] >= 120 * events.SHARE


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVERY_S", 1e6)
    monkeypatch.setattr(events, "EVERY_S_MAX", 1e6)
    monkeypatch.setattr(events, "SILENCE_S_MAX", 0.01)
    async with serve(HOST, 0, State().views()) as port, listening(port) as answer:
        await event(answer)
        async with asyncio.timeout(LIMIT_S):
            found = [await answer.content.readuntil(b"\n\n") for _ in range(2)]
        assert found == [b": still here\n\n"] * 2


async def test_a_slow_client_gets_the_newest_and_what_it_missed_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "EVERY_S", 0.0)
    monkeypatch.setattr(events, "SHARE", 0)
    monkeypatch.setattr(events, "STEP_S", 0.0)
    numbers = itertools.count(1)
    filler = "x" * 200_000

    def status() -> dict[str, object]:
        return {"number": next(numbers), "filler": filler}

    views = replace(State().views(), status=status)
    async with serve(HOST, 0, views) as port, listening(port) as slow, listening(port) as fast:
        number = 0
        while number < 300:
            number = (await event(fast))["status"]["number"]
        seen = [0]
        while seen[-1] < 300:
            seen.append((await event(slow))["status"]["number"])
        assert len(seen) < 100
        assert seen == sorted(set(seen))


async def test_the_stream_ends_with_the_server_at_once() -> None:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serve(HOST, 0, State().views()))
        async with listening(port) as answer:
            await event(answer)
            stopped = stack.pop_all()
            async with asyncio.timeout(LIMIT_S):
                await stopped.aclose()
                rest = await answer.content.read()  # raises if it was cut off, not ended
                assert rest.strip() == b""


async def test_a_document_that_cannot_be_made_ends_the_stream() -> None:
    state = State(status={"age_s": float("nan")})
    async with serve(HOST, 0, state.views()) as port:
        with pytest.raises(aiohttp.ClientError):
            async with listening(port) as answer:
                await answer.content.read()
        state.status = {}
        async with listening(port) as answer:
            assert (await event(answer))["status"] == {}
