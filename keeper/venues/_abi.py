"""What venues share when they read a contract: the ABI as text, and answers that may be garbage."""

from collections.abc import Sequence
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from keeper.errors import ProtocolError


def selector(signature: str) -> bytes:
    """Return the four bytes that call a function, of a signature without names and spaces."""
    return keccak(text=signature)[:4]


def topic(signature: str) -> str:
    """Return an event's first topic, 0x-hex."""
    return "0x" + keccak(text=signature).hex()


ERROR_STRING = selector("Error(string)")


def eth_call(to: str, data: bytes, block: object) -> tuple[str, Sequence[object]]:
    """Return the request; ``block`` is a tag or, by EIP-1898, ``{"blockHash": …}``."""
    return "eth_call", [{"to": to, "data": "0x" + data.hex()}, block]


def decoded(kind: str, answer: object) -> Any:  # noqa: ANN401 - the ABI type decides
    """Decode an answer that is one ABI value; raises ProtocolError for what is not one."""
    try:
        if isinstance(answer, str) and answer.startswith("0x"):
            return decode([kind], bytes.fromhex(answer[2:]))[0]
    except (DecodingError, ValueError, OverflowError) as error:
        msg = f"cannot decode {kind[:40]}: {error}"
        raise ProtocolError(msg) from None
    msg = f"expected hex, got {str(answer)[:80]!r}"
    raise ProtocolError(msg)


def revert_reason(data: bytes) -> str:
    """Return the reason inside revert data, or "" when it holds none."""
    if data[: len(ERROR_STRING)] != ERROR_STRING:
        return ""
    try:
        return str(decode(["string"], data[len(ERROR_STRING) :])[0])
    except (DecodingError, ValueError, OverflowError):
        return ""
