"""Which candidate first."""

from enum import StrEnum


class Objective(StrEnum):
    """What a venue's liquidations are for."""

    PROFIT = "profit"  # highest expected value first; a loss is never taken
    SOLVENCY = "solvency"  # a venue's own keeper: most bad debt at risk first, within a budget


def priority(
    objective: Objective, *, reward_wad: int, shortfall_wad: int, bad_debt_wad: int
) -> tuple[int, int]:
    """Return a sort key, lower first.

    Before simulation only the venue's own numbers are known, USD wads: the reward it would pay, how
    far equity lies below the requirement, and how far the account is under water already. Gas and
    oracle fee are near equal for all. For solvency, bad debt that is there comes first, then the
    account that is nearest to it.
    """
    if objective is Objective.SOLVENCY:
        return (-bad_debt_wad, -shortfall_wad)
    return (-reward_wad, -shortfall_wad)
