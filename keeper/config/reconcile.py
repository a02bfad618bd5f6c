"""The keys of ``[reconcile]``."""

from pydantic import Field

from keeper.config.table import Live, Table
from keeper.units import PPM


class ReconcileSettings(Table):
    """How the book is compared with the chain, all the time."""

    every_ms: Live[int] = Field(
        default=5_000,
        ge=50,
        le=3_600_000,
        strict=True,
        description="Milliseconds between two slices of a venue.",
    )
    accounts_max: Live[int] = Field(
        default=100,
        ge=2,
        le=10_000,
        strict=True,
        description="Accounts of a slice: half are the nearest, half go round all of them.",
    )
    drift_ppm_max: Live[int] = Field(
        default=10_000,
        ge=0,
        le=PPM,
        strict=True,
        description="Share of accounts found wrong, in parts per million, beyond which a "
        "venue is suspect: decisions are made on fresh reads only.",
    )
