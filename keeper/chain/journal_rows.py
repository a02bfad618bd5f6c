"""How plans and transactions are kept in the journal."""

import json
import sqlite3
from dataclasses import asdict, replace
from typing import Any

from keeper.decide.economics import Economics
from keeper.facts import Call, Job, Plan, SignedTx, Step, TakenOver, TxKind


def plan_to_json(plan: Plan) -> str:
    """Return a plan as text; data of calls is hex."""
    raw: dict[str, Any] = asdict(plan)
    raw["call"]["data"] = plan.call.data.hex()
    for step, shown in zip(plan.then, raw["then"], strict=True):
        shown["call"]["data"] = step.call.data.hex()
    return json.dumps(raw)  # the standard library's: wei outgrow 64 bits


def plan_from_json(text: str) -> Plan:
    """Rebuild a plan; its monotonic times belong to another process and are cleared."""
    raw = json.loads(text)
    raw |= {"call": _call(raw["call"]), "expected": Economics(**raw["expected"])}
    raw |= {"uses": tuple(raw["uses"]), "takes": tuple(raw.get("takes", ()))}
    raw["job"] = Job(raw.get("job", Job.LIQUIDATE))  # from here on: unknown to older journals
    raw["then"] = tuple(
        Step(Job(step["job"]), _call(step["call"]), step["gas"]) for step in raw.get("then", ())
    )
    taken = raw.get("takes_over")
    raw["takes_over"] = TakenOver(**taken) if taken else None
    return replace(Plan(**raw), tick_ns=0, decided_ns=0)


def _call(raw: dict[str, Any]) -> Call:
    return Call(raw["to"], bytes.fromhex(raw["data"]), raw["value_wei"])


def transactions_of(db: sqlite3.Connection, attempt_id: str) -> tuple[SignedTx, ...]:
    """Read an attempt's transactions, first signed first."""
    rows = db.execute(
        "SELECT hash, raw, kind, max_fee_wei, priority_fee_wei, signed_ms, block, job"
        " FROM transactions WHERE attempt = ? ORDER BY rowid",
        (attempt_id,),
    ).fetchall()
    return tuple(
        SignedTx(
            hash=row[0],
            raw=row[1],
            kind=TxKind(row[2]),
            max_fee_wei=int(row[3]),
            priority_fee_wei=int(row[4]),
            signed_ms=row[5],
            block=row[6],
            job=Job(row[7]),
        )
        for row in rows
    )
