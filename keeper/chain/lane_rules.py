"""What every lane of a chain goes by; from ``[chain]``, ``[fees]`` and ``[gate]``."""

from dataclasses import dataclass

from keeper.chain.fees import FeeRules
from keeper.decide.economics import Rollup


@dataclass(frozen=True, slots=True)
class LaneRules:
    """How long to wait, how deep to look and what to pay at most."""

    chain_id: int
    confirmations: int
    replace_after_blocks: int
    cost_wei_max: int
    fees: FeeRules
    rollup: Rollup = Rollup.NONE
