"""A start from a snapshot: only what changed since is read, and nothing damaged is believed."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.chain.backfill import Finder, LogReader, ReadRules
from keeper.chain.ledger import Ledger
from keeper.facts import AccountId
from keeper.watch.snapshot import Snapshots, WarmStart
from tests.fakes import ManualClock, ScriptedLane
from tests.shell.market import FakeChain, set_account, set_open
from tests.shell.rig import WALLET, Rig, make_rig
from tests.shell.rpc import FakeRpc
from tests.shell.venue import VENUE

ALICE, BOB, CAROL, DAVE = (AccountId(name) for name in ("alice", "bob", "carol", "dave"))
PRICES = ("eth", "btc")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with Ledger(tmp_path / "ledger.sqlite", 64) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def chain() -> FakeChain:
    made = FakeChain(pull=False, now_ms=ManualClock().wall_ms)
    for account in (ALICE, BOB, CAROL):
        made.mine(set_account(account, -1_000, eth=10))
    return made


async def started(chain: FakeChain, ledger: Ledger, folder: Path, *, learns: bool = False) -> Rig:
    """Start a keeper like a process: from the ledger, the snapshot and the chain."""
    rig = make_rig(ScriptedLane(WALLET), chain, ManualClock())
    rig.venue.capabilities = replace(rig.venue.capabilities, learns_from_reads=learns)
    rpc = FakeRpc(chain)
    reader = LogReader(rpc, ReadRules(1_000, 1, 1_000))
    finder = Finder(rpc, reader, ledger, {VENUE: 0}, rig.telemetry, lambda *_: None)
    rig.reading.discover, rig.reading.memory = finder.find, ledger
    rig.reading.warm = WarmStart(rpc, ledger, Snapshots(folder, 31337, rig.quarantine))
    for name in PRICES:
        await rig.tick(name, chain.state.prices()[name])
    rig.follow()
    await rig.reading.find(rig.desk, rig.intake, chain.head)
    await rig.reading.restore(rig.desk, rig.intake, chain.head)
    assert await rig.read()
    await rig.decide()
    return rig


def read(rig: Rig) -> set[str]:
    return {account for some in rig.venue.reads for account in some}


def same(rig: Rig, chain: FakeChain) -> bool:
    states = {name: state.holding for name, state in rig.desk.states.items()}  # type: ignore[attr-defined]
    return states == chain.state.holdings


async def stopped(rig: Rig) -> Path:
    snapshots = rig.reading.warm._snapshots
    assert await snapshots.save(rig.desk)
    return snapshots.path(rig.desk)


async def test_a_warm_start_reads_only_what_changed_since(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    first = await started(chain, ledger, tmp_path)
    assert read(first) == {ALICE, BOB, CAROL}
    await stopped(first)
    chain.mine(set_account(BOB, -19_500, eth=10), set_account(DAVE, -10, eth=1))
    chain.mine()
    second = await started(chain, ledger, tmp_path)
    assert read(second) == {BOB, DAVE}
    assert same(second, chain)
    assert second.venue.probes == 1
    assert len(second.desk.lead) == 4
    assert [account for _, account in second.pipeline._candidates._values] == [BOB]


async def test_the_collector_is_kept_off_the_accounts_once_they_are_all_there(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    first = await started(chain, ledger, tmp_path)
    await stopped(first)
    told: list[int] = []
    rig = make_rig(ScriptedLane(WALLET), chain, ManualClock())
    rig.reading.loaded = lambda: told.append(len(rig.reading.inbox))
    rig.start()
    assert await rig.read()
    rig.mine(set_open(is_open=True))
    rig.follow()
    assert await rig.read(), "all are read again"
    assert told == [len(chain.state.holdings) + 2], "once, with market, accounts and head posted"
    before = gc.get_freeze_count()
    await started(chain, ledger, tmp_path)
    assert gc.get_freeze_count() > before, "what comes of a snapshot is there at once"
    gc.unfreeze()


async def test_what_the_last_life_read_after_its_snapshot_is_read_again(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    """The logs are in the ledger by then and are not read again; who was touched is known."""
    first = await started(chain, ledger, tmp_path)
    await stopped(first)
    chain.mine(set_account(BOB, -2_000, eth=10))
    first.follow()
    assert await first.read()  # and killed
    second = await started(chain, ledger, tmp_path)
    assert read(second) == {BOB}
    assert same(second, chain)


async def test_a_change_of_parameters_since_reads_everything(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    await stopped(await started(chain, ledger, tmp_path))
    chain.mine(set_open(is_open=True))
    assert read(await started(chain, ledger, tmp_path)) == {ALICE, BOB, CAROL}


async def test_a_snapshot_of_an_orphaned_block_is_refused(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    await stopped(await started(chain, ledger, tmp_path))
    chain.orphan(1)
    chain.mine(set_account(BOB, -2_000, eth=10))
    second = await started(chain, ledger, tmp_path)
    assert read(second) == {ALICE, BOB}
    assert same(second, chain)


async def test_a_state_of_a_later_block_than_the_snapshots_is_not_taken_for_known(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    """It was learned and not yet noted in the ledger, and its block is orphaned by now."""
    first = await started(chain, ledger, tmp_path)
    complete = first.desk.read_at
    first.reading.memory = first.memory  # what is noted from now on is lost
    chain.mine(set_account(BOB, -2_000, eth=10))
    first.follow()
    assert await first.read()
    await first.decide()
    first.desk.read_at = complete
    await stopped(first)
    chain.orphan(1)
    chain.mine()
    second = await started(chain, ledger, tmp_path)
    assert read(second) == {BOB}
    assert same(second, chain)


async def test_an_account_in_quarantine_is_not_taken_for_known(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    first = await started(chain, ledger, tmp_path)
    with first.quarantine.account(VENUE, BOB):
        raise ZeroDivisionError
    await stopped(first)
    assert read(await started(chain, ledger, tmp_path)) == {BOB}


async def test_a_venue_that_learns_from_what_it_reads_is_read_whole(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    await stopped(await started(chain, ledger, tmp_path))
    second = await started(chain, ledger, tmp_path, learns=True)
    assert read(second) == {ALICE, BOB, CAROL}
    snapshots = second.reading.warm._snapshots
    snapshots.path(second.desk).unlink()
    assert not await snapshots.save(second.desk)
    assert not snapshots.path(second.desk).exists()


async def test_accounts_that_cannot_be_written_end_nothing(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    rig = await started(chain, ledger, tmp_path)
    rig.desk.states[ALICE] = object()  # type: ignore[assignment]
    snapshots = rig.reading.warm._snapshots
    with capture_logs() as logs:
        assert not await snapshots.save(rig.desk)
    assert "of a kind that cannot be written" in logs[0]["error"]
    assert not snapshots.path(rig.desk).exists()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda body: body[: len(body) // 2], "damaged"),
        (lambda body: body.replace(b'"alice"', b'"alicf"', 1), "checksum"),
        (lambda body: body.replace(b'"version":1', b'"version":2'), "of version 2, wanted 1"),
        (lambda body: body.replace(b'"fields":["', b'"fields":["more","'), "other fields"),
        (lambda body: body.replace(b'"scope":"', b'"scope":"un'), "it is of un"),
        (lambda _: b"", "damaged"),
        (lambda _: b"\xff\xfe junk\n\n\n", "damaged"),
    ],
    ids=["torn", "a bit", "version", "fields", "scope", "empty", "junk"],
)
async def test_a_damaged_snapshot_is_refused_said_and_rebuilt(
    chain: FakeChain, ledger: Ledger, tmp_path: Path, damage: object, why: str
) -> None:
    path = await stopped(await started(chain, ledger, tmp_path))
    whole = path.read_bytes()
    assert callable(damage)
    path.write_bytes(damage(whole))
    with capture_logs() as lines:
        second = await started(chain, ledger, tmp_path)
    assert read(second) == {ALICE, BOB, CAROL}
    assert same(second, chain)
    (said,) = [line for line in lines if line["log_level"] == "error"]
    assert said["event"] == "snapshot refused: reading everything"
    assert why in said["why"]
    await stopped(second)
    assert read(await started(chain, ledger, tmp_path)) == set()


async def test_a_disk_that_does_not_take_it_leaves_the_old_one(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    first = await started(chain, ledger, tmp_path)
    path = await stopped(first)
    whole = path.read_bytes()
    path.with_suffix(".part").mkdir()
    assert not await first.reading.warm._snapshots.save(first.desk)
    assert path.read_bytes() == whole


async def test_it_is_written_again_and_again_while_the_keeper_runs(
    chain: FakeChain, ledger: Ledger, tmp_path: Path
) -> None:
    rig = await started(chain, ledger, tmp_path)
    snapshots, beaten = rig.reading.warm._snapshots, asyncio.Event()
    path = snapshots.path(rig.desk)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(snapshots.keep([rig.desk], 1, beaten.set))
        async with asyncio.timeout(30):
            for _ in range(2):
                while not path.exists():
                    beaten.clear()
                    await beaten.wait()
                path.unlink()
        keeping.cancel()


async def test_nothing_is_written_before_everything_was_read(
    chain: FakeChain, tmp_path: Path
) -> None:
    rig = make_rig(ScriptedLane(WALLET), chain, ManualClock())
    assert not await Snapshots(tmp_path, 31337, rig.quarantine).save(rig.desk)
