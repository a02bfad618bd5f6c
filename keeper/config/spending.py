"""The keys of ``[gate]`` about money over time: budgets, and what is learned from the past."""

from pydantic import Field

from keeper.config.table import Live, Table
from keeper.units import PPM, WAD

_WEI_MAX = 10**24  # a million native tokens
_USD_MAX = 10**9
_GAS_MAX = 30_000_000  # of a block


def _whole(default: int, high: int, text: str, low: int = 0) -> int:
    """Declare a key for a whole number; floats, strings and booleans are refused."""
    field: int = Field(default=default, ge=low, le=high, strict=True, description=text)
    return field


def _dollars(text: str) -> int | None:
    """Declare a key for whole US dollars that is off until it is written."""
    field: int | None = Field(default=None, ge=0, le=_USD_MAX, strict=True, description=text)
    return field


class Spending(Table):
    """What may be spent and lost in an hour and a day, and what is learned of it."""

    gas_wei_per_hour_max: Live[int] = _whole(
        WAD, _WEI_MAX, "Wei of transaction costs in any hour, worst cases in flight included."
    )
    gas_wei_per_day_max: Live[int] = _whole(5 * WAD, _WEI_MAX, "The same in any 24 hours.")
    gas_usd_per_hour_max: Live[int | None] = _dollars(
        "US dollars of transaction costs in any hour."
    )
    gas_usd_per_day_max: Live[int | None] = _dollars("The same in any 24 hours.")
    loss_wei_per_hour_max: Live[int] = _whole(
        WAD // 2, _WEI_MAX, "Wei that attempts may lose in any hour; wins do not make up for it."
    )
    loss_wei_per_day_max: Live[int] = _whole(2 * WAD, _WEI_MAX, "The same in any 24 hours.")
    loss_usd_per_hour_max: Live[int | None] = _dollars("US dollars attempts may lose in any hour.")
    loss_usd_per_day_max: Live[int | None] = _dollars("The same in any 24 hours.")
    p_win_ppm: Live[int] = _whole(
        900_000, PPM, "Chance to be first, in parts per million, until a venue's past tells.", 1
    )
    p_win_ppm_min: Live[int] = _whole(500_000, PPM, "What is learned of it never goes below.", 1)
    p_win_ppm_max: Live[int] = _whole(990_000, PPM, "What is learned of it never goes above.", 1)
    revert_gas: Live[int] = _whole(
        100_000, _GAS_MAX, "Gas a lost race burns, until a venue's past tells.", 21_000
    )
    revert_gas_max: Live[int] = _whole(10**6, _GAS_MAX, "Most gas that is learned of it.", 21_000)
