"""JSON-RPC values → the keeper's own; what is not as it should be is garbage."""

from collections.abc import Mapping
from typing import Any

import msgspec

from keeper.chain.wordings import classify, rpc_error
from keeper.collector import at_rest
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


class RawLog(msgspec.Struct, gc=False, rename="camel"):
    """A log object as it is answered."""

    address: str
    topics: list[str]
    data: str
    block_number: str
    block_hash: str
    transaction_hash: str


class RawHint(msgspec.Struct, rename="camel"):
    """A log object as it is announced, perhaps before its block is made."""

    address: str
    topics: list[str]
    data: str
    block_number: str | None = None


RAW_LOGS = msgspec.json.Decoder(list[RawLog])


def logs_from_json(answer: bytes | msgspec.Raw) -> list[Log]:
    """Decode an answer of eth_getLogs; raises TransientRpcError (garbage) when it is none."""
    try:
        with at_rest():
            return [_log(raw) for raw in RAW_LOGS.decode(answer)]
    except (ValueError, RecursionError) as error:
        raise rpc_error(RpcFault.GARBAGE, f"not an answer of eth_getLogs: {error}") from None


def hint_from_json(raw: bytes | msgspec.Raw) -> Log:
    """Decode a log that is announced: hashes are left out, and a block that has no number is 0.

    Raises ValueError for what is no log.
    """
    hint = msgspec.json.decode(raw, type=RawHint)
    return _log(RawLog(hint.address, hint.topics, hint.data, hint.block_number or "0x0", "", ""))


def log_from_json(raw: Mapping[str, Any]) -> Log:
    """Decode a log object; raises TransientRpcError (garbage) when a field is missing."""
    try:
        return _log(msgspec.convert(raw, RawLog))
    except ValueError as error:
        raise rpc_error(RpcFault.GARBAGE, f"not a log: {error}") from None


def _log(raw: RawLog) -> Log:
    """Raise ValueError for what is no hex. Millions are made: no call that can be left out."""
    if raw.data[:2] != "0x":
        msg = f"not hex: {raw.data[:80]!r}"
        raise ValueError(msg)
    return Log(
        raw.address.lower(),
        tuple(map(str.lower, raw.topics)),
        bytes.fromhex(raw.data[2:]),
        int(raw.block_number, 16),
        raw.block_hash,
        raw.transaction_hash,
    )


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


class Answer(msgspec.Struct):
    """One answer; its result is decoded when it is known to what question."""

    id: int | str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: Any = None


ANSWER, ANSWERS = msgspec.json.Decoder(Answer), msgspec.json.Decoder(list[Answer])


def answers_from(body: bytes) -> list[Answer]:
    """Decode what was answered to one request or to a batch."""
    try:
        return ANSWERS.decode(body) if body.lstrip()[:1] == b"[" else [ANSWER.decode(body)]
    except (ValueError, RecursionError):  # msgspec's are ValueErrors too
        raise rpc_error(RpcFault.GARBAGE, f"no JSON-RPC answer: {body[:60]!r}") from None


def result_of(method: str, answer: Answer) -> Any:  # noqa: ANN401 - JSON
    """Return the result of one answer, or its error as a value; raises when it has neither.

    Of eth_getLogs it is a list of Log, the one answer that may be large; else JSON.
    """
    if answer.error is not None:
        return error_from(answer.error)
    if answer.result is msgspec.UNSET:
        raise rpc_error(RpcFault.GARBAGE, "answer has neither result nor error")
    if method == "eth_getLogs":
        return logs_from_json(answer.result)
    try:
        return msgspec.json.decode(answer.result)
    except (ValueError, RecursionError):  # msgspec's are ValueErrors too
        raise rpc_error(RpcFault.GARBAGE, f"{method}: result is not JSON") from None


def error_from(error: object) -> RpcError:
    """Decode an answer's error object."""
    if not isinstance(error, dict):
        return rpc_error(RpcFault.GARBAGE, f"error is no object: {str(error)[:80]}")
    code, message = error.get("code", 0), str(error.get("message", ""))
    fault = classify(code if isinstance(code, int) else 0, message)
    return rpc_error(fault, message, _revert_data(error.get("data")))


def _revert_data(data: object) -> bytes:
    if isinstance(data, dict):  # some nodes wrap it once more
        data = data.get("data")
    return unhex(data) if isinstance(data, str) and data.startswith("0x") else b""
