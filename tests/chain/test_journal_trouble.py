"""A journal that cannot be written for a while: nothing is sent, nothing is lost, it goes on."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.chain import journal as journal_module
from keeper.chain.journal import Journal, JournalError
from keeper.chain.journal_read import read_attempts
from keeper.chain.rpc import HttpRpc
from keeper.decide.economics import Fee
from keeper.errors import JournalUnavailableError
from keeper.facts import AccountId, NotSent, Outcome, Settled
from tests.chain.test_journal import attempt, signed
from tests.chain.test_lane import (
    WALLET,
    MakeLane,
    lane_of,
    newest,
    pending,
    plan,
    spend,
    start,
    submit,
)
from tests.nodes import Anvil

__all__ = ["lane_of"]  # a fixture

BIG = AccountId("x" * 8_000)  # needs pages of its own


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "PAUSE_S", 0.0)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "j", 31337) as opened:
        yield opened


async def pages_max(journal: Journal, pages: int | None = None) -> None:
    """Let the file grow to so many pages; None: no further than it is, like a full disk."""

    def limit() -> None:
        now = journal._open_db.execute("PRAGMA page_count").fetchone()[0]
        journal._open_db.execute(f"PRAGMA max_page_count = {now if pages is None else pages}")

    await journal._run(limit)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock, as a backup script that forgot to commit does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def fill(journal: Journal) -> None:
    """Write until the disk is full."""
    await pages_max(journal)
    many = (journal.intend(attempt(n, f"{n}{BIG}"), signed(n)) for n in range(100, 200))

    async def until_it_fails() -> None:
        for one in many:
            await one

    with pytest.raises(JournalUnavailableError, match=r"/j: database or disk is full; make room"):
        await until_it_fails()


async def test_a_full_disk_refuses_what_must_be_on_it_and_keeps_the_rest(
    journal: Journal, tmp_path: Path
) -> None:
    await journal.intend(attempt(1, "a"), signed(1))
    await fill(journal)
    before = {found.id for found in await journal.open_attempts()}
    assert "database or disk is full" in journal.trouble
    await journal.sent("id1", 5, None)
    await journal.settle([Settled(attempt(1, "a"), Outcome.LOST, "z" * 9_000, None, 0, 0, 3)], 9)
    assert {found.id for found in await journal.open_attempts()} == before, "nothing by halves"
    assert journal.trouble

    await pages_max(journal, 10**6)
    with capture_logs() as logs:
        await journal.sent("id1", 6, None)
    assert [log["log_level"] for log in logs if "written again" in log["event"]] == ["warning"]
    assert journal.trouble == ""
    row = next(row for row in read_attempts(tmp_path / "j") if row.id == "id1")
    assert (row.outcome, row.cost_wei) == ("lost", 3)
    await journal.intend(attempt(2, "b"), signed(2))


async def test_a_lock_held_by_another_connection_is_waited_for_and_named(
    journal: Journal, tmp_path: Path
) -> None:
    with locked(tmp_path / "j"), capture_logs() as logs:
        for number in (1, 2):
            with pytest.raises(JournalUnavailableError, match="database is locked"):
                await journal.intend(attempt(number, "a"), signed(number))
    assert [log["event"] for log in logs if log["log_level"] == "error"] == [
        "journal cannot be written: nothing is sent"
    ], "said once"
    await journal.intend(attempt(1, "a"), signed(1))


async def test_after_a_failure_the_next_try_waits(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many candidates at once must not each wait for the lock: the watching would."""
    monkeypatch.setattr(journal_module, "PAUSE_S", 3_600.0)
    with locked(tmp_path / "j"), pytest.raises(JournalUnavailableError, match="is locked"):
        await journal.intend(attempt(1, "a"), signed(1))
    with pytest.raises(JournalUnavailableError, match="tried again in a moment"):
        await journal.intend(attempt(1, "a"), signed(1))
    journal._try_again_at = time.monotonic()
    await journal.intend(attempt(1, "a"), signed(1))


async def test_it_is_not_called_whole_before_something_was_written(
    journal: Journal, tmp_path: Path
) -> None:
    with locked(tmp_path / "j"):
        with pytest.raises(JournalUnavailableError):
            await journal.intend(attempt(1, "a"), signed(1))
        await journal.follow([], {}, 1)  # as at every head
        assert journal.trouble == "database is locked"
    await journal.follow([], {}, 2)
    assert journal.trouble == ""


async def test_damage_found_while_running_is_no_passing_trouble(journal: Journal) -> None:
    def spoil() -> None:
        journal._open_db.execute("DROP TABLE history")

    await journal._run(spoil)
    with pytest.raises(JournalError, match="no such table: history"):
        await journal.intend(attempt(1, "a"), signed(1))


async def test_the_lane_sends_nothing_and_then_goes_on_with_the_same_nonces(
    journal: Journal, lane_of: MakeLane, rpc: HttpRpc, node: Anvil, tmp_path: Path
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    await submit(lane, rpc, plan("1"))
    with locked(tmp_path / "j"):
        head = await newest(rpc)
        fee = lane.first_fee(plan().venue, head, spend())
        assert isinstance(fee, Fee)
        async with asyncio.TaskGroup() as group:
            tries = [
                group.create_task(lane.submit(plan(account), WALLET, fee, head))
                for account in "2345"
            ]
        assert {each.result() for each in tries} == {NotSent.NOT_WRITTEN}
        assert [each.nonce for each in lane.open_attempts] == [0]
        assert set(pending(node)) == {0}
    for account in "2345":
        await submit(lane, rpc, plan(account))
    assert set(pending(node)) == {0, 1, 2, 3, 4}


async def test_a_replacement_that_cannot_be_journaled_is_not_sent(
    journal: Journal, lane_of: MakeLane, rpc: HttpRpc, node: Anvil, tmp_path: Path
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    flying = await submit(lane, rpc, plan("1"))
    head, before = await newest(rpc), pending(node)
    fee = lane.replacement_fee(flying, head, spend())
    assert fee is not None
    with locked(tmp_path / "j"), pytest.raises(JournalUnavailableError):
        await lane.replace(flying, plan("1"), fee, head)
    assert pending(node) == before
    assert lane.open_attempts == (flying,)
    await lane.replace(flying, plan("1"), fee, head)
    assert pending(node) != before


async def test_trouble_lasts_until_something_could_be_written(journal: Journal) -> None:
    await fill(journal)
    journal._late.clear()
    await pages_max(journal)
    await journal.follow([], {}, 9)
    assert journal.trouble == "", "a page that is there may be written again"
    await fill(journal)
    with locked(journal._path):
        await journal.follow([], {}, 9)
        assert journal.trouble


async def intended_at_once(journal: Journal, accounts: Sequence[str]) -> list[BaseException | None]:
    """Intend all of these while the writer is busy; return what each caller got."""
    found: dict[int, BaseException | None] = {}
    busy = threading.Event()

    async def intend(number: int, account: str) -> None:
        try:
            await journal.intend(attempt(number, account), signed(number))
        except JournalUnavailableError as error:
            found[number] = error
        else:
            found[number] = None

    async with asyncio.TaskGroup() as group:
        group.create_task(journal._run(busy.wait))
        for number, account in enumerate(accounts, 1):
            group.create_task(intend(number, account))
        await asyncio.sleep(0)
        busy.set()
    return [found[number] for number in sorted(found)]


async def test_those_that_wait_for_the_disk_share_one_commit(journal: Journal) -> None:
    statements: list[str] = []
    await journal._run(lambda: journal._open_db.set_trace_callback(statements.append))
    assert await intended_at_once(journal, "abcdef") == [None] * 6
    assert statements.count("COMMIT") == 1
    assert {found.plan.account for found in await journal.open_attempts()} == set("abcdef")


async def test_what_shares_a_commit_that_fails_is_refused_together(journal: Journal) -> None:
    await pages_max(journal)
    found = await intended_at_once(journal, ["a", BIG, "c"])
    assert [type(each) for each in found] == [JournalUnavailableError] * 3
    assert await journal.open_attempts() == []
    await pages_max(journal, 10**6)
    await journal.intend(attempt(4, "d"), signed(4))
    assert [each.id for each in await journal.open_attempts()] == ["id4"]


async def test_a_bug_in_what_shares_a_commit_lets_nobody_believe_it_was_written(
    journal: Journal,
) -> None:
    busy = threading.Event()
    nonsense = replace(attempt(2, "b"), plan=replace(plan("b"), call=None))  # type: ignore[arg-type]
    held = asyncio.create_task(journal._run(busy.wait))
    tries = [
        asyncio.create_task(journal.intend(each, signed(each.nonce)))
        for each in (attempt(1, "a"), nonsense, attempt(3, "c"))
    ]
    await asyncio.sleep(0)
    busy.set()
    found = await asyncio.gather(held, *tries, return_exceptions=True)
    assert [type(each) for each in found[1:]] == [AttributeError, RuntimeError, RuntimeError]
    assert await journal.open_attempts() == []


async def test_notes_that_come_meanwhile_are_written_with_the_next_intent(journal: Journal) -> None:
    await journal.intend(attempt(1, "a"), signed(1))
    await journal.intend(attempt(2, "b"), signed(2))
    statements: list[str] = []
    await journal._run(lambda: journal._open_db.set_trace_callback(statements.append))
    busy = threading.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(journal._run(busy.wait))
        for work in (
            journal.intend(attempt(3, "c"), signed(3)),
            journal.sent("id1", 5, None),
            journal.sent("id2", 6, None),
        ):
            group.create_task(work)
        await asyncio.sleep(0)
        busy.set()
    assert statements.count("COMMIT") == 1
    assert [each.sent_ms for each in await journal.open_attempts()] == [5, 6, None]
