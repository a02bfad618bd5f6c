"""The keys of wallets and fees: who signs, and what is paid for inclusion."""

from pydantic import Field

from keeper.config.keyref import ConfigPath, HttpEndpoint, SecretRef
from keeper.config.table import NAME, WEI_MAX, Live, Table, whole
from keeper.decide.economics import FeeStrategy, Rollup
from keeper.units import GWEI, PPM


class WalletSettings(Table):
    """One wallet that signs. Without any the keeper decides and sends nothing: a dry run."""

    name: str = Field(
        default="main",
        pattern=NAME,
        description="Name of the wallet in logs and metrics: 1 to 64 letters, digits and . _ -",
    )
    key: SecretRef | None = Field(
        default=None,
        description="Where the private key is (hexadecimal); or use keystore, or signer.",
    )
    keystore: ConfigPath | None = Field(
        default=None,
        description="Path of an encrypted JSON keystore, relative to this file; mode 600.",
    )
    password: SecretRef | None = Field(
        default=None, description="Where the password of the keystore is."
    )
    signer: HttpEndpoint | None = Field(
        default=None,
        description="URL of a remote signer that takes eth_signTransaction, as Web3Signer does.",
    )
    address: str | None = Field(
        default=None,
        pattern=r"^0x[0-9a-fA-F]{40}$",
        description="Address that the remote signer signs for.",
    )
    signer_timeout_ms: int = whole(
        2_000, 10, 60_000, "Milliseconds until the remote signer counts as failed."
    )
    balance_wei_min: Live[int] = whole(
        0, 0, WEI_MAX, "Wei that stay in the wallet: it starts no attempt that could take it below."
    )


class FeesSettings(Table):
    """What is paid for inclusion, and gas limits."""

    strategy: Live[FeeStrategy] = Field(
        default=FeeStrategy.FIXED,
        description="How the priority fee of a first try is found: fixed (priority_fee_wei), "
        "percentile (of what others pay), profit_share (of what it is expected to leave).",
    )
    priority_fee_wei: Live[int] = whole(
        1_000_000, 0, WEI_MAX, "Wei a gas for the block builder, at least."
    )
    rollup: Live[Rollup] = Field(
        default=Rollup.NONE,
        description="What the chain charges for layer 1: none, op_stack (data and operator fee) or "
        "arbitrum (more gas); the chain's own contracts are asked.",
    )
    percentile: Live[int] = whole(
        50, 1, 99, "Percentile of the priority fees of the latest blocks, for that strategy."
    )
    profit_share_ppm: Live[int] = whole(
        100_000, 0, PPM, "Parts per million of the expected profit, for that strategy."
    )
    base_fee_headroom_ppm: Live[int] = whole(
        2 * PPM,
        PPM,
        20 * PPM,
        "Fee cap as parts per million of the base fee, before the priority fee is added.",
    )
    max_fee_per_gas_wei_max: Live[int] = whole(
        200 * GWEI, 1, WEI_MAX, "Wei a gas that no transaction, first or replacement, goes beyond."
    )
    replace_after_blocks: Live[int] = whole(
        3, 1, 1_000, "Blocks a transaction waits for inclusion before it is replaced."
    )
    replacement_bump_ppm: Live[int] = whole(
        125_000,
        125_000,
        9 * PPM,
        "Parts per million a replacement adds to both fees; nodes refuse less than 125000.",
    )
    gas_limit_factor_ppm: Live[int] = whole(
        1_500_000, PPM, 10 * PPM, "Gas limit as parts per million of the gas the simulation used."
    )
