"""How accounts are found at a start: from the journal, then from the logs since."""

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.app import discover
from keeper.chain.journal import Journal
from keeper.facts import AccountId
from tests.shell.market import set_account
from tests.shell.rig import Rig, scripted_rig
from tests.shell.rpc import FakeRpc
from tests.shell.venue import VENUE

ALICE, BOB, CAROL = AccountId("alice"), AccountId("bob"), AccountId("carol")


class CountingRpc(FakeRpc):
    """Remembers the ranges of logs that were asked for."""

    ranges: list[tuple[int, int]]

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[object]:
        for method, params in requests:
            query = params[0]
            if method == "eth_getLogs" and isinstance(query, dict):
                self.ranges.append((int(query["fromBlock"], 16), int(query["toBlock"], 16)))
        return await super().batch(requests)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite", 31337) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def rig() -> Rig:
    made, _ = scripted_rig()
    for account in (ALICE, BOB, ALICE):
        made.mine(set_account(account, 1))  # blocks 101, 102, 103
    return made


@pytest.fixture
def rpc(rig: Rig) -> CountingRpc:
    made = CountingRpc(rig.chain)
    made.ranges = []
    return made


async def found(
    rig: Rig, journal: Journal, rpc: FakeRpc, start: int = 100, range_max: int = 1_000
) -> list[tuple[int, list[AccountId]]]:
    steps = discover(journal, rpc, {VENUE: start}, range_max, rig.desk, rig.chain.head)
    return [step async for step in steps]


async def test_the_first_start_reads_all_logs_range_by_range(
    rig: Rig, journal: Journal, rpc: CountingRpc
) -> None:
    assert await found(rig, journal, rpc, range_max=2) == [(101, [ALICE]), (103, [ALICE, BOB])]
    assert rpc.ranges == [(100, 101), (102, 103)]


async def test_logs_before_the_venue_was_deployed_are_not_asked_for(
    rig: Rig, journal: Journal, rpc: CountingRpc
) -> None:
    assert await found(rig, journal, rpc, start=103) == [(103, [ALICE])]
    assert rpc.ranges == [(103, 103)]


async def test_a_restart_reads_only_what_it_missed(
    rig: Rig, journal: Journal, rpc: CountingRpc
) -> None:
    head = rig.chain.head
    await journal.checkpoint(rig.desk.scope, head.number, head.hash, [ALICE, BOB])
    rig.mine(set_account(CAROL, 1))
    assert await found(rig, journal, rpc) == [(103, [ALICE, BOB]), (104, [CAROL])]
    assert rpc.ranges == [(104, 104)]


async def test_a_restart_at_the_same_head_reads_no_logs(
    rig: Rig, journal: Journal, rpc: CountingRpc
) -> None:
    head = rig.chain.head
    await journal.checkpoint(rig.desk.scope, head.number, head.hash, [ALICE, BOB])
    assert await found(rig, journal, rpc) == [(103, [ALICE, BOB])]
    assert rpc.ranges == []


@pytest.mark.parametrize("blocks", [1, 3], ids=["gone", "replaced"])
async def test_a_checkpoint_on_another_history_is_forgotten(
    rig: Rig, journal: Journal, rpc: CountingRpc, blocks: int
) -> None:
    head = rig.chain.head
    await journal.checkpoint(rig.desk.scope, head.number, head.hash, [ALICE, BOB, CAROL])
    rig.chain.orphan(2)
    for _ in range(blocks):
        rig.mine()
    assert await found(rig, journal, rpc) == [(rig.chain.head.number, [ALICE])]
    assert await journal.known(rig.desk.scope) == ([], None)


async def test_another_venue_address_has_its_own_accounts(
    rig: Rig, journal: Journal, rpc: CountingRpc
) -> None:
    head = rig.chain.head
    await journal.checkpoint("perps@0xother", head.number, head.hash, [CAROL])
    assert await found(rig, journal, rpc) == [(103, [ALICE, BOB])]
