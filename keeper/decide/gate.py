"""The gate: everything that may hold a liquidation back.

One pure function for each side of the simulation. Unknown is a reason to hold, never a zero.
"""

from dataclasses import dataclass

from keeper.decide.agenda import HoldReason
from keeper.decide.economics import Economics
from keeper.decide.rank import Objective


@dataclass(frozen=True, slots=True)
class Limits:
    """The ``[gate]`` table of config.toml, and the venue's objective."""

    head_age_ms_max: int
    transaction_cost_wei_max: int
    profit_wei_min: int
    open_attempts_max: int
    objective: Objective
    solvency_budget_wei: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before asking the chain. Ages in ms; a price that is None is unknown or stale.

    The prices a verdict stands on are no fact of the gate: a stale one never reaches the
    assessment, and what the contract's own price makes liquidatable needs none of ours.
    """

    venue_open: bool
    head_age_ms: int
    native_price_wad: int | None
    reward_price_wad: int | None
    attempts_open: int


def before_simulation(facts: Facts, limits: Limits) -> HoldReason | None:
    """Return why not to go on, or None."""
    if not facts.venue_open:
        return HoldReason.VENUE_CLOSED
    if facts.head_age_ms > limits.head_age_ms_max:
        return HoldReason.STALE_HEAD
    if facts.native_price_wad is None or facts.reward_price_wad is None:
        return HoldReason.NO_NATIVE_PRICE
    if facts.attempts_open >= limits.open_attempts_max:
        return HoldReason.OPEN_ATTEMPTS
    return None


def after_simulation(
    economics: Economics, cost_wei_worst: int, limits: Limits, *, upkeep: bool = False
) -> HoldReason | None:
    """Return why not to send, or None. ``upkeep``: it is not done for its own profit.

    ``cost_wei_worst``: gas limit × maximum fee + value, what the transaction may cost at most. It
    is compared as a total, so that neither a low fee with much gas nor the reverse slips through.
    """
    if cost_wei_worst > limits.transaction_cost_wei_max:
        return HoldReason.COST_CAP
    if upkeep:
        return None
    least = limits.profit_wei_min
    if limits.objective is Objective.SOLVENCY:
        least = -limits.solvency_budget_wei
    if economics.expected_wei < least or economics.expected_wei == least == 0:
        return HoldReason.UNPROFITABLE
    return None
