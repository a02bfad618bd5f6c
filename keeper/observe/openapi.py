"""The OpenAPI document: every operation, what it takes and what it answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keeper.facts import Outcome
from keeper.observe import documents
from keeper.observe.documents import Schema
from keeper.observe.query import Parameter, Whole, Word, Words

VERSION = "3.1.0"
OK = 200
JSON, STREAM = "application/json", "text/event-stream"
OPEN = "open"
SHOCKS_MAX = 100
# above -100 %, up to +1000 %, as risk/shocks.py reads it
_PCT = r"(-0{0,2}[0-9]{1,2}(\.[0-9]{1,4})?|\+?(0?[0-9]{1,3}(\.[0-9]{1,4})?|1000(\.0{1,4})?))%"
_IN_PATH = re.compile(r"{(\w+)}")


def paged(limit: int, limit_max: int) -> tuple[Parameter, ...]:
    """Return the parameters of a page."""
    return (
        Whole("offset", "Rows that are left out at the beginning.", 0, 10_000_000, 0),
        Whole("limit", "Rows at most.", 1, limit_max, limit),
    )


VENUE = Word("venue", "Id of the venue; without it all.")
PAGE = (VENUE, *paged(100, 1_000))
ATTEMPTS = (
    VENUE,
    Word("account", "Account as the venue names it."),
    Word("outcome", "How it ended.", (OPEN, *(outcome.value for outcome in Outcome))),
    Word("wallet", "Address that sent it."),
    Whole("since_ms", "Opened then or later, ms since 1970.", 0, 2**53 - 1),
    *paged(50, 200),
)
STRESS = (
    Words(
        "shock",
        "NAME=PCT: a move of one price by feed, market or asset.",
        SHOCKS_MAX,
        f"^.+={_PCT}$",
    ),
    Word("all", "PCT: a move of all other prices.", pattern=f"^{_PCT}$"),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What can be asked for. ``also``: what else it answers, by status; ``media``: of a 200."""

    summary: str
    answer: Schema
    query: tuple[Parameter, ...] = ()
    also: Mapping[int, Schema] = field(default_factory=dict)
    media: str = JSON


_NOT_THERE = {404: documents.ERROR}
READS: Mapping[str, Operation] = {
    "/healthz": Operation(
        "200 while every loop has beaten within its limit",
        documents.HEALTH,
        also={503: documents.HEALTH},
    ),
    "/readyz": Operation(
        "200 when the keeper would liquidate, else the reasons",
        documents.READY,
        also={503: documents.READY},
    ),
    "/api/v1/status": Operation("What the keeper sees and does", documents.STATUS),
    "/api/v1/events": Operation(
        'The status, again and again: each event "status" is {"next_ms": …, "status": …}',
        documents.TEXT,
        also={503: documents.ERROR},
        media=STREAM,
    ),
    "/api/v1/accounts": Operation(
        "Accounts by distance to liquidation, nearest first", documents.ACCOUNTS, PAGE, _NOT_THERE
    ),
    "/api/v1/accounts/{venue}/{account}": Operation(
        "One account term by term: why it is being liquidated, or why not",
        documents.ACCOUNT,
        also=_NOT_THERE,
    ),
    "/api/v1/candidates": Operation(
        "Under-margined accounts and what each waits for", documents.CANDIDATES, PAGE, _NOT_THERE
    ),
    "/api/v1/attempts": Operation(
        "Attempts, newest first, each with its transactions and its history",
        documents.ATTEMPTS,
        ATTEMPTS,
        {503: documents.ERROR},
    ),
    "/api/v1/config": Operation("The configuration in effect, secrets starred", documents.ANY),
    "/api/v1/stress": Operation(
        "What a move of prices would leave under-margined", documents.STRESS, STRESS, _NOT_THERE
    ),
    "/api/v1/liquidation-map": Operation(
        "What sinks at moves from -50 % to +50 %",
        documents.LIQUIDATION_MAP,
        also={503: documents.ERROR},
    ),
    "/api/v1/openapi.json": Operation("This document", documents.ANY),
}
WRITES: Mapping[str, Operation] = {
    "/api/v1/pause": Operation("Start nothing from now on", documents.PAUSED),
    "/api/v1/resume": Operation("Go on, unless config or file pause too", documents.PAUSED),
}


def document(version: str, *, writes: bool) -> dict[str, Any]:
    """Return the document. ``writes``: there is a token, so that there is what asks for it."""
    paths = {path: {"get": _operation(path, one)} for path, one in READS.items()}
    if writes:
        for path, one in WRITES.items():
            denied = {"description": "The token is missing or wrong", **_content(documents.ERROR)}
            post = _operation(path, one) | {"security": [{"token": []}]}
            post["responses"]["401"] = denied
            paths[path] = {"post": post}
    return {
        "openapi": VERSION,
        "info": {"title": "keeper", "version": version, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(path: str, one: Operation) -> dict[str, Any]:
    told = [
        {"name": each.name, "in": "query", "description": each.text, "schema": each.schema()}
        for each in one.query
    ]
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _IN_PATH.findall(path)
    ]
    answers = {OK: one.answer, 400: documents.ERROR, 503: documents.ERROR, **one.also}
    return {
        "summary": one.summary,
        "parameters": [*in_path, *told],
        "responses": {
            str(status): {
                "description": _MEANINGS[status],
                **_content(schema, one.media if status == OK else JSON),
            }
            for status, schema in answers.items()
        },
    }


_MEANINGS = {
    OK: "The answer",
    400: "A mistake in the query, with the mend",
    404: "There is no such thing",
    503: "Not now; the answer says why",
}


def _content(schema: Schema, media: str = JSON) -> dict[str, Any]:
    return {"content": {media: {"schema": schema}}}
