"""From an open attempt to its settled outcome: receipts, replacements, cancels."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import structlog

from keeper.act.execute import Execution
from keeper.act.judge import Judge, Judged
from keeper.act.reuse import next_best
from keeper.act.tally import Tally
from keeper.batching import accounts_of, divided, onto, paying
from keeper.decide.agenda import Hold, HoldReason
from keeper.decide.economics import Fee
from keeper.errors import RpcError, TransientError
from keeper.facts import (
    AccountId,
    Assessment,
    Attempt,
    Head,
    Mined,
    Outcome,
    Plan,
    Receipt,
    Refused,
    Settled,
    Simulated,
    TxKind,
    VenueId,
)
from keeper.jobs import OURS, PAID, Gain, Job
from keeper.ports import Accounting, Tracker
from keeper.watch.desk import Desk, Nominated

logger = structlog.get_logger(__name__)

# outcomes after which the account is left alone for a growing while
FAILED = frozenset({Outcome.REVERTED, Outcome.LOST, Outcome.EXPIRED, Outcome.DROPPED})


@dataclass(frozen=True, slots=True)
class Wait:
    """Why an overdue attempt is neither replaced nor cancelled at this head.

    ``too_dear``: it is not worth more than it bids; once it holds up its wallet it is cancelled.
    """

    reason: str
    too_dear: bool = False


class Settlement:
    """Follows what is in flight, block by block."""

    def __init__(
        self,
        desks: Mapping[VenueId, Desk],
        execution: Execution,
        tracker: Tracker,
        tally: Tally,
        publish: Sequence[Callable[[Settled], None]],
    ) -> None:
        """``publish`` hears of every settled attempt."""
        self._desks = desks
        self._judge = Judge(desks, execution)
        self._execution = execution
        self._tracker = tracker
        self.tally = tally
        self._publish = publish
        # the first block of which what it settled may be gone; at a start any may
        self._replaced_from: int | None = 0

    async def learn_past(self, now_ms: int) -> None:
        """Take what was earned and spent so far from the journal."""
        self._execution.spending.learn(await self.tally.learn_past(now_ms))

    def reorged(self, first: int) -> None:
        """Note that blocks from this one on were replaced."""
        known = self._replaced_from
        self._replaced_from = first if known is None else min(first, known)

    async def on_head(self, head: Head) -> None:
        """Settle what is mined deep enough; replace or cancel what has waited too long.

        First of all what orphaned blocks had settled goes back to being in flight: its nonces are
        not to be given out again. So does what was given up and is on the chain after all.
        """
        if self._replaced_from is not None:
            await self._in_flight_again(await self._tracker.reopen(self._replaced_from, head), head)
            self._replaced_from = None
        await self._in_flight_again(await self._tracker.reappeared(head), head)
        for mined in await self._tracker.poll(head):
            await self._alone(mined.attempt, self._settle(mined, head))
        await self._maintain(head)
        for attempt in self._tracker.overdue(head):
            await self._alone(attempt, self._renew(attempt, head))
        for attempt in self._tracker.waiting(head):
            if self._is_over(attempt, head):
                await self._alone(attempt, self._give_up(attempt, head, "cured, or others did it"))

    async def _in_flight_again(self, reopened: Sequence[Attempt], head: Head) -> None:
        if reopened:
            await self.learn_past(head.seen_ms)
            self.tally.reopened(reopened)

    async def _maintain(self, head: Head) -> None:
        """Fill gaps in the nonces and keep wallets able to pay, within the budgets."""
        spending, claimed = self._execution.spending, list[Plan]()

        def may(plan: Plan, fee: Fee) -> bool:
            over = spending.claim(plan, fee, self._tracker.open_attempts)
            if over is not None:
                said = {"job": plan.job, "reason": over.reason, "detail": over.detail}
                logger.warning("a wallet's upkeep waits", **said)
                return False
            claimed.append(plan)
            return True

        try:
            await self._tracker.fill_gaps(head, may)
            if not self._execution.brakes.resting:
                await self._tracker.top_up(head, may)
        except (TransientError, RpcError) as error:
            logger.warning("upkeep of wallets again at the next head", error=str(error))
        finally:
            for plan in claimed:
                spending.release(plan.venue, plan.account)

    async def _alone(self, attempt: Attempt, work: Awaitable[None]) -> None:
        """Keep one attempt that the chain cannot be asked about from holding up the others.

        Or one whose next transaction cannot be journaled.
        """
        try:
            await work
        except (TransientError, RpcError) as error:
            logger.warning("trying again at the next head", attempt=attempt.id, error=str(error))

    def _guard(self, attempt: Attempt) -> AbstractContextManager[bool | None]:
        """Set the account aside if handling it shows a bug: the attempt itself must go on."""
        desk = self._desks.get(attempt.plan.venue)
        return desk.guard(attempt.plan.account) if desk else nullcontext()

    async def _settle(self, mined: Mined, head: Head) -> None:
        """Judge each account that the transaction was for, and divide its cost among them."""
        attempt, receipt = mined.attempt, mined.receipt
        value_wei, sharing = self._value_spent(mined), paying(mined)
        cost_wei = (receipt.cost_wei if receipt else 0) + value_wei
        shares = dict(zip(sharing, divided(cost_wei, len(sharing)), strict=True))
        done = [
            await self._settled(mined, head, account, shares.get(account, 0))
            for account in accounts_of(attempt.plan)
        ]
        await self._tracker.close(done)
        kind = mined.transaction.kind if mined.transaction else None
        self._execution.brakes.settled(done[0], kind)
        self.tally.cost(attempt, receipt, value_wei)
        for settled in done:
            self._execution.spending.settled(settled)
            self._end(settled, sharing, receipt.block_number if receipt else head.number)
            self.tally.settled(settled, mined)
            for publish in self._publish:
                publish(settled)

    async def _settled(
        self, mined: Mined, head: Head, account: AccountId, cost_wei: int
    ) -> Settled:
        """Return what became of one account of a transaction. ``cost_wei``: its share."""
        whole, receipt = mined.attempt, mined.receipt
        attempt = replace(whole, plan=replace(whole.plan, account=account))
        failed = Outcome.LOST if receipt and receipt.success else Outcome.REVERTED
        judged: Judged = (failed, "not judged: the account is in quarantine", None)
        gains: Mapping[Gain, int] = {}
        desk = self._desks.get(attempt.plan.venue)
        with self._guard(attempt):
            judged = await self._judge.judged(replace(mined, attempt=attempt), head)
            gains = self._gains(desk, attempt, receipt) if account in paying(mined) else {}
        outcome, detail, seen = judged
        reward_wad = sum(gains.values()) if gains else seen.reward_wad if seen else 0
        weighing = self._execution.weighing
        reward_wei = weighing.reward_wei(desk, reward_wad) if desk and reward_wad else 0
        if reward_wei is None:  # no fresh native price now: value it at what it was planned with
            reward_wei = attempt.plan.expected.reward_wei // len(accounts_of(attempt.plan))
        return Settled(
            attempt=attempt,
            outcome=outcome,
            detail=detail,
            receipt=receipt,
            reward_wad=reward_wad,
            reward_wei=reward_wei,
            cost_wei=cost_wei,
            gains=gains,
            native_usd_wad=weighing.native_usd_wad(),
        )

    def _end(self, settled: Settled, together: Sequence[AccountId], block: int) -> None:
        """End the work on an account: what failed with others is tried with fewer of them."""
        plan, halves = settled.attempt.plan, self._execution.halves
        desk = self._desks.get(plan.venue)
        if desk is None:
            return
        if settled.outcome is Outcome.REVERTED and len(together) > 1 and not _went_in(settled):
            halves.failed(plan.venue, together)
            desk.hold(plan.account, Hold(HoldReason.HALVED, until_block=block + 1))
            return
        halves.forget(plan.venue, plan.account)
        desk.settled(plan.account, failed=settled.outcome in FAILED, block=block)

    def _gains(
        self, desk: Desk | None, attempt: Attempt, receipt: Receipt | None
    ) -> Mapping[Gain, int]:
        """Return what a transaction left us with where that is more than a reward in cash."""
        if desk is None or receipt is None or not isinstance(desk.venue, Accounting):
            return {}
        ours = frozenset(desk.venue.addresses())
        return desk.venue.gains(
            [log for log in receipt.logs if log.address in ours], attempt.wallet
        )

    def _value_spent(self, mined: Mined) -> int:
        """Return the value that stayed with the venue: a revert and a cancel give it back."""
        if mined.receipt is None or not mined.receipt.success or mined.transaction is None:
            return 0
        if mined.transaction.kind is TxKind.CANCEL or mined.transaction.job is Job.TOP_UP:
            return 0  # nobody was paid: a top-up is still ours
        return mined.value_wei

    async def _renew(self, attempt: Attempt, head: Head) -> None:
        """Simulate again: still worth it → dearer at the same nonce; else → cancel."""
        again: tuple[Plan, Fee] | Wait | str = self._execution.brakes.paused
        if not again:
            again = "the account is in quarantine"
            with self._guard(attempt):
                again = await self._plan_again(attempt, head)
        if isinstance(again, tuple):
            try:
                await self._tracker.replace(attempt, *again, head)
            finally:
                self._execution.spending.release(attempt.plan.venue, attempt.plan.account)
        elif isinstance(again, Wait) and again.too_dear and self._tracker.is_stuck(attempt, head):
            await self._cancel(attempt, head, again.reason)
        elif isinstance(again, Wait):
            logger.info("waiting", attempt=attempt.id, reason=again.reason)
        else:
            await self._give_up(attempt, head, again)

    async def _give_up(self, attempt: Attempt, head: Head, reason: str) -> None:
        """Use the nonce for the next best candidate, or else cancel."""
        desk = self._desks.get(attempt.plan.venue)
        if desk is None or not desk.access.open or self._execution.brakes.hold(desk.venue.id):
            await self._cancel(attempt, head, reason)
            return
        for nominated in next_best(desk):
            with self._execution.working(desk, [nominated], head) as free:
                if free and await self._reuse(desk, attempt, nominated, head):
                    logger.info("nonce used again", attempt=attempt.id, reason=reason)
                    return
        await self._cancel(attempt, head, reason)

    async def _reuse(self, desk: Desk, attempt: Attempt, nominated: Nominated, head: Head) -> bool:
        account, wallet = nominated.assessment.account, attempt.wallet
        if not self._execution.may_act(desk, wallet):
            return False
        simulation = await self._execution.simulate(desk, nominated.assessment, wallet, head)
        if isinstance(simulation, Refused):
            return False
        found = self._dearer(desk, attempt, nominated, simulation, head)
        if isinstance(found, Wait):
            return False
        try:
            await self._tracker.replace(attempt, *found, head)
        finally:
            self._execution.spending.release(desk.venue.id, attempt.plan.account)
        desk.agenda.start(account)
        return True

    async def _cancel(self, attempt: Attempt, head: Head, reason: str) -> None:
        spending = self._execution.spending
        cost_wei_max = spending.cancel_wei_max(attempt, self._tracker.open_attempts)
        if await self._tracker.cancel(attempt, head, cost_wei_max):
            logger.info("cancelling", attempt=attempt.id, reason=reason)
        else:
            logger.info("waiting: a cancel would cost too much", attempt=attempt.id, reason=reason)

    def _is_over(self, attempt: Attempt, head: Head) -> bool:
        """Say whether the account was changed since, and is liquidatable no more.

        A price that came back is none of these: what is in flight may carry one that still counts.
        """
        desk = self._desks.get(attempt.plan.venue)
        if desk is None or desk.head is None or attempt.plan.job not in PAID:
            return False
        return all(self._is_cured(desk, attempt, each, head) for each in accounts_of(attempt.plan))

    def _is_cured(self, desk: Desk, attempt: Attempt, account: AccountId, head: Head) -> bool:
        state = desk.states.get(account)
        if state is None or desk.head is None:
            return False
        # what was read ahead of the head may be our own success, not yet seen by the lane
        if not attempt.plan.simulated_at < state.head.number <= desk.head.number <= head.number:
            return False
        with desk.guard(account):
            return not desk.assess(account).liquidatable
        return False

    async def _plan_again(self, attempt: Attempt, head: Head) -> tuple[Plan, Fee] | Wait | str:
        """Return the plan at a replacement's fee, why to wait, or why to cancel."""
        if attempt.plan.job in OURS:
            return "it only has to be included, or comes again if it is still wanted"
        desk = self._desks.get(attempt.plan.venue)
        if desk is None:
            return "its venue is no longer configured"
        accounts = accounts_of(attempt.plan)
        if not desk.loaded or any(account not in desk.states for account in accounts):
            return Wait("the account was not read yet")
        assessed = [desk.assess(account) for account in accounts]
        under = [each for each in assessed if each.liquidatable]
        if not under:
            return "no longer liquidatable"
        simulation = await self._simulate_again(desk, under, attempt, head)
        if isinstance(simulation, Simulated):
            found = self._dearer(desk, attempt, desk.nomination(under[0]), simulation, head)
            return found if isinstance(found, Wait) else (_for_all(found[0], under), found[1])
        unasked = simulation.reason in {"unreachable", "fee"}
        return Wait("the chain could not be asked") if unasked else simulation.reason

    async def _simulate_again(
        self, desk: Desk, under: Sequence[Assessment], attempt: Attempt, head: Head
    ) -> Simulated | Refused:
        if len(under) == 1:
            return await self._execution.simulate(desk, under[0], attempt.wallet, head)
        batch = await self._execution.simulate_batch(desk, under, attempt.wallet, head)
        if isinstance(batch, Refused):
            self._execution.halves.failed(attempt.plan.venue, attempt.plan.batch)
            return batch
        return batch.whole

    def _dearer(
        self,
        desk: Desk,
        attempt: Attempt,
        nominated: Nominated,
        simulation: Simulated,
        head: Head,
    ) -> tuple[Plan, Fee] | Wait:
        spend = self._execution.weighing.spend(desk, simulation)
        if spend is None:
            return Wait("what it pays cannot be valued now")
        fee = self._tracker.replacement_fee(attempt, head, spend)
        if fee is None:
            return Wait("a replacement would cost too much", too_dear=True)
        plan = self._execution.weighing.plan(desk, nominated, simulation, fee)
        # what would not pay at the higher fee may still be included at the one it has
        if not isinstance(plan, Plan):
            return Wait(plan.value, too_dear=True)
        whole = onto(attempt, plan)  # what was sent before may still be included
        over = self._execution.spending.claim(whole, fee, self._tracker.open_attempts)
        if over is not None:
            return Wait(f"{over.reason}: {over.detail}", too_dear=True)
        return plan, fee


def _went_in(settled: Settled) -> bool:
    """Say whether the transaction succeeded: then each account in it was refused or done alone."""
    return settled.receipt is not None and settled.receipt.success


def _for_all(plan: Plan, assessed: Sequence[Assessment]) -> Plan:
    batch = tuple(each.account for each in assessed)
    return replace(plan, batch=batch if len(batch) > 1 else ())
