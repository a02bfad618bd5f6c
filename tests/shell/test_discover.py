"""How accounts are found at a start: from the ledger, then from the logs it does not cover."""

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.chain.backfill import Finder, LogReader, ReadRules
from keeper.chain.ledger import Ledger
from keeper.coverage import Covered
from keeper.errors import RpcError
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
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with Ledger(tmp_path / "ledger.sqlite", 64) as opened:
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
    rig: Rig, ledger: Ledger, rpc: FakeRpc, start: int = 100, range_max: int = 1_000
) -> list[list[AccountId]]:
    reader = LogReader(rpc, ReadRules(range_max, 1, 1_000))
    finder = Finder(rpc, reader, ledger, {VENUE: start}, rig.telemetry, lambda *_: None)
    return [step async for step in finder.find(rig.desk, rig.chain.head)]


async def read_before(rig: Rig, ledger: Ledger, *accounts: AccountId) -> None:
    """Have everything up to the head in the ledger."""
    head = rig.chain.head
    whole = Covered(100, head.number, head.hash)
    await ledger.cover(rig.desk.scope, [whole], dict.fromkeys(accounts, head.number))


async def test_the_first_start_reads_all_logs_range_by_range(
    rig: Rig, ledger: Ledger, rpc: CountingRpc
) -> None:
    assert await found(rig, ledger, rpc, range_max=2) == [[], [ALICE], [ALICE, BOB]]
    assert rpc.ranges == [(100, 101), (102, 103)]
    assert await ledger.gaps(rig.desk.scope, 100, 103) == []
    assert rig.telemetry.gauges["keeper_backfill_blocks_left", VENUE] == 0


async def test_logs_before_the_venue_was_deployed_are_not_asked_for(
    rig: Rig, ledger: Ledger, rpc: CountingRpc
) -> None:
    assert await found(rig, ledger, rpc, start=103) == [[], [ALICE]]
    assert rpc.ranges == [(103, 103)]


async def test_a_restart_reads_only_what_it_missed(
    rig: Rig, ledger: Ledger, rpc: CountingRpc
) -> None:
    await read_before(rig, ledger, ALICE, BOB)
    rig.mine(set_account(CAROL, 1))
    assert await found(rig, ledger, rpc) == [[ALICE, BOB], [CAROL]]
    assert rpc.ranges == [(104, 104)]


async def test_a_restart_at_the_same_head_reads_no_logs(
    rig: Rig, ledger: Ledger, rpc: CountingRpc
) -> None:
    await read_before(rig, ledger, ALICE, BOB)
    assert await found(rig, ledger, rpc) == [[ALICE, BOB]]
    assert rpc.ranges == []


async def test_what_was_read_before_it_failed_is_kept(
    rig: Rig, ledger: Ledger, rpc: CountingRpc
) -> None:
    rpc.lost = lambda: len(rpc.ranges) > 2
    with pytest.raises(RpcError):
        await found(rig, ledger, rpc, range_max=1)
    assert await ledger.gaps(rig.desk.scope, 100, 103) == [range(102, 104)]
    rpc.lost, rpc.ranges = (lambda: False), []
    assert await found(rig, ledger, rpc) == [[ALICE], [ALICE, BOB]]
    assert rpc.ranges == [(102, 103)]


async def test_a_hole_is_read_wherever_it_is(rig: Rig, ledger: Ledger, rpc: CountingRpc) -> None:
    ends = [Covered(n, n, rig.chain.blocks[n - 100].head.hash) for n in (100, 103)]
    await ledger.cover(rig.desk.scope, ends, {})
    assert await found(rig, ledger, rpc) == [[], [ALICE, BOB]]
    assert rpc.ranges == [(101, 102)]


async def test_only_what_a_reorg_replaced_is_read_again(
    rig: Rig, ledger: Ledger, rpc: CountingRpc
) -> None:
    assert await found(rig, ledger, rpc, range_max=1)
    rig.chain.orphan(1)
    rig.mine(set_account(CAROL, 1))
    rpc.ranges.clear()
    assert await found(rig, ledger, rpc) == [[ALICE, BOB], [CAROL]]
    assert rpc.ranges == [(103, 103)]


@pytest.mark.parametrize("blocks", [1, 3], ids=["gone", "replaced"])
async def test_a_ledger_of_another_history_is_forgotten(
    rig: Rig, ledger: Ledger, rpc: CountingRpc, blocks: int
) -> None:
    await read_before(rig, ledger, ALICE, BOB, CAROL)
    rig.chain.orphan(2)
    for _ in range(blocks):
        rig.mine()
    assert await found(rig, ledger, rpc) == [[], [ALICE]]
    assert await ledger.known(rig.desk.scope) == [ALICE]


async def test_another_venue_address_has_its_own_accounts(
    rig: Rig, ledger: Ledger, rpc: CountingRpc
) -> None:
    whole = Covered(100, 103, rig.chain.head.hash)
    await ledger.cover("perps@0xother", [whole], {CAROL: 103})
    assert await found(rig, ledger, rpc) == [[], [ALICE, BOB]]
