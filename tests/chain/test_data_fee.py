"""The data fee of rollups, asked from predeploys on a real node."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keeper.chain.data_fee import GAS_PRICE_ORACLE, NODE_INTERFACE, read_data_fees
from keeper.chain.rpc import HttpRpc
from keeper.decide.economics import DataFee, Rollup
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


NITRO = """
@external
@payable
def gasEstimateL1Component(
    to: address, creation: bool, data: Bytes[100000]
) -> (uint64, uint256, uint256):
    assert not creation
    return convert(len(data) * 16 + 1000, uint64), 7, 9
"""
Place = Callable[..., None]


async def fees_of(rpc: HttpRpc, rollup: Rollup, *steps: Step) -> list[DataFee] | None:
    fees = await read_data_fees(rpc, rollup, CHAIN_ID, steps)
    return None if fees is None else list(fees)


@pytest.fixture
def place(node: Anvil, tmp_path: Path) -> Place:
    def put(source: str, address: str = GAS_PRICE_ORACLE) -> None:
        (tmp_path / "oracle.vy").write_text(source)
        code = _vyper("-f", "bytecode_runtime", str(tmp_path / "oracle.vy")).strip()
        node.rpc("anvil_setCode", address, code)

    return put


async def test_data_and_operator_fee_of_each_step(place: Place, rpc: HttpRpc) -> None:
    place(ISTHMUS)
    fees = await fees_of(rpc, Rollup.OP_STACK, SMALL, LARGE)
    assert fees is not None
    small, large = fees
    assert small.wei > 300_000, "the operator's part"
    assert large.wei - small.wei == pytest.approx(500_000, abs=4_000), "the data's part"
    assert small.gas == large.gas == 0


async def test_before_isthmus_there_is_no_operator_fee(place: Place, rpc: HttpRpc) -> None:
    place(ECOTONE)
    fees = await fees_of(rpc, Rollup.OP_STACK, SMALL)
    assert fees is not None
    assert 100_000 < fees[0].wei < 300_000


async def test_arbitrum_charges_gas(place: Place, rpc: HttpRpc) -> None:
    place(NITRO, NODE_INTERFACE)
    fees = await fees_of(rpc, Rollup.ARBITRUM, SMALL, LARGE)
    assert fees == [DataFee(gas=1_064), DataFee(gas=9_064)]


async def test_what_cannot_be_asked_is_no_zero(place: Place, rpc: HttpRpc) -> None:
    assert await fees_of(rpc, Rollup.OP_STACK, SMALL) is None, "no contract there"
    assert await fees_of(rpc, Rollup.ARBITRUM, SMALL) is None
    place(BROKEN)
    assert await fees_of(rpc, Rollup.OP_STACK, SMALL) is None
    assert await fees_of(rpc, Rollup.NONE, SMALL) == [DataFee()]
