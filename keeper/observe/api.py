"""The readable API: accounts by distance, one explained, candidates, attempts, config, stress.

What may be asked is in ``openapi.py``. Reads are bounded and paged (``offset``, ``limit``); a
mistake in a query is answered with 400 and the mend, what is not there with 404. Amounts that must
be exact are texts.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from keeper.errors import FatalError, UnknownNameError
from keeper.observe.log import blank
from keeper.observe.openapi import READS
from keeper.observe.query import read_query

Document = Mapping[str, object]
Page = Callable[[str | None, int, int], Document]  # venue (None: all), offset, limit


@dataclass(frozen=True, slots=True)
class Reads:
    """What the API shows. The callables run on the event loop and raise KeyError for the unknown.

    ``account`` takes a venue and an account of it. ``attempts`` takes the filters that ``openapi``
    names (None: any), offset and limit; it raises FatalError while the journal cannot be read.
    ``stress`` takes shocks and the one of all other prices, gives way to the loops, and raises
    ValueError for what is no shock, UnknownNameError for one of nothing known;
    ``liquidation_map`` raises TimeoutError as long as it is not done.
    """

    accounts: Page
    candidates: Page
    account: Callable[[str, str], Document]
    attempts: Callable[[Mapping[str, Any], int, int], Awaitable[Document]]
    config: Callable[[], Document]
    stress: Callable[[Sequence[str], str | None], Awaitable[Document]]
    liquidation_map: Callable[[], Awaitable[Document]]


class _Refusal(Exception):  # noqa: N818 - an answer, no error
    """What is asked for cannot be given; with the status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


Answer = Callable[[web.Request, dict[str, Any]], Awaitable[Document]]


class _Answers:
    """What is asked for, by what is asked."""

    def __init__(self, reads: Reads, openapi: Document) -> None:
        self._reads = reads
        self._openapi = openapi

    async def accounts(self, _: web.Request, query: dict[str, Any]) -> Document:
        return _of_venue(self._reads.accounts, **query)

    async def candidates(self, _: web.Request, query: dict[str, Any]) -> Document:
        return _of_venue(self._reads.candidates, **query)

    async def account(self, request: web.Request, _: dict[str, Any]) -> Document:
        venue, id_ = request.match_info["venue"], request.match_info["account"]
        try:
            return self._reads.account(venue, id_)
        except KeyError:
            text = f"no account {id_!r} is known at a venue {venue!r}; /api/v1/accounts lists them"
            raise _Refusal(404, text) from None

    async def attempts(self, _: web.Request, query: dict[str, Any]) -> Document:
        offset, limit = query.pop("offset"), query.pop("limit")
        try:
            return await self._reads.attempts(query, offset, limit)
        except FatalError as error:
            raise _Refusal(503, str(error)) from None

    async def config(self, _: web.Request, __: dict[str, Any]) -> Document:
        return self._reads.config()

    async def stress(self, _: web.Request, query: dict[str, Any]) -> Document:
        try:
            return await self._reads.stress(query["shock"], query["all"])
        except UnknownNameError as error:
            raise _Refusal(404, str(error)) from None
        except ValueError as error:
            raise _Refusal(400, str(error)) from None

    async def liquidation_map(self, _: web.Request, __: dict[str, Any]) -> Document:
        try:
            return await self._reads.liquidation_map()
        except TimeoutError:
            text = "the map is still being worked out; ask again in a while"
            raise _Refusal(503, text) from None

    async def described(self, _: web.Request, __: dict[str, Any]) -> Document:
        return self._openapi


def routes(reads: Reads, openapi: Document) -> list[web.RouteDef]:
    """Return the API's routes; ``openapi`` is the document that describes them."""
    all_ = _Answers(reads, openapi)
    answers: Mapping[str, Answer] = {
        "/api/v1/accounts": all_.accounts,
        "/api/v1/accounts/{venue}/{account}": all_.account,
        "/api/v1/candidates": all_.candidates,
        "/api/v1/attempts": all_.attempts,
        "/api/v1/config": all_.config,
        "/api/v1/stress": all_.stress,
        "/api/v1/liquidation-map": all_.liquidation_map,
        "/api/v1/openapi.json": all_.described,
    }
    return [
        web.get(path, _answering(path, answer), allow_head=False)
        for path, answer in answers.items()
    ]


def _answering(path: str, answer: Answer) -> Handler:
    """Check the query, and answer as JSON whatever comes of it."""

    async def handle(request: web.Request) -> web.Response:
        try:
            query = read_query(request.query, READS[path].query)
        except ValueError as error:
            return as_json(400, {"error": str(error)})
        try:
            found = await answer(request, query)
        except _Refusal as refusal:
            return as_json(refusal.status, {"error": refusal.reason})
        return as_json(200, found)

    return handle


def as_json(status: int, body: Document) -> web.Response:
    """Answer with JSON."""
    # NaN and Infinity are no JSON: better a 500 in the log than a page that cannot be read
    text = blank(json.dumps(body, allow_nan=False)) + "\n"  # a peer's words may quote our secrets
    return web.Response(status=status, text=text, content_type="application/json")


def _of_venue(read: Page, venue: str | None, offset: int, limit: int) -> Document:
    try:
        return read(venue, offset, limit)
    except KeyError:
        raise _Refusal(404, f"no venue {venue!r} is configured") from None
