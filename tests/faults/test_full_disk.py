"""The journal's file cannot grow: a running keeper stops sending, says so, watches on, resumes.

The limit on the size of the process's files stands for the disk: it can be set and lifted from
outside, and the write fails in the same place.
"""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Rig, opened
from tests.faults.books import FUNDS_WEI
from tests.nodes import running_anvil

LIMIT_S = 30.0
BLOCKS = 3
LENGTH_MAX = 100_000  # bytes; making the tables and one attempt take more of the journal's log
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def rig(tmp_path: Path, broker: Broker) -> Iterator[Rig]:
    with (
        running_anvil("--block-time", "0.25", "--mixed-mining") as node,
        opened(tmp_path, node, broker) as running,
    ):
        yield running


def let_no_file_grow(keeper: KeeperProcess) -> None:
    """Nothing it writes may reach further than this: in the journal's log that is the past."""
    assert len(keeper.run.stderr) + 20_000 < LENGTH_MAX, "its own log has to fit"
    resource.prlimit(keeper.run.pid, resource.RLIMIT_FSIZE, (LENGTH_MAX, resource.RLIM_INFINITY))


def test_nothing_is_sent_while_the_journal_cannot_grow(rig: Rig) -> None:
    with rig.keeper() as keeper:
        keeper.until_ready()
        first = rig.open_under()
        keeper.until(lambda: keeper.metric("keeper_attempts_total", outcome="won") == 1, LIMIT_S)
        let_no_file_grow(keeper)
        account = rig.open_under()
        keeper.until(lambda: keeper.metric("keeper_held_total", reason="journal") >= 2, LIMIT_S)
        assert keeper.metric("keeper_journal_writable") == 0
        assert any("journal: cannot be written" in why for why in keeper.unready())
        seen = keeper.metric("keeper_head_block")
        keeper.until(lambda: keeper.metric("keeper_head_block") > seen + BLOCKS, LIMIT_S)
        assert keeper.healthy
        assert rig.nonce(keeper.wallet, "pending") == 1

        resource.prlimit(keeper.run.pid, resource.RLIMIT_FSIZE, NO_LIMIT)
        keeper.until(lambda: keeper.metric("keeper_attempts_total", outcome="won") == 2, LIMIT_S)
        keeper.until_ready()
        keeper.stop()

    rows = keeper.journal()
    assert [(row.outcome, row.account) for row in rows] == [
        ("won", str(first)),
        ("won", str(account)),
    ]
    left_wei = int(rig.node.rpc("eth_getBalance", keeper.wallet, "latest"), 16)
    assert sum(row.cost_wei for row in rows) == FUNDS_WEI - left_wei
