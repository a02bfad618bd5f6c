"""What the journal keeps of an attempt, for how long, and how it takes over its older self."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.chain.journal import DAY_MS, Journal, JournalError
from keeper.chain.journal_read import read_attempts
from keeper.chain.journal_schema import VERSION
from keeper.chain.signer import worst_cost_wei
from keeper.facts import Outcome, Receipt, Settled, TxKind
from tests.chain.test_journal import attempt, signed

V2 = Path(__file__).with_name("journal-v2.sqlite")  # by a keeper of 2026-11-25, killed in flight
V2_CHAIN = 31337
FIRST = attempt(1, "a")
SENT = replace(FIRST, transactions=(signed(1),))


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as db, db:
        yield db


def history(path: Path, attempt_id: str = "id1") -> list[tuple[str, str | None, int | None]]:
    query = "SELECT event, tx_hash, block FROM history WHERE attempt = ? ORDER BY seq"
    with opened(path) as db:
        return db.execute(query, (attempt_id,)).fetchall()


def mined(block: int, block_hash: str) -> Receipt:
    return Receipt("0x1", block, block_hash, True, 21_000, 5, ())  # noqa: FBT003 - its status


def won(cost_wei: int = 3) -> Settled:
    return Settled(SENT, Outcome.WON, "", mined(9, "0xb"), 10, 10, cost_wei)


async def test_every_step_is_a_line_and_a_reorg_is_one_too(tmp_path: Path) -> None:
    path = tmp_path / "j"
    async with Journal(path, 1) as journal:
        await journal.intend(FIRST, signed(1))
        await journal.sent("id1", 5, 12.5)
        for receipts in ({}, {"0x1": mined(8, "0xa")}, {"0x1": mined(8, "0xa")}, {}):
            await journal.follow([SENT], receipts, 6)
        await journal.intend(SENT, replace(signed(2), kind=TxKind.REPLACEMENT))
        await journal.follow([SENT], {"0x1": mined(9, "0xb")}, 7)
        with opened(path) as db:
            (view,) = db.execute("SELECT id, state, transactions FROM open_attempts").fetchall()
        assert view == ("id1", "included", 2)
        await journal.settle([won()], 9)
    assert history(path) == [
        ("planned", None, 1),
        ("signed", "0x1", 1),
        ("broadcast", None, None),
        ("included", "0x1", 8),
        ("orphaned", None, None),
        ("signed", "0x2", 1),
        ("included", "0x1", 9),
        ("settled", "0x1", 9),
    ]
    with opened(path) as db:
        assert db.execute("SELECT * FROM open_attempts").fetchall() == []


async def test_history_cannot_be_changed_nor_that_of_an_open_attempt_deleted(
    tmp_path: Path,
) -> None:
    async with Journal(tmp_path / "j", 1) as journal:
        await journal.intend(FIRST, signed(1))
    with opened(tmp_path / "j") as db:
        with pytest.raises(sqlite3.IntegrityError, match="only added to"):
            db.execute("UPDATE history SET event = 'settled'")
        with pytest.raises(sqlite3.IntegrityError, match="not settled"):
            db.execute("DELETE FROM history")


async def test_the_newest_plan_is_the_one_read_back(tmp_path: Path) -> None:
    dearer = replace(SENT, plan=replace(SENT.plan, cost_wei_max=9 * 10**15))
    async with Journal(tmp_path / "j", 1) as journal:
        await journal.intend(FIRST, signed(1))
        await journal.intend(dearer, replace(signed(2), kind=TxKind.REPLACEMENT))
        (found,) = await journal.open_attempts()
    assert found.plan.cost_wei_max == 9 * 10**15
    assert [tx.kind for tx in found.transactions] == [TxKind.FIRST, TxKind.REPLACEMENT]


async def test_old_attempts_go_and_their_money_stays(tmp_path: Path) -> None:
    path, now_ms = tmp_path / "j", 500 * DAY_MS
    async with Journal(path, 1, days_max=100) as journal:
        for number, settled_ms in ((1, now_ms - 101 * DAY_MS), (2, now_ms - 99 * DAY_MS)):
            some = attempt(number, f"a{number}")
            await journal.intend(some, signed(number))
            await journal.settle([replace(won(number), attempt=some)], settled_ms)
        await journal.intend(attempt(3, "open"), signed(3))  # however old: it is in flight
        before = await journal.profit_wei()
        await journal.intend(attempt(4, "now"), signed(4))
        await journal.settle([replace(won(), attempt=attempt(4, "now"))], now_ms)
        assert await journal.profit_wei() == {"demo": before["demo"] + 7}
    assert [row.id for row in read_attempts(path)] == ["id2", "id3", "id4"]
    assert history(path) == []
    with opened(path) as db:
        assert db.execute("SELECT * FROM totals").fetchall() == [("demo", 1, "10", "1")]
    async with Journal(path, 1):
        pass  # what is left holds together


async def test_a_real_journal_of_version_2_is_taken_over(tmp_path: Path) -> None:
    """One attempt was won; one was replaced and in flight when its keeper was killed."""
    path = tmp_path / "journal.sqlite"
    shutil.copy(V2, path)
    with opened(path) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == ("2",)
    async with Journal(path, V2_CHAIN) as journal:
        (flying,) = await journal.open_attempts()
        assert [tx.kind for tx in flying.transactions] == [TxKind.FIRST, TxKind.REPLACEMENT]
        assert await journal.profit_wei() == {"demo": 100_000_000_000_000_000 - 18_695_815_701_363}
        await journal.settle(
            [Settled(flying, Outcome.EXPIRED, "", None, 0, 0, 0)], flying.opened_ms
        )
    rows = read_attempts(path)
    assert [row.outcome for row in rows] == ["won", "expired"]
    assert [event for event, _, _ in history(path, rows[0].id)] == [
        "planned",
        "signed",
        "broadcast",
        "settled",
    ]
    assert [event for event, _, _ in history(path, flying.id)] == [
        "planned",
        "signed",
        "broadcast",
        "signed",
        "settled",
    ]
    with opened(path) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == (
            str(VERSION),
        )
        costs = db.execute("SELECT cost_wei_max, raw FROM transactions").fetchall()
    assert [int(cost) for cost, _ in costs] == [worst_cost_wei(raw) for _, raw in costs]
    assert len({cost for cost, _ in costs}) == 3, "the replacement costs more"


async def test_an_old_journal_is_left_as_it_was_when_it_cannot_be_taken_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(V2, path)
    with opened(path) as db:
        db.execute("UPDATE transactions SET raw = x'c0' WHERE rowid = 3")
    with pytest.raises(IndexError):  # a transaction of no fields: no keeper wrote that
        async with Journal(path, V2_CHAIN):
            pass
    with opened(path) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == ("2",)
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    assert "history" not in names


async def test_a_newer_journal_is_not_touched(tmp_path: Path) -> None:
    async with Journal(tmp_path / "j", 1):
        pass
    with opened(tmp_path / "j") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(JournalError, match=r"version 99 .* run the keeper that wrote it"):
        async with Journal(tmp_path / "j", 1):
            pass


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM transactions", "attempt id1 is open and has no transaction"),
        (
            "INSERT INTO history (attempt, at_ms, event, facts) VALUES ('gone', 1, 'signed', '')",
            "history row 3 names no attempts",
        ),
    ],
)
async def test_what_does_not_hold_together_is_refused_at_the_start(
    tmp_path: Path, damage: str, said: str
) -> None:
    async with Journal(tmp_path / "j", 1) as journal:
        await journal.intend(FIRST, signed(1))
    with opened(tmp_path / "j") as db:
        db.execute(damage)
    with pytest.raises(JournalError, match=f"/j is damaged: {said}; put back a copy of it"):
        async with Journal(tmp_path / "j", 1):
            pass


async def test_a_damaged_page_is_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "j"
    async with Journal(path, 1) as journal:
        await journal.intend(FIRST, signed(1))
    with opened(path) as db:
        db.execute("PRAGMA writable_schema = ON")
        (index,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'transactions_attempt'"
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[(index - 1) * size : index * size] = b"\x0a" + bytes(size - 1)  # an empty index
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"damaged|malformed"):
        async with Journal(path, 1):
            pass


async def test_facts_of_a_line_are_json_with_amounts_as_text(tmp_path: Path) -> None:
    async with Journal(tmp_path / "j", 1) as journal:
        await journal.intend(FIRST, signed(1))
    with opened(tmp_path / "j") as db:
        ((facts,),) = db.execute("SELECT facts FROM history WHERE event = 'signed'").fetchall()
    found = json.loads(facts)
    assert found["kind"] == "first"
    assert found["max_fee_wei"] == str(2 * 10**20)
    assert int(found["cost_wei_max"]) == 5 * 2 * 10**20 + 7
