"""From a nomination to an open attempt: assess once more, gate, simulate, gate, submit."""

from collections import Counter
from dataclasses import replace

import structlog

from keeper.act.brakes import Brakes
from keeper.act.execution_rules import ExecutionRules
from keeper.act.holds import NOT_SENT, REFUSALS, waiting
from keeper.act.in_flight import leaves_no_room, taking_over
from keeper.act.spending import Spending
from keeper.decide.agenda import Hold, HoldReason
from keeper.decide.economics import Economics, Fee, Spend, reward_in_wei
from keeper.decide.gate import Facts, Limits, after_simulation, before_simulation
from keeper.decide.rank import Objective
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
from keeper.jobs import UPKEEP
from keeper.ports import Board, Clock, Submitter, Telemetry
from keeper.units import PPM, WAD
from keeper.watch.desk import Desk, Nominated

logger = structlog.get_logger(__name__)

DATA_FEE_HEADROOM = 2  # layer 1 may become dearer until inclusion


class Execution:
    """Turns nominations into attempts, one account at a time."""

    def __init__(
        self,
        rules: ExecutionRules,
        submitter: Submitter,
        board: Board,
        telemetry: Telemetry,
        clock: Clock,
        brakes: Brakes,
    ) -> None:
        """Hold no state but which accounts are being worked on."""
        self.rules = rules
        self.spending = Spending(rules, clock, self.native_usd_wad)
        self._submitter = submitter
        self._board = board
        self._telemetry = telemetry
        self._clock = clock
        self.brakes = brakes
        self._working: set[tuple[VenueId, AccountId]] = set()

    def adopt(self, rules: ExecutionRules) -> None:
        """Go by other rules from the next account on."""
        self.rules = rules
        self.spending.adopt(rules)

    async def attempt(self, desk: Desk, nominated: Nominated) -> None:
        """Take one nominated account as far as it goes now; what stops it becomes a hold."""
        account = nominated.assessment.account
        key = (desk.venue.id, account)
        head = desk.head
        if head is None:
            return
        if key in self._working or self._submitter.attempt_of(*key) is not None:
            desk.hold(account, Hold(HoldReason.ATTEMPT_OPEN, until_block=head.number + 1))
            return
        self._working.add(key)
        try:
            await self._attempt(desk, desk.renewed(nominated), head)
        finally:
            self._working.discard(key)
            self.spending.release(*key)

    async def _attempt(self, desk: Desk, nominated: Nominated, head: Head) -> None:
        assessment = nominated.assessment
        if not assessment.liquidatable:
            desk.not_yet(assessment)
            return
        held = (
            self._before(desk, head)
            or self._left_to_others(desk, assessment.account, head)
            or self._behind(desk, assessment, head)
            or await self._simulate_and_send(desk, nominated, head)
        )
        if held is not None:
            desk.hold(assessment.account, held)

    def _before(self, desk: Desk, head: Head) -> Hold | None:
        reason = self.brakes.hold(desk.venue.id) or before_simulation(
            self._facts(desk, head), self._limits(desk)
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

    def _overtaken(self, desk: Desk, nominated: Nominated, head: Head) -> Hold | None:
        """Hold what came too late: others were sent meanwhile, or it took too long."""
        waited_ns = self._clock.monotonic_ns() - nominated.decided_ns
        if waited_ns > self.rules.candidate_ms_max * 1_000_000:
            return self._wait(HoldReason.CANDIDATE_EXPIRED, head)
        reason = self.brakes.hold(desk.venue.id)
        if reason is not None:
            return self._wait(reason, head)
        if len(self._submitter.open_attempts) >= self.rules.open_attempts_max:
            return self._wait(HoldReason.OPEN_ATTEMPTS, head)
        return self._behind(desk, nominated.assessment, head)

    async def _simulate_and_send(self, desk: Desk, nominated: Nominated, head: Head) -> Hold | None:
        if nominated.tick_ns:
            self._stage(desk, "price_to_decided", nominated.tick_ns, nominated.decided_ns)
        # known before the simulation: who is paid, and may act at all, depends on the sender
        account = nominated.assessment.account
        wallet = self._sender(desk, account)
        if wallet is None:
            return self._wait(HoldReason.LANE_PARKED, head)
        in_flight = self._taking_over(desk, account)
        began_ns = self._clock.monotonic_ns()
        self._stage(desk, "waiting", nominated.decided_ns, began_ns)
        simulation = await self.simulate(desk, nominated.assessment, wallet, head)
        simulated_ns = self._clock.monotonic_ns()
        self._stage(desk, "simulate", began_ns, simulated_ns)
        if isinstance(simulation, Refused):
            return self._refused(desk, account, simulation, head)
        weighed = self._weigh(desk, nominated, simulation, head)
        if isinstance(weighed, HoldReason):
            return self._wait(weighed, head)
        if simulation.takes_over and self._taking_over(desk, account) != in_flight:
            return self._wait(HoldReason.CAPACITY_IN_USE, head)  # it was simulated without these
        held = self._overtaken(desk, nominated, head)
        held = held or self.spending.claim(*weighed, self._submitter.open_attempts)
        self._stage(desk, "gate", simulated_ns, self._clock.monotonic_ns())
        return held or await self._send(desk, *weighed, wallet, head)

    def _sender(self, desk: Desk, account: AccountId) -> str | None:
        """Return who is to send: for a wallet's own account that wallet; None: all are parked."""
        wallets = self._submitter.wallets_of(desk.venue.id)
        own = next((wallet for wallet in wallets if wallet.lower() == account), None)
        chosen = own or self._submitter.wallet_for(desk.venue.id)
        return chosen if self._submitter.wallets else self.rules.watcher

    def _weigh(
        self, desk: Desk, nominated: Nominated, simulation: Simulated, head: Head
    ) -> tuple[Plan, Fee] | HoldReason:
        """Return what to send at which fee, or why not to."""
        spend = self.spend(desk, simulation)
        if spend is None:
            return HoldReason.NO_NATIVE_PRICE
        fee = self._submitter.first_fee(desk.venue.id, head, spend)
        if isinstance(fee, HoldReason):
            return fee
        plan = self.plan(desk, nominated, simulation, fee)
        return plan if isinstance(plan, HoldReason) else (plan, fee)

    def spend(self, desk: Desk, simulation: Simulated) -> Spend | None:
        """Say what a simulated liquidation is worth at most; None: a price for that is missing.

        That is what is expected of it before all costs, and for solvency the budget on top.
        """
        reward_wei = self.reward_wei(desk, simulation.reward_wad)
        taken = simulation.takes_over
        exit_cost_wei = self.reward_wei(desk, taken.exit_cost_wad) if taken else 0
        if reward_wei is None or exit_cost_wei is None:
            return None
        p_win_ppm = self.spending.odds(desk.venue.id).p_win_ppm
        worth_wei = (reward_wei - exit_cost_wei) * p_win_ppm // PPM
        if desk.rules.objective is Objective.SOLVENCY:
            worth_wei += desk.rules.solvency_budget_wei
        if simulation.job in UPKEEP:  # it is not done for its own profit
            worth_wei = self.rules.transaction_cost_wei_max
        return Spend(
            worth_wei=worth_wei
            - simulation.data_fee_wei
            - sum(step.call.value_wei for step in simulation.then),
            gas=simulation.gas + sum(step.gas for step in simulation.then),
            gas_limit=simulation.gas * self.rules.gas_limit_factor_ppm // PPM,
            value_wei=simulation.call.value_wei,
        )

    async def _send(self, desk: Desk, plan: Plan, fee: Fee, wallet: str, head: Head) -> Hold | None:
        if not self._submitter.wallets:
            self._would_send(plan)
        self.brakes.sending(plan.venue)
        result = await self._submitter.submit(plan, wallet, fee, head)
        if isinstance(result, Attempt):
            # it may have been settled before its sending was noted: then nobody ends the work
            if self._submitter.attempt_of(plan.venue, plan.account) is not None:
                desk.agenda.start(plan.account)
            return None
        self.brakes.not_sent(plan.venue)
        if result is NotSent.DROPPED:
            self._dropped(plan)
            desk.send_failed(plan.account)
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

    def plan(
        self, desk: Desk, nominated: Nominated, simulation: Simulated, fee: Fee
    ) -> Plan | HoldReason:
        """Weigh a simulated liquidation at a fee; the answer of the gate."""
        economics = self._economics(desk, simulation, fee)
        if economics is None:
            return HoldReason.NO_NATIVE_PRICE
        gas_limit = simulation.gas * self.rules.gas_limit_factor_ppm // PPM
        worst = [gas_limit * fee.max_fee_wei + simulation.call.value_wei]
        for step in simulation.then:
            step_limit = step.gas * self.rules.gas_limit_factor_ppm // PPM
            worst.append(step_limit * fee.max_fee_wei + step.call.value_wei)
        upkeep = simulation.job in UPKEEP
        data_fee_wei = simulation.data_fee_wei * DATA_FEE_HEADROOM
        dearest = max(worst) + data_fee_wei
        reason = after_simulation(economics, dearest, self._limits(desk), upkeep=upkeep)
        if reason is not None:
            return reason
        return Plan(
            venue=desk.venue.id,
            account=nominated.assessment.account,
            call=simulation.call,
            gas_limit=gas_limit,
            cost_wei_max=sum(worst) + data_fee_wei,
            expected=economics,
            tick_ns=nominated.tick_ns,
            decided_ns=nominated.decided_ns,
            simulated_at=simulation.head.number,
            uses=nominated.assessment.uses,
            takes=nominated.assessment.takes,
            job=simulation.job,
            then=simulation.then,
            takes_over=simulation.takes_over,
        )

    def native_usd_wad(self) -> int | None:
        """Return the price of the native token; None while it is missing or stale."""
        native = self._board.fresh(self.rules.native_feed, self._clock.wall_ms())
        return native.price_wad if native else None

    def _economics(self, desk: Desk, simulation: Simulated, fee: Fee) -> Economics | None:
        reward_wei = self.reward_wei(desk, simulation.reward_wad)
        taken = simulation.takes_over
        exit_cost_wei = self.reward_wei(desk, taken.exit_cost_wad) if taken else 0
        if reward_wei is None or exit_cost_wei is None:
            return None
        gas = simulation.gas + sum(step.gas for step in simulation.then)
        fee_per_gas = fee.paid_at(simulation.head.base_fee_wei)
        odds = self.spending.odds(desk.venue.id)
        return Economics(
            reward_wei=reward_wei,
            gas_cost_wei=gas * fee_per_gas,
            oracle_fee_wei=simulation.oracle_fee_wei,
            revert_cost_wei=odds.revert_gas * fee_per_gas,
            p_win_ppm=odds.p_win_ppm,
            exit_cost_wei=exit_cost_wei,
            data_fee_wei=simulation.data_fee_wei,
        )

    def reward_wei(self, desk: Desk, reward_wad: int) -> int | None:
        """Value a reward in wei; None while a price for that is missing or stale."""
        now_ms = self._clock.wall_ms()
        native = self._board.fresh(self.rules.native_feed, now_ms)
        reward_price_wad = self._reward_price_wad(desk, now_ms)
        if native is None or reward_price_wad is None:
            return None
        return reward_in_wei(reward_wad, reward_price_wad, native.price_wad)

    def _reward_price_wad(self, desk: Desk, now_ms: int) -> int | None:
        if desk.rules.reward_feed is None:
            return WAD
        price = self._board.fresh(desk.rules.reward_feed, now_ms)
        return price.price_wad if price else None

    def _facts(self, desk: Desk, head: Head) -> Facts:
        now_ms = self._clock.wall_ms()
        return Facts(
            venue_open=desk.access.open,
            head_age_ms=now_ms - head.seen_ms,
            native_price_wad=self.native_usd_wad(),
            reward_price_wad=self._reward_price_wad(desk, now_ms),
            attempts_open=len(self._submitter.open_attempts),
        )

    def _limits(self, desk: Desk) -> Limits:
        rules = self.rules
        return Limits(
            head_age_ms_max=rules.head_age_ms_max,
            transaction_cost_wei_max=rules.transaction_cost_wei_max,
            profit_wei_min=rules.profit_wei_min,
            open_attempts_max=rules.open_attempts_max,
            objective=desk.rules.objective,
            solvency_budget_wei=desk.rules.solvency_budget_wei,
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

    def _dropped(self, plan: Plan) -> None:
        """Count and tell an attempt that ended before it began; the lane has told why."""
        outcome = Outcome.DROPPED.value
        self._telemetry.count("keeper_attempts_total", venue=plan.venue, outcome=outcome)
        logger.warning(
            "attempt",
            outcome=outcome,
            venue=plan.venue,
            account=plan.account,
            expected_wei=plan.expected.expected_wei,
            reward_wei=0,
            cost_wei=0,
        )

    def _would_send(self, plan: Plan) -> None:
        logger.info(
            "dry run: would liquidate",
            venue=plan.venue,
            account=plan.account,
            expected_wei=plan.expected.expected_wei,
            reward_wei=plan.expected.reward_wei,
            cost_wei=plan.expected.gas_cost_wei + plan.expected.oracle_fee_wei,
        )

    def _stage(self, desk: Desk, stage: str, since_ns: int, until_ns: int) -> None:
        seconds = (until_ns - since_ns) / 1e9
        venue = desk.venue.id
        self._telemetry.observe("keeper_stage_seconds", seconds, venue=venue, stage=stage)
