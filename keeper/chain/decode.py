"""JSON-RPC values → the keeper's own; what is not as it should be is garbage."""

from collections.abc import Mapping
from typing import Any

from keeper.chain.wordings import classify, rpc_error
from keeper.errors import RpcError, RpcFault
from keeper.facts import Log, Receipt


def unhex(text: object) -> bytes:
    """Decode 0x-hex; raises TransientRpcError (garbage) for anything else."""
    try:
        if isinstance(text, str) and text.startswith("0x"):
            return bytes.fromhex(text[2:])
    except ValueError:
        pass
    raise rpc_error(RpcFault.GARBAGE, f"not hex: {str(text)[:80]!r}")


def quantity(text: object) -> int:
    """Decode a hex quantity; raises TransientRpcError (garbage) for anything else."""
    try:
        if isinstance(text, str):
            return int(text, 16)
    except ValueError:
        pass
    raise rpc_error(RpcFault.GARBAGE, f"not a quantity: {str(text)[:80]!r}")


def log_from_json(raw: Mapping[str, Any]) -> Log:
    """Decode a log object; raises TransientRpcError (garbage) when a field is missing."""
    try:
        return Log(
            address=raw["address"].lower(),
            topics=tuple(topic.lower() for topic in raw["topics"]),
            data=unhex(raw["data"]),
            block_number=quantity(raw["blockNumber"]),
            block_hash=raw["blockHash"],
            tx_hash=raw["transactionHash"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise rpc_error(RpcFault.GARBAGE, f"not a log: {error!r}") from None


def receipt_from_json(raw: Mapping[str, Any]) -> Receipt:
    """Decode a receipt; raises TransientRpcError (garbage) when a field is missing."""
    try:
        return Receipt(
            tx_hash=raw["transactionHash"],
            block_number=quantity(raw["blockNumber"]),
            block_hash=raw["blockHash"],
            success=quantity(raw["status"]) == 1,
            gas_used=quantity(raw["gasUsed"]),
            gas_price_wei=quantity(raw["effectiveGasPrice"]),
            logs=tuple(log_from_json(log) for log in raw["logs"]),
            l1_fee_wei=quantity(raw.get("l1Fee") or "0x0"),
        )
    except (KeyError, TypeError) as error:
        raise rpc_error(RpcFault.GARBAGE, f"not a receipt: {error!r}") from None


def result_of(answer: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the result of one answer, or its error as a value; raises when it has neither."""
    if answer.get("error") is not None:
        return error_from(answer)
    if "result" not in answer:
        raise rpc_error(RpcFault.GARBAGE, "answer has neither result nor error")
    return answer["result"]


def error_from(answer: Mapping[str, Any]) -> RpcError:
    """Decode an answer's error object."""
    error = answer["error"]
    if not isinstance(error, dict):
        return rpc_error(RpcFault.GARBAGE, f"error is no object: {str(error)[:80]}")
    code, message = error.get("code", 0), str(error.get("message", ""))
    fault = classify(code if isinstance(code, int) else 0, message)
    return rpc_error(fault, message, _revert_data(error.get("data")))


def _revert_data(data: object) -> bytes:
    if isinstance(data, dict):  # some nodes wrap it once more
        data = data.get("data")
    return unhex(data) if isinstance(data, str) and data.startswith("0x") else b""
