"""When a keeper was late, what it missed, where it idled: pure bookkeeping, block by block.

*due*       an account that the contract, given the newest price, calls liquidatable and that nobody
            has flagged. Its time runs from the first such block; a second one in a row binds.
*late*      still due ``DEADLINE`` blocks after the first: two for the verdict to hold, two to act
*missed*    binding and still due when the run ends
*idle*      a flagged account has stood open ``PACE`` blocks in a market whose window had room
*wrong*     touched although no price really published made the contract say so
*repeated*  a success without any progress, twice within one window, for the same account

While the keeper, or what it depends on, is away nothing is due: time begins with the recovery.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

BINDING = 2  # blocks in a row that make an account due beyond doubt
GRACE = 2  # blocks to act in after that
DEADLINE = BINDING - 1 + GRACE  # blocks after the first due one
PACE = DEADLINE + 1  # a window opens on a whole second, which several blocks may share


class Fault(StrEnum):
    """What a keeper did not do right."""

    LATE = "late"
    MISSED = "missed"
    IDLE = "idle"
    WRONG = "wrong"
    REPEATED = "repeated"
    STALE = "stale"  # a transaction reverted over a price
    REVERTED = "reverted"  # for another reason than a cure in the block of inclusion


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, by account."""

    fault: Fault
    block: int
    account: int
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.fault} at block {self.block}: {self.account} {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class Touch:
    """What one transaction did to one account; the reward in USD wads, sizes by market."""

    account: int
    tx_hash: str
    reward: int
    closed: Mapping[int, int]
    flagged: bool  # by this transaction, or liquidated at once as an account without positions
    full: bool  # nothing is left open
    ours: bool
    justified: bool  # by a price really published, at the parent block

    @property
    def progress(self) -> bool:
        return bool(self.reward or self.closed or self.flagged or self.full)


@dataclass(frozen=True, slots=True)
class Revert:
    """A transaction of the keeper that failed."""

    account: int | None
    tx_hash: str
    error: str  # by name; "" when there was no data
    due_before: bool  # the account was liquidatable at the parent block or the one before


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """A block: what holds after it, with the newest price applied; what was done in it."""

    number: int
    timestamp_s: int
    due: frozenset[int]  # liquidatable and not flagged
    open_flagged: Mapping[int, frozenset[int]]  # flagged accounts: markets they are open in
    room: frozenset[int]  # markets whose window has some
    touches: tuple[Touch, ...] = ()
    reverts: tuple[Revert, ...] = ()


@dataclass(slots=True)
class Outage:
    """Blocks during which the keeper, or what it depends on, was being restarted."""

    first: int
    last: int | None = None  # with which it had recovered


STALE_ERRORS = frozenset({"OracleDataRequired", "Errors", "StalenessToleranceExceeded"})
CURED_ERRORS = frozenset({"NotEligibleForLiquidation", "NotEligibleForMarginLiquidation"})


@dataclass
class Verdicts:
    """Feed it every block once, in order."""

    window_s: int
    late: Counter[int] = field(default_factory=Counter)  # blocks late → accounts dealt with
    findings: list[Finding] = field(default_factory=list)
    dealt: set[int] = field(default_factory=set)
    emptied: set[int] = field(default_factory=set)
    escaped: int = 0  # due beyond doubt, and cured before anybody came
    cured: int = 0  # reverts because the market cured the account meanwhile
    unpaid: int = 0  # successes without progress
    blocks: int = 0
    outages: list[Outage] = field(default_factory=list)
    pending: frozenset[int] = frozenset()  # flagged or due after the last block
    open_flagged: frozenset[int] = frozenset()  # flagged after it: staged liquidations
    _due_since: dict[int, int] = field(default_factory=dict)
    _told: set[int] = field(default_factory=set)  # of these lateness is known already
    paced: Counter[int] = field(default_factory=Counter)  # blocks with room until a step → steps
    _open_since: dict[tuple[int, int], int] = field(default_factory=dict)
    _unpaid_at_s: dict[int, int] = field(default_factory=dict)

    def block(self, facts: BlockFacts) -> None:
        self.blocks += 1
        for touch in facts.touches:
            self._touched(facts, touch)
        self._reverted(facts)
        self._follow_due(facts)
        self._follow_steps(facts)
        self.open_flagged = frozenset(facts.open_flagged)
        self.pending = facts.due | self.open_flagged

    def end(self, number: int) -> None:
        """Take stock when the run is over."""
        for account, first in self._due_since.items():
            if number - first >= BINDING - 1 and account not in self._told:
                self._find(Fault.MISSED, number, account, f"due since block {first}")

    def gone(self, number: int) -> None:
        """Count nothing as late from this block on."""
        self.outages.append(Outage(number))

    def back(self, number: int) -> None:
        """Count again: what is due after this block is due from it on."""
        self.outages[-1].last = number

    def _away(self, number: int) -> bool:
        return any(
            outage.first <= number and (outage.last is None or number <= outage.last)
            for outage in self.outages
        )

    def count(self, fault: Fault) -> int:
        return sum(finding.fault is fault for finding in self.findings)

    def _find(self, fault: Fault, block: int, account: int, detail: str) -> None:
        self.findings.append(Finding(fault, block, account, detail))

    def _touched(self, facts: BlockFacts, touch: Touch) -> None:
        if not touch.justified:
            self._find(Fault.WRONG, facts.number, touch.account, touch.tx_hash)
        if touch.full:
            self.emptied.add(touch.account)
        if not touch.progress:
            self._unpaid(facts, touch)
            return
        first = self._due_since.pop(touch.account, None)
        if not touch.flagged:
            return  # a later window
        self.dealt.add(touch.account)
        waited = facts.number - (facts.number if first is None else first)
        self.late[waited] += 1
        if waited > DEADLINE and touch.account not in self._told:
            detail = f"due since block {first}, dealt with {waited} blocks later"
            self._find(Fault.LATE, facts.number, touch.account, detail)
        self._told.discard(touch.account)

    def _unpaid(self, facts: BlockFacts, touch: Touch) -> None:
        if not touch.ours:
            return
        self.unpaid += 1
        before_s = self._unpaid_at_s.get(touch.account)
        if before_s is not None and facts.timestamp_s - before_s < self.window_s:
            self._find(Fault.REPEATED, facts.number, touch.account, touch.tx_hash)
        self._unpaid_at_s[touch.account] = facts.timestamp_s

    def _reverted(self, facts: BlockFacts) -> None:
        for revert in facts.reverts:
            detail = f"{revert.error or 'without data'} {revert.tx_hash}"
            if revert.error in STALE_ERRORS:
                self._find(Fault.STALE, facts.number, revert.account or 0, detail)
            elif revert.error in CURED_ERRORS and revert.due_before:
                self.cured += 1
            else:
                self._find(Fault.REVERTED, facts.number, revert.account or 0, detail)

    def _follow_due(self, facts: BlockFacts) -> None:
        for account in [known for known in self._due_since if known not in facts.due]:
            first = self._due_since.pop(account)
            self._told.discard(account)
            self.escaped += facts.number - first >= BINDING
        for account in sorted(facts.due):
            first = self._due_since.setdefault(account, facts.number)
            if self._away(facts.number):
                self._due_since[account] = facts.number
            elif facts.number - first >= DEADLINE and account not in self._told:
                self._told.add(account)
                self._find(Fault.LATE, facts.number, account, f"due since block {first}")

    def _follow_steps(self, facts: BlockFacts) -> None:
        """Count how long each flagged account stood open in a market that had room for it."""
        for touch in facts.touches:
            for market in touch.closed:
                first = self._open_since.pop((touch.account, market), None)
                if first is not None:
                    self.paced[facts.number - first] += 1
        stands = {
            (account, market)
            for account, markets in facts.open_flagged.items()
            for market in markets & facts.room
        }
        known = {} if self._away(facts.number) else self._open_since
        self._open_since = {key: known.get(key, facts.number) for key in stands}
        for (account, market), first in sorted(self._open_since.items()):
            if facts.number - first == PACE:
                detail = f"in market {market}: room since block {first}"
                self._find(Fault.IDLE, facts.number, account, detail)
