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
    NotSent.STANDBY: HoldReason.STANDBY,
}


TOO_DEAR_TIMES_MAX = 300  # holds' length, at most: ten minutes of two seconds
FEE_FALL = (7, 8)  # a base fee that fell less is no reason to look again


def too_dear(head: Head, now_ms: int, hold_ms: int, worth_per_gas_wei: int) -> Hold:
    """Say what wakes what does not pay: a base fee at which it does, or a time.

    The time grows with the square of how far it is from paying, so that thousands of dust accounts
    cost next to nothing; what nearly pays is looked at again soon.
    """
    base_fee_wei = head.base_fee_wei or 0
    times = min(base_fee_wei // max(1, worth_per_gas_wei), TOO_DEAR_TIMES_MAX) ** 2
    until_ms = now_ms + hold_ms * max(1, min(times, TOO_DEAR_TIMES_MAX))
    at_wei = min(worth_per_gas_wei, base_fee_wei * FEE_FALL[0] // FEE_FALL[1])
    return Hold(HoldReason.UNPROFITABLE, until_ms=until_ms, base_fee_wei=at_wei)


def waiting(reason: HoldReason, head: Head, until_ms: int) -> Hold:
    """Say what wakes a hold: what only a block changes waits for one, the rest for a time."""
    match reason:
        case HoldReason.NOT_LIQUIDATABLE | HoldReason.STALE_PRICE | HoldReason.ATTEMPT_OPEN:
            return Hold(reason, until_block=head.number + 1)
        case HoldReason.OPEN_ATTEMPTS | HoldReason.NO_PROGRESS | HoldReason.CAPACITY_IN_USE:
            return Hold(reason, until_block=head.number + 1)
        case _:
            return Hold(reason, until_ms=until_ms)
