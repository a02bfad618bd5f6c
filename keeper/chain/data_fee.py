"""What a rollup charges beside gas for putting a transaction on layer 1.

OP-stack chains: the predeployed GasPriceOracle knows the formula of the fork in force, for the data
(``getL1Fee``) and for the operator (``getOperatorFee``, since Isthmus). Arbitrum charges gas, which
its NodeInterface tells (``gasEstimateL1Component``). No formula is repeated here: they change by
fork.
"""

from collections.abc import Sequence

import structlog
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.chain.decode import unhex
from keeper.chain.signer import TYPE_2, Unsigned, encoded
from keeper.chain.wordings import rpc_error
from keeper.decide.economics import DataFee, Fee, Rollup
from keeper.errors import RpcError, RpcFault
from keeper.facts import Step
from keeper.ports import Rpc

logger = structlog.get_logger(__name__)

GAS_PRICE_ORACLE = "0x420000000000000000000000000000000000000f"
NODE_INTERFACE = "0x00000000000000000000000000000000000000c8"
GET_L1_FEE = keccak(b"getL1Fee(bytes)")[:4]
GET_OPERATOR_FEE = keccak(b"getOperatorFee(uint256)")[:4]
L1_COMPONENT = keccak(b"gasEstimateL1Component(address,bool,bytes)")[:4]
# as long as any that is sent: the fee is asked for before nonce and fees are known
_NONCE, _FEE = 2**24 - 1, Fee(2**48 - 1, 2**48 - 1)
_WORD = 32


async def read_data_fees(
    rpc: Rpc, rollup: Rollup, chain_id: int, steps: Sequence[Step]
) -> Sequence[DataFee] | None:
    """Return what each step costs beside its execution; None when that is not known."""
    try:
        match rollup:
            case Rollup.NONE:
                return [DataFee() for _ in steps]
            case Rollup.OP_STACK:
                return await _op_stack_fees(rpc, chain_id, steps)
            case Rollup.ARBITRUM:
                return await _arbitrum_fees(rpc, steps)
    except RpcError as error:
        logger.warning("the data fee is not known", error=str(error))
        return None


async def _op_stack_fees(rpc: Rpc, chain_id: int, steps: Sequence[Step]) -> Sequence[DataFee]:
    asked = []
    for step in steps:
        unsigned = Unsigned(step.call, _NONCE, step.gas, _FEE, chain_id)
        raw = TYPE_2 + encoded(unsigned.fields)
        asked.append(_ask(GAS_PRICE_ORACLE, GET_L1_FEE + encode(["bytes"], [raw])))
        asked.append(_ask(GAS_PRICE_ORACLE, GET_OPERATOR_FEE + encode(["uint256"], [step.gas])))
    answers = await rpc.batch(asked)
    pairs = zip(answers[::2], answers[1::2], strict=True)
    # before Isthmus there is no operator fee, nor a method to ask for it
    return [
        DataFee(wei=_first_word(data) + (0 if _is_missing(operator) else _first_word(operator)))
        for data, operator in pairs
    ]


async def _arbitrum_fees(rpc: Rpc, steps: Sequence[Step]) -> Sequence[DataFee]:
    """Ask for the gas that stands for layer 1: a simulation does not charge it.

    Where gas is estimated instead, the estimate holds it already: then it is counted twice, which
    is never too little.
    """
    kinds = ["address", "bool", "bytes"]
    asked = [
        _ask(NODE_INTERFACE, L1_COMPONENT + encode(kinds, [step.call.to, False, step.call.data]))
        for step in steps
    ]
    return [DataFee(gas=_first_word(answer)) for answer in await rpc.batch(asked)]


def _first_word(answer: object) -> int:
    if isinstance(answer, RpcError):
        raise answer
    words = unhex(answer)
    if not words or len(words) % _WORD:
        raise rpc_error(RpcFault.GARBAGE, "the chain's own contract answered no number")
    return int.from_bytes(words[:_WORD], "big")


def _is_missing(answer: object) -> bool:
    """Say whether the contract has no such method: it reverts without a word."""
    return isinstance(answer, RpcError) and answer.fault is RpcFault.REVERTED and not answer.data


def _ask(to: str, data: bytes) -> tuple[str, list[object]]:
    return "eth_call", [{"to": to, "input": "0x" + data.hex()}, "latest"]
