"""The readable API: accounts by distance, one explained, candidates, config in effect, stress.

Reads are bounded and paged (``offset``, ``limit``); a mistake in a query is answered with 400 and
the mend, what is not there with 404. Amounts that must be exact are texts.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

LIMIT_MAX = 1_000
LIMIT = 100
OFFSET_MAX = 10_000_000
PAGED = ("venue", "offset", "limit")
SHOCKED = ("shock", "all")
SHOCKS_MAX = 100

Page = Callable[[str | None, int, int], Mapping[str, object]]  # venue (None: all), offset, limit


@dataclass(frozen=True, slots=True)
class Reads:
    """What the API shows. The callables run on the event loop and raise KeyError for the unknown.

    ``account`` takes a venue and an account of it. ``stress`` takes shocks and the one of all
    other prices, gives way to the loops, and raises ValueError for what is no shock;
    ``liquidation_map`` raises TimeoutError as long as it is not done.
    """

    accounts: Page
    candidates: Page
    account: Callable[[str, str], Mapping[str, object]]
    config: Callable[[], Mapping[str, object]]
    stress: Callable[[Sequence[str], str | None], Awaitable[Mapping[str, object]]]
    liquidation_map: Callable[[], Awaitable[Mapping[str, object]]]


def routes(reads: Reads) -> list[web.RouteDef]:
    """Return the API's routes."""

    async def accounts(request: web.Request) -> web.Response:
        return _page(request, reads.accounts)

    async def candidates(request: web.Request) -> web.Response:
        return _page(request, reads.candidates)

    async def account(request: web.Request) -> web.Response:
        venue, id_ = request.match_info["venue"], request.match_info["account"]
        try:
            return as_json(200, reads.account(venue, id_))
        except KeyError:
            text = f"no account {id_!r} is known at a venue {venue!r}; /api/v1/accounts lists them"
            return as_json(404, {"error": text})

    async def config(_request: web.Request) -> web.Response:
        return as_json(200, reads.config())

    return [
        web.get("/api/v1/accounts", accounts, allow_head=False),
        web.get("/api/v1/accounts/{venue}/{account}", account, allow_head=False),
        web.get("/api/v1/candidates", candidates, allow_head=False),
        web.get("/api/v1/config", config, allow_head=False),
        *_risk_routes(reads),
    ]


def _risk_routes(reads: Reads) -> list[web.RouteDef]:
    async def stress(request: web.Request) -> web.Response:
        shocks = request.query.getall("shock", [])
        unknown = [name for name in request.query if name not in SHOCKED]
        if unknown:
            return _mistake(f"unknown parameter {unknown[0]!r}; there are {', '.join(SHOCKED)}")
        if len(shocks) > SHOCKS_MAX:
            return _mistake(f"at most {SHOCKS_MAX} shocks, got {len(shocks)}")
        try:
            return as_json(200, await reads.stress(shocks, request.query.get("all")))
        except ValueError as error:
            return _mistake(str(error))

    async def liquidation_map(_request: web.Request) -> web.Response:
        try:
            return as_json(200, await reads.liquidation_map())
        except TimeoutError:
            text = "the map is still being worked out; ask again in a while"
            return as_json(503, {"error": text})

    return [
        web.get("/api/v1/stress", stress, allow_head=False),
        web.get("/api/v1/liquidation-map", liquidation_map, allow_head=False),
    ]


def as_json(status: int, body: Mapping[str, object]) -> web.Response:
    """Answer with JSON."""
    # NaN and Infinity are no JSON: better a 500 in the log than a page that cannot be read
    text = json.dumps(body, allow_nan=False) + "\n"
    return web.Response(status=status, text=text, content_type="application/json")


def _mistake(text: str) -> web.Response:
    return as_json(400, {"error": text})


def _page(request: web.Request, read: Page) -> web.Response:
    query = request.query
    unknown = [name for name in query if name not in PAGED]
    if unknown:
        return _mistake(f"unknown parameter {unknown[0]!r}; there are {', '.join(PAGED)}")
    try:
        offset = _whole(query.get("offset", "0"), "offset", 0, OFFSET_MAX)
        limit = _whole(query.get("limit", str(LIMIT)), "limit", 1, LIMIT_MAX)
    except ValueError as error:
        return _mistake(str(error))
    try:
        return as_json(200, read(query.get("venue"), offset, limit))
    except KeyError:
        return as_json(404, {"error": f"no venue {query['venue']!r} is configured"})


def _whole(text: str, name: str, low: int, high: int) -> int:
    plain = text.isascii() and text.isdigit() and len(text) <= len(str(high))
    if not plain or not low <= int(text) <= high:
        msg = f"{name} should be a whole number from {low} to {high}, got {text[:40]!r}"
        raise ValueError(msg)
    return int(text)
