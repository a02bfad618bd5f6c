"""From a nomination to an open attempt: assess once more, gate, simulate, gate, submit.

An optimistic venue is not simulated at: what the book expects is weighed instead, at the gas that
won liquidations have used, through the same gates.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog

from keeper.act.brakes import Brakes
from keeper.act.execution_rules import ExecutionRules
from keeper.act.halves import Halves
from keeper.act.holds import NOT_SENT, REFUSALS, too_dear, waiting
from keeper.act.in_flight import leaves_no_room, taking_over
from keeper.act.spending import Spending
from keeper.act.weighing import Weighing
from keeper.batching import Batching, SimulatedBatch, accounts_of
from keeper.decide.agenda import Hold, HoldReason
from keeper.decide.economics import Fee
from keeper.decide.gate import Facts, before_simulation
from keeper.facts import (
    AccountId,
    Assessment,
    Attempt,
    Head,
    NotSent,
    Outcome,
    Plan,
    Refused,
    Simulated,
    Step,
    VenueId,
)
from keeper.optimistic import Optimistic, foreseen
from keeper.ports import Board, Clock, Submitter, Telemetry
from keeper.watch.desk import Desk, Nominated

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """What was simulated and may be sent: for one nominated account, or for several at once."""

    nominated: tuple[Nominated, ...]
    plan: Plan
    fee: Fee
    wallet: str


class Execution:
    """Turns nominations into attempts."""

    def __init__(
        self,
        rules: ExecutionRules,
        submitter: Submitter,
        board: Board,
        telemetry: Telemetry,
        clock: Clock,
        brakes: Brakes,
    ) -> None:
        """Hold no state but which accounts are worked on, and what has failed together."""
        self.weighing = Weighing(rules, board, clock)
        self._submitter = submitter
        self._telemetry = telemetry
        self._clock = clock
        self.brakes = brakes
        self.halves = Halves()
        self._working: set[tuple[VenueId, AccountId]] = set()

    @property
    def rules(self) -> ExecutionRules:
        """Return what sending goes by."""
        return self.weighing.rules

    @property
    def spending(self) -> Spending:
        """Return what was spent and learned so far."""
        return self.weighing.spending

    async def attempt(self, desk: Desk, nominated: Nominated) -> None:
        """Take one nominated account as far as it goes now; what stops it becomes a hold."""
        head = desk.head
        if head is None:
            return
        with self.working(desk, [nominated], head) as free:
            for each in free:
                ready = await self.prepare(desk, desk.renewed(each), head)
                if ready is not None:
                    await self.commit(desk, ready, head)

    @contextmanager
    def working(
        self, desk: Desk, some: Sequence[Nominated], head: Head
    ) -> Iterator[Sequence[Nominated]]:
        """Yield those that nobody works on and that have nothing in flight; the rest is held."""
        free: list[Nominated] = []
        for nominated in some:
            account = nominated.assessment.account
            key = (desk.venue.id, account)
            if key in self._working or self._submitter.attempt_of(*key) is not None:
                desk.hold(account, Hold(HoldReason.ATTEMPT_OPEN, until_block=head.number + 1))
                continue
            self._working.add(key)
            free.append(nominated)
        try:
            yield free
        finally:
            for nominated in free:
                key = (desk.venue.id, nominated.assessment.account)
                self._working.discard(key)
                self.spending.release(*key)

    async def prepare(
        self, desk: Desk, nominated: Nominated, head: Head, wallet: str | None = None
    ) -> Ready | None:
        """Gate, simulate and weigh one account; None: it is held. ``wallet``: who is to send."""
        assessment = nominated.assessment
        if not assessment.liquidatable:
            desk.not_yet(assessment)
            return None
        ready = (
            self._before(desk, head)
            or self._left_to_others(desk, assessment.account, head)
            or self._behind(desk, assessment, head)
            or await self._ready(desk, nominated, wallet, head)
        )
        if isinstance(ready, Hold):
            desk.hold(assessment.account, ready)
            return None
        return ready

    async def commit(self, desk: Desk, ready: Ready, head: Head) -> None:
        """Send what is ready, unless others were faster or the budgets have no room for it."""
        began_ns = self._clock.monotonic_ns()
        held = self._overtaken(desk, ready, head)
        held = held or self.spending.claim(ready.plan, ready.fee, self._submitter.open_attempts)
        self._stage(desk, "gate", began_ns, self._clock.monotonic_ns())
        held = held or await self._send(desk, ready, head)
        if held is not None:
            for account in accounts_of(ready.plan):
                desk.hold(account, held)

    def _before(self, desk: Desk, head: Head) -> Hold | None:
        reason = self.brakes.hold(desk.venue.id) or before_simulation(
            self._facts(desk, head), self.weighing.limits(desk)
        )
        return self._wait(reason, head) if reason else None

    def _left_to_others(self, desk: Desk, account: AccountId, head: Head) -> Hold | None:
        """Hold what a back-up keeper leaves to the first ones until some blocks have passed."""
        due = desk.agenda.first_block(account, head.number) + self.rules.backup_delay_blocks
        return Hold(HoldReason.BACKUP_DELAY, until_block=due) if head.number < due else None

    def _behind(self, desk: Desk, assessment: Assessment, head: Head) -> Hold | None:
        """Hold what would get nothing behind the attempts in flight."""
        no_room = leaves_no_room(assessment, desk.venue.id, self._submitter.open_attempts)
        return self._wait(HoldReason.CAPACITY_IN_USE, head) if no_room else None

    def _overtaken(self, desk: Desk, ready: Ready, head: Head) -> Hold | None:
        """Hold what came too late: others were sent meanwhile, or it took too long."""
        venue = desk.venue.id
        # a reorg may have brought back what was settled
        if any(self._submitter.attempt_of(venue, each) for each in accounts_of(ready.plan)):
            return self._wait(HoldReason.ATTEMPT_OPEN, head)
        waited_ns = self._clock.monotonic_ns() - ready.plan.decided_ns
        if waited_ns > self.rules.candidate_ms_max * 1_000_000:
            return self._wait(HoldReason.CANDIDATE_EXPIRED, head)
        reason = self.brakes.hold(desk.venue.id)
        if reason is not None:
            return self._wait(reason, head)
        if len(self._submitter.open_attempts) >= self.rules.open_attempts_max:
            return self._wait(HoldReason.OPEN_ATTEMPTS, head)
        behind = (self._behind(desk, each.assessment, head) for each in ready.nominated)
        return next((held for held in behind if held is not None), None)

    async def _ready(
        self, desk: Desk, nominated: Nominated, wallet: str | None, head: Head
    ) -> Ready | Hold:
        if nominated.tick_ns:
            self._stage(desk, "price_to_decided", nominated.tick_ns, nominated.decided_ns)
        # known before the simulation: who is paid, and may act at all, depends on the sender
        account = nominated.assessment.account
        wallet = wallet or self.sender(desk, account)
        if wallet is None:
            return self._wait(HoldReason.LANE_PARKED, head)
        in_flight = self._taking_over(desk, account)
        began_ns = self._clock.monotonic_ns()
        self._stage(desk, "waiting", nominated.decided_ns, began_ns)
        simulation = await self._foreseen(desk, nominated.assessment, wallet, head)
        if simulation is None:
            simulation = await self.simulate(desk, nominated.assessment, wallet, head)
        self._stage(desk, "simulate", began_ns, self._clock.monotonic_ns())
        if isinstance(simulation, Refused):
            return self._refused(desk, account, simulation, head)
        weighed = self.weigh(desk, nominated, simulation, head)
        if weighed is HoldReason.UNPROFITABLE:
            worth_wei = self.weighing.worth_per_gas_wei(desk, simulation)
            if worth_wei is not None:
                return too_dear(head, self._clock.wall_ms(), self.rules.hold_ms, worth_wei)
        if isinstance(weighed, HoldReason):
            return self._wait(weighed, head)
        if simulation.takes_over and self._taking_over(desk, account) != in_flight:
            return self._wait(HoldReason.CAPACITY_IN_USE, head)  # it was simulated without these
        return Ready((nominated,), *weighed, wallet)

    async def _foreseen(
        self, desk: Desk, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused | None:
        """Return what the book expects where that is enough to send on; None: ask the chain.

        It is not enough after a failure of the account, nor for a book that is not trusted.
        """
        if not desk.rules.optimistic or not isinstance(desk.venue, Optimistic):
            return None
        if desk.suspect or desk.agenda.failures(assessment.account):
            return None
        gas = self.spending.odds(desk.venue.id).won_gas_max
        if gas is None or wallet not in self._submitter.wallets:  # a dry run is there to ask
            return None
        found = foreseen(desk.venue, assessment, gas, head)
        return None if found is None else await self._with_data_fee(found)

    def may_act(self, desk: Desk, wallet: str) -> bool:
        """Say whether a wallet may act at a venue."""
        return wallet in self._submitter.wallets_of(desk.venue.id)

    def sender(self, desk: Desk, account: AccountId) -> str | None:
        """Return who is to send: for a wallet's own account that wallet; None: all are parked."""
        wallets = self._submitter.wallets_of(desk.venue.id)
        own = next((wallet for wallet in wallets if wallet.lower() == account), None)
        chosen = own or self._submitter.wallet_for(desk.venue.id)
        return chosen if self._submitter.wallets else self.rules.watcher

    def weigh(
        self, desk: Desk, nominated: Nominated, simulation: Simulated, head: Head
    ) -> tuple[Plan, Fee] | HoldReason:
        """Return what to send at which fee, or why not to."""
        spend = self.weighing.spend(desk, simulation)
        if spend is None:
            return HoldReason.NO_NATIVE_PRICE
        fee = self._submitter.first_fee(desk.venue.id, head, spend)
        if isinstance(fee, HoldReason):
            return fee
        plan = self.weighing.plan(desk, nominated, simulation, fee)
        return plan if isinstance(plan, HoldReason) else (plan, fee)

    async def _send(self, desk: Desk, ready: Ready, head: Head) -> Hold | None:
        plan = ready.plan
        if not self._submitter.wallets:
            self._would_send(plan)
        self.brakes.sending(plan.venue)
        result = await self._submitter.submit(plan, ready.wallet, ready.fee, head)
        if isinstance(result, Attempt):
            if plan.optimistic:
                self._telemetry.count("keeper_optimistic_total", venue=plan.venue)
            # it may have been settled before its sending was noted: then nobody ends the work
            if self._submitter.attempt_of(plan.venue, plan.account) is not None:
                for account in accounts_of(plan):
                    desk.agenda.start(account)
            return None
        self.brakes.not_sent(plan.venue)
        if result is NotSent.DROPPED:
            for account in accounts_of(plan):
                self._dropped(plan, account)
                desk.send_failed(account)
            return None
        return self._wait(NOT_SENT[result], head)

    async def simulate(
        self, desk: Desk, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Ask the chain what the liquidation would do from a wallet."""
        if taking := self._taking_over(desk, assessment.account):
            assessment = replace(assessment, in_flight=taking)
        simulation = await self._with_data_fee(await desk.venue.simulate(assessment, wallet, head))
        result = "ok" if isinstance(simulation, Simulated) else simulation.reason
        self._telemetry.count("keeper_simulated_total", venue=desk.venue.id, result=result)
        return simulation

    async def simulate_batch(
        self, desk: Desk, assessments: Sequence[Assessment], wallet: str, head: Head
    ) -> SimulatedBatch | Refused:
        """Ask the chain what one transaction for all of these would do from a wallet."""
        venue = desk.venue
        if not isinstance(venue, Batching):
            return Refused("unknown", "the venue takes one account a transaction")
        batch = await venue.simulate_batch(assessments, wallet, head)
        whole = await self._with_data_fee(batch if isinstance(batch, Refused) else batch.whole)
        result = "ok" if isinstance(whole, Simulated) else whole.reason
        self._telemetry.count("keeper_simulated_total", venue=venue.id, result=result)
        if isinstance(batch, Refused) or isinstance(whole, Refused):
            return batch if isinstance(batch, Refused) else Refused("fee", "")
        return replace(batch, whole=whole)

    async def _with_data_fee(self, simulation: Simulated | Refused) -> Simulated | Refused:
        if isinstance(simulation, Refused):
            return simulation
        first = Step(simulation.job, simulation.call, simulation.gas)
        fees = await self._submitter.data_fees([first, *simulation.then])
        if fees is None:
            return Refused("fee", "what its data costs on layer 1 is not known")
        then = zip(simulation.then, fees[1:], strict=True)
        return replace(
            simulation,
            gas=simulation.gas + fees[0].gas,
            then=tuple(replace(step, gas=step.gas + fee.gas) for step, fee in then),
            data_fee_wei=sum(fee.wei for fee in fees),
        )

    def _taking_over(self, desk: Desk, account: AccountId) -> Counter[str]:
        return taking_over(desk.venue.id, account, self._submitter.open_attempts)

    def _facts(self, desk: Desk, head: Head) -> Facts:
        now_ms = self._clock.wall_ms()
        return Facts(
            venue_open=desk.access.open,
            head_age_ms=now_ms - head.seen_ms,
            native_price_wad=self.weighing.native_usd_wad(),
            reward_price_wad=self.weighing.reward_price_wad(desk),
            attempts_open=len(self._submitter.open_attempts),
        )

    def _refused(self, desk: Desk, account: AccountId, refused: Refused, head: Head) -> Hold:
        reason = REFUSALS.get(refused.reason, HoldReason.SIMULATION_FAILED)
        if reason is HoldReason.NOT_LIQUIDATABLE:
            self._telemetry.count(
                "keeper_disagreements_total", venue=desk.venue.id, step="simulate"
            )
        logger.debug(
            "simulation refused",
            venue=desk.venue.id,
            account=account,
            reason=refused.reason,
            detail=refused.detail,
        )
        if refused.until_s is not None:
            return Hold(reason, until_ms=desk.wall_ms_at(refused.until_s))
        return self._wait(reason, head)

    def _wait(self, reason: HoldReason, head: Head) -> Hold:
        return waiting(reason, head, self._clock.wall_ms() + self.rules.hold_ms)

    def _dropped(self, plan: Plan, account: AccountId) -> None:
        """Count and tell an attempt that ended before it began; the lane has told why."""
        outcome = Outcome.DROPPED.value
        self._telemetry.count("keeper_attempts_total", venue=plan.venue, outcome=outcome)
        logger.warning(
            "attempt",
            outcome=outcome,
            venue=plan.venue,
            account=account,
            expected_wei=plan.expected.expected_wei,
            reward_wei=0,
            cost_wei=0,
        )

    def _would_send(self, plan: Plan) -> None:
        logger.info(
            "dry run: would liquidate",
            venue=plan.venue,
            accounts=list(accounts_of(plan)),
            expected_wei=plan.expected.expected_wei,
            reward_wei=plan.expected.reward_wei,
            cost_wei=plan.expected.gas_cost_wei + plan.expected.oracle_fee_wei,
        )

    def _stage(self, desk: Desk, stage: str, since_ns: int, until_ns: int) -> None:
        seconds = (until_ns - since_ns) / 1e9
        venue = desk.venue.id
        self._telemetry.observe("keeper_stage_seconds", seconds, venue=venue, stage=stage)
