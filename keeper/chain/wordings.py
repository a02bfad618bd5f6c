"""What nodes answer when they refuse, told apart once: code and wording → ``RpcFault``."""

from keeper.errors import TRANSIENT_FAULTS, RpcError, RpcFault, TransientRpcError

METHOD_NOT_FOUND = -32601
TOO_MANY_REQUESTS = 429
REVERT_CODE = 3

# what nodes say, in the order it is tried; first match wins
WORDINGS: tuple[tuple[RpcFault, tuple[str, ...]], ...] = (
    (RpcFault.NONCE_TOO_LOW, ("nonce too low", "nonce is too low", "oldnonce")),
    (RpcFault.ALREADY_KNOWN, ("already known", "known transaction", "already imported")),
    (RpcFault.UNDERPRICED, ("underpriced", "fee too low", "less than block base fee")),
    (RpcFault.INSUFFICIENT_FUNDS, ("insufficient funds", "insufficient balance")),
    (RpcFault.RATE_LIMITED, ("rate limit", "too many requests", "limit exceeded", "throttle")),
    (
        RpcFault.UNKNOWN_BLOCK,
        ("unknown block", "header not found", "block not found", "blockoutofrange", "out of range"),
    ),
    (RpcFault.UNSUPPORTED, ("method not found", "not supported", "does not exist/is not")),
    (RpcFault.REVERTED, ("revert",)),
)


def classify(code: int, message: str) -> RpcFault:
    """Tell what a JSON-RPC error object means."""
    if code == REVERT_CODE:
        return RpcFault.REVERTED
    if code == METHOD_NOT_FOUND:
        return RpcFault.UNSUPPORTED
    if code == TOO_MANY_REQUESTS:
        return RpcFault.RATE_LIMITED
    text = message.lower()
    for fault, wordings in WORDINGS:
        if any(wording in text for wording in wordings):
            return fault
    return RpcFault.OTHER


def rpc_error(fault: RpcFault, message: str, data: bytes = b"") -> RpcError:
    """Make the error of the right class for a fault."""
    kind = TransientRpcError if fault in TRANSIENT_FAULTS else RpcError
    return kind(fault, message[:300], data)
