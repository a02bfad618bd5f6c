"""Which candidate first."""

from enum import StrEnum


class Objective(StrEnum):
    """What a venue's liquidations are for."""

    PROFIT = "profit"  # highest expected value first; a loss is never taken
    SOLVENCY = "solvency"  # a venue's own keeper: most bad debt at risk first, within a budget


def priority(objective: Objective, *, reward_wad: int, shortfall_wad: int) -> tuple[int, int]:
    """Return a sort key, lower first.

    Before simulation only the venue's own numbers are known: the reward it would pay and how far
    equity lies below the requirement (both USD wads). Gas and oracle fee are near equal for all.
    """
    if objective is Objective.SOLVENCY:
        return (-shortfall_wad, -reward_wad)
    return (-reward_wad, -shortfall_wad)
