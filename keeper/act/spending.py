"""What was spent and won so far, as sending needs it: budgets that hold, odds that were learned."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from keeper.act.execution_rules import ExecutionRules
from keeper.batching import accounts_of
from keeper.decide.agenda import Hold, HoldReason
from keeper.decide.budget import Amounts, Budget, Limit, Spent, Unit
from keeper.decide.economics import Fee
from keeper.decide.learn import Odds, Record, Result
from keeper.facts import AccountId, Attempt, Outcome, Plan, Settled, TxKind, VenueId
from keeper.jobs import PAID, Job
from keeper.ports import Clock
from keeper.units import WAD

CANCEL_GAS = 21_000  # a transfer of nothing to ourselves
NOT_WON = frozenset({Outcome.LOST, Outcome.REVERTED})
Key = tuple[VenueId, AccountId]


@dataclass(frozen=True, slots=True)
class Past:
    """A settled attempt as it counts later: what it cost, what it brought, how it ended."""

    venue: VenueId
    job: Job
    outcome: Outcome
    settled_ms: int
    reward_wei: int
    cost_wei: int
    native_usd_wad: int | None  # as in ``Settled``
    gas_used: int | None  # None: not included, or unknown

    @classmethod
    def of(cls, settled: Settled, settled_ms: int) -> Self:
        """Return what counts of a settled attempt later."""
        attempt, receipt = settled.attempt, settled.receipt
        included = receipt.tx_hash if receipt else ""
        of_it = [tx.accounts for tx in attempt.transactions if tx.hash == included and tx.accounts]
        accounts = len(of_it[0] if of_it else accounts_of(attempt.plan))
        return cls(
            venue=settled.attempt.plan.venue,
            job=settled.attempt.plan.job,
            outcome=settled.outcome,
            settled_ms=settled_ms,
            reward_wei=settled.reward_wei,
            cost_wei=settled.cost_wei,
            native_usd_wad=settled.native_usd_wad,
            gas_used=receipt.gas_used // accounts if receipt else None,
        )


class Spending:
    """Fed with every settled attempt, those of the journal first."""

    def __init__(
        self, rules: ExecutionRules, clock: Clock, native_usd_wad: Callable[[], int | None]
    ) -> None:
        """``native_usd_wad``: says the price of the native token, None while it is unknown."""
        self._rules = rules
        self._clock = clock
        self._native_usd_wad = native_usd_wad
        self.learn(())
        self._worst: dict[str, tuple[Attempt, Amounts]] = {}  # of what was in flight last
        self._claims: dict[Key, Amounts] = {}  # let through, perhaps not in flight yet

    def learn(self, all_past: Iterable[Past]) -> None:
        """Start afresh from what the journal says was settled, oldest first."""
        self._budget = Budget(self._rules.limits)
        self._record = Record(self._rules.prior)
        for past in all_past:
            self.note(past)

    def adopt(self, rules: ExecutionRules) -> None:
        """Go by other rules; what was spent and learned counts on."""
        self._rules = rules
        self._budget.limits = rules.limits
        self._record.prior = rules.prior

    def settled(self, settled: Settled) -> None:
        """Let an attempt count that ended just now."""
        self.note(Past.of(settled, self._clock.wall_ms()))

    def note(self, past: Past) -> None:
        """Count what a settled attempt cost and learn from how it ended."""
        loss_wei = max(0, past.cost_wei - past.reward_wei)
        amounts = Amounts(past.cost_wei, loss_wei)
        self._budget.spend(Spent(past.settled_ms, amounts, past.native_usd_wad))
        if past.job in PAID and (past.outcome is Outcome.WON or past.outcome in NOT_WON):
            won = past.outcome is Outcome.WON
            self._record.note(past.venue, Result(past.settled_ms, won, past.gas_used))

    def odds(self, venue: VenueId) -> Odds:
        """Return the chance to be first and the gas of a lost race, with the reason."""
        return self._record.odds(venue, self._clock.wall_ms())

    def claim(self, plan: Plan, fee: Fee, open_attempts: Iterable[Attempt]) -> Hold | None:
        """Reserve the worst case of a plan until ``release``, or say what has no room for it.

        A plan that replaces what is in flight for its account takes over that reservation.
        """
        key, now_ms, native = (
            (plan.venue, plan.account),
            self._clock.wall_ms(),
            self._native_usd_wad(),
        )
        if native is None:
            return Hold(HoldReason.NO_NATIVE_PRICE, until_ms=now_ms + self._rules.hold_ms)
        reserved = self._reserved(open_attempts)
        wanted = _larger(_worst(plan, fee.max_fee_wei), reserved.pop(key, None))
        over = self._budget.over(wanted, reserved.values(), now_ms, native)
        if over is None:
            self._claims[key] = wanted
            return None
        until_ms = over.until_ms or now_ms + self._rules.hold_ms
        return Hold(HoldReason.BUDGET, until_ms=until_ms, detail=str(over))

    def cancel_wei_max(self, attempt: Attempt, open_attempts: Sequence[Attempt]) -> int:
        """Return what cancelling an attempt may cost: what it has reserved, and what is left."""
        reserved = self._reserved(open_attempts)[attempt.plan.venue, attempt.plan.account]
        native = self._native_usd_wad()
        left_wei = [
            _in_wei(limit, left or 0, native) for limit, left in self.left(open_attempts).items()
        ]
        return reserved.gas_wei + max(
            0, min(left_wei, default=self._rules.transaction_cost_wei_max)
        )

    def release(self, venue: VenueId, account: AccountId) -> None:
        """End a claim: by now its attempt is in flight, or will not be."""
        self._claims.pop((venue, account), None)

    def left(self, open_attempts: Iterable[Attempt]) -> Mapping[Limit, int | None]:
        """Return what each budget has left; None for USD while the native price is unknown."""
        reserved = self._reserved(open_attempts).values()
        return self._budget.left(reserved, self._clock.wall_ms(), self._native_usd_wad())

    def _reserved(self, open_attempts: Iterable[Attempt]) -> dict[Key, Amounts]:
        reserved, known = dict(self._claims), dict[str, tuple[Attempt, Amounts]]()
        for attempt in open_attempts:
            before = self._worst.get(attempt.id)
            if before is None or before[0] is not attempt:  # worked out once for each change
                before = attempt, _worst_of(attempt)
            known[attempt.id] = before
            key = (attempt.plan.venue, attempt.plan.account)
            reserved[key] = _larger(before[1], reserved.get(key))
        self._worst = known
        return reserved


def _worst_of(attempt: Attempt) -> Amounts:
    """Return what an attempt in flight costs at most: one of its transactions will be included."""
    fees = {True: 0, False: 0}  # by whether it is a cancel
    for tx in attempt.transactions:
        cancels = tx.kind is TxKind.CANCEL
        fees[cancels] = max(fees[cancels], tx.max_fee_wei)
    worst = _worst(attempt.plan, fees[False])
    cancel_wei = CANCEL_GAS * fees[True]
    return _larger(worst, Amounts(cancel_wei, cancel_wei))


def _worst(plan: Plan, max_fee_wei: int) -> Amounts:
    """Return what a plan costs at most, with one cancel, an eighth dearer, on top."""
    cancel_wei = CANCEL_GAS * (max_fee_wei + max_fee_wei // 8 + 1)
    gas_wei = plan.cost_wei_max + cancel_wei
    return Amounts(gas_wei, gas_wei + plan.expected.exit_cost_wei)


def _in_wei(limit: Limit, amount: int, native_usd_wad: int | None) -> int:
    if limit.unit is Unit.WEI:
        return amount
    return amount * WAD // native_usd_wad if native_usd_wad else 0


def _larger(one: Amounts, other: Amounts | None) -> Amounts:
    if other is None:
        return one
    return Amounts(max(one.gas_wei, other.gas_wei), max(one.loss_wei, other.loss_wei))
