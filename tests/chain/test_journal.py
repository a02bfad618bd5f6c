from pathlib import Path

import pytest

from keeper.chain.journal import Journal, JournalError, read_attempts
from keeper.facts import AccountId, Attempt, Outcome, Settled, SignedTx, TxKind
from tests.chain.test_lane import plan


def attempt(number: int, account: str) -> Attempt:
    return Attempt(f"id{number}", plan(account), "0xwallet", number, (), opened_ms=number)


def signed(number: int) -> SignedTx:
    return SignedTx(f"0x{number}", b"raw", TxKind.FIRST, 2 * 10**20, 10**20, 1, 1)


async def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.sqlite"
    async with Journal(path, 1) as journal:
        first, second = attempt(1, "a"), attempt(2, "b")
        await journal.intend(first, signed(1))
        await journal.intend(first, signed(2))
        await journal.intend(second, signed(3))
        await journal.sent("id1", 5, 12.5)
        await journal.settle(Settled(first, Outcome.LOST, "why", None, 10**30, 10**29, 3), 9)
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


async def test_checkpoints_belong_to_a_scope(tmp_path: Path) -> None:
    async with Journal(tmp_path / "j", 1) as journal:
        assert await journal.known("demo@0x1") == ([], None)
        await journal.checkpoint("demo@0x1", 5, "0xaa", [AccountId("1"), AccountId("2")])
        await journal.checkpoint("demo@0x1", 7, "0xbb", [AccountId("2")])
        await journal.checkpoint("demo@0x2", 9, "0xcc", [AccountId("9")])
        accounts, mark = await journal.known("demo@0x1")
        assert sorted(accounts) == ["1", "2"]
        assert mark == (7, "0xbb")
        await journal.forget("demo@0x1")
        assert await journal.known("demo@0x1") == ([], None)
        assert (await journal.known("demo@0x2"))[1] == (9, "0xcc")


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
    with pytest.raises(JournalError, match="chain 1, wanted version 1 for chain 2"):
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
