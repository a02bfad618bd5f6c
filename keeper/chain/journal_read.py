"""The journal read back, by an operator or by a judge; it may be in use by a running keeper."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from keeper.chain.journal_schema import VERSION, JournalError


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt as an operator reads it back. ``outcome`` None: still open."""

    id: str
    venue: str
    account: str
    nonce: int
    opened_ms: int
    outcome: str | None
    detail: str
    tick_to_sent_ms: float | None
    included_block: int | None
    tx_hash: str | None
    reward_wad: int
    reward_wei: int
    cost_wei: int
    replacements: int
    job: str
    gains: dict[str, int]  # wads; what the reward is made of


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal to read only; raises JournalError that names the file and the mend."""
    if not path.exists():
        msg = f"journal {path}: no such file; name the config of the keeper that wrote it"
        raise JournalError(msg)
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    try:
        db.row_factory = sqlite3.Row
        row = db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
        version = row[0] if row else "unknown"
        if version != str(VERSION):
            msg = (
                f"journal {path} is version {version}, this keeper reads version {VERSION}; "
                "an older one is brought up to date when its keeper is started"
            )
            raise JournalError(msg)
        db.execute(_TOLD)
        yield db
    except sqlite3.Error as error:
        msg = f"journal {path}: {error}; run this as the keeper's user, on the keeper's own file"
        raise JournalError(msg) from None
    finally:
        db.close()


def read_attempts(path: Path) -> list[AttemptRow]:
    """Read all attempts of a journal, oldest first; of one for several accounts each account."""
    with reading(path) as db:
        rows = db.execute(
            "SELECT id, venue, coalesce(shares.account, attempts.account), nonce, opened_ms,"
            " coalesce(shares.outcome, attempts.outcome), coalesce(shares.detail, attempts.detail),"
            " tick_to_sent_ms, included_block, tx_hash,"
            " coalesce(shares.reward_wad, attempts.reward_wad),"
            " coalesce(shares.reward_wei, attempts.reward_wei),"
            " coalesce(shares.cost_wei, attempts.cost_wei), (SELECT count(*) - 1 FROM"
            " transactions WHERE attempt = attempts.id), job,"
            " CASE WHEN shares.account IS NULL THEN attempts.gains ELSE shares.gains END"
            " FROM attempts LEFT JOIN shares ON shares.attempt = attempts.id"
            " ORDER BY opened_ms, nonce"
        ).fetchall()
    return [
        AttemptRow(
            id=row[0],
            venue=row[1],
            account=row[2],
            nonce=row[3],
            opened_ms=row[4],
            outcome=row[5],
            detail=row[6] or "",
            tick_to_sent_ms=row[7],
            included_block=row[8],
            tx_hash=row[9],
            reward_wad=int(row[10] or 0),
            reward_wei=int(row[11] or 0),
            cost_wei=int(row[12] or 0),
            replacements=row[13],
            job=row[14],
            gains={name: int(wad) for name, wad in json.loads(row[15] or "{}").items()},
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which attempts; None: any. ``outcome`` may be "open"."""

    venue: str | None = None
    account: str | None = None
    outcome: str | None = None
    wallet: str | None = None
    since_ms: int | None = None  # opened then or later


# the plan and the raw bytes are the keeper's own business
_TOLD = """
CREATE TEMP VIEW told AS
SELECT id, venue, account, wallet, nonce, job, opened_ms, sent_ms, tick_to_sent_ms,
    coalesce(outcome, 'open') AS outcome, detail, settled_ms, tx_hash, included_block,
    reward_wad, reward_wei, cost_wei, native_usd_wad,
    (SELECT count(*) FROM transactions WHERE attempt = attempts.id) AS transactions,
    max(1, (SELECT count(*) FROM shares WHERE attempt = attempts.id)) AS accounts,
    (SELECT event FROM history WHERE attempt = attempts.id AND event != 'resumed'
        ORDER BY seq DESC LIMIT 1) AS state
FROM attempts"""
_WANTED = """
FROM attempts
    WHERE (:venue IS NULL OR venue = :venue) AND (:account IS NULL OR account = :account
            OR EXISTS (SELECT 1 FROM shares WHERE attempt = id AND shares.account = :account))
        AND (:outcome IS NULL OR coalesce(outcome, 'open') = :outcome)
        AND (:wallet IS NULL OR lower(wallet) = lower(:wallet))
        AND (:since_ms IS NULL OR opened_ms >= :since_ms)"""
_COUNT = f"SELECT count(*) {_WANTED}"
_FIND = f"""
SELECT * FROM told WHERE id IN (
    SELECT id {_WANTED}
    ORDER BY opened_ms DESC, nonce DESC LIMIT :limit OFFSET :offset
) ORDER BY opened_ms, nonce"""  # noqa: S608 - made of constants
Document = dict[str, object]


def find(
    db: sqlite3.Connection, wanted: Wanted, limit: int | None = None, offset: int = 0
) -> Iterator[Document]:
    """Yield attempts, oldest first; with a limit the newest so many. Amounts are text.

    ``offset``: how many of the newest are left out.
    """
    arguments = {**asdict(wanted), "limit": -1 if limit is None else limit, "offset": offset}
    for row in db.execute(_FIND, arguments):
        yield dict(row)


def page(path: Path, wanted: Wanted, offset: int, limit: int) -> Document:
    """Return whole attempts, newest first, and how many there are in all."""
    with reading(path) as db:
        total = db.execute(_COUNT, asdict(wanted)).fetchone()[0]
        found = [whole(db, attempt) for attempt in find(db, wanted, limit, offset)]
    return {"total": total, "offset": offset, "attempts": found[::-1]}


def story(db: sqlite3.Connection, path: Path, name: str) -> Document:
    """Return one attempt with all its transactions and its history.

    ``name``: its id, the beginning of it, or the hash of one of its transactions. Raises
    JournalError when that is nobody's, or of several.
    """
    pattern = name.lower().replace("%", "").replace("_", "") + "%"
    found = db.execute(
        "SELECT * FROM told WHERE id LIKE ?"
        " OR id IN (SELECT attempt FROM transactions WHERE hash LIKE ?) LIMIT 2",
        (pattern, pattern),
    ).fetchall()
    if len(found) != 1:
        problem = "is the beginning of several attempts" if found else "is no attempt"
        msg = f"{name} {problem} in journal {path}; `keeper journal list` shows their ids"
        raise JournalError(msg)
    return whole(db, dict(found[0]))


def whole(db: sqlite3.Connection, attempt: Document) -> Document:
    """Add transactions, history and each account's share to an attempt."""
    shares = db.execute(
        "SELECT account, outcome, detail, reward_wad, reward_wei, cost_wei FROM shares"
        " WHERE attempt = ? ORDER BY account",
        (attempt["id"],),
    )
    signed = db.execute(
        "SELECT hash, kind, job, max_fee_wei, priority_fee_wei, cost_wei_max, signed_ms, block"
        " FROM transactions WHERE attempt = ? ORDER BY rowid",
        (attempt["id"],),
    )
    lines = db.execute(
        "SELECT at_ms, event, tx_hash, block, facts FROM history WHERE attempt = ? ORDER BY seq",
        (attempt["id"],),
    )
    history = [{**dict(line), "facts": json.loads(line["facts"])} for line in lines]
    gains = db.execute("SELECT gains FROM attempts WHERE id = ?", (attempt["id"],)).fetchone()[0]
    return {
        **attempt,
        "gains_wad": json.loads(gains or "{}"),
        "shares": [dict(row) for row in shares],
        "transactions": [dict(row) for row in signed],
        "history": history,
    }
