"""Somebody else is faster, or the node forgets: one outcome, a bounded cost, no loop.

| case | what comes of it |
|---|---|
| a competitor's transaction is mined first | lost: one revert is paid, and nothing is sent again |
| the node drops ours | it is noticed, sent again within the same nonce, won |
"""

from collections.abc import Iterator

import pytest

from keeper.units import GWEI, WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.test_kill_keeper import automine, pending
from tests.market_chain import FEE_WEI
from tests.nodes import running_anvil

LIMIT_S = 30.0
BLOCKS_AFTER = 8  # in which a loop would show


@pytest.fixture
def waiting(
    tmp_path_factory: pytest.TempPathFactory, broker: Broker
) -> Iterator[tuple[Rig, KeeperProcess, int]]:
    """A keeper whose transaction for an account waits in the pool; blocks come when told."""
    folder = tmp_path_factory.mktemp("contested")
    with running_anvil() as node, opened(folder, node, broker) as rig:
        rig.oracle.set(0, 2_000 * WAD)
        rig.chain.set_prices(rig.oracle.prices)
        account = rig.open_safe()
        with rig.keeper(Options(ws=None)) as keeper:
            keeper.until_ready()
            automine(node, on=False)
            rig.oracle.set(0, 1_900 * WAD)
            keeper.until(lambda: len(pending(rig, keeper)) == 1, LIMIT_S)
            yield rig, keeper, account


def balance_wei(rig: Rig, keeper: KeeperProcess) -> int:
    return int(rig.node.rpc("eth_getBalance", keeper.wallet, "latest"), 16)


def mined_until(rig: Rig, keeper: KeeperProcess, outcome: str) -> None:
    def ended() -> bool:
        rig.node.rpc("evm_mine")
        return keeper.metric("keeper_attempts_total", outcome=outcome) == 1

    keeper.until(ended, LIMIT_S)


def outbid(rig: Rig, account: int) -> None:
    """Liquidate from a wallet that pays more."""
    update = rig.chain.sign(0, 1_900 * WAD, rig.oracle.last_ms)
    call = {
        "from": rig.chain.dev[3],
        "to": rig.chain.address,
        "data": rig.chain.encode("liquidate_with_prices", account, [update]),
        "value": hex(FEE_WEI),
        "gas": hex(2_000_000),
        "maxFeePerGas": hex(500 * GWEI),
        "maxPriorityFeePerGas": hex(100 * GWEI),
    }
    rig.node.rpc("eth_sendTransaction", call)


def test_a_competitor_that_is_faster_costs_one_revert(
    waiting: tuple[Rig, KeeperProcess, int],
) -> None:
    rig, keeper, account = waiting
    before = balance_wei(rig, keeper)
    (tx_hash,) = pending(rig, keeper)
    sent = rig.node.rpc("eth_getTransactionByHash", tx_hash)
    outbid(rig, account)
    mined_until(rig, keeper, "lost")
    for _ in range(BLOCKS_AFTER):
        rig.node.rpc("evm_mine")
    assert rig.nonce(keeper.wallet, "pending") == 1, "nothing was sent again"
    spent = before - balance_wei(rig, keeper)
    assert 0 < spent <= int(sent["gas"], 16) * int(sent["maxFeePerGas"], 16)
    keeper.stop()
    (row,) = keeper.journal()
    assert (row.outcome, row.cost_wei) == ("lost", spent)


def test_a_transaction_that_the_node_forgot_is_sent_again(
    waiting: tuple[Rig, KeeperProcess, int],
) -> None:
    rig, keeper, account = waiting
    (tx_hash,) = pending(rig, keeper)
    rig.node.rpc("anvil_dropTransaction", tx_hash)
    mined_until(rig, keeper, "won")
    assert rig.liquidated(account)
    assert rig.nonce(keeper.wallet, "pending") == 1
    keeper.stop()
    assert [row.outcome for row in keeper.journal()] == ["won"]
