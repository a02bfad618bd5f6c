"""What nodes answer when they refuse, told apart once: code and wording → ``RpcFault``.

What each fault means for a transaction is in ``errors.TREATMENTS``. The wordings are those of geth,
erigon, nethermind, reth, anvil, op-geth and nitro, and of the providers in front of them.
"""

from collections.abc import Mapping

from keeper.errors import TRANSIENT_FAULTS, RpcError, RpcFault, TransientRpcError

CODES: Mapping[int, RpcFault] = {
    3: RpcFault.REVERTED,  # geth and whoever follows it
    429: RpcFault.RATE_LIMITED,  # the HTTP status, repeated by providers
    -32601: RpcFault.UNSUPPORTED,  # JSON-RPC: method not found
}
"""Codes that mean one thing whatever the message is. All others are used for anything."""

WORDINGS: tuple[tuple[RpcFault, tuple[str, ...]], ...] = (
    (RpcFault.ALREADY_KNOWN, ("already known", "known transaction", "already imported")),
    (RpcFault.ALREADY_KNOWN, ("alreadyknown", "existing tx with same hash")),
    (RpcFault.NONCE_TOO_LOW, ("nonce too low", "nonce is too low", "oldnonce")),
    (RpcFault.NONCE_TOO_HIGH, ("nonce too high", "noncegap", "nonce gap", "gapped-nonce")),
    (RpcFault.NONCE_TOO_HIGH, ("nonce too far in", "noncetoofarinfuture")),
    (RpcFault.UNDERPRICED, ("underpriced", "could not replace existing tx")),
    (RpcFault.UNDERPRICED, ("replacementnotallowed", "insufficient gas price to replace")),
    (RpcFault.UNDERPRICED, ("fee too low", "feetoolow", "less than block base fee")),
    (RpcFault.UNDERPRICED, ("fee cap less than", "below chain minimum", "below the minimum")),
    (RpcFault.INSUFFICIENT_FUNDS, ("insufficient funds", "insufficientfunds")),
    (RpcFault.INSUFFICIENT_FUNDS, ("insufficient balance", "insufficient sender balance")),
    (RpcFault.BUSY, ("pool is full", "transaction pool overflow", "pool overflow")),
    (RpcFault.BUSY, ("account limit exceeded", "in-flight transaction limit")),
    (RpcFault.BUSY, ("queue is full", "sequencer temporarily", "syncing")),
    (RpcFault.WRONG_CHAIN, ("invalid chain id", "incorrect chain id", "chain id mismatch")),
    (RpcFault.TX_TYPE, ("transaction type not supported", "tx type not supported")),
    (RpcFault.TX_TYPE, ("unsupported transaction type", "notsupportedtxtype")),
    (RpcFault.GAS_LIMIT, ("intrinsic gas too low", "intrinsicgas", "below intrinsic gas")),
    (RpcFault.GAS_LIMIT, ("exceeds block gas limit", "gas limit reached", "gaslimitexceeded")),
    (RpcFault.GAS_LIMIT, ("gas limit too high", "exceeds the configured cap", "gas too high")),
    (RpcFault.RATE_LIMITED, ("rate limit", "too many requests", "throttle")),
    (RpcFault.RATE_LIMITED, ("request limit", "limit exceeded", "capacity exceeded")),
    (RpcFault.UNKNOWN_BLOCK, ("unknown block", "header not found", "block not found")),
    (RpcFault.UNKNOWN_BLOCK, ("blockoutofrange", "out of range", "missing trie node")),
    (RpcFault.UNKNOWN_BLOCK, ("header for hash not found", "unknown header", "resource not found")),
    (RpcFault.UNSUPPORTED, ("method not found", "does not exist/is not", "not supported")),
    (RpcFault.REVERTED, ("revert",)),
)
"""What nodes say, in the order it is tried; first match wins."""


def classify(code: int, message: str) -> RpcFault:
    """Tell what a JSON-RPC error object means."""
    if code in CODES:
        return CODES[code]
    text = message.lower()
    for fault, wordings in WORDINGS:
        if any(wording in text for wording in wordings):
            return fault
    return RpcFault.OTHER


def rpc_error(fault: RpcFault, message: str, data: bytes = b"") -> RpcError:
    """Make the error of the right class for a fault."""
    kind = TransientRpcError if fault in TRANSIENT_FAULTS else RpcError
    return kind(fault, message[:300], data)
