"""Which under-margined accounts are due for another look, and what the others wait for.

Level-triggered: an account stays on the agenda from the moment the screen nominates it until it is
cured. While it is there it is *due*, *held* (with what wakes it), or *busy* (being simulated or in
flight). Holds wake by a time or by a block, so an account that cannot pay costs nothing per tick.
A failed attempt backs the account off for a growing time that ends.
"""

import heapq
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

AccountT = TypeVar("AccountT", bound=Hashable)


class HoldReason(StrEnum):
    """Why an under-margined account is not acted on now. A closed set: a metric label."""

    NOT_LIQUIDATABLE = "not_liquidatable"  # the exact arithmetic or the chain says: not yet
    NO_PROGRESS = "no_progress"  # it would succeed and pay nothing
    STALE_PRICE = "stale_price"
    STALE_HEAD = "stale_head"
    NO_NATIVE_PRICE = "no_native_price"
    SIMULATION_FAILED = "simulation_failed"  # unknown is never treated as fine
    UNPROFITABLE = "unprofitable"
    COST_CAP = "cost_cap"
    BUDGET = "budget"  # of the hour or the day: spent, or reserved for what is in flight
    FEE_UNKNOWN = "fee_unknown"  # nobody could say what a transaction costs now
    OPEN_ATTEMPTS = "open_attempts"
    ATTEMPT_OPEN = "attempt_open"  # this account has one in flight
    NO_CAPITAL = "no_capital"  # our margin at the venue, or our limits, do not allow it
    CAPACITY_IN_USE = "capacity_in_use"  # an attempt in flight draws on the same market's capacity
    BACKOFF = "backoff"
    STATE_BEHIND = "state_behind"  # our last transaction is newer than what we have read
    NO_ENDPOINT = "no_endpoint"  # every endpoint to send through is in trouble
    LANE_PARKED = "lane_parked"
    NOT_SIGNED = "not_signed"  # the wallet's signer did not answer, or refused
    SEND_FAILED = "send_failed"
    HALVED = "halved"  # what it was in with others failed; tried again with fewer of them
    JOURNAL = "journal"  # it cannot be written, so nothing may be sent
    DRY_RUN = "dry_run"
    VENUE_CLOSED = "venue_closed"
    QUARANTINED = "quarantined"
    PAUSED = "paused"
    STANDBY = "standby"  # another keeper has the lease, and sends
    BREAKER_OPEN = "breaker_open"  # transactions of the venue reverted one after the other
    BACKUP_DELAY = "backup_delay"  # it is left to others for a while
    CANDIDATE_EXPIRED = "candidate_expired"  # what was decided is too old to be acted on
    SUSPECT = "suspect"  # its venue drifts: the fresh reading was another one than the book's


RULED = (  # what other limits in the config may end at once
    HoldReason.STALE_PRICE,
    HoldReason.STALE_HEAD,
    HoldReason.NO_NATIVE_PRICE,
    HoldReason.UNPROFITABLE,
    HoldReason.COST_CAP,
    HoldReason.BUDGET,
    HoldReason.FEE_UNKNOWN,
    HoldReason.OPEN_ATTEMPTS,
    HoldReason.LANE_PARKED,
    HoldReason.PAUSED,
    HoldReason.BREAKER_OPEN,
    HoldReason.BACKUP_DELAY,
)
BACKOFFS = frozenset({HoldReason.BACKOFF, HoldReason.SEND_FAILED})  # no new fact ends these


@dataclass(frozen=True, slots=True)
class Hold:
    """A reason and what ends it: a wall-clock time (ms) and/or a block number.

    ``base_fee_wei``: a base fee so low ends it too. ``detail``: what exactly, in words, for people.
    """

    reason: HoldReason
    until_ms: int | None = None
    until_block: int | None = None
    base_fee_wei: int | None = None
    detail: str = ""


@dataclass(slots=True)
class Entry:
    """What is known of one account on the agenda."""

    hold: Hold | None = None
    busy: bool = False
    first_block: int | None = None  # at which it was first about to be acted on


@dataclass(slots=True)
class BackOff:
    """Consecutive failures of one account and when it may be tried again."""

    failures: int
    until_ms: int


class Agenda(Generic[AccountT]):
    """The accounts of one venue that are under-margined at some price."""

    def __init__(self, backoff_ms_min: int, backoff_ms_max: int) -> None:
        """Back-offs double from the first limit to the second."""
        self._backoff_ms_min = backoff_ms_min
        self._backoff_ms_max = backoff_ms_max
        self._entries: dict[AccountT, Entry] = {}
        self._due: dict[AccountT, None] = {}  # ordered set: first nominated, first assessed
        self._backoffs: dict[AccountT, BackOff] = {}
        self._last_hold: dict[AccountT, HoldReason] = {}
        self._by_time: list[tuple[int, int, AccountT]] = []
        self._by_block: list[tuple[int, int, AccountT]] = []
        self._ticket = 0  # ties in the heaps: accounts need not be comparable

    def adopt(self, backoff_ms_min: int, backoff_ms_max: int) -> None:
        """Back off by other limits from now on, and look again at all that limits may hold."""
        self._backoff_ms_min = backoff_ms_min
        self._backoff_ms_max = backoff_ms_max
        for reason in RULED:
            self.release(reason)

    def __len__(self) -> int:
        """Return how many accounts are on the agenda."""
        return len(self._entries)

    def __contains__(self, account: AccountT) -> bool:
        """Say whether the account is on the agenda."""
        return account in self._entries

    def __iter__(self) -> Iterator[AccountT]:
        """Go through the accounts, first nominated first."""
        return iter(self._entries)

    def nominate(self, account: AccountT, now_ms: int) -> bool:
        """Put an account on the agenda; True when it was not there. A back-off still counts."""
        if account in self._entries:
            return False
        self._entries[account] = Entry()
        backoff = self._backoffs.get(account)
        if backoff is not None and backoff.until_ms > now_ms:
            self.hold(account, Hold(HoldReason.BACKOFF, until_ms=backoff.until_ms))
        else:
            self._due[account] = None
        return True

    def cure(self, account: AccountT) -> None:
        """Take an account off. What is in flight for it is the lane's business."""
        self._entries.pop(account, None)
        self._due.pop(account, None)
        self._last_hold.pop(account, None)

    def refresh(self, account: AccountT) -> None:
        """Look again because what is known of the account changed; back-offs and work go on."""
        entry = self._entries.get(account)
        if entry is None or entry.busy:
            return
        if entry.hold is not None and entry.hold.reason in BACKOFFS:
            return
        entry.hold = None
        self._due[account] = None

    def release(self, reason: HoldReason) -> None:
        """Look again at every account held for this reason: what it waited for has come."""
        for account, entry in self._entries.items():
            if entry.hold is not None and entry.hold.reason is reason:
                entry.hold = None
                self._due[account] = None

    def cheaper(self, base_fee_wei: int) -> None:
        """Look again at every account that was too dear and is not at this base fee."""
        for account, entry in self._entries.items():
            hold = entry.hold
            if hold is None or hold.base_fee_wei is None or hold.base_fee_wei < base_fee_wei:
                continue
            entry.hold = None
            self._due[account] = None

    def hold(self, account: AccountT, hold: Hold) -> None:
        """Stop looking at an account until a time or a block; it is no longer busy."""
        if hold.until_ms is None and hold.until_block is None:
            msg = f"a hold needs something that ends it: {hold.reason}"
            raise ValueError(msg)
        entry = self._entries.get(account)
        if entry is None:
            return
        entry.hold, entry.busy = hold, False
        self._last_hold[account] = hold.reason
        self._due.pop(account, None)
        self._ticket += 1
        if hold.until_ms is not None:
            heapq.heappush(self._by_time, (hold.until_ms, self._ticket, account))
        if hold.until_block is not None:
            heapq.heappush(self._by_block, (hold.until_block, self._ticket, account))

    def start(self, account: AccountT) -> None:
        """Mark an account busy: it is being simulated or has an attempt in flight."""
        entry = self._entries.get(account)
        if entry is not None:
            entry.busy, entry.hold = True, None
            self._due.pop(account, None)

    def back_off(self, account: AccountT, reason: HoldReason, now_ms: int) -> None:
        """Hold an account after a failure for a time that doubles with each in a row, and ends."""
        before = self._backoffs.get(account)
        failures = before.failures + 1 if before else 1
        span = min(self._backoff_ms_max, self._backoff_ms_min << min(failures - 1, 30))
        self._backoffs[account] = BackOff(failures, now_ms + span)
        self.hold(account, Hold(reason, until_ms=now_ms + span))

    def finish(self, account: AccountT, *, failed: bool, now_ms: int, block: int) -> None:
        """End the work on an account. A failure backs it off; else its state is waited for.

        ``block``: the account is looked at again when it has been read at this block or later
        (``refresh``), at the latest two blocks on.
        """
        if failed:
            self.back_off(account, HoldReason.BACKOFF, now_ms)
            return
        self._backoffs.pop(account, None)
        self.hold(account, Hold(HoldReason.STATE_BEHIND, until_block=block + 2))

    def first_block(self, account: AccountT, block: int) -> int:
        """Return the block at which this was first asked since the account came on the agenda."""
        entry = self._entries.get(account)
        if entry is None:
            return block
        if entry.first_block is None:
            entry.first_block = block
        return entry.first_block

    def wake(self, now_ms: int, block: int) -> None:
        """Make due what waited for this time or block; forget back-offs long over."""
        for heap, reached in ((self._by_time, now_ms), (self._by_block, block)):
            while heap and heap[0][0] <= reached:
                _, _, account = heapq.heappop(heap)
                entry = self._entries.get(account)
                if entry is not None and self._ended(entry.hold, now_ms, block):
                    entry.hold = None
                    self._due[account] = None
        if len(self._backoffs) > 2 * len(self._entries) + 1000:  # bounds memory, keeps the recent
            over = now_ms - self._backoff_ms_max
            self._backoffs = {a: b for a, b in self._backoffs.items() if b.until_ms > over}

    def _ended(self, hold: Hold | None, now_ms: int, block: int) -> bool:
        if hold is None:
            return False  # woken otherwise since; busy or due already
        by_time = hold.until_ms is not None and hold.until_ms <= now_ms
        by_block = hold.until_block is not None and hold.until_block <= block
        return by_time or by_block

    @property
    def has_due(self) -> bool:
        """Say whether any account waits to be assessed."""
        return bool(self._due)

    def is_due(self, account: AccountT) -> bool:
        """Say whether the account waits to be assessed."""
        return account in self._due

    def due(self) -> Iterable[AccountT]:
        """Return the accounts to assess now, first nominated first."""
        return tuple(self._due)

    def next_wake_ms(self) -> int | None:
        """Return when the next hold by time ends (it may have ended otherwise)."""
        return self._by_time[0][0] if self._by_time else None

    def hold_of(self, account: AccountT) -> Hold | None:
        """Return what the account is held for, and until when."""
        entry = self._entries.get(account)
        return entry.hold if entry else None

    def failures(self, account: AccountT) -> int:
        """Return how often in a row work on the account failed lately."""
        backoff = self._backoffs.get(account)
        return backoff.failures if backoff else 0

    def why(self, account: AccountT) -> str:
        """Say in a word why the account is not being acted on, for logs."""
        entry = self._entries.get(account)
        if entry is None:
            return "not_under_margined"
        if entry.busy:
            return "in_flight"
        if entry.hold is not None:
            return entry.hold.reason.value
        last = self._last_hold.get(account)
        return f"due (last held: {last.value})" if last else "due"
