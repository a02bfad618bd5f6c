"""The journal read back, by an operator or by a judge; it may be in use by a running keeper."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
        yield db
    except sqlite3.Error as error:
        msg = f"journal {path}: {error}; run this as the keeper's user, on the keeper's own file"
        raise JournalError(msg) from None
    finally:
        db.close()


def read_attempts(path: Path) -> list[AttemptRow]:
    """Read all attempts of a journal, oldest first."""
    with reading(path) as db:
        rows = db.execute(
            "SELECT id, venue, account, nonce, opened_ms, outcome, detail, tick_to_sent_ms,"
            " included_block, tx_hash, reward_wad, reward_wei, cost_wei, (SELECT count(*) - 1 FROM"
            " transactions WHERE attempt = attempts.id), job, gains FROM attempts"
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
