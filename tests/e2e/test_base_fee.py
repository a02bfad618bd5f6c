"""A base fee that rises tenfold while a transaction waits, on a node that mines when it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.units import GWEI, WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.nodes import running_anvil

SENT_S_MAX = 10.0
SETTLED_S_MAX = 30.0
DEAR_WEI = 10 * GWEI
PRICELESS_WEI = 10**15  # a unit of gas costs more than any liquidation is worth


@pytest.fixture
def manual_rig(tmp_path: Path, broker: Broker) -> Iterator[Rig]:
    """Yield a market for each test: no price of the one before is left at the broker."""
    with running_anvil() as node, opened(tmp_path, node, broker) as rig:
        yield rig


def fees_in_the_pool(rig: Rig, keeper: KeeperProcess) -> list[int]:
    pool = rig.node.rpc("txpool_content")["pending"]
    mine = (txs for sender, txs in pool.items() if sender.lower() == keeper.wallet)
    return [int(tx["maxFeePerGas"], 16) for txs in mine for tx in txs.values()]


def mine_at(rig: Rig, base_fee_wei: int) -> None:
    rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
    rig.node.rpc("evm_mine")


def sent(rig: Rig, keeper: KeeperProcess) -> int:
    """Let the price sink an account; return the fee cap of what is sent."""
    keeper.until_ready()
    rig.node.rpc("evm_setAutomine", False)  # noqa: FBT003
    rig.oracle.set(0, 1_900 * WAD)
    keeper.until(lambda: len(fees_in_the_pool(rig, keeper)) == 1, SENT_S_MAX)
    return fees_in_the_pool(rig, keeper)[0]


@pytest.fixture
def account(manual_rig: Rig) -> Iterator[int]:
    manual_rig.oracle.set(0, 2_000 * WAD)
    manual_rig.chain.set_prices(manual_rig.oracle.prices)
    mine_at(manual_rig, GWEI)
    yield manual_rig.open_safe()
    manual_rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    manual_rig.node.rpc("evm_setAutomine", True)  # noqa: FBT003


def test_it_is_replaced_until_it_is_included(manual_rig: Rig, account: int) -> None:
    rig = manual_rig
    with rig.keeper(Options(ws=None)) as keeper:
        first_wei = sent(rig, keeper)

        def settled() -> bool:
            mine_at(rig, DEAR_WEI)
            return keeper.metric("keeper_attempts_total", outcome="won") == 1

        assert first_wei < DEAR_WEI
        keeper.until(settled, SETTLED_S_MAX)
        keeper.stop()
    assert rig.liquidated(account)
    (attempt,) = keeper.journal()
    assert (attempt.outcome, attempt.nonce) == ("won", 0)
    assert attempt.replacements >= 1


def test_at_the_ceiling_it_is_cancelled(manual_rig: Rig, account: int) -> None:
    rig = manual_rig
    before_wei = 10 * 10**18
    with rig.keeper(Options(ws=None)) as keeper:
        sent(rig, keeper)

        def cancelling() -> bool:
            mine_at(rig, PRICELESS_WEI)
            return keeper.metric("keeper_replacements_total", kind="cancel") >= 1

        keeper.until(cancelling, SETTLED_S_MAX)
        spent_wei = before_wei - int(rig.node.rpc("eth_getBalance", keeper.wallet, "latest"), 16)
        assert spent_wei == 0, "nothing was included at that price"
        keeper.stop()
    assert not rig.liquidated(account)
