"""Attempts whose end turned out wrong: in flight again.

They were settled by a block which is no longer on the chain, or given up while nothing of theirs
was on it, and now something is.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from keeper.chain import journal_rows as rows
from keeper.chain.rpc import batch_whole, receipt_from_json, rpc_error
from keeper.errors import RpcFault
from keeper.facts import Attempt, Head
from keeper.ports import Rpc

PER_BATCH_MAX = 100  # providers cap batches
GIVEN_UP_MS_MAX = 3_600_000  # looked for: longer than any endpoint lags, or any reorg takes
GIVEN_UP_MAX = 50  # looked for at once, the last ones


@dataclass(frozen=True, slots=True)
class Included:
    """A settled attempt, and the block that its receipt was in."""

    attempt: Attempt
    tx_hash: str
    block_hash: str


def settled_since(db: sqlite3.Connection, block: int) -> list[Included]:
    """Read the attempts that were settled by this block or a later one, by nonce."""
    found = db.execute(
        "SELECT id, wallet, nonce, plan, opened_ms, sent_ms, tx_hash, ("
        " SELECT json_extract(facts, '$.block_hash') FROM history"
        " WHERE attempt = attempts.id AND event = 'included' ORDER BY seq DESC LIMIT 1)"
        " FROM attempts WHERE outcome IS NOT NULL AND included_block >= ? ORDER BY nonce",
        (block,),
    ).fetchall()
    return [
        Included(attempt=rows.attempt_of(db, row), tx_hash=row[6], block_hash=row[7] or "")
        for row in found
    ]


def given_up_since(db: sqlite3.Connection, since_ms: int) -> list[Attempt]:
    """Read the attempts that ended since then with nothing of theirs on the chain, newest first."""
    found = db.execute(
        "SELECT id, wallet, nonce, plan, opened_ms, sent_ms FROM attempts"
        " WHERE settled_ms >= ? AND outcome IS NOT NULL AND tx_hash IS NULL"
        " ORDER BY settled_ms DESC LIMIT ?",
        (since_ms, GIVEN_UP_MAX),
    ).fetchall()
    return [rows.attempt_of(db, row) for row in found]


def reopen(db: sqlite3.Connection, attempt_id: str, event: rows.Event, now_ms: int) -> None:
    """Take back the end of an attempt; the history keeps that it was settled, and how."""
    was = db.execute(
        "SELECT outcome, reward_wei, cost_wei FROM attempts WHERE id = ?", (attempt_id,)
    ).fetchone()
    db.execute(
        "UPDATE attempts SET outcome = NULL, detail = NULL, settled_ms = NULL, tx_hash = NULL,"
        " included_block = NULL, reward_wad = NULL, reward_wei = NULL, cost_wei = NULL,"
        " gains = NULL, native_usd_wad = NULL WHERE id = ?",
        (attempt_id,),
    )
    db.execute(
        "UPDATE shares SET outcome = NULL, detail = NULL, reward_wad = NULL, reward_wei = NULL,"
        " cost_wei = NULL, gains = NULL WHERE attempt = ?",
        (attempt_id,),
    )
    facts = json.dumps(dict(zip(("was", "reward_wei", "cost_wei"), was, strict=True)))
    db.execute(
        "INSERT INTO history (attempt, at_ms, event, facts) VALUES (?, ?, ?, ?)",
        (attempt_id, now_ms, event.value, facts),
    )


async def orphaned(rpc: Rpc, settled: Sequence[Included], head: Head) -> list[Attempt]:
    """Return those whose transaction is not in the block any more that it was settled by.

    Raises RpcError: TransientRpcError too when the endpoint that answers does not have the head.
    """
    gone: list[Attempt] = []
    for start in range(0, len(settled), PER_BATCH_MAX):
        some = settled[start : start + PER_BATCH_MAX]
        block, *receipts = await batch_whole(
            rpc,
            [
                ("eth_getBlockByNumber", [hex(head.number), False]),
                *(("eth_getTransactionReceipt", [each.tx_hash]) for each in some),
            ],
        )
        if not isinstance(block, dict) or block.get("hash") != head.hash:
            raise rpc_error(RpcFault.UNKNOWN_BLOCK, "the chain changed, or an endpoint lags")
        for each, raw in zip(some, receipts, strict=True):
            if not raw or receipt_from_json(raw).block_hash != each.block_hash:
                gone.append(each.attempt)
    return gone


async def reappeared(rpc: Rpc, given_up: Sequence[Attempt]) -> list[Attempt]:
    """Return those of which a transaction is on the chain after all. Raises RpcError."""
    owners = {tx.hash: attempt for attempt in given_up for tx in attempt.transactions}
    hashes, found = list(owners), dict[str, Attempt]()
    for start in range(0, len(hashes), PER_BATCH_MAX):
        some = hashes[start : start + PER_BATCH_MAX]
        receipts = await batch_whole(rpc, [("eth_getTransactionReceipt", [each]) for each in some])
        there = (owners[each] for each, raw in zip(some, receipts, strict=True) if raw)
        found |= {attempt.id: attempt for attempt in there}
    return list(found.values())
