"""What every lane of a chain goes by and works with."""

from dataclasses import dataclass

from keeper.chain.fees import FeeRules
from keeper.chain.journal import Journal
from keeper.decide.economics import Rollup
from keeper.leading import ALONE, Leading
from keeper.ports import Broadcaster, Clock, Rpc, Telemetry


@dataclass(frozen=True, slots=True)
class LaneRules:
    """How long to wait, how deep to look and what to pay at most, from the config."""

    chain_id: int
    confirmations: int
    replace_after_blocks: int
    cost_wei_max: int
    fees: FeeRules
    rollup: Rollup = Rollup.NONE
    reorg_depth_max: int = 64


@dataclass(frozen=True, slots=True)
class LaneParts:
    """What every lane of a chain works with."""

    rpc: Rpc
    broadcaster: Broadcaster
    journal: Journal
    clock: Clock
    telemetry: Telemetry
    leading: Leading = ALONE
