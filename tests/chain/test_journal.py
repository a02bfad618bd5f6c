import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.chain.journal import Journal, JournalError
from keeper.chain.journal_read import read_attempts
from keeper.chain.signer import KeySigner, Unsigned
from keeper.decide.economics import Fee
from keeper.facts import (
    Attempt,
    Call,
    Outcome,
    Settled,
    SignedTx,
    Step,
    TakenOver,
    TxKind,
)
from keeper.jobs import Gain, Job
from tests.chain.test_lane import plan


def attempt(number: int, account: str) -> Attempt:
    return Attempt(f"id{number}", plan(account), "0xwallet", number, (), opened_ms=number)


def signed(number: int) -> SignedTx:
    call = Call("0x" + "77" * 20, b"", 7)
    fee = Fee(2 * 10**20, 10**20)
    _, raw = KeySigner("0x" + "42" * 32).signed(Unsigned(call, number, 5, fee, 1))
    return SignedTx(f"0x{number}", raw, TxKind.FIRST, fee.max_fee_wei, fee.priority_fee_wei, 1, 1)


async def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.sqlite"
    async with Journal(path, 1) as journal:
        first, second = attempt(1, "a"), attempt(2, "b")
        await journal.intend(first, signed(1))
        await journal.intend(replace(first, transactions=(signed(1),)), signed(2))
        await journal.intend(second, signed(3))
        await journal.sent("id1", 5, 12.5)
        await journal.settle([Settled(first, Outcome.LOST, "why", None, 10**30, 10**29, 3)], 9)
        (still_open,) = await journal.open_attempts()
        assert still_open.plan.call == second.plan.call
        assert still_open.plan.expected == second.plan.expected
        assert still_open.transactions == (signed(3),)
        assert still_open.plan.tick_ns == 0, "another process's monotonic clock means nothing"
        assert journal.size_bytes() > 0
        assert await journal.profit_wei() == {"demo": 10**29 - 3}
    rows = read_attempts(path)
    assert [row.outcome for row in rows] == ["lost", None]
    assert rows[0].tick_to_sent_ms == 12.5
    assert rows[0].replacements == 1
    assert rows[0].reward_wad == 10**30
    assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0


async def test_a_plan_of_several_steps_is_read_back_whole(tmp_path: Path) -> None:
    last = Step(Job.LIQUIDATE, Call("0x" + "88" * 20, b"\x01\x02", 5), 300_000)
    taken = TakenOver("ETH", 10**22, 10**21, 10**18)
    whole = replace(plan("a"), job=Job.PREPARE, then=(last,), takes_over=taken)
    async with Journal(tmp_path / "j", 1) as journal:
        first = replace(attempt(1, "a"), plan=whole)
        await journal.intend(first, replace(signed(1), job=Job.PREPARE))
        again = replace(first, transactions=(signed(1),))
        await journal.intend(again, replace(signed(2), job=Job.LIQUIDATE))
        (found,) = await journal.open_attempts()
        assert found.plan == replace(whole, tick_ns=0, decided_ns=0)
        assert [tx.job for tx in found.transactions] == [Job.PREPARE, Job.LIQUIDATE]
        gains = {Gain.DISCOUNT: 7, Gain.FEE: -(10**20)}
        await journal.settle([Settled(first, Outcome.DONE, "", None, -5, -4, 3, gains)], 9)
    (row,) = read_attempts(tmp_path / "j")
    assert (row.job, row.gains, row.reward_wei) == ("prepare", gains, -4)


async def test_a_journal_of_version_1_is_taken_over(tmp_path: Path) -> None:
    """What was in flight under the old version is still found, and what was won still counts."""
    path = tmp_path / "j"
    async with Journal(path, 1) as journal:
        await journal.intend(attempt(1, "a"), signed(1))
        await journal.intend(attempt(2, "b"), signed(2))
        won = Settled(attempt(1, "a"), Outcome.WON, "", None, 9, 10, 3)
        await journal.settle([won], 9)
    with sqlite3.connect(path) as db:
        old = json.loads(db.execute("SELECT plan FROM attempts WHERE id = 'id2'").fetchone()[0])
        for name in ("job", "then", "takes_over", "batch"):
            del old[name]
        del old["expected"]["exit_cost_wei"]
        db.execute("UPDATE attempts SET plan = ?", (json.dumps(old),))
        db.execute("UPDATE meta SET value = '1' WHERE key = 'version'")
        for name in ("history", "totals", "shares"):
            db.execute(f"DROP TABLE {name}")
        db.execute("DROP VIEW open_attempts")
        db.execute("DROP INDEX attempts_settled")
        db.execute("ALTER TABLE attempts DROP COLUMN native_usd_wad")
        db.execute("ALTER TABLE transactions DROP COLUMN cost_wei_max")
        db.execute("ALTER TABLE attempts DROP COLUMN job")
        db.execute("ALTER TABLE attempts DROP COLUMN gains")
        db.execute("ALTER TABLE transactions DROP COLUMN job")
        db.execute("ALTER TABLE transactions DROP COLUMN accounts")
    db.close()
    async with Journal(path, 1) as journal:
        (found,) = await journal.open_attempts()
        assert found.plan == replace(plan("b"), tick_ns=0, decided_ns=0)
        assert found.transactions == (signed(2),)
        assert await journal.profit_wei() == {"demo": 7}
        await journal.intend(attempt(3, "c"), signed(3))
    assert [(row.job, row.gains) for row in read_attempts(path)] == [("liquidate", {})] * 3


async def test_two_keepers_cannot_share_a_journal(tmp_path: Path) -> None:
    async with Journal(tmp_path / "j", 1):
        with pytest.raises(JournalError, match="in use by another keeper"):
            async with Journal(tmp_path / "j", 1):
                pass
    async with Journal(tmp_path / "j", 1):
        pass  # and the lock is let go of


async def test_another_chains_journal_is_refused(tmp_path: Path) -> None:
    async with Journal(tmp_path / "j", 1):
        pass
    with pytest.raises(JournalError, match="chain 1, wanted version 4 for chain 2"):
        async with Journal(tmp_path / "j", 2):
            pass


async def test_a_damaged_file_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"this is no database, " * 100)
    with pytest.raises(JournalError, match=r"/j: file is not a database; move the file away"):
        async with Journal(tmp_path / "j", 1):
            pass


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"/file/j: .*nothing is sent that cannot be written"):
        async with Journal(tmp_path / "file" / "j", 1):
            pass


async def test_a_disk_that_is_full_is_no_reason_to_move_the_journal_away(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()  # as with a full disk, SQLite cannot open it at all
    with pytest.raises(JournalError) as caught:
        async with Journal(tmp_path / "j", 1):
            pass
    assert "unable to open" in str(caught.value)
    assert "move the file away" not in str(caught.value)
    (tmp_path / "j").rmdir()
    async with Journal(tmp_path / "j", 1):
        pass  # the lock was let go of
