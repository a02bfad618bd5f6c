"""What the keeper does about each sort of failure.

Three sorts (see ARCHITECTURE.md): an *outcome* is a value, matched exhaustively; a *transient*
error comes from the edge and is retried there; everything else is a bug and ends the process,
except in ``quarantine.py``, where one account or one venue is set aside.
"""

from collections.abc import Mapping
from enum import StrEnum


class KeeperError(Exception):
    """Base of everything the keeper raises on purpose."""


class FatalError(KeeperError):
    """The process must not go on: no account and no venue is to blame, so none is set aside."""


class ConfigError(FatalError):
    """The configuration is wrong. ``problems`` holds every mistake, one line each."""

    def __init__(self, problems: list[str]) -> None:
        """Keep the list; the message is all of it."""
        super().__init__("\n".join(problems))
        self.problems = problems


class TransientError(KeeperError):
    """Something outside failed in a way that may pass: retry, then reconnect."""


class StandbyError(TransientError):
    """Another keeper has the lease, or has it by now: nothing is signed or sent."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("another keeper has the lease")


class JournalUnavailableError(TransientError):
    """What has to be written down cannot be now (disk full, file locked): so it is not done."""


class ProtocolError(KeeperError):
    """A peer answered something that its protocol does not allow (garbage, wrong type)."""


class RpcFault(StrEnum):
    """Every way a JSON-RPC call can fail, told apart once, in ``chain/wordings.py``."""

    UNREACHABLE = "unreachable"  # connection refused, lost, or timed out
    RATE_LIMITED = "rate_limited"  # HTTP 429 or the provider's own wording
    GARBAGE = "garbage"  # not JSON-RPC
    UNKNOWN_BLOCK = "unknown_block"  # this node does not have the block asked for
    BUSY = "busy"  # its pool is full, it is syncing: it takes no transactions now
    WRONG_CHAIN = "wrong_chain"  # the endpoint serves another chain: never used until it does not
    ALREADY_KNOWN = "already_known"
    NONCE_TOO_LOW = "nonce_too_low"
    NONCE_TOO_HIGH = "nonce_too_high"  # a nonce before it is missing
    UNDERPRICED = "underpriced"  # fee too low, or replacement not high enough
    INSUFFICIENT_FUNDS = "insufficient_funds"
    GAS_LIMIT = "gas_limit"  # too little to begin, more than a block holds, or over a node's cap
    TX_TYPE = "tx_type"  # the chain does not take transactions of this type
    REVERTED = "reverted"  # execution reverted; ``data`` holds the revert data
    UNSUPPORTED = "unsupported"  # method not found
    OTHER = "other"


class Treatment(StrEnum):
    """What a fault means for a transaction that was sent."""

    TAKEN = "taken"  # the node has it: as good as accepted
    RETRY = "retry"  # may pass: asked again, elsewhere first; it may have arrived all the same
    KEEP = "keep"  # the nonce stays with it: sent again each block, dearer when overdue
    FUND = "fund"  # the node has not got it and the nonce is free; the wallet waits for money
    GIVE_UP = "give_up"  # the node has not got it and the nonce is free; the account backs off


TREATMENTS: Mapping[RpcFault, Treatment] = {
    RpcFault.UNREACHABLE: Treatment.RETRY,
    RpcFault.RATE_LIMITED: Treatment.RETRY,
    RpcFault.GARBAGE: Treatment.RETRY,
    RpcFault.UNKNOWN_BLOCK: Treatment.RETRY,
    RpcFault.BUSY: Treatment.RETRY,
    RpcFault.WRONG_CHAIN: Treatment.RETRY,
    RpcFault.ALREADY_KNOWN: Treatment.TAKEN,
    RpcFault.NONCE_TOO_LOW: Treatment.KEEP,  # its receipt, or somebody else's, decides
    RpcFault.NONCE_TOO_HIGH: Treatment.KEEP,  # until the gap is filled
    RpcFault.UNDERPRICED: Treatment.KEEP,
    RpcFault.INSUFFICIENT_FUNDS: Treatment.FUND,
    RpcFault.GAS_LIMIT: Treatment.GIVE_UP,
    RpcFault.TX_TYPE: Treatment.GIVE_UP,
    RpcFault.REVERTED: Treatment.GIVE_UP,
    RpcFault.UNSUPPORTED: Treatment.GIVE_UP,
    RpcFault.OTHER: Treatment.KEEP,  # what nobody knows may have arrived
}
TRANSIENT_FAULTS = frozenset(fault for fault, t in TREATMENTS.items() if t is Treatment.RETRY)


class EndpointState(StrEnum):
    """How an endpoint is, from best to worst. A closed set: a metric label."""

    HEALTHY = "healthy"
    SLOW = "slow"
    FLAKY = "flaky"  # it answers, and fails as often
    STALE = "stale"  # its head is behind the others'
    LIMITED = "limited"  # it asked for a pause, and gets it
    DOWN = "down"
    WRONG_CHAIN = "wrong_chain"


class RpcError(KeeperError):
    """A JSON-RPC call failed. ``fault`` says how; ``data`` is the revert data, if any."""

    def __init__(self, fault: RpcFault, message: str, data: bytes = b"") -> None:
        """Keep the classification beside the peer's own words."""
        super().__init__(f"{fault}: {message}")
        self.fault = fault
        self.data = data
        self.tries = 1  # that it took to get this answer; an earlier one may have arrived
        self.retry_after_s = 0.0  # the pause the peer asked for

    @property
    def is_definite(self) -> bool:
        """Say whether surely no endpoint holds what was sent."""
        definite = TREATMENTS[self.fault] in {Treatment.FUND, Treatment.GIVE_UP}
        return definite and self.tries == 1


class TransientRpcError(RpcError, TransientError):
    """An RPC failure to be treated by ``RETRY``: worth another try, perhaps elsewhere."""


class UnknownNameError(ValueError):
    """Something was asked for by a name that nothing has."""
