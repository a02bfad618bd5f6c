"""The facts that travel between the rooms.

They are frozen: nobody changes a message after it was made. Amounts are integers: ``_wad`` is USD
or an asset amount with 18 decimals, ``_wei`` the chain's native token, ``_ms`` wall-clock
milliseconds since the epoch, ``_ns`` the monotonic clock, ``_s`` chain time in seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

import msgspec

from keeper.decide.economics import Economics
from keeper.jobs import Gain, Job

VenueId = NewType("VenueId", str)
AccountId = NewType("AccountId", str)
FeedId = NewType("FeedId", str)
OWN = VenueId("-")  # of a transaction that belongs to no venue but to the wallet itself


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


Price = Tick  # what the board makes of ticks that passed every gate


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
    DEVIATION = "deviation"  # the sources do not agree
    NO_QUORUM = "no_quorum"
    MARKET_CLOSED = "market_closed"
    SEQUENCER_DOWN = "sequencer_down"


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
    base_fee_wei: int | None  # None: a chain without EIP-1559
    seen_ms: int


class Log(msgspec.Struct, frozen=True, gc=False):  # millions are made in a backfill
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
    ``covers_from``: the first block whose logs are here, those up to the head too; None: none are.
    """

    head: Head
    logs: tuple[Log, ...]
    reorged_from: int | None = None
    resync: bool = False
    covers_from: int | None = None


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


@dataclass(frozen=True, slots=True)
class Probe:
    """May this wallet liquidate here, and what is paid now."""

    open: bool
    detail: str
    facts: Mapping[str, str] = field(default_factory=dict)
    found: bool = True  # False: what is at the address is no such contract
    lacks: str = ""  # what the config leaves out, and some accounts cannot be decided without


@dataclass(frozen=True, slots=True)
class LiquidationSeen:
    """A liquidation, or another job that was paid for, found in the logs, ours or not."""

    account: AccountId
    liquidator: str  # "" when the venue does not log it
    tx_hash: str
    block_number: int
    reward_wad: int
    job: Job = Job.LIQUIDATE


class Touched(msgspec.Struct, frozen=True, gc=False):
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
        """Return accounts that the contract itself lists (distressed): the unknown are read."""
        return ()


@dataclass(frozen=True)
class AccountState:
    """One account read whole at one block. Venues extend it."""

    account: AccountId
    head: Head

    @property
    def due_until_s(self) -> int | None:
        """Return the chain time until which it is due at any price; None: its row decides."""
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
    stale: tuple[FeedId, ...] = ()  # of these, what alone keeps it safe: too old for the contract
    updates: tuple[Price, ...] = ()  # signed prices the transaction must carry
    uses: tuple[str, ...] = ()  # markets whose liquidation capacity the step draws on
    takes: tuple[int, ...] = ()  # of each of these, at most; in the venue's own unit
    room: tuple[int | None, ...] = ()  # that each of these has now; None: no limit
    alone: bool = False  # it would get nothing behind attempts that take all the room
    until_s: int | None = None  # chain time at which a "not now" may turn by itself
    in_flight: Mapping[str, int] = field(default_factory=dict)  # what others take over, USD wads


@dataclass(frozen=True, slots=True)
class Step:
    """A transaction of a plan that is to follow the present one."""

    job: Job
    call: Call
    gas: int  # used in the simulation, not a limit


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The position a liquidation would leave with us. USD wads."""

    market: str
    notional_wad: int  # of its size, whatever the side
    margin_wad: int  # of our free margin it ties up
    exit_cost_wad: int  # of getting out again, quoted at the head


@dataclass(frozen=True, slots=True)
class Simulated:
    """The chain would accept it: the call to send, what it uses and pays.

    ``then``: what has to follow before anything is paid; each step is decided anew by then.
    """

    call: Call
    gas: int  # used in the simulation, not a limit
    reward_wad: int  # of the whole plan
    oracle_fee_wei: int
    head: Head
    job: Job = Job.LIQUIDATE
    then: tuple[Step, ...] = ()
    takes_over: TakenOver | None = None
    data_fee_wei: int = 0  # of the whole plan, on rollups; the keeper's to find out
    all_or_none: int = 1  # liquidations in it of which one that fails undoes the others
    optimistic: bool = False  # the chain was not asked: the book says so


@dataclass(frozen=True, slots=True)
class Refused:
    """The chain would not accept it, or we could not ask."""

    reason: str  # a closed set: ``holds.REFUSALS``, unknown, unreachable
    detail: str
    until_s: int | None = None  # chain time at which that may turn by itself


@dataclass(frozen=True, slots=True)
class Plan:
    """What the gate let through, and why. Cost and expectation are of all its steps."""

    venue: VenueId
    account: AccountId
    call: Call
    gas_limit: int
    cost_wei_max: int  # total: gas limit × fee cap + value; also binds every replacement
    expected: Economics
    tick_ns: int  # monotonic: arrival of the price that nominated it (0: not a price)
    decided_ns: int
    simulated_at: int  # block number; of an optimistic one: that it was decided on
    uses: tuple[str, ...] = ()  # as in the assessment
    takes: tuple[int, ...] = ()  # likewise
    job: Job = Job.LIQUIDATE
    then: tuple[Step, ...] = ()
    takes_over: TakenOver | None = None
    batch: tuple[AccountId, ...] = ()  # all accounts of one transaction; none: it is for one alone
    optimistic: bool = False  # as in ``Simulated``


class Outcome(StrEnum):
    """How an attempt ended. A closed set: a metric label."""

    WON = "won"  # included, and the account was liquidated by us
    DONE = "done"  # included, and no liquidation: a step before one, or our own position
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
    job: Job = Job.LIQUIDATE  # a replacement may be for another step than the first try
    accounts: tuple[AccountId, ...] = ()  # that it is for; none: all of the attempt


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
    reward_wad: int  # negative: a loss, as the price of getting out of a position
    reward_wei: int
    cost_wei: int
    gains: Mapping[Gain, int] = field(default_factory=dict)  # what ``reward_wad`` is made of
    native_usd_wad: int | None = None  # price of the native token then; None: it was not known


class NotSent(StrEnum):
    """Why a plan did not become an open attempt."""

    NO_WALLET = "no_wallet"  # a dry run
    NO_ENDPOINT = "no_endpoint"  # every endpoint to send through is in trouble
    LANE_PARKED = "lane_parked"  # the wallet cannot pay for it beside what is in flight
    NOT_SIGNED = "not_signed"  # the remote signer did not answer, or refused
    DROPPED = "dropped"  # no endpoint took it, and its nonce is free again
    NOT_WRITTEN = "not_written"  # the journal cannot be written, so nothing was sent
    STANDBY = "standby"  # another keeper has the lease


@dataclass(frozen=True, slots=True)
class Mined:
    """An attempt whose nonce is consumed deep enough; without a receipt it was not by us."""

    attempt: Attempt
    transaction: SignedTx | None
    receipt: Receipt | None
    value_wei: int = 0  # sent along by this transaction; the plan's is that of the newest one
