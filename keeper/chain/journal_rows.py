"""How attempts, plans, transactions and what happens to them are kept in the journal's tables."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

import msgspec

from keeper.act.spending import Past
from keeper.chain.signer import worst_cost_wei
from keeper.decide.economics import Economics
from keeper.facts import (
    Attempt,
    Call,
    Outcome,
    Plan,
    Receipt,
    Settled,
    SignedTx,
    Step,
    TakenOver,
    TxKind,
    VenueId,
)
from keeper.jobs import Job


class Event(StrEnum):
    """What can happen to an attempt; the last one is its state, but for the last here."""

    PLANNED = "planned"
    SIGNED = "signed"  # once for every transaction
    BROADCAST = "broadcast"  # an endpoint has accepted one
    INCLUDED = "included"
    ORPHANED = "orphaned"  # the block that included it is gone
    REAPPEARED = "reappeared"  # given up, and on the chain after all
    SETTLED = "settled"
    RESUMED = "resumed"  # found in flight by a keeper that was started meanwhile; no state


def plan_to_json(plan: Plan) -> str:
    """Return a plan as text; data of calls is hex."""
    raw: dict[str, Any] = msgspec.to_builtins(plan, builtin_types=(bytes,))  # asdict copies deeply
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
    raw["batch"] = tuple(raw.get("batch", ()))
    raw["takes_over"] = TakenOver(**taken) if taken else None
    return replace(Plan(**raw), tick_ns=0, decided_ns=0)


def _call(raw: dict[str, Any]) -> Call:
    return Call(raw["to"], bytes.fromhex(raw["data"]), raw["value_wei"])


def transactions_of(db: sqlite3.Connection, attempt_id: str) -> tuple[SignedTx, ...]:
    """Read an attempt's transactions, first signed first."""
    rows = db.execute(
        "SELECT hash, raw, kind, max_fee_wei, priority_fee_wei, signed_ms, block, job, accounts"
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
            accounts=tuple(json.loads(row[8] or "[]")),
        )
        for row in rows
    )


def open_attempts(db: sqlite3.Connection) -> list[Attempt]:
    """Read the attempts without an outcome, by nonce."""
    rows = db.execute(
        "SELECT id, wallet, nonce, plan, opened_ms, sent_ms FROM attempts"
        " WHERE outcome IS NULL ORDER BY nonce"
    ).fetchall()
    return [attempt_of(db, row) for row in rows]


def attempt_of(db: sqlite3.Connection, row: Sequence[Any]) -> Attempt:
    """Build an attempt of its columns id, wallet, nonce, plan, opened_ms, sent_ms."""
    return Attempt(
        id=row[0],
        plan=plan_from_json(row[3]),
        wallet=row[1],
        nonce=row[2],
        transactions=transactions_of(db, row[0]),
        opened_ms=row[4],
        sent_ms=row[5],
    )


# --- what happens to an attempt -------------------------------------------------------------------


def _happened(
    db: sqlite3.Connection,
    attempt_id: str,
    at_ms: int,
    event: Event,
    place: tuple[str | None, int | None] = (None, None),
    **facts: object,
) -> None:
    """Add a line to the history; ``place``: hash and block of the transaction it is about."""
    text = json.dumps({name: value for name, value in facts.items() if value not in (None, "")})
    db.execute(
        "INSERT INTO history (attempt, at_ms, event, tx_hash, block, facts)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (attempt_id, at_ms, event.value, *place, text),
    )


def intend(db: sqlite3.Connection, attempt: Attempt, transaction: SignedTx) -> None:
    """Write an attempt, or its newest plan, and one more transaction for it."""
    plan, cost_wei_max = attempt.plan, str(worst_cost_wei(transaction.raw))
    if not attempt.transactions:
        _open(db, attempt)
    else:
        text = plan_to_json(plan)
        db.execute("UPDATE attempts SET plan = ? WHERE id = ?", (text, attempt.id))
    db.executemany(
        "INSERT OR IGNORE INTO shares (attempt, account) VALUES (?, ?)",
        [(attempt.id, account) for account in plan.batch],
    )
    db.execute(
        "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            transaction.hash,
            attempt.id,
            transaction.raw,
            transaction.kind.value,
            str(transaction.max_fee_wei),
            str(transaction.priority_fee_wei),
            transaction.signed_ms,
            transaction.block,
            transaction.job.value,
            cost_wei_max,
            json.dumps(transaction.accounts) if transaction.accounts else None,
        ),
    )
    _happened(
        db,
        attempt.id,
        transaction.signed_ms,
        Event.SIGNED,
        (transaction.hash, transaction.block),
        kind=transaction.kind.value,
        job=transaction.job.value,
        accounts=transaction.accounts if plan.batch else None,
        max_fee_wei=str(transaction.max_fee_wei),
        priority_fee_wei=str(transaction.priority_fee_wei),
        cost_wei_max=cost_wei_max,
        expected_wei=str(plan.expected.expected_wei),
    )


def _open(db: sqlite3.Connection, attempt: Attempt) -> None:
    plan = attempt.plan
    db.execute(
        "INSERT INTO attempts (id, venue, account, wallet, nonce, plan, opened_ms, job)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            attempt.id,
            plan.venue,
            plan.account,
            attempt.wallet,
            attempt.nonce,
            plan_to_json(plan),
            attempt.opened_ms,
            plan.job.value,
        ),
    )
    _happened(
        db,
        attempt.id,
        attempt.opened_ms,
        Event.PLANNED,
        (None, plan.simulated_at),
        nonce=attempt.nonce,
        reward_wei=str(plan.expected.reward_wei),
        p_win_ppm=plan.expected.p_win_ppm,
        cost_wei_max=str(plan.cost_wei_max),
        steps_to_follow=len(plan.then) or None,
        accounts=list(plan.batch) or None,
        optimistic=plan.optimistic or None,
    )


def sent(
    db: sqlite3.Connection, attempt_id: str, sent_ms: int, tick_to_sent_ms: float | None
) -> None:
    """Write that an endpoint has accepted the attempt's newest transaction."""
    db.execute(
        "UPDATE attempts SET sent_ms = ?, tick_to_sent_ms = ? WHERE id = ?",
        (sent_ms, tick_to_sent_ms, attempt_id),
    )
    _happened(db, attempt_id, sent_ms, Event.BROADCAST, tick_to_sent_ms=tick_to_sent_ms)


def resumed(db: sqlite3.Connection, attempt_id: str, now_ms: int) -> None:
    """Write that another process goes on with the attempt."""
    _happened(db, attempt_id, now_ms, Event.RESUMED)


def found_on_chain(
    attempt_id: str, receipt: Receipt | None, now_ms: int
) -> Callable[[sqlite3.Connection], None]:
    """Return what writes that an attempt was included; without a receipt, that it no longer is."""

    def write(db: sqlite3.Connection) -> None:
        if receipt is None:
            _happened(db, attempt_id, now_ms, Event.ORPHANED)
            return
        place = (receipt.tx_hash, receipt.block_number)
        _happened(db, attempt_id, now_ms, Event.INCLUDED, place, **_receipt_facts(receipt))

    return write


def _receipt_facts(receipt: Receipt) -> dict[str, object]:
    return {
        "block_hash": receipt.block_hash,
        "success": receipt.success,
        "gas_used": receipt.gas_used,
        "gas_price_wei": str(receipt.gas_price_wei),
        "l1_fee_wei": str(receipt.l1_fee_wei) if receipt.l1_fee_wei else None,
    }


def settle(db: sqlite3.Connection, done: Sequence[Settled], now_ms: int) -> None:
    """Write the end of an attempt: how it went for each account, and for all of them together."""
    settled = max(done, key=lambda each: each.outcome is Outcome.WON)  # the first one that won
    receipt, attempt_id = settled.receipt, settled.attempt.id
    place = (receipt.tx_hash, receipt.block_number) if receipt else (None, None)
    usd = settled.native_usd_wad
    reward_wei, cost_wei = (sum(each.reward_wei for each in done), sum(e.cost_wei for e in done))
    db.execute(
        "UPDATE attempts SET outcome = ?, detail = ?, settled_ms = ?, tx_hash = ?,"
        " included_block = ?, reward_wad = ?, reward_wei = ?, cost_wei = ?, gains = ?,"
        " native_usd_wad = ? WHERE id = ?",
        (
            settled.outcome.value,
            settled.detail,
            now_ms,
            *place,
            str(sum(each.reward_wad for each in done)),
            str(reward_wei),
            str(cost_wei),
            _gains(settled),
            str(usd) if usd is not None else None,
            attempt_id,
        ),
    )
    if len(done) > 1:
        db.executemany(
            "UPDATE shares SET outcome = ?, detail = ?, reward_wad = ?, reward_wei = ?,"
            " cost_wei = ?, gains = ? WHERE attempt = ? AND account = ?",
            [_share(each) for each in done],
        )
    _happened(
        db,
        attempt_id,
        now_ms,
        Event.SETTLED,
        place,
        outcome=settled.outcome.value,
        detail=settled.detail,
        reward_wei=str(reward_wei),
        cost_wei=str(cost_wei),
    )


def _gains(settled: Settled) -> str:
    return json.dumps({name: str(wad) for name, wad in settled.gains.items()})


def _share(settled: Settled) -> tuple[str, ...]:
    return (
        settled.outcome.value,
        settled.detail,
        str(settled.reward_wad),
        str(settled.reward_wei),
        str(settled.cost_wei),
        _gains(settled),
        settled.attempt.id,
        settled.attempt.plan.account,
    )


# --- money, and what is too old -------------------------------------------------------------------


def profit_wei(db: sqlite3.Connection) -> dict[str, int]:
    """Return reward less cost by venue, of what was settled, deleted attempts included."""
    profits: dict[str, int] = {}
    for venue, reward, cost in db.execute(
        "SELECT venue, reward_wei, cost_wei FROM attempts WHERE outcome IS NOT NULL"
        " UNION ALL SELECT venue, reward_wei, cost_wei FROM totals"
    ):
        profits[venue] = profits.get(venue, 0) + int(reward) - int(cost)
    return profits


def topped_up_wei(db: sqlite3.Connection, since_ms: int) -> int:
    """Return what top-ups sent since, those in flight and those not settled yet included."""
    plans = db.execute(
        "SELECT plan FROM attempts WHERE job = ?"
        " AND (outcome IS NULL OR outcome = ? AND settled_ms >= ?)",
        (Job.TOP_UP.value, Outcome.DONE.value, since_ms),
    )
    return sum(plan_from_json(text).call.value_wei for (text,) in plans)


def probe(db: sqlite3.Connection) -> None:
    """Write something, to see whether that is possible."""
    db.execute("UPDATE meta SET value = value WHERE key = 'version'")


def past(db: sqlite3.Connection, since_ms: int) -> list[Past]:
    """Read what was settled since, oldest first, as budgets and odds count it."""
    rows = db.execute(
        "SELECT venue, job, coalesce(shares.outcome, attempts.outcome), settled_ms,"
        " coalesce(shares.reward_wei, attempts.reward_wei),"
        " coalesce(shares.cost_wei, attempts.cost_wei), native_usd_wad, ("
        " SELECT json_extract(facts, '$.gas_used') FROM history"
        " WHERE attempt = attempts.id AND event = 'included' ORDER BY seq DESC LIMIT 1)"
        " / coalesce("
        " (SELECT json_array_length(accounts) FROM transactions WHERE hash = attempts.tx_hash),"
        " max(1, (SELECT count(*) FROM shares WHERE attempt = attempts.id)))"
        " FROM attempts LEFT JOIN shares ON shares.attempt = attempts.id"
        " WHERE settled_ms >= ? ORDER BY settled_ms",
        (since_ms,),
    )
    return [
        Past(
            venue=VenueId(row[0]),
            job=Job(row[1]),
            outcome=Outcome(row[2]),
            settled_ms=row[3],
            reward_wei=int(row[4]),
            cost_wei=int(row[5]),
            native_usd_wad=int(row[6]) if row[6] is not None else None,
            gas_used=row[7],
        )
        for row in rows
    ]


def prune(db: sqlite3.Connection, before_ms: int, limit: int) -> None:
    """Delete the attempts settled before a time, oldest first; ``totals`` keeps their money."""
    old = db.execute(
        "SELECT id, venue, reward_wei, cost_wei FROM attempts"
        " WHERE settled_ms < ? ORDER BY settled_ms LIMIT ?",
        (before_ms, limit),
    ).fetchall()
    for attempt_id, venue, reward, cost in old:
        sums = db.execute(
            "SELECT attempts, reward_wei, cost_wei FROM totals WHERE venue = ?", (venue,)
        ).fetchone() or (0, 0, 0)
        db.execute(
            "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?)",
            (venue, sums[0] + 1, str(int(sums[1]) + int(reward)), str(int(sums[2]) + int(cost))),
        )
        db.execute("DELETE FROM history WHERE attempt = ?", (attempt_id,))
        db.execute("DELETE FROM transactions WHERE attempt = ?", (attempt_id,))
        db.execute("DELETE FROM shares WHERE attempt = ?", (attempt_id,))
        db.execute("DELETE FROM attempts WHERE id = ?", (attempt_id,))


def touch(db: sqlite3.Connection) -> None:
    """Write something that changes nothing."""
    db.execute("UPDATE meta SET value = value WHERE key = 'version'")
