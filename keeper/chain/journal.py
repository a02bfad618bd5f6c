"""The journal: what was intended, signed, sent and how it ended. SQLite, one writer thread.

A transaction's raw bytes are on disk (WAL, ``synchronous=FULL``) before they are broadcast, so a
keeper that dies in between finds them at the next start; outcomes are written without waiting for
the disk, since the chain can be asked for them again. Amounts in wei are TEXT: they outgrow
SQLite's 64-bit integers.
"""

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from keeper.chain.journal_rows import plan_from_json, plan_to_json, transactions_of
from keeper.errors import FatalError
from keeper.facts import Attempt, Settled, SignedTx

VERSION = 2
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE attempts (
    id TEXT PRIMARY KEY, venue TEXT NOT NULL, account TEXT NOT NULL,
    wallet TEXT NOT NULL, nonce INTEGER NOT NULL, plan TEXT NOT NULL, opened_ms INTEGER NOT NULL,
    sent_ms INTEGER, tick_to_sent_ms REAL,
    outcome TEXT, detail TEXT, settled_ms INTEGER, tx_hash TEXT, included_block INTEGER,
    reward_wad TEXT, reward_wei TEXT, cost_wei TEXT, job TEXT, gains TEXT
);
CREATE INDEX attempts_open ON attempts (opened_ms) WHERE outcome IS NULL;
CREATE INDEX attempts_account ON attempts (venue, account);
CREATE TABLE transactions (
    hash TEXT PRIMARY KEY, attempt TEXT NOT NULL REFERENCES attempts (id), raw BLOB NOT NULL,
    kind TEXT NOT NULL, max_fee_wei TEXT NOT NULL, priority_fee_wei TEXT NOT NULL,
    signed_ms INTEGER NOT NULL, block INTEGER NOT NULL, job TEXT
);
CREATE INDEX transactions_attempt ON transactions (attempt);
"""
# from version 1: it knew one job
UPGRADE = """
ALTER TABLE attempts ADD COLUMN job TEXT;
ALTER TABLE attempts ADD COLUMN gains TEXT;
ALTER TABLE transactions ADD COLUMN job TEXT;
UPDATE attempts SET job = 'liquidate';
UPDATE transactions SET job = 'liquidate';
UPDATE meta SET value = '2' WHERE key = 'version'
"""

T = TypeVar("T")


class JournalError(FatalError):
    """The journal cannot be used; the message names the file and the mend."""


class JournalInUseError(JournalError):
    """Another keeper runs on the journal."""


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


class Journal:
    """All writes and reads run in one thread; callers await them."""

    def __init__(self, path: Path, chain_id: int) -> None:
        """Remember where; ``async with`` opens the file."""
        self._path = path
        self._chain_id = chain_id
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = None

    async def __aenter__(self) -> Self:
        """Open or create the file; raises JournalError when it is in use or cannot be used."""
        try:
            await self._run(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what is queued and close the file."""
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            msg = f"journal {self._path}: {error}; nothing is sent that cannot be written down"
            raise JournalError(msg) from error

    @property
    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            msg = "the journal is not open"
            raise JournalError(msg)
        return self._db

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._claim()
        try:
            self._db = db = sqlite3.connect(self._path, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                db.executemany(
                    "INSERT INTO meta VALUES (?, ?)",
                    [("version", str(VERSION)), ("chain_id", str(self._chain_id))],
                )
            meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
            if meta == {"version": "1", "chain_id": str(self._chain_id)}:
                for statement in UPGRADE.split(";"):
                    db.execute(statement)
                meta["version"] = str(VERSION)
            db.execute("COMMIT")
        except sqlite3.OperationalError:  # a full disk, say: the file itself is in order
            self._close()
            raise
        except sqlite3.DatabaseError as error:
            self._close()
            msg = (
                f"journal {self._path}: {error}; move the file away to start with an empty one "
                "(transactions still in flight are then nobody's)"
            )
            raise JournalError(msg) from None
        if meta.get("version") != str(VERSION) or meta.get("chain_id") != str(self._chain_id):
            self._close()
            msg = (
                f"journal {self._path} is version {meta.get('version')} for chain "
                f"{meta.get('chain_id')}, wanted version {VERSION} for chain {self._chain_id}; "
                "give this chain its own keeper.state_dir"
            )
            raise JournalError(msg)

    def _claim(self) -> None:
        """Lock a file beside the journal: a second keeper on it would spend the same nonces."""
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._close()
            msg = f"journal {self._path} is in use by another keeper: give each its own state_dir"
            raise JournalInUseError(msg) from None

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            os.close(self._lock)  # the kernel lets go of it even after a kill -9
            self._lock = None

    async def intend(self, attempt: Attempt, transaction: SignedTx) -> None:
        """Write an attempt (if new) and one signed transaction; on disk when this returns."""

        def work() -> None:
            db = self._open_db
            db.execute("PRAGMA synchronous = FULL")  # on disk before anybody else sees the bytes
            with db:
                db.execute("BEGIN IMMEDIATE")
                db.execute(
                    "INSERT OR IGNORE INTO attempts (id, venue, account, wallet, nonce, plan,"
                    " opened_ms, job) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        attempt.id,
                        attempt.plan.venue,
                        attempt.plan.account,
                        attempt.wallet,
                        attempt.nonce,
                        plan_to_json(attempt.plan),
                        attempt.opened_ms,
                        attempt.plan.job.value,
                    ),
                )
                db.execute(
                    "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                    ),
                )
            # what follows can be found out again from the chain, and an fsync costs a millisecond
            db.execute("PRAGMA synchronous = NORMAL")

        await self._run(work)

    async def sent(self, attempt_id: str, sent_ms: int, tick_to_sent_ms: float | None) -> None:
        """Note the first acceptance by an endpoint, and how long after the price it came."""

        def work() -> None:
            self._open_db.execute(
                "UPDATE attempts SET sent_ms = ?, tick_to_sent_ms = ? WHERE id = ?",
                (sent_ms, tick_to_sent_ms, attempt_id),
            )

        await self._run(work)

    async def settle(self, settled: Settled, now_ms: int) -> None:
        """Write the end of an attempt."""
        receipt = settled.receipt

        def work() -> None:
            self._open_db.execute(
                "UPDATE attempts SET outcome = ?, detail = ?, settled_ms = ?, tx_hash = ?,"
                " included_block = ?, reward_wad = ?, reward_wei = ?, cost_wei = ?, gains = ?"
                " WHERE id = ?",
                (
                    settled.outcome.value,
                    settled.detail,
                    now_ms,
                    receipt.tx_hash if receipt else None,
                    receipt.block_number if receipt else None,
                    str(settled.reward_wad),
                    str(settled.reward_wei),
                    str(settled.cost_wei),
                    json.dumps({name: str(wad) for name, wad in settled.gains.items()}),
                    settled.attempt.id,
                ),
            )

        await self._run(work)

    async def open_attempts(self) -> list[Attempt]:
        """Return the attempts without an outcome, by nonce."""

        def work() -> list[Attempt]:
            db = self._open_db
            rows = db.execute(
                "SELECT id, wallet, nonce, plan, opened_ms, sent_ms FROM attempts"
                " WHERE outcome IS NULL ORDER BY nonce"
            ).fetchall()
            return [
                Attempt(
                    id=row[0],
                    plan=plan_from_json(row[3]),
                    wallet=row[1],
                    nonce=row[2],
                    transactions=transactions_of(db, row[0]),
                    opened_ms=row[4],
                    sent_ms=row[5],
                )
                for row in rows
            ]

        return await self._run(work)

    async def profit_wei(self) -> dict[str, int]:
        """Return reward less cost by venue, over everything settled."""

        def work() -> dict[str, int]:
            totals: dict[str, int] = {}
            for venue, reward, cost in self._open_db.execute(
                "SELECT venue, reward_wei, cost_wei FROM attempts WHERE outcome IS NOT NULL"
            ):
                totals[venue] = totals.get(venue, 0) + int(reward) - int(cost)
            return totals

        return await self._run(work)

    def size_bytes(self) -> int:
        """Return the size of the file and its write-ahead log."""
        parts = (self._path, Path(f"{self._path}-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())


def read_attempts(path: Path) -> list[AttemptRow]:
    """Read all attempts of a journal that no keeper has open, oldest first."""
    db = sqlite3.connect(path)
    try:
        rows = db.execute(
            "SELECT id, venue, account, nonce, opened_ms, outcome, detail, tick_to_sent_ms,"
            " included_block, tx_hash, reward_wad, reward_wei, cost_wei, (SELECT count(*) - 1 FROM"
            " transactions WHERE attempt = attempts.id), job, gains FROM attempts"
            " ORDER BY opened_ms, nonce"
        ).fetchall()
    finally:
        db.close()
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
