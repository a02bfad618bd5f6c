"""The shape of every document of the API, as JSON schemas.

Amounts that must be exact are texts of whole numbers: wei, or wads (1e-18). Times are milliseconds
since 1970 where they end in ``_ms``, those of the chain seconds. What a venue alone knows the shape
of is any object.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
EXACT: Schema = {"type": "string", "pattern": "^-?[0-9]+$"}


def record(**properties: Schema) -> Schema:
    """Return an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def listed(items: Schema) -> Schema:
    """Return an array."""
    return {"type": "array", "items": items}


def by_name(values: Schema) -> Schema:
    """Return an object whose keys are names."""
    return {"type": "object", "additionalProperties": values}


def maybe(schema: Schema) -> Schema:
    """Return what may be unknown."""
    return {"anyOf": [schema, {"type": "null"}]}


ERROR = record(error=TEXT)
PAUSED = record(paused={**TEXT, "description": "What pauses the keeper; empty: nothing does."})
HEALTH = {
    "type": "object",
    "properties": {"status": TEXT, "loops": by_name(record(age_s=NUMBER))},
    "required": ["status"],
    "additionalProperties": False,
}
READY = record(
    status=TEXT,
    reasons=listed(TEXT),
    standby={**TEXT, "description": "Which other keeper sends; empty: this one does."},
)

_HOLD = record(reason=TEXT, until_ms=maybe(WHOLE), left_ms=maybe(WHOLE), until_block=maybe(WHOLE))
ACCOUNTS = record(
    total=WHOLE,
    offset=WHOLE,
    accounts=listed(
        record(
            venue=TEXT,
            account=TEXT,
            distance_pct=maybe(NUMBER),
            excess_usd=maybe(NUMBER),
            why=TEXT,
        )
    ),
)
CANDIDATES = record(
    total=WHOLE,
    offset=WHOLE,
    candidates=listed(record(venue=TEXT, account=TEXT, why=TEXT, hold=maybe(_HOLD))),
)
_ASSESSMENT = record(
    liquidatable=FLAG,
    by=TEXT,
    at_s=WHOLE,
    equity_usd=NUMBER,
    requirement_usd=NUMBER,
    excess_usd=NUMBER,
    reward_usd=NUMBER,
    bad_debt_usd=NUMBER,
    feeds=listed(TEXT),
    stale_on_chain=listed(TEXT),
    carries_prices=listed(TEXT),
    not_before_s=maybe(WHOLE),
)
_TERM = {
    "factor": TEXT,
    "value": maybe(NUMBER),
    "weight": NUMBER,
    "usd": maybe(NUMBER),
    "move_pct": maybe(NUMBER),
    "from": maybe(NUMBER),
    "to": maybe(NUMBER),
}
_BOOK = record(
    excess_usd=maybe(NUMBER), under=FLAG, constant_usd=NUMBER, terms=listed(record(**_TERM))
)
ACCOUNT = record(
    venue=TEXT,
    account=TEXT,
    why=TEXT,
    hold=maybe(_HOLD),
    failures_in_a_row=WHOLE,
    quarantine=maybe(TEXT),
    read_at_block=WHOLE,
    state=ANY,
    assessment=maybe(_ASSESSMENT),
    at_source_prices=maybe(_BOOK),
    at_contract_prices=maybe(_BOOK),
)

_SHARE = record(
    account=TEXT,
    outcome=maybe(TEXT),
    detail=maybe(TEXT),
    reward_wad=maybe(EXACT),
    reward_wei=maybe(EXACT),
    cost_wei=maybe(EXACT),
)
_TRANSACTION = record(
    hash=TEXT,
    kind=TEXT,
    job=TEXT,
    max_fee_wei=EXACT,
    priority_fee_wei=EXACT,
    cost_wei_max=maybe(EXACT),
    signed_ms=WHOLE,
    block=WHOLE,
)
_EVENT = record(at_ms=WHOLE, event=TEXT, tx_hash=maybe(TEXT), block=maybe(WHOLE), facts=ANY)
_ATTEMPT = record(
    id=TEXT,
    venue=TEXT,
    account=TEXT,
    wallet=TEXT,
    nonce=WHOLE,
    job=TEXT,
    opened_ms=WHOLE,
    sent_ms=maybe(WHOLE),
    tick_to_sent_ms=maybe(NUMBER),
    outcome=TEXT,
    detail=maybe(TEXT),
    settled_ms=maybe(WHOLE),
    tx_hash=maybe(TEXT),
    included_block=maybe(WHOLE),
    reward_wad=maybe(EXACT),
    reward_wei=maybe(EXACT),
    cost_wei=maybe(EXACT),
    native_usd_wad=maybe(EXACT),
    accounts=WHOLE,
    state=maybe(TEXT),
    gains_wad=by_name(EXACT),
    shares=listed(_SHARE),
    transactions=listed(_TRANSACTION),
    history=listed(_EVENT),
)
ATTEMPTS = record(total=WHOLE, offset=WHOLE, attempts=listed(_ATTEMPT))

STATUS = record(
    chain_id=WHOLE,
    now_ms=WHOLE,
    ready=FLAG,
    unready=listed(TEXT),
    dry_run=FLAG,
    paused=TEXT,
    lease=maybe(record(leads=FLAG, holder=TEXT, trouble=TEXT)),
    config=record(digest=TEXT, restart_keys=listed(TEXT)),
    wallets=listed(
        record(name=TEXT, address=TEXT, balance_wei=EXACT, open_attempts=WHOLE, parked=TEXT)
    ),
    head=maybe(ANY),
    prices=by_name(record(price=maybe(NUMBER), age_ms=maybe(WHOLE), trouble=TEXT)),
    venues=by_name(ANY),
    accounts=listed(ANY),
    endpoints=listed(
        record(
            endpoint=TEXT,
            roles=listed(TEXT),
            state=TEXT,
            head=maybe(WHOLE),
            lag_blocks=WHOLE,
            latency_ms=maybe(NUMBER),
            error_share=NUMBER,
            trouble=TEXT,
        )
    ),
    attempts=listed(ANY),
    totals=record(outcomes=by_name(WHOLE), profit_wei=by_name(EXACT)),
    liquidations=by_name(record(us=WHOLE, other=WHOLE, capture_rate=maybe(NUMBER))),
    loops=by_name(record(age_s=NUMBER, limit_s=NUMBER, late=FLAG)),
    budgets=listed(record(budget=TEXT, unit=TEXT, most=NUMBER, left=maybe(NUMBER))),
    latency_ms=record(p50=maybe(NUMBER), p99=maybe(NUMBER), count=WHOLE),
)
STRESS = record(shocks_pct=by_name(NUMBER), venues=by_name(ANY), left_out=by_name(TEXT))
LIQUIDATION_MAP = record(moves_pct=listed(NUMBER), venues=by_name(ANY), left_out=by_name(TEXT))
