"""What sending goes by, from the config."""

from dataclasses import dataclass

from keeper.decide.budget import Limit
from keeper.decide.learn import Prior
from keeper.facts import FeedId


@dataclass(frozen=True, slots=True)
class ExecutionRules:
    """The parts of ``[gate]``, ``[fees]`` and ``[chain]`` that sending needs."""

    head_age_ms_max: int
    transaction_cost_wei_max: int
    profit_wei_min: int
    open_attempts_max: int
    limits: tuple[Limit, ...]
    prior: Prior
    gas_limit_factor_ppm: int
    hold_ms: int
    native_feed: FeedId
    watcher: str  # the address dry runs simulate from
    candidate_ms_max: int = 60_000
    backup_delay_blocks: int = 0
    simulations_at_once_max: int = 8
