"""The facts that travel between the rooms.

They are frozen: nobody changes a message after it was made. Amounts are integers: ``_wad`` is USD
or an asset amount with 18 decimals, ``_wei`` the chain's native token, ``_ms`` wall-clock
milliseconds since the epoch, ``_ns`` the monotonic clock, ``_s`` chain time in seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from keeper.decide.economics import Economics

VenueId = NewType("VenueId", str)
AccountId = NewType("AccountId", str)
FeedId = NewType("FeedId", str)


@dataclass(frozen=True, slots=True)
class Tick:
    """One observation by one source."""

    feed: FeedId
    source: str
    price_wad: int
    published_ms: int  # by the publisher's clock
    received_ms: int  # by ours
    received_ns: int  # monotonic: where the latency measurement starts
    conf_wad: int = 0  # confidence interval, same unit as the price; 0: not given
    epoch: int = 0  # (epoch, sequence) orders; a restarted publisher takes a new epoch
    sequence: int = 0
    payload: bytes | None = None  # the signed update a pull oracle accepts


Price = Tick  # what the board lets through is a tick that passed every gate


class Rejection(StrEnum):
    """Why a message from a price source was not used. A closed set: a metric label."""

    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    UNKNOWN_FEED = "unknown_feed"
    NOT_POSITIVE = "not_positive"
    ABSURD = "absurd"
    FUTURE = "future"
    STALE = "stale"
    OUT_OF_ORDER = "out_of_order"
    DUPLICATE = "duplicate"
    WIDE_CONFIDENCE = "wide_confidence"
    JUMP = "jump"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message refused at the edge, before or at the board."""

    source: str
    reason: Rejection
    feed: str  # as the message named it, or "" when it could not be read; only for logs
    detail: str


@dataclass(frozen=True, slots=True)
class Head:
    """A block header, as far as decisions need it. ``seen_ms``: when we learned of it."""

    number: int
    hash: str
    parent_hash: str
    timestamp_s: int
    base_fee_wei: int
    seen_ms: int


@dataclass(frozen=True, slots=True)
class Log:
    """An event log; hex strings are lower case, ``data`` is raw bytes."""

    address: str
    topics: tuple[str, ...]
    data: bytes
    block_number: int
    block_hash: str
    tx_hash: str


@dataclass(frozen=True, slots=True)
class ChainUpdate:
    """A new head and the logs since the last one.

    ``reorged_from``: the first block number whose hash changed; what was touched from there on must
    be read again. ``resync``: the gap could not be bridged, everything must be read again.
    """

    head: Head
    logs: tuple[Log, ...]
    reorged_from: int | None = None
    resync: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction would do. Amounts in wei."""

    to: str
    data: bytes
    value_wei: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction. ``l1_fee_wei``: the data fee of OP-stack chains, 0 elsewhere."""

    tx_hash: str
    block_number: int
    block_hash: str
    success: bool
    gas_used: int
    gas_price_wei: int
    logs: tuple[Log, ...]
    l1_fee_wei: int = 0

    @property
    def cost_wei(self) -> int:
        """What the sender paid for inclusion, without the value sent along."""
        return self.gas_used * self.gas_price_wei + self.l1_fee_wei


@dataclass(frozen=True, slots=True)
class Execution:
    """What a call did when the node ran it on top of a block, without sending it."""

    success: bool
    gas_used: int
    output: bytes  # return data, or revert data
    logs: tuple[Log, ...] = ()


class PriceView(StrEnum):
    """Whose price makes an account liquidatable."""

    CHAIN = "chain"  # the contract's present one
    SIGNED = "signed"  # the newest signed one, carried along


class RewardKind(StrEnum):
    """What a liquidator is paid in."""

    CASH = "cash"
    INVENTORY = "inventory"
    CLAIM = "claim"


class PriceKind(StrEnum):
    """How prices reach the contract."""

    PUSH = "push"
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a venue declares itself to be; nothing is guessed."""

    reward: RewardKind
    price: PriceKind
    discovery: str = "events"  # or "published": the venue lists its distressed accounts
    action: str = "transaction"  # or "order": signed for the venue's own API


@dataclass(frozen=True, slots=True)
class Probe:
    """May this wallet liquidate here, and what is paid now."""

    open: bool
    detail: str
    facts: Mapping[str, str] = field(default_factory=dict)


class Job(StrEnum):
    """What a venue pays for. A closed set: a metric label."""

    LIQUIDATION = "liquidation"
    SETTLEMENT = "settlement"  # of an order that waits for somebody to execute it


@dataclass(frozen=True, slots=True)
class LiquidationSeen:
    """A liquidation, or another job that was paid for, found in the logs, ours or not."""

    account: AccountId
    liquidator: str  # "" when the venue does not log it
    tx_hash: str
    block_number: int
    reward_wad: int
    job: Job = Job.LIQUIDATION


@dataclass(frozen=True, slots=True)
class Touched:
    """What one log changed: events nominate, reads decide."""

    accounts: frozenset[AccountId] = frozenset()
    everything: bool = False
    liquidations: tuple[LiquidationSeen, ...] = ()


@dataclass(frozen=True)
class MarketState:
    """Everything of a venue outside its accounts, read at one block. Venues extend it."""

    head: Head

    @property
    def epoch(self) -> str:
        """Return a mark of what rows are compiled from beside the account and its factors.

        When it changes, every account is compiled again. For parameters that move without an event
        that touches everything, as costs taken from a gas price do.
        """
        return ""

    @property
    def listed(self) -> Sequence[AccountId]:
        """Return accounts that the contract itself lists; those not known yet are read.

        For a venue that publishes its distressed accounts, or keeps a queue of them: they may be
        older than the logs that were read.
        """
        return ()


@dataclass(frozen=True)
class AccountState:
    """One account read whole at one block. Venues extend it."""

    account: AccountId
    head: Head

    @property
    def due_until_s(self) -> int | None:
        """Return the chain time until which it is to be acted on whatever the prices are.

        For jobs that no margin decides, as settling an order; None: its row in the book decides.
        """
        return None


@dataclass(frozen=True, slots=True)
class Assessment:
    """The exact verdict on one account, with the venue's own integer arithmetic (USD wads)."""

    account: AccountId
    liquidatable: bool
    view: PriceView
    equity_wad: int
    requirement_wad: int
    reward_wad: int  # expected, of the next step
    bad_debt_wad: int  # max(0, −net value)
    feeds: tuple[FeedId, ...]  # that the verdict stands on
    updates: tuple[Price, ...] = ()  # signed prices the transaction must carry
    uses: tuple[str, ...] = ()  # markets whose liquidation capacity the step draws on
    takes: tuple[int, ...] = ()  # of each of these, at most; in the venue's own unit
    room: tuple[int | None, ...] = ()  # that each of these has now; None: no limit
    alone: bool = False  # it would get nothing behind attempts that take all the room
    until_s: int | None = None  # chain time at which a "not now" may turn by itself


@dataclass(frozen=True, slots=True)
class Simulated:
    """The chain would accept it: the call to send, what it uses and pays."""

    call: Call
    gas: int  # used in the simulation, not a limit
    reward_wad: int
    oracle_fee_wei: int
    head: Head


@dataclass(frozen=True, slots=True)
class Refused:
    """The chain would not accept it, or we could not ask."""

    reason: str  # not_liquidatable, no_progress, oracle, unknown, unreachable: a closed set
    detail: str
    until_s: int | None = None  # chain time at which that may turn by itself


@dataclass(frozen=True, slots=True)
class Plan:
    """What the gate let through: one call, its limits, why it is worth it, and since when."""

    venue: VenueId
    account: AccountId
    call: Call
    gas_limit: int
    cost_wei_max: int  # total: gas limit × fee cap + value; also binds every replacement
    expected: Economics
    tick_ns: int  # monotonic: arrival of the price that nominated it (0: not a price)
    decided_ns: int
    simulated_at: int  # block number
    uses: tuple[str, ...] = ()  # as in the assessment
    takes: tuple[int, ...] = ()  # likewise


class Outcome(StrEnum):
    """How an attempt ended. A closed set: a metric label."""

    WON = "won"  # included, and the account was liquidated by us
    LOST = "lost"  # reverted or idle because somebody was faster, or the account was cured
    REVERTED = "reverted"  # included and failed for another reason
    CANCELLED = "cancelled"  # our self-transfer took the nonce
    DROPPED = "dropped"  # never accepted by any endpoint
    EXPIRED = "expired"  # the nonce was taken by a transaction that is not ours


class TxKind(StrEnum):
    """Why a transaction was signed for an attempt's nonce."""

    FIRST = "first"
    REPLACEMENT = "replacement"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class SignedTx:
    """A signed transaction: what is journaled before it is broadcast."""

    hash: str
    raw: bytes
    kind: TxKind
    max_fee_wei: int
    priority_fee_wei: int
    signed_ms: int
    block: int  # head when it was signed


@dataclass(frozen=True, slots=True)
class Attempt:
    """One nonce spent on one account, from intent to settlement."""

    id: str
    plan: Plan
    wallet: str
    nonce: int
    transactions: tuple[SignedTx, ...]
    opened_ms: int
    sent_ms: int | None = None  # first acceptance by an endpoint


@dataclass(frozen=True, slots=True)
class Settled:
    """An attempt with its end: the canonical line and the journal's last word."""

    attempt: Attempt
    outcome: Outcome
    detail: str
    receipt: Receipt | None
    reward_wad: int
    reward_wei: int
    cost_wei: int


class NotSent(StrEnum):
    """Why a plan did not become an open attempt."""

    NO_WALLET = "no_wallet"  # a dry run
    LANE_PARKED = "lane_parked"  # the wallet cannot pay for it beside what is in flight
    DROPPED = "dropped"  # no endpoint took it, and its nonce is free again


@dataclass(frozen=True, slots=True)
class Fee:
    """Both EIP-1559 fields, wei per gas."""

    max_fee_wei: int
    priority_fee_wei: int

    def paid_at(self, base_fee_wei: int) -> int:
        """Return what a unit of gas costs in a block with this base fee."""
        return min(self.max_fee_wei, base_fee_wei + self.priority_fee_wei)


@dataclass(frozen=True, slots=True)
class Mined:
    """An attempt whose nonce is consumed deep enough; without a receipt it was not by us."""

    attempt: Attempt
    transaction: SignedTx | None
    receipt: Receipt | None
    value_wei: int = 0  # sent along by this transaction; the plan's is that of the newest one
