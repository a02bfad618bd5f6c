"""The ledger: which blocks' logs have been read for which venue, and the accounts found in them.

A SQLite file of its own beside the journal. All of it can be found again in the chain's logs, so a
damaged file is set aside and rebuilt. A range is written together with the accounts found in it, in
one transaction: a keeper that is killed goes on where it was, and a block that was not read is a
gap that ``gaps`` names. The newest ranges are kept apart, each with the hash of its last block, so
that a reorg found at a start costs no more than what it replaced; older ones are merged.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import structlog

from keeper.coverage import Covered, holes
from keeper.errors import FatalError
from keeper.facts import AccountId

logger = structlog.get_logger(__name__)

VERSION = 1
SCHEMA = f"""
CREATE TABLE covered (
    scope TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, hash TEXT NOT NULL,
    PRIMARY KEY (scope, first)
) WITHOUT ROWID;
CREATE TABLE accounts (
    scope TEXT NOT NULL, account TEXT NOT NULL, found INTEGER NOT NULL, touched INTEGER NOT NULL,
    PRIMARY KEY (scope, account)
) WITHOUT ROWID;
CREATE TABLE everything (scope TEXT PRIMARY KEY, touched INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {VERSION}
"""

T = TypeVar("T")


class LedgerError(FatalError):
    """The ledger cannot be written; the message names the file."""


class Ledger:
    """Covered ranges and found accounts by scope. Implements ``ports.Memory``.

    All work runs in one thread; callers await it. The journal's lock keeps other keepers away.
    """

    def __init__(self, path: Path, depth: int) -> None:
        """Remember where; ``depth``: blocks a reorg may go back, whose ranges are kept apart."""
        self._path = path
        self._depth = depth
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._db: sqlite3.Connection | None = None
        self._trouble = False  # the last writing failed

    async def __aenter__(self) -> Self:
        """Open or create the file; one that is damaged or of another version is set aside."""
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
            msg = f"ledger {self._path}: {error}; make room, or move it: it is rebuilt"
            raise LedgerError(msg) from error

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            trouble = self._connect()
        except sqlite3.OperationalError:  # a full disk, say: the file itself is in order
            self._close()
            raise
        except sqlite3.DatabaseError as error:
            trouble = str(error)
        if trouble:
            self._close()
            aside = self._path.with_suffix(".damaged")
            self._path.replace(aside)
            logger.error(
                "ledger refused: reading all logs again", trouble=trouble, kept_as=str(aside)
            )
            self._connect()

    def _connect(self) -> str:
        """Open the file; return what is wrong with it, or ""."""
        self._db = db = sqlite3.connect(self._path, isolation_level=None)
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            return "damaged"
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is read again
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(SCHEMA)
        return "" if version in {0, VERSION} else f"version {version}, wanted {VERSION}"

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            msg = "the ledger is not open"
            raise LedgerError(msg)
        return self._db

    async def cover(
        self,
        scope: str,
        ranges: Sequence[Covered],
        touched: Mapping[AccountId, int],
        *,
        everything: int | None = None,
        cut_from: int | None = None,
    ) -> bool:
        """Note ranges whose logs have been read and the newest block that touched each account.

        ``everything``: a block that touched all accounts. ``cut_from``: the first block that a
        reorg replaced; what was read from there on is forgotten first. Returns whether it could be
        written: what could not is a gap, until it is given again or read again.
        """
        # as if all were found in the lowest block: a cut may leave one too many, never one too few
        lowest = min((one.first for one in ranges), default=0)
        found = [(scope, account, lowest, block) for account, block in touched.items()]
        covered = [(scope, one.first, one.last, one.hash) for one in ranges]

        def work() -> None:
            db = self._open_db
            with db:
                db.execute("BEGIN IMMEDIATE")
                if cut_from is not None:
                    _cut(db, scope, cut_from)
                db.executemany(
                    "INSERT INTO accounts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " found = min(found, excluded.found), touched = max(touched, excluded.touched)",
                    found,
                )
                db.executemany(
                    "INSERT INTO covered VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " last = excluded.last, hash = excluded.hash WHERE excluded.last >= last",
                    covered,
                )
                if everything is not None:
                    db.execute(
                        "INSERT INTO everything VALUES (?, ?) ON CONFLICT DO UPDATE"
                        " SET touched = max(touched, excluded.touched)",
                        (scope, everything),
                    )
                _merge(db, scope, self._depth)

        try:
            await self._run(work)
        except LedgerError as error:
            if not self._trouble:
                logger.warning("ledger not written: logs would be read again", why=str(error))
            self._trouble = True
            return False
        self._trouble = False
        return True

    async def cut(self, scope: str, block: int) -> None:
        """Forget what was read from this block on."""
        await self.cover(scope, (), {}, cut_from=block)

    async def covered(self, scope: str) -> list[Covered]:
        """Return the ranges that have been read, lowest first; the older ones merged."""
        return await self._run(lambda: _ranges(self._open_db, scope))

    async def gaps(self, scope: str, first: int, last: int) -> list[range]:
        """Return which of these blocks, both ends included, have not been read."""
        return holes(await self.covered(scope), first, last)

    async def known(self, scope: str) -> list[AccountId]:
        """Return the accounts found in what has been read."""
        return await self.touched_since(scope, -1)

    async def touched_since(self, scope: str, block: int) -> list[AccountId]:
        """Return the accounts that were touched after a block: all, if something touched all."""

        def work() -> list[AccountId]:
            db = self._open_db
            everything = db.execute(
                "SELECT 1 FROM everything WHERE scope = ? AND touched > ?", (scope, block)
            ).fetchone()
            rows = db.execute(
                "SELECT account FROM accounts WHERE scope = ? AND touched > ?",
                (scope, -1 if everything else block),
            )
            return [AccountId(account) for (account,) in rows]

        return await self._run(work)


def _ranges(db: sqlite3.Connection, scope: str) -> list[Covered]:
    rows = db.execute(
        "SELECT first, last, hash FROM covered WHERE scope = ? ORDER BY first", (scope,)
    )
    return [Covered(*row) for row in rows]


def _cut(db: sqlite3.Connection, scope: str, block: int) -> None:
    """Drop the ranges that reach a block, whole: the hash in their middle is not known."""
    (first,) = db.execute(
        "SELECT min(first) FROM covered WHERE scope = ? AND last >= ?", (scope, block)
    ).fetchone()
    db.execute("DELETE FROM covered WHERE scope = ? AND last >= ?", (scope, block))
    cut = block if first is None else min(first, block)
    db.execute("DELETE FROM accounts WHERE scope = ? AND found >= ?", (scope, cut))


def _merge(db: sqlite3.Connection, scope: str, depth: int) -> None:
    """Merge neighbouring ranges that no reorg reaches any more."""
    ranges = _ranges(db, scope)
    old = [one for one in ranges if one.last <= ranges[-1].last - depth]
    merged = old[:1]
    for one in old[1:]:
        before = merged[-1]
        if one.first > before.last + 1:
            merged.append(one)
        elif one.last > before.last:
            merged[-1] = Covered(before.first, one.last, one.hash)
    if len(merged) < len(old):
        gone = [(scope, one.first) for one in old]
        db.executemany("DELETE FROM covered WHERE scope = ? AND first = ?", gone)
        rows = [(scope, one.first, one.last, one.hash) for one in merged]
        db.executemany("INSERT INTO covered VALUES (?, ?, ?, ?)", rows)
