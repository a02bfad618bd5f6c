"""``kill -9`` of the keeper between broadcast and receipt, on a node that mines when it is told."""

from collections.abc import Callable, Iterator

import pytest

from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.nodes import Anvil, running_anvil

SENT_S_MAX = 10.0
SETTLED_S_MAX = 10.0


@pytest.fixture(scope="module")
def manual_rig(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[Rig]:
    with running_anvil() as node, opened(tmp_path_factory.mktemp("manual"), node, broker) as rig:
        yield rig


def automine(node: Anvil, *, on: bool) -> None:
    node.rpc("evm_setAutomine", on)


def pending(rig: Rig, keeper: KeeperProcess) -> list[str]:
    """Return the hashes of the wallet's transactions in the pool."""
    pool = rig.node.rpc("txpool_content")["pending"]
    mine = (txs for sender, txs in pool.items() if sender.lower() == keeper.wallet)
    return [tx["hash"] for txs in mine for tx in txs.values()]


def mine(rig: Rig, _: KeeperProcess) -> None:
    rig.node.rpc("evm_mine")


def drop(rig: Rig, keeper: KeeperProcess) -> None:
    for tx_hash in pending(rig, keeper):
        rig.node.rpc("anvil_dropTransaction", tx_hash)


def nothing(_rig: Rig, _keeper: KeeperProcess) -> None:
    pass


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(nothing, id="it still waits"),
        pytest.param(mine, id="it was mined meanwhile"),
        pytest.param(drop, id="the node forgot it"),
    ],
)
def test_exactly_one_liquidation_and_a_settled_journal(
    manual_rig: Rig, meanwhile: Callable[[Rig, KeeperProcess], None]
) -> None:
    rig = manual_rig
    rig.oracle.set(0, 2_000 * WAD)
    rig.chain.set_prices(rig.oracle.prices)
    account = rig.open_safe()
    before = len(rig.liquidations())
    with rig.keeper(Options(ws=None)) as keeper:
        keeper.until_ready()
        automine(rig.node, on=False)
        try:
            rig.oracle.set(0, 1_900 * WAD)
            keeper.until(lambda: len(pending(rig, keeper)) == 1, SENT_S_MAX)
            (tx_hash,) = pending(rig, keeper)
            keeper.kill()
            meanwhile(rig, keeper)
            keeper.start()
            keeper.until_ready()

            def settled() -> bool:
                rig.node.rpc("evm_mine")
                return keeper.metric("keeper_attempts_total", outcome="won") == 1

            keeper.until(settled, SETTLED_S_MAX)
            keeper.stop()
        finally:
            automine(rig.node, on=True)

    (liquidation,) = rig.liquidations()[before:]
    assert liquidation["account"] == account
    assert rig.nonce(keeper.wallet, "pending") == 1
    (attempt,) = keeper.journal()
    assert (attempt.outcome, attempt.account, attempt.nonce) == ("won", str(account), 0)
    assert attempt.tx_hash == liquidation["tx"]
    # a node that forgot it may take the same bytes again, or a replacement of the same nonce
    assert meanwhile is drop or attempt.tx_hash == tx_hash
    assert attempt.reward_wad == rig.usd(keeper.wallet) > 0
