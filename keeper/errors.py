"""What the keeper does about each sort of failure.

Three sorts (see ARCHITECTURE.md): an *outcome* is a value, matched exhaustively; a *transient*
error comes from the edge and is retried there; everything else is a bug and ends the process,
except in ``quarantine.py``, where one account or one venue is set aside.
"""

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


class JournalUnavailableError(TransientError):
    """What has to be written down cannot be now (disk full, file locked): so it is not done."""


class ProtocolError(KeeperError):
    """A peer answered something that its protocol does not allow (garbage, wrong type)."""


class RpcFault(StrEnum):
    """Every way a JSON-RPC call can fail, told apart once, in ``chain/wordings.py``."""

    UNREACHABLE = "unreachable"  # connection refused, lost, or timed out
    RATE_LIMITED = "rate_limited"  # HTTP 429 or the provider's own wording
    GARBAGE = "garbage"  # not JSON-RPC
    REVERTED = "reverted"  # execution reverted; ``data`` holds the revert data
    NONCE_TOO_LOW = "nonce_too_low"
    ALREADY_KNOWN = "already_known"
    UNDERPRICED = "underpriced"  # fee too low, or replacement not high enough
    INSUFFICIENT_FUNDS = "insufficient_funds"
    UNKNOWN_BLOCK = "unknown_block"  # this node does not have the block asked for
    UNSUPPORTED = "unsupported"  # method not found
    WRONG_CHAIN = "wrong_chain"  # the endpoint serves another chain: never used until it does not
    OTHER = "other"


class EndpointState(StrEnum):
    """How an endpoint is, from best to worst. A closed set: a metric label."""

    HEALTHY = "healthy"
    SLOW = "slow"
    FLAKY = "flaky"  # it answers, and fails as often
    STALE = "stale"  # its head is behind the others'
    LIMITED = "limited"  # it asked for a pause, and gets it
    DOWN = "down"
    WRONG_CHAIN = "wrong_chain"


TRANSIENT_FAULTS = frozenset(
    {
        RpcFault.UNREACHABLE,
        RpcFault.RATE_LIMITED,
        RpcFault.GARBAGE,
        RpcFault.UNKNOWN_BLOCK,
        RpcFault.WRONG_CHAIN,
    }
)


DEFINITE_FAULTS = frozenset({RpcFault.INSUFFICIENT_FUNDS, RpcFault.OTHER, RpcFault.UNSUPPORTED})


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
        return self.fault in DEFINITE_FAULTS and self.tries == 1


class TransientRpcError(RpcError, TransientError):
    """An RPC failure of ``TRANSIENT_FAULTS``: worth another try, perhaps elsewhere."""
