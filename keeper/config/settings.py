"""The frozen settings: every key of config.toml, its unit, default and range."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny

from keeper.config.feeds import FeedSettings
from keeper.config.keyref import (
    ConfigPath,
    Endpoint,
    HttpEndpoint,
    SecretRef,
    WsEndpoint,
    credentials_in,
)
from keeper.config.lease import LeaseSettings
from keeper.config.reconcile import ReconcileSettings
from keeper.config.relays import RelaySettings
from keeper.config.sending import FeesSettings, WalletSettings
from keeper.config.show import plain, references
from keeper.config.spending import Spending
from keeper.config.table import MS_MAX as _MS_MAX
from keeper.config.table import NAME, Live, Table
from keeper.config.table import WEI_MAX as _WEI_MAX
from keeper.config.table import whole as _whole
from keeper.config.treasury import TreasurySettings
from keeper.decide.economics import FeeStrategy
from keeper.decide.rank import Objective
from keeper.errors import ConfigError
from keeper.facts import FeedId, VenueId

_BLOCK_MAX = 2**63 - 1


class KeeperSettings(Table):
    """Where the keeper keeps what must survive a restart."""

    state_dir: ConfigPath = Field(
        default="state",  # type: ignore[assignment]  # validated like a written one
        description="Folder of the journal (journal.sqlite) and of what was read from the chain, "
        "relative to this file.",
    )
    snapshot_s: int = _whole(
        300, 1, 86_400, "Seconds between two snapshots of the accounts, written at a stop too."
    )
    journal_days_max: int = _whole(
        400, 2, 36_500, "Days the journal keeps a settled attempt; its money is summed up for good."
    )
    watch_config: bool = Field(
        default=False,
        strict=True,
        description="Take over changes of this file, a second after the last, as on SIGHUP.",
    )


class LogSettings(Table):
    """How the keeper logs, to standard error."""

    level: Live[Literal["debug", "info", "warning", "error"]] = Field(
        default="info", description="Least severity that is written."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, one JSON object a line elsewhere."
    )


class HttpSettings(Table):
    """The server of /metrics, /healthz, /readyz and the status page."""

    host: str = Field(
        default="127.0.0.1", min_length=1, max_length=253, description="Address to listen on."
    )
    port: int = _whole(9464, 0, 65_535, "TCP port to listen on; 0: any free one.")
    token: SecretRef | None = Field(
        default=None,
        description="Where the token is that POST /api/v1/pause and /api/v1/resume ask for; "
        "without it they do not exist.",
    )
    tls_cert: ConfigPath | None = Field(
        default=None,
        description="PEM file of the server's certificate and its chain; without it: plain HTTP.",
    )
    tls_key: ConfigPath | None = Field(
        default=None, description="PEM file of the certificate's key; mode 600, not encrypted."
    )


class ChainSettings(Table):
    """The chain and the nodes that serve it."""

    id: int = Field(
        ge=1,
        le=_BLOCK_MAX,
        strict=True,
        description="Chain id; an endpoint that differs is refused.",
    )
    http: tuple[HttpEndpoint, ...] = Field(
        min_length=1,
        max_length=16,
        description="JSON-RPC endpoints over HTTP to read from, best first; the next ones are "
        "fail-over.",
    )
    send: tuple[HttpEndpoint, ...] = Field(
        default=(),
        max_length=16,
        description="Endpoints that transactions are sent to, all at once; empty: those of http.",
    )
    public_after_blocks: int | None = Field(
        default=None,
        ge=1,
        le=1_000,
        strict=True,
        description="Blocks after which an attempt that went to [[relays]] is sent publicly as "
        "well; without it, never.",
    )
    ws: tuple[WsEndpoint, ...] = Field(
        default=(),
        max_length=16,
        description="WebSocket endpoints for new heads and logs; without one heads are polled.",
    )
    pending_logs: bool = Field(
        default=False,
        description="Also listen for logs of blocks not yet made (pendingLogs, on Base): accounts "
        "they name are read again with that block, whatever its logs say.",
    )
    native_feed: FeedId = Field(
        description="Feed that prices the chain's native token in USD; gas is weighed with it."
    )
    poll_ms: int = _whole(500, 10, 60_000, "Milliseconds between two polls for the head.")
    rpc_timeout_ms: int = _whole(
        5_000, 50, 120_000, "Milliseconds until a request counts as failed."
    )
    rpc_attempts_max: int = _whole(3, 1, 20, "Attempts a request, over all endpoints.")
    probe_ms: Live[int] = _whole(
        1_000, 100, _MS_MAX, "Milliseconds between two probes of every endpoint's chain and head."
    )
    head_lag_blocks_max: Live[int] = _whole(
        3,
        0,
        10_000,
        "Blocks behind the others after which an endpoint is asked only for want of one.",
    )
    latency_ms_max: Live[int] = _whole(
        1_000,
        1,
        120_000,
        "Milliseconds a probe may take; a slower endpoint is asked after the others.",
    )
    confirmations: int = _whole(
        2, 1, 256, "Blocks on top of a transaction until its attempt is settled."
    )
    reorg_depth_max: int = _whole(
        64, 1, 4_096, "Blocks a reorganisation is followed back; deeper, all is read again."
    )
    log_range_max: int = _whole(
        2_000, 1, 100_000, "Blocks a log query spans at most; what is refused is halved."
    )
    log_queries_at_once_max: int = _whole(4, 1, 64, "Log queries running at the same time.")
    log_queries_per_s_max: int = _whole(20, 1, 1_000, "Log queries a second, while a gap is read.")
    head_age_ms_max: Live[int] = _whole(
        30_000, 500, _MS_MAX, "Milliseconds after which a head is too old to act on."
    )
    sequencer_feed: str | None = Field(
        default=None,
        pattern=r"^0x[0-9a-fA-F]{40}$",
        description="Chainlink's uptime feed of the sequencer, on a layer 2: no price counts while "
        "it is down.",
    )
    sequencer_grace_s: int = _whole(
        3_600, 0, 86_400, "Seconds after the sequencer came up until prices count again."
    )
    head_silence_ms_max: int = _whole(
        15_000, 500, _MS_MAX, "Milliseconds without a head until the WebSocket is reconnected."
    )


class GateSettings(Spending):
    """What may be spent and at what pace."""

    transaction_cost_wei_max: Live[int] = _whole(
        20_000_000_000_000_000,
        0,
        _WEI_MAX,
        "Wei one attempt may cost in all: gas limit x fee cap + oracle fee.",
    )
    profit_wei_min: Live[int] = _whole(
        0, 0, _WEI_MAX, "Wei of expected value below which an attempt is held."
    )
    paused: Live[bool] = Field(
        default=False, strict=True, description="Decide and simulate, but start nothing."
    )
    pause_file: Live[ConfigPath | None] = Field(
        default=None,
        description="File that pauses the keeper while it is there, relative to this file.",
    )
    reverts_in_a_row_max: Live[int] = _whole(
        5, 1, 1_000, "Reverts in a row after which a venue rests."
    )
    breaker_ms: Live[int] = _whole(
        60_000, 1, 24 * _MS_MAX, "Milliseconds it rests, until one transaction tries it again."
    )
    backup_delay_blocks: Live[int] = _whole(
        0, 0, 100_000, "Blocks an account is left to others first; for back-up keepers."
    )
    candidate_ms_max: Live[int] = _whole(
        10_000, 1, _MS_MAX, "Milliseconds from a decision to sending, after which it is made anew."
    )
    open_attempts_max: Live[int] = _whole(64, 1, 1_024, "Attempts open at the same time.")
    simulations_at_once_max: Live[int] = _whole(8, 1, 256, "Simulations running at the same time.")
    candidates_per_step_max: Live[int] = _whole(
        256, 1, 100_000, "Accounts assessed exactly in one step; the worst come first."
    )
    backoff_ms_min: Live[int] = _whole(
        1_000, 1, _MS_MAX, "Milliseconds an account rests after its first failed attempt."
    )
    backoff_ms_max: Live[int] = _whole(
        60_000, 1, _MS_MAX, "Milliseconds an account rests at most; the rest doubles up to here."
    )
    hold_ms: Live[int] = _whole(
        2_000, 1, _MS_MAX, "Milliseconds until a candidate that did not pay is looked at again."
    )


class SourceCommon(Table):
    """The keys of every [[sources]] table; the others belong to its kind."""

    kind: str = Field(description="File name in keeper/prices that serves this source.")
    name: str = Field(
        pattern=NAME,
        description="Name of the source, as feeds refer to it: 1 to 64 letters, digits and . _ -",
    )


class SourceSettings(SourceCommon):
    """A price source; ``options`` is the ``Settings`` of its kind."""

    options: SerializeAsAny[BaseModel]


class VenueCommon(Table):
    """The keys of every [[venues]] table; the others belong to its kind."""

    kind: str = Field(description="File name in keeper/venues that serves this venue.")
    id: VenueId = Field(
        pattern=NAME,
        description="Name of the venue in logs and metrics: 1 to 64 letters, digits and . _ -",
    )
    objective: Live[Objective] = Field(
        default=Objective.PROFIT,
        description="profit: rank by expected value; solvency: rank by bad debt at risk.",
    )
    solvency_budget_wei: Live[int] = _whole(
        0, 0, _WEI_MAX, "Wei of expected value one transaction may lose for solvency."
    )
    start_block: int = _whole(
        0, 0, _BLOCK_MAX, "Block in which the venue was deployed; logs are read from here."
    )
    probe_ms: Live[int] = _whole(
        60_000, 1_000, _MS_MAX, "Milliseconds until the venue is probed again."
    )
    reward_feed: FeedId | None = Field(
        default=None, description="Feed that prices the reward token; without it rewards are USD."
    )
    fee_strategy: Live[FeeStrategy | None] = Field(
        default=None, description="As fees.strategy, for this venue; without it that one holds."
    )
    wallets: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="Names of the wallets that may act here; none named: all of them.",
    )
    batch_accounts_max: int = _whole(
        1, 1, 32, "Accounts liquidated in one transaction, where the kind has a call for several."
    )
    optimistic: bool = Field(
        default=False,
        description="Send without waiting for a simulation, where the kind foresees what it does.",
    )


class VenueSettings(VenueCommon):
    """A venue; ``options`` is the ``Settings`` of its kind.

    A kind that declares a common key (``id``, say) is given its value as well.
    """

    options: SerializeAsAny[BaseModel]


class Settings(Table):
    """The whole of config.toml, defaults filled in; no secret in it, however it is printed."""

    keeper: KeeperSettings = Field(default_factory=KeeperSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    chain: ChainSettings
    wallets: tuple[WalletSettings, ...] = Field(
        default=(),
        max_length=64,
        description="Who signs, side by side; one table a wallet. Without any nothing is sent.",
    )
    relays: tuple[RelaySettings, ...] = Field(
        default=(),
        max_length=16,
        description="Where transactions go instead of chain.send; one table a relay.",
    )
    lease: LeaseSettings = Field(default_factory=LeaseSettings)
    treasury: TreasurySettings = Field(default_factory=TreasurySettings)
    fees: FeesSettings = Field(default_factory=FeesSettings)
    gate: GateSettings = Field(default_factory=GateSettings)
    reconcile: ReconcileSettings = Field(default_factory=ReconcileSettings)
    sources: tuple[SourceSettings, ...] = Field(
        min_length=1, max_length=64, description="Where prices come from; one table a source."
    )
    feeds: tuple[FeedSettings, ...] = Field(
        min_length=1, max_length=1_024, description="The prices that are needed; one table a feed."
    )
    venues: tuple[VenueSettings, ...] = Field(
        min_length=1, max_length=64, description="Where accounts are watched; one table a venue."
    )

    @property
    def dry_run(self) -> bool:
        """Nobody can sign: decide and simulate, send nothing."""
        return not self.wallets

    def secrets(self) -> Mapping[str, SecretRef]:
        """Return every secret reference by its key path, for a preflight to ``read``."""
        return dict(references(self, ""))

    def secret_values(self) -> list[str]:
        """Read what is referenced, to be blanked out of logs; what cannot be read is left out.

        Of URLs, those in the config as well, what may be a key or a password in them, too.
        """
        values: list[str] = []
        for _, reference in references(self, "", inline=True):
            with contextlib.suppress(ConfigError):
                text = reference.read().get_secret_value()
                if not isinstance(reference, Endpoint):
                    values.append(text)
                    continue
                values += credentials_in(text)
                if reference.url is None:
                    values.append(text)
        return values

    def show(self, *, reveal_urls: bool = False) -> dict[str, Any]:
        """Return the effective config as nested dicts, shaped like the file, secrets starred.

        ``reveal_urls``: with the paths of URLs, which may hold an API key; only to compare.
        """
        shown: dict[str, Any] = plain(self, reveal_urls=reveal_urls)
        return shown

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the effective config; referenced secrets do not enter it."""
        text = json.dumps(self.show(reveal_urls=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
