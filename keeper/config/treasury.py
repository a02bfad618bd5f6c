"""The keys of the treasury: which wallet tops up the others, and how much."""

from pydantic import Field

from keeper.config.table import NAME, WEI_MAX, Table, whole


class TreasurySettings(Table):
    """A wallet that sends the others what they pay gas with. Without it nobody does."""

    wallet: str | None = Field(
        default=None,
        pattern=NAME,
        description="Name of the [[wallets]] table that tops up the others, and does nothing else.",
    )
    below_wei: int = whole(
        50_000_000_000_000_000, 0, WEI_MAX, "Wei in a wallet below which it is topped up."
    )
    to_wei: int = whole(100_000_000_000_000_000, 1, WEI_MAX, "Wei that it holds then.")
    top_up_wei_max: int = whole(
        100_000_000_000_000_000, 1, WEI_MAX, "Wei that one top-up sends at most."
    )
    wei_per_day_max: int = whole(
        1_000_000_000_000_000_000, 0, WEI_MAX, "Wei that top-ups send in any 24 hours."
    )
    wrapped_native: str | None = Field(
        default=None,
        pattern=r"^0x[0-9a-fA-F]{40}$",
        description="Contract of the wrapped native token: what a wallet that is low holds of it "
        "is unwrapped first.",
    )
