"""The journal's tables, how older versions become the present one, and what is checked at a start.

``attempts`` holds one row a nonce spent on an account, ``transactions`` everything signed for it,
``history`` what happened to it, step by step: rows are only ever added, and go with their attempt
when its time is over (``totals`` keeps what they earned). ``open_attempts`` is what is in flight.
``shares`` has a row for each account of a transaction that was for several.
"""

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from keeper.chain.signer import worst_cost_wei
from keeper.errors import FatalError

VERSION = 4
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """
CREATE TABLE attempts (
    id TEXT PRIMARY KEY, venue TEXT NOT NULL, account TEXT NOT NULL,
    wallet TEXT NOT NULL, nonce INTEGER NOT NULL, plan TEXT NOT NULL, opened_ms INTEGER NOT NULL,
    sent_ms INTEGER, tick_to_sent_ms REAL,
    outcome TEXT, detail TEXT, settled_ms INTEGER, tx_hash TEXT, included_block INTEGER,
    reward_wad TEXT, reward_wei TEXT, cost_wei TEXT, job TEXT, gains TEXT, native_usd_wad TEXT
)""",
    "CREATE INDEX attempts_open ON attempts (opened_ms) WHERE outcome IS NULL",
    "CREATE INDEX attempts_account ON attempts (venue, account)",
    """
CREATE TABLE transactions (
    hash TEXT PRIMARY KEY, attempt TEXT NOT NULL REFERENCES attempts (id), raw BLOB NOT NULL,
    kind TEXT NOT NULL, max_fee_wei TEXT NOT NULL, priority_fee_wei TEXT NOT NULL,
    signed_ms INTEGER NOT NULL, block INTEGER NOT NULL, job TEXT, cost_wei_max TEXT
)""",
    "CREATE INDEX transactions_attempt ON transactions (attempt)",
)
SINCE_3 = (
    """
CREATE TABLE history (
    seq INTEGER PRIMARY KEY, attempt TEXT NOT NULL REFERENCES attempts (id),
    at_ms INTEGER NOT NULL, event TEXT NOT NULL, tx_hash TEXT, block INTEGER, facts TEXT NOT NULL
)""",
    "CREATE INDEX history_attempt ON history (attempt)",
    "CREATE INDEX attempts_settled ON attempts (settled_ms)",
    """
CREATE TRIGGER history_is_not_changed BEFORE UPDATE ON history
BEGIN SELECT RAISE(ABORT, 'the history of an attempt is only added to'); END""",
    """
CREATE TRIGGER history_of_what_is_open_stays BEFORE DELETE ON history
WHEN (SELECT outcome FROM attempts WHERE id = OLD.attempt) IS NULL
BEGIN SELECT RAISE(ABORT, 'the attempt is not settled'); END""",
    """
CREATE TABLE totals (
    venue TEXT PRIMARY KEY, attempts INTEGER NOT NULL,
    reward_wei TEXT NOT NULL, cost_wei TEXT NOT NULL
) WITHOUT ROWID""",
    """
CREATE VIEW open_attempts AS
SELECT id, venue, account, wallet, nonce, opened_ms,
    (SELECT event FROM history WHERE attempt = attempts.id AND event != 'resumed'
        ORDER BY seq DESC LIMIT 1) AS state,
    (SELECT count(*) FROM transactions WHERE attempt = attempts.id) AS transactions
FROM attempts WHERE outcome IS NULL ORDER BY wallet, nonce""",
)
SINCE_4 = (
    """
CREATE TABLE shares (
    attempt TEXT NOT NULL REFERENCES attempts (id), account TEXT NOT NULL,
    outcome TEXT, detail TEXT, reward_wad TEXT, reward_wei TEXT, cost_wei TEXT, gains TEXT,
    PRIMARY KEY (attempt, account)
) WITHOUT ROWID""",
    "CREATE INDEX shares_account ON shares (account)",
    "ALTER TABLE transactions ADD COLUMN accounts TEXT",
)
FROM_1 = (  # it knew one job
    "ALTER TABLE attempts ADD COLUMN job TEXT",
    "ALTER TABLE attempts ADD COLUMN gains TEXT",
    "ALTER TABLE transactions ADD COLUMN job TEXT",
    "UPDATE attempts SET job = 'liquidate'",
    "UPDATE transactions SET job = 'liquidate'",
)
FROM_2 = (  # it kept no history: what its rows tell of it is written down
    "ALTER TABLE attempts ADD COLUMN native_usd_wad TEXT",
    "ALTER TABLE transactions ADD COLUMN cost_wei_max TEXT",
    *SINCE_3,
    """
INSERT INTO history (attempt, at_ms, event, tx_hash, block, facts)
SELECT attempt, at_ms, event, hash, block, facts FROM (
    SELECT 1 AS step, id AS attempt, opened_ms AS at_ms, 'planned' AS event,
        NULL AS hash, NULL AS block, '{}' AS facts FROM attempts
    UNION ALL SELECT 2, attempt, signed_ms, 'signed', hash, block, json_object('kind', kind)
        FROM transactions
    UNION ALL SELECT 3, id, sent_ms, 'broadcast', NULL, NULL, '{}'
        FROM attempts WHERE sent_ms IS NOT NULL
    UNION ALL SELECT 4, id, settled_ms, 'settled', tx_hash, included_block,
        json_object('outcome', outcome) FROM attempts WHERE outcome IS NOT NULL
) ORDER BY at_ms, step""",
)


class JournalError(FatalError):
    """The journal cannot be used; the message names the file and the mend."""


def prepare(db: sqlite3.Connection, path: Path, chain_id: int) -> None:
    """Make the tables, or bring those of an older version up to date, and check the whole.

    All of it is one transaction. Raises JournalError for another chain's journal, a newer version
    and what does not hold together; sqlite3.Error for what is no journal at all.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            for statement in (*SCHEMA, *SINCE_3, *SINCE_4):
                db.execute(statement)
            rows = [("version", str(VERSION)), ("chain_id", str(chain_id))]
            db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        _upgrade(db, path, chain_id)
        _check(db, path)
    except BaseException:
        if db.in_transaction:  # SQLite itself ends it when the disk is full
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _upgrade(db: sqlite3.Connection, path: Path, chain_id: int) -> None:
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    version, chain = meta.get("version", "none"), meta.get("chain_id")
    known = version in {*UPGRADES, str(VERSION)}
    if not known or chain != str(chain_id):
        mend = (
            "give this chain its own keeper.state_dir"
            if known
            else "run the keeper that wrote it, or give this one another keeper.state_dir"
        )
        msg = (
            f"journal {path} is version {version} for chain {chain}, wanted version {VERSION} "
            f"for chain {chain_id}; {mend}"
        )
        raise JournalError(msg)
    for before, upgrade in UPGRADES.items():
        if int(version) <= int(before):
            upgrade(db)
    db.execute("UPDATE meta SET value = ? WHERE key = 'version'", (str(VERSION),))


def _from_1(db: sqlite3.Connection) -> None:
    for statement in FROM_1:
        db.execute(statement)


def _from_2(db: sqlite3.Connection) -> None:
    for statement in FROM_2:
        db.execute(statement)
    for tx_hash, raw in db.execute("SELECT hash, raw FROM transactions").fetchall():
        cost = str(worst_cost_wei(raw))
        db.execute("UPDATE transactions SET cost_wei_max = ? WHERE hash = ?", (cost, tx_hash))


def _from_3(db: sqlite3.Connection) -> None:
    for statement in SINCE_4:
        db.execute(statement)


UPGRADES: Mapping[str, Callable[[sqlite3.Connection], None]] = {
    "1": _from_1,
    "2": _from_2,
    "3": _from_3,
}


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Hold the file against itself: pages and indices, references, and what is in flight."""
    found = [row[0] for row in db.execute("PRAGMA integrity_check(3)") if row[0] != "ok"]
    found += [f"{row[0]} row {row[1]} names no {row[2]}" for row in db.execute(_DANGLING)]
    found += [f"attempt {row[0]} is open and has no transaction" for row in db.execute(_UNSIGNED)]
    if found:
        msg = (
            f"journal {path} is damaged: {'; '.join(found)}; put back a copy of it, or move the "
            "file away to start with an empty one (transactions in flight are then nobody's)"
        )
        raise JournalError(msg)


_DANGLING = 'SELECT "table", rowid, parent FROM pragma_foreign_key_check LIMIT 3'
_UNSIGNED = (
    "SELECT id FROM attempts WHERE outcome IS NULL"
    " AND id NOT IN (SELECT attempt FROM transactions) LIMIT 3"
)
