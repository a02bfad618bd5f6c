"""Why a candidate is held, by what was answered, and what ends that."""

from collections.abc import Mapping

from keeper.decide.agenda import Hold, HoldReason
from keeper.facts import Head, NotSent

# Refused.reason → why the account is held; anything else is "we could not find out"
REFUSALS: Mapping[str, HoldReason] = {
    "not_liquidatable": HoldReason.NOT_LIQUIDATABLE,
    "no_progress": HoldReason.NO_PROGRESS,
    "no_capital": HoldReason.NO_CAPITAL,
    "oracle": HoldReason.STALE_PRICE,
    "fee": HoldReason.FEE_UNKNOWN,
}
NOT_SENT: Mapping[NotSent, HoldReason] = {
    NotSent.NO_WALLET: HoldReason.DRY_RUN,
    NotSent.NO_ENDPOINT: HoldReason.NO_ENDPOINT,
    NotSent.LANE_PARKED: HoldReason.LANE_PARKED,
    NotSent.NOT_SIGNED: HoldReason.NOT_SIGNED,
    NotSent.NOT_WRITTEN: HoldReason.JOURNAL,
}


def waiting(reason: HoldReason, head: Head, until_ms: int) -> Hold:
    """Say what wakes a hold: what only a block changes waits for one, the rest for a time."""
    match reason:
        case HoldReason.NOT_LIQUIDATABLE | HoldReason.STALE_PRICE | HoldReason.ATTEMPT_OPEN:
            return Hold(reason, until_block=head.number + 1)
        case HoldReason.OPEN_ATTEMPTS | HoldReason.NO_PROGRESS | HoldReason.CAPACITY_IN_USE:
            return Hold(reason, until_block=head.number + 1)
        case _:
            return Hold(reason, until_ms=until_ms)
