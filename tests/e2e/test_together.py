"""Eight accounts in one transaction on a real node, one of which always reverts."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import ETHER, Options, Rig, opened
from tests.market_chain import under_eth_long
from tests.nodes import Anvil

COMMAND = (sys.executable, "-m", "tests.e2e.keeper_with_kinds")
DONE_S_MAX = 30.0


@pytest.fixture
def own_rig(tmp_path: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path, node, broker) as rig:
        yield rig


def test_seven_go_through_and_the_one_that_reverts_backs_off(own_rig: Rig) -> None:
    rig = own_rig
    (trap,) = rig.chain.seed([under_eth_long(50.0)])
    others = {rig.open_safe() for _ in range(7)}
    # sure of every race: else what is all or nothing is worth less than one each
    gate = "[gate]\np_win_ppm = 1_000_000\np_win_ppm_min = 1_000_000"
    venue = f'trap = "{trap}"\nbatch_accounts_max = 8\n{gate}'
    with rig.keeper(Options(kind="trapped_market", venue=venue), command=COMMAND) as keeper:
        keeper.until(lambda: keeper.metric("keeper_accounts", venue="demo") == 8, DONE_S_MAX)
        rig.oracle.set(0, 1_900 * WAD)
        keeper.until(lambda: others == {one["account"] for one in rig.liquidations()}, DONE_S_MAX)
        keeper.until(lambda: keeper.metric("keeper_attempts_total", outcome="won") == 7, DONE_S_MAX)
        reverted = {"outcome": "reverted"}
        keeper.until(lambda: keeper.metric("keeper_attempts_total", **reverted) >= 1, DONE_S_MAX)
        assert keeper.healthy
        keeper.stop()

    rows = [row for row in keeper.journal() if row.outcome is not None]
    won = [row for row in rows if row.outcome == "won"]
    assert {int(row.account) for row in won} == others
    together = Counter(row.tx_hash for row in won)
    assert max(together.values()) > 1, f"some went in one transaction: {together}"
    alone = [row for row in rows if row.account == str(trap)]
    assert {row.outcome for row in alone} == {"reverted"}
    assert Counter(row.tx_hash for row in rows)[alone[-1].tx_hash] == 1, "it ended alone"
    balance = int(rig.node.rpc("eth_getBalance", keeper.wallet, "latest"), 16)
    open_nonces = {row.nonce for row in keeper.journal() if row.outcome is None}
    if not open_nonces:  # it may just be trying the trap again
        assert sum(row.cost_wei for row in rows) == 10 * ETHER - balance
    assert sum(row.reward_wad for row in won) == rig.usd(keeper.wallet)
