"""Server-sent events at ``/api/v1/events``: the status document, again and again. For the page.

Each event (``status``) is ``{"next_ms": …, "status": …}``: what ``/api/v1/status`` says now, and
how long until the next. All clients are sent the same text, worked out while there is one. Nothing
queues: a client that reads slowly gets the newest when it is ready for it.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from keeper.observe.api import as_json
from keeper.observe.log import blank

PATH = "/api/v1/events"
CLIENTS_MAX = 16
EVERY_S = 1.0
# … or so many times what it took to work out: it goes through whole books, on the loop that decides
SHARE = 50
EVERY_S_MAX = 20.0
SILENCE_S_MAX = 5.0  # then a comment, so that whatever is in between keeps the connection
WRITE_S_MAX = 10.0  # a client that takes nothing for so long is given up
STEP_S = 0.1  # between two looks whether there is something new

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


class Events:
    """The stream. ``status`` is as for ``/api/v1/status``."""

    def __init__(self, status: Callable[[], Mapping[str, object]]) -> None:
        """Nothing is worked out before somebody listens."""
        self._status = status
        self._clients = 0
        self._event = b""
        self._number = 0
        self._due_s = 0.0
        self._closing = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Serve the stream with this application, and end it with it."""
        app.router.add_get(PATH, self._stream, allow_head=False)
        app.on_shutdown.append(self._close)

    async def _close(self, _app: web.Application) -> None:
        self._closing.set()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self._clients >= CLIENTS_MAX:
            text = f"{CLIENTS_MAX} clients listen already; close a page, or ask /api/v1/status"
            return as_json(503, {"error": text})
        response = web.StreamResponse(headers=_HEADERS)
        self._clients += 1
        try:
            await response.prepare(request)
            await self._send_all(response)
        except (ConnectionError, TimeoutError):
            pass  # the client went away, or does not read
        finally:
            self._clients -= 1
        return response

    async def _send_all(self, response: web.StreamResponse) -> None:
        sent, sent_s = 0, 0.0
        while not self._closing.is_set():
            self._refresh()
            silent = time.monotonic() - sent_s > SILENCE_S_MAX
            if sent != self._number or silent:
                text = self._event if sent != self._number else b": still here\n\n"
                sent, sent_s = self._number, time.monotonic()
                async with asyncio.timeout(WRITE_S_MAX):
                    await response.write(text)
            await asyncio.sleep(STEP_S)

    def _refresh(self) -> None:
        """Work the newest event out, if it is time."""
        began_s = time.monotonic()
        if began_s < self._due_s:
            return
        status = self._status()
        took_s = time.monotonic() - began_s
        wait_s = min(max(EVERY_S, SHARE * took_s), EVERY_S_MAX)
        document = {"next_ms": round(wait_s * 1000), "status": status}
        text = blank(json.dumps(document, allow_nan=False))
        self._event = f"event: status\ndata: {text}\n\n".encode()
        self._number += 1
        self._due_s = began_s + wait_s
