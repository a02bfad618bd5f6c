"""The journal: what was intended, signed, sent and how it ended. SQLite, one writer thread.

A transaction's raw bytes are on disk (WAL, ``synchronous=FULL``) before they are broadcast, so a
keeper that dies in between finds them at the next start. When that cannot be done (disk full, file
locked) ``intend`` raises JournalUnavailableError and nothing is sent. Everything else can be found
out again from the chain: it is written without waiting for the disk, and what cannot be written
now is kept and written with whatever can be next. Amounts in wei are TEXT: they outgrow SQLite's
64-bit integers.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import structlog

from keeper.act.spending import Past
from keeper.chain import journal_rows as rows
from keeper.chain.journal_schema import JournalError, prepare
from keeper.chain.orphans import Included, given_up_since, reopen, settled_since
from keeper.errors import JournalUnavailableError
from keeper.facts import Attempt, Receipt, Settled, SignedTx

__all__ = ["Journal", "JournalError", "JournalInUseError"]

logger = structlog.get_logger(__name__)

LOCKED_S_MAX = 0.25  # waited for another connection's lock; the keeper goes on watching meanwhile
PAUSE_S = 1.0  # after a failed write, until the next is tried
DAY_MS = 86_400_000
COMMITS_MAX = 32  # before what is in the write-ahead log is taken over into the file
LOG_BYTES = 2 * 1024 * 1024  # its length from the start: so many commits take half of it or less
PRUNED_MAX = 1_000  # attempts deleted at once, so that nobody waits long for the writer
MAY_PASS = frozenset(  # primary result codes of a file that is in order
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], None]


class JournalInUseError(JournalError):
    """Another keeper runs on the journal."""


@dataclass(slots=True)
class Intent:
    """Something that must be on disk before anybody acts on it, and whether it is."""

    work: Work
    error: Exception | None = None
    is_over: bool = False


class Journal:
    """All writes and reads run in one thread; callers await them."""

    def __init__(self, path: Path, chain_id: int, days_max: int = 400) -> None:
        """Remember where; ``async with`` opens the file. Settled attempts stay ``days_max``."""
        self.trouble = ""  # why the last write failed; "": it did not
        self._path = path
        self._chain_id = chain_id
        self._days_max = days_max
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._try_again_at = 0.0  # monotonic seconds
        self._intents: deque[Intent] = deque()  # put by the callers, taken by the thread
        self._notes: deque[Callable[[], None]] = deque()  # likewise: what adds to what is late
        # the thread's own: what could not be written yet
        self._late: list[Work] = []
        self._on_chain: dict[str, tuple[str, str]] = {}  # attempt → transaction, block hash
        self._pruned_ms = 0
        self._commits = 0  # since the log was last taken over into the file

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
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
            if self._db is not None and code in MAY_PASS:
                raise self._failed(str(error)) from error
            msg = f"journal {self._path}: {error}; nothing is sent that cannot be written down"
            raise JournalError(msg) from error

    def _failed(self, error: str) -> JournalUnavailableError:
        if not self.trouble:
            logger.error("journal cannot be written: nothing is sent", path=str(self._path))
        self.trouble = error
        self._try_again_at = time.monotonic() + PAUSE_S
        msg = f"journal {self._path}: {error}; make room on its disk, or end what has it locked"
        return JournalUnavailableError(msg)

    def _worked(self) -> None:
        if self.trouble:
            logger.warning("journal is written again: sending goes on", path=str(self._path))
        self.trouble = ""

    # --- the file ---------------------------------------------------------------------------------

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
            self._db = sqlite3.connect(self._path, timeout=LOCKED_S_MAX, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")  # not by a commit that is waited for
            prepare(self._db, self._path, self._chain_id)
            self._make_room()
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
        except BaseException:
            self._close()
            raise

    def _make_room(self) -> None:
        """Make the write-ahead log as long as it becomes: what is behind its end is not looked at.

        A commit that makes a file longer waits for the file system's journal as well, and so for
        what everybody else writes to the disk. Without room on it the log grows as it goes.
        """
        with contextlib.suppress(OSError), Path(f"{self._path}-wal").open("r+b") as log:
            log.write(bytes(max(0, LOG_BYTES - log.seek(0, os.SEEK_END))))
            log.flush()
            os.fsync(log.fileno())

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

    # --- writing ----------------------------------------------------------------------------------

    def _commit(self, work: Work | None = None) -> bool:
        """Write what is late, and ``work`` after it: all or nothing, on disk if there is work.

        Returns whether anything was written.
        """
        db = self._open_db
        while self._notes:
            self._notes.popleft()()
        if work is None and not self._late and not self.trouble:
            return False
        if work is not None:
            db.execute("PRAGMA synchronous = FULL")  # on disk before anybody else sees the bytes
        try:
            db.execute("BEGIN IMMEDIATE")
            if self.trouble:
                rows.touch(db)  # if nothing else is written, this tells whether it can be again
            for late in self._late:
                late(db)
            if work is not None:
                work(db)
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            # the rest can be found out again from the chain, and an fsync costs a millisecond
            db.execute("PRAGMA synchronous = NORMAL")
        self._late.clear()
        self._commits += 1
        if work is None and self._commits >= COMMITS_MAX:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._commits = 0
        return True

    async def _note(self, keep: Callable[[], None]) -> None:
        """Let ``keep`` add to what is late, and write that now if it is possible.

        Those that come while the thread is busy are written with what it writes next.
        """
        waits = bool(self.trouble) and time.monotonic() < self._try_again_at
        work = rows.probe if self.trouble else None  # a file is whole again when it can be written
        self._notes.append(keep)

        def note() -> bool:
            return not waits and self._commit(work)

        try:
            written = await self._run(note)
        except JournalUnavailableError as error:
            logger.debug("kept to be written later", error=str(error))
        else:
            if written:  # else another's failure meanwhile still stands
                self._worked()

    async def intend(self, attempt: Attempt, transaction: SignedTx) -> None:
        """Write an attempt and one signed transaction; on disk when this returns.

        Raises JournalUnavailableError when it is not: then nobody may see the transaction. Those
        that come while another is being written share one commit: it waits for the disk once.
        """
        if self.trouble and time.monotonic() < self._try_again_at:
            msg = f"journal {self._path}: {self.trouble}; tried again in a moment"
            raise JournalUnavailableError(msg)
        intent = Intent(lambda db: rows.intend(db, attempt, transaction))
        self._intents.append(intent)
        await self._run(lambda: self._commit_intents(intent))
        self._worked()

    def _commit_intents(self, own: Intent) -> None:
        """Write all that wait, unless another's commit had this one in it."""
        if not own.is_over:
            together: list[Intent] = []
            while self._intents:
                together.append(self._intents.popleft())

            def work(db: sqlite3.Connection) -> None:
                for intent in together:
                    intent.work(db)

            error: Exception | None = RuntimeError("a bug kept it from being written")
            try:
                self._commit(work)
                error = None
            except (sqlite3.Error, OSError) as failed:
                error = failed
            finally:
                for intent in together:
                    intent.error, intent.is_over = error, True
        if own.error is not None:
            raise own.error

    async def sent(self, attempt_id: str, sent_ms: int, tick_to_sent_ms: float | None) -> None:
        """Note the first acceptance by an endpoint, and how long after the price it came."""

        def work(db: sqlite3.Connection) -> None:
            rows.sent(db, attempt_id, sent_ms, tick_to_sent_ms)

        await self._note(lambda: self._late.append(work))

    async def resumed(self, attempts: Sequence[Attempt], now_ms: int) -> None:
        """Note that this process goes on with what another left in flight."""

        def work(db: sqlite3.Connection) -> None:
            for attempt in attempts:
                rows.resumed(db, attempt.id, now_ms)

        await self._note(lambda: self._late.append(work))

    async def follow(
        self, attempts: Sequence[Attempt], receipts: Mapping[str, Receipt], now_ms: int
    ) -> None:
        """Note which attempts have been included since the last time, and which no longer are."""

        def keep() -> None:
            for attempt in attempts:
                found = [receipts[tx.hash] for tx in attempt.transactions if tx.hash in receipts]
                receipt = found[-1] if found else None
                place = (receipt.tx_hash, receipt.block_hash) if receipt else None
                if place == self._on_chain.get(attempt.id):
                    continue
                self._on_chain.pop(attempt.id, None)
                if place:
                    self._on_chain[attempt.id] = place
                self._late.append(rows.found_on_chain(attempt.id, receipt, now_ms))

        await self._note(keep)

    async def settle(self, settled: Sequence[Settled], now_ms: int) -> None:
        """Write the end of an attempt, for each of its accounts; once a day, delete what is old."""

        def keep() -> None:
            self._on_chain.pop(settled[0].attempt.id, None)
            self._late.append(lambda db: rows.settle(db, settled, now_ms))
            if now_ms - self._pruned_ms > DAY_MS:
                self._pruned_ms = now_ms
                before_ms = now_ms - self._days_max * DAY_MS
                self._late.append(lambda db: rows.prune(db, before_ms, PRUNED_MAX))

        await self._note(keep)

    async def reopen(self, attempts: Sequence[Attempt], event: rows.Event, now_ms: int) -> None:
        """Take back the end of these; ``event``: the blocks are gone, or they are there after all.

        Raises JournalUnavailableError when that is not on disk.
        """

        def work(db: sqlite3.Connection) -> None:
            for attempt in attempts:
                reopen(db, attempt.id, event, now_ms)

        await self._run(lambda: self._commit(work))
        self._worked()

    # --- reading ----------------------------------------------------------------------------------

    async def open_attempts(self) -> list[Attempt]:
        """Return the attempts without an outcome, by nonce."""
        return await self._run(lambda: rows.open_attempts(self._open_db))

    async def settled_since(self, block: int) -> list[Included]:
        """Return the attempts that were settled by this block or a later one, by nonce."""
        return await self._run(lambda: settled_since(self._open_db, block))

    async def given_up_since(self, since_ms: int) -> list[Attempt]:
        """Return the last attempts that ended since then with nothing of theirs on the chain."""
        return await self._run(lambda: given_up_since(self._open_db, since_ms))

    async def profit_wei(self) -> dict[str, int]:
        """Return reward less cost by venue, over everything settled."""
        return await self._run(lambda: rows.profit_wei(self._open_db))

    async def topped_up_wei(self, since_ms: int) -> int:
        """Return what left the treasury since, or is about to."""
        return await self._run(lambda: rows.topped_up_wei(self._open_db, since_ms))

    async def past(self, since_ms: int) -> list[Past]:
        """Return what was settled since, oldest first."""
        return await self._run(lambda: rows.past(self._open_db, since_ms))

    def size_bytes(self) -> int:
        """Return the size of the file and its write-ahead log."""
        parts = (self._path, Path(f"{self._path}-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())
