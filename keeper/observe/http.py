"""The HTTP side of the keeper: metrics, health, readiness, status, pause. For the operator.

=================  =================================================================================
``/``              the page (``page/``), fed by ``/api/v1/events`` (``events.py``)
``/metrics``       Prometheus text, or OpenMetrics when asked
``/healthz``       200, or 503 naming each loop that has not beaten within its limit: restart me
``/readyz``        200, or 503 with the reasons: alive, but not liquidating
``/api/v1/…``      what is asked in JSON, described by ``/api/v1/openapi.json`` (``api.py``)
``/api/v1/pause``  POST with the token: start nothing; ``/api/v1/resume``: go on
=================  =================================================================================

Reading needs no authentication: bind it to loopback or to a network of the operator's own. Pausing
wants ``Authorization: Bearer <token>``, and does not exist without a token in the config.
"""

import asyncio
import hmac
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware
from pydantic import SecretStr

from keeper.errors import ConfigError
from keeper.observe import events
from keeper.observe.api import Reads, as_json, routes
from keeper.observe.metrics import Metrics
from keeper.observe.openapi import document
from keeper.observe.page.document import assemble

log = structlog.get_logger(__name__)

_server_log = logging.getLogger(f"{__name__}.server")
_server_log.addFilter(lambda record: not _is_strangers_fault(record))

_BODY_BYTES_MAX = 1024  # nothing here reads a body
_HEADERS_MAX = 64
_LINE_BYTES_MAX = 131_072  # of a request: as many shocks as may be asked for, all of it escaped
_IDLE_S_MAX = 75  # of a connection; longer than the usual scrape interval, so that it is kept
_SHUTDOWN_S_MAX = 2  # for requests under way when the keeper stops
_LINGER_S_MAX = 2  # spent on reading a body that nobody wants

_POLICY = "Content-Security-Policy"
_HEADERS = {
    "Cache-Control": "no-store",
    _POLICY: ("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "keeper",  # without the versions that aiohttp would tell
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LINKS = {
    "/metrics": "metrics for Prometheus",
    "/healthz": "are all loops alive?",
    "/readyz": "is the keeper able to liquidate, and if not, why?",
    "/api/v1/status": "what it sees and does, as JSON",
    "/api/v1/accounts": "accounts by distance to liquidation; each is explained at its own address",
    "/api/v1/candidates": "under-margined accounts and what each waits for",
    "/api/v1/attempts": "attempts, newest first, each with its whole story",
    "/api/v1/config": "the configuration in effect, secrets starred",
    "/api/v1/stress": "accounts at other prices: ?shock=ETH=-20%25&all=-10%25",
    "/api/v1/liquidation-map": "what can be liquidated once a price has moved, -50 % to +50 %",
    "/api/v1/openapi.json": "what can be asked, as an OpenAPI document",
}


@dataclass(frozen=True, slots=True)
class Views:
    """What the server shows. The callables run on the event loop, on request, and must be quick.

    ``late``: loops that have not beaten within their limit, and the age of their last beat in
    seconds. ``unready``: the reasons, none when ready. ``standby``: which other keeper sends, ""
    when this one does. ``status``: anything JSON can carry.
    ``pause`` takes part only with a ``token``.
    """

    version: str
    metrics: Metrics
    late: Callable[[], Mapping[str, float]]
    unready: Callable[[], Sequence[str]]
    standby: Callable[[], str]
    status: Callable[[], Mapping[str, object]]
    reads: Reads
    pause: Callable[..., str] | None = None  # (on=…) returns what pauses the keeper then
    token: SecretStr | None = None
    tls: ssl.SSLContext | None = None  # None: plain HTTP


@asynccontextmanager
async def serve(
    host: str, port: int, views: Views, *, request_s_max: float = 10.0
) -> AsyncIterator[int]:
    """Serve while inside; yields the port bound (with ``port`` 0 a free one).

    A request that takes longer than ``request_s_max`` is answered with 503. Raises ConfigError when
    the address cannot be bound.
    """
    app = web.Application(middlewares=[_limited(request_s_max)], client_max_size=_BODY_BYTES_MAX)
    pages = _Pages(views)
    for path, handler in (
        ("/", pages.index),
        ("/metrics", pages.metrics),
        ("/healthz", pages.healthz),
        ("/readyz", pages.readyz),
        ("/api/v1/status", pages.status),
    ):
        app.router.add_get(path, handler, allow_head=False)
    writes = views.pause is not None and views.token is not None
    app.router.add_routes(routes(views.reads, document(views.version, writes=writes)))
    events.Events(views.status).add_to(app)
    if writes:
        app.router.add_post("/api/v1/pause", pages.pause)
        app.router.add_post("/api/v1/resume", pages.resume)
    app.on_response_prepare.append(_protect)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_server_log,
        keepalive_timeout=_IDLE_S_MAX,
        lingering_time=_LINGER_S_MAX,
        max_headers=_HEADERS_MAX,
        max_line_size=_LINE_BYTES_MAX,
        shutdown_timeout=_SHUTDOWN_S_MAX,
    )
    await runner.setup()
    try:
        await _bind(runner, host, port, views.tls)
        bound: int = runner.addresses[0][1]
        log.info("http listening", host=host, port=bound, tls=views.tls is not None)
        yield bound
    finally:
        await runner.cleanup()


def _is_strangers_fault(record: logging.LogRecord) -> bool:
    """Say whether a line is about a request that is no HTTP: anybody could fill the log with it."""
    error = record.exc_info[1] if record.exc_info else None
    return isinstance(error, HttpProcessingError)


async def _bind(runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as error:
        reason = error.strerror or str(error)
        msg = f"http: cannot listen on {host}:{port} ({reason}); is another keeper running there?"
        raise ConfigError([msg]) from error


class _Pages:
    """The handlers."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._document = assemble(_LINKS)
        self._rendering = asyncio.Lock()  # one at a time: a thread cannot be called back

    async def index(self, _request: web.Request) -> web.Response:
        headers = {_POLICY: self._document.policy}
        return web.Response(text=self._document.text, content_type="text/html", headers=headers)

    async def metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        async with self._rendering:
            self._views.metrics.refresh()
            body, content_type = await asyncio.to_thread(self._views.metrics.render, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(self, _request: web.Request) -> web.Response:
        late = self._views.late()
        if not late:
            return as_json(200, {"status": "ok"})
        ages = {loop: {"age_s": round(age_s, 3)} for loop, age_s in late.items()}
        return as_json(503, {"status": "late", "loops": ages})

    async def readyz(self, _request: web.Request) -> web.Response:
        reasons, standby = list(self._views.unready()), self._views.standby()
        status = "not ready" if reasons else "standby" if standby else "ready"
        code = 503 if reasons else 200
        return as_json(code, {"status": status, "reasons": reasons, "standby": standby})

    async def status(self, _request: web.Request) -> web.Response:
        return as_json(200, self._views.status())

    async def pause(self, request: web.Request) -> web.Response:
        return self._switch(request, on=True)

    async def resume(self, request: web.Request) -> web.Response:
        return self._switch(request, on=False)

    def _switch(self, request: web.Request, *, on: bool) -> web.Response:
        token, given = self._views.token, request.headers.get("Authorization", "")
        wanted = f"Bearer {token.get_secret_value()}" if token else ""
        if not token or not hmac.compare_digest(given.encode(), wanted.encode()):
            log.warning("a pause or resume without the token was refused", peer=request.remote)
            denied = as_json(401, {"error": "give the token: Authorization: Bearer …"})
            denied.headers["WWW-Authenticate"] = "Bearer"
            return denied
        if self._views.pause is None:
            raise web.HTTPNotFound
        return as_json(200, {"paused": self._views.pause(on=on)})


def _limited(
    request_s_max: float,
) -> Middleware:
    @web.middleware
    async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == events.PATH:
            return await handler(request)  # it goes on for as long as somebody listens
        try:
            async with asyncio.timeout(request_s_max):
                return await handler(request)
        except TimeoutError:
            log.warning("http request timed out", path=request.path)
            return as_json(503, {"error": "timed out"})

    return limit


async def _protect(_request: web.Request, response: web.StreamResponse) -> None:
    own = response.headers.get(_POLICY)
    response.headers.update(_HEADERS)
    if own is not None:
        response.headers[_POLICY] = own
