"""Expected value of one liquidation, in wei of the chain's native token.

    expected = p(win) × (reward − exit cost) − gas × fee − data fee − oracle fee
               − (1 − p(win)) × revert cost

The exit cost is that of closing a position which the liquidation leaves with us; 0 for cash.

A reward in USD is converted by ``reward_usd / native_usd``; both prices are wads. Nothing here is
estimated: what is unknown must be held by the caller, never passed as zero.
"""

from dataclasses import dataclass
from enum import StrEnum

from keeper.units import PPM


@dataclass(frozen=True, slots=True)
class Economics:
    """Terms of the expected value, all in wei. ``expected_wei`` may be negative."""

    reward_wei: int
    gas_cost_wei: int
    oracle_fee_wei: int
    revert_cost_wei: int
    p_win_ppm: int
    exit_cost_wei: int = 0
    data_fee_wei: int = 0  # of a rollup, beside its gas

    @property
    def expected_wei(self) -> int:
        """Return the expected value, rounded down (never in our favour)."""
        win = (self.reward_wei - self.exit_cost_wei) * self.p_win_ppm // PPM
        lose = -(-self.revert_cost_wei * (PPM - self.p_win_ppm) // PPM)
        return win - self.cost_wei - lose

    @property
    def cost_wei(self) -> int:
        """Return what is surely spent when the transaction is included."""
        return self.gas_cost_wei + self.data_fee_wei + self.oracle_fee_wei


@dataclass(frozen=True, slots=True)
class Fee:
    """Both EIP-1559 fields, wei per gas. ``legacy``: both are the one gas price."""

    max_fee_wei: int
    priority_fee_wei: int
    legacy: bool = False

    def paid_at(self, base_fee_wei: int | None) -> int:
        """Return what a unit of gas costs in a block with this base fee; None: a legacy chain."""
        if base_fee_wei is None:
            return self.max_fee_wei
        return min(self.max_fee_wei, base_fee_wei + self.priority_fee_wei)


class Rollup(StrEnum):
    """What a chain charges for layer 1 beside gas."""

    NONE = "none"
    OP_STACK = "op_stack"  # a fee for data and one for the operator, in wei
    ARBITRUM = "arbitrum"  # more gas


@dataclass(frozen=True, slots=True)
class DataFee:
    """What a transaction costs on a rollup beside what its execution uses."""

    wei: int = 0
    gas: int = 0


class FeeStrategy(StrEnum):
    """How the priority fee of a first try is found. A replacement raises whatever there was."""

    FIXED = "fixed"
    PERCENTILE = "percentile"  # of what others pay
    PROFIT_SHARE = "profit_share"  # of what the transaction is expected to leave


@dataclass(frozen=True, slots=True)
class Spend:
    """What a transaction is worth at most, and what it takes. All but ``gas`` as signed."""

    worth_wei: int  # of the whole plan: what may be spent on it without a loss
    gas: int  # of the whole plan, as simulated
    gas_limit: int
    value_wei: int

    @property
    def worth_per_gas_wei(self) -> int:
        """Return what may be paid per unit of gas; negative when the value alone is too much."""
        return (self.worth_wei - self.value_wei) // self.gas


def reward_in_wei(reward_wad: int, reward_price_wad: int, native_price_wad: int) -> int:
    """Convert a reward (token wad, price in USD wads) to wei of the native token, rounded down.

    Raises ValueError for a price that is not positive.
    """
    if reward_price_wad <= 0 or native_price_wad <= 0:
        msg = f"prices must be positive: reward {reward_price_wad}, native {native_price_wad}"
        raise ValueError(msg)
    return reward_wad * reward_price_wad // native_price_wad
