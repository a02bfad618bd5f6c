"""The data fee of rollups, asked from predeploys on a real node."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keeper.chain.data_fee import GAS_PRICE_ORACLE, op_stack_fee_wei
from keeper.chain.rpc import HttpRpc
from keeper.demo.artifact import _vyper
from keeper.facts import Call, Step
from keeper.jobs import Job
from tests.chain.conftest import CHAIN_ID
from tests.nodes import Anvil

# as the predeploy answers: by the size of the unsigned transaction, and by gas since Isthmus
ECOTONE = """
@external
@view
def getL1Fee(data: Bytes[100000]) -> uint256:
    return (len(data) + 68) * 1000
"""
ISTHMUS = (
    ECOTONE
    + """
@external
@view
def getOperatorFee(gas_used: uint256) -> uint256:
    return gas_used * 3
"""
)
BROKEN = """
@external
@view
def getL1Fee(data: Bytes[100000]) -> uint256:
    return (len(data) + 68) * 1000
@external
@view
def getOperatorFee(gas_used: uint256) -> uint256:
    raise "not now"
"""
SMALL, LARGE = (Step(Job.LIQUIDATE, Call("0x" + "77" * 20, b"\x01" * n), 100_000) for n in (4, 504))


Place = Callable[[str], None]


@pytest.fixture
def place(node: Anvil, tmp_path: Path) -> Place:
    def put(source: str) -> None:
        (tmp_path / "oracle.vy").write_text(source)
        code = _vyper("-f", "bytecode_runtime", str(tmp_path / "oracle.vy")).strip()
        node.rpc("anvil_setCode", GAS_PRICE_ORACLE, code)

    return put


async def test_data_and_operator_fee_of_all_steps(place: Place, rpc: HttpRpc) -> None:
    place(ISTHMUS)
    small = await op_stack_fee_wei(rpc, CHAIN_ID, [SMALL])
    large = await op_stack_fee_wei(rpc, CHAIN_ID, [LARGE])
    assert small is not None
    assert large is not None
    assert small > 300_000, "the operator's part"
    assert large - small == pytest.approx(500_000, abs=4_000), "the data's part"
    assert await op_stack_fee_wei(rpc, CHAIN_ID, [SMALL, LARGE]) == small + large


async def test_before_isthmus_there_is_no_operator_fee(place: Place, rpc: HttpRpc) -> None:
    place(ECOTONE)
    fee = await op_stack_fee_wei(rpc, CHAIN_ID, [SMALL])
    assert fee is not None
    assert 100_000 < fee < 300_000


async def test_what_cannot_be_asked_is_no_zero(place: Place, rpc: HttpRpc) -> None:
    assert await op_stack_fee_wei(rpc, CHAIN_ID, [SMALL]) is None, "no contract there"
    place(BROKEN)
    assert await op_stack_fee_wei(rpc, CHAIN_ID, [SMALL]) is None
