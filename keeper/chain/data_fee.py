"""What a rollup charges beside gas for putting a transaction on layer 1.

OP-stack chains: the predeployed GasPriceOracle knows the formula of the fork in force, for the data
(``getL1Fee``) and for the operator (``getOperatorFee``, since Isthmus).
"""

from collections.abc import Sequence

import rlp
import structlog
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.chain.decode import unhex
from keeper.chain.signer import TYPE_2, Unsigned
from keeper.chain.wordings import rpc_error
from keeper.decide.economics import Fee
from keeper.errors import RpcError, RpcFault
from keeper.facts import Step
from keeper.ports import Rpc

logger = structlog.get_logger(__name__)

GAS_PRICE_ORACLE = "0x420000000000000000000000000000000000000f"
GET_L1_FEE = keccak(b"getL1Fee(bytes)")[:4]
GET_OPERATOR_FEE = keccak(b"getOperatorFee(uint256)")[:4]
# as long as any that is sent: the fee is asked for before nonce and fees are known
_NONCE, _FEE = 2**24 - 1, Fee(2**48 - 1, 2**48 - 1)
_WORD = 32


async def op_stack_fee_wei(rpc: Rpc, chain_id: int, steps: Sequence[Step]) -> int | None:
    """Return what these steps cost beside their gas; None when that is not known."""
    asked = []
    for step in steps:
        unsigned = Unsigned(step.call, _NONCE, step.gas, _FEE, chain_id)
        raw = TYPE_2 + rlp.encode(unsigned.fields)
        asked.append(_ask(GET_L1_FEE + encode(["bytes"], [raw])))
        asked.append(_ask(GET_OPERATOR_FEE + encode(["uint256"], [step.gas])))
    try:
        answers = await rpc.batch(asked)
        return sum(_fee_wei(answer, operators=at % 2 == 1) for at, answer in enumerate(answers))
    except RpcError as error:
        logger.warning("the data fee is not known", error=str(error))
        return None


def _fee_wei(answer: object, *, operators: bool) -> int:
    if operators and _is_missing(answer):
        return 0  # before Isthmus there is no such fee, nor a method to ask for it
    if isinstance(answer, RpcError):
        raise answer
    word = unhex(answer)
    if len(word) != _WORD:
        raise rpc_error(RpcFault.GARBAGE, "the gas price oracle answered no number")
    return int.from_bytes(word, "big")


def _is_missing(answer: object) -> bool:
    """Say whether the contract has no such method: it reverts without a word."""
    return isinstance(answer, RpcError) and answer.fault is RpcFault.REVERTED and not answer.data


def _ask(data: bytes) -> tuple[str, list[object]]:
    return "eth_call", [{"to": GAS_PRICE_ORACLE, "input": "0x" + data.hex()}, "latest"]
