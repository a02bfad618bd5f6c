"""What a simulated liquidation is worth at a fee, and whether the gate lets it through."""

from keeper.act.execution_rules import ExecutionRules
from keeper.act.spending import Spending
from keeper.decide.agenda import HoldReason
from keeper.decide.economics import Economics, Fee, Spend, reward_in_wei
from keeper.decide.gate import Limits, after_simulation
from keeper.decide.learn import Odds
from keeper.decide.rank import Objective
from keeper.facts import Plan, Simulated
from keeper.jobs import UPKEEP
from keeper.ports import Board, Clock
from keeper.units import PPM, WAD
from keeper.watch.desk import Desk, Nominated

DATA_FEE_HEADROOM = 2  # layer 1 may become dearer until inclusion
FAILURES_MAX = 2  # of an account in a row that raise its gas limit, to twice the usual


class Weighing:
    """Turns rewards into wei and simulations into plans."""

    def __init__(self, rules: ExecutionRules, board: Board, clock: Clock) -> None:
        """``spending`` is what was spent and learned so far."""
        self.rules = rules
        self.spending = Spending(rules, clock, self.native_usd_wad)
        self._board = board
        self._clock = clock

    def adopt(self, rules: ExecutionRules) -> None:
        """Go by other rules from the next account on."""
        self.rules = rules
        self.spending.adopt(rules)

    # --- prices -----------------------------------------------------------------------------------

    def native_usd_wad(self) -> int | None:
        """Return the price of the native token; None while it is missing or stale."""
        native = self._board.fresh(self.rules.native_feed, self._clock.wall_ms())
        return native.price_wad if native else None

    def reward_price_wad(self, desk: Desk) -> int | None:
        """Return what a unit of the reward is worth, USD; None while that is missing or stale."""
        if desk.rules.reward_feed is None:
            return WAD
        price = self._board.fresh(desk.rules.reward_feed, self._clock.wall_ms())
        return price.price_wad if price else None

    def reward_wei(self, desk: Desk, reward_wad: int) -> int | None:
        """Value a reward in wei; None while a price for that is missing or stale."""
        native, reward = self.native_usd_wad(), self.reward_price_wad(desk)
        if native is None or reward is None:
            return None
        return reward_in_wei(reward_wad, reward, native)

    # --- one simulation ---------------------------------------------------------------------------

    def spend(self, desk: Desk, simulation: Simulated) -> Spend | None:
        """Say what a simulated liquidation is worth at most; None: a price for that is missing.

        That is what is expected of it before all costs, and for solvency the budget on top.
        """
        reward_wei = self.reward_wei(desk, simulation.reward_wad)
        taken = simulation.takes_over
        exit_cost_wei = self.reward_wei(desk, taken.exit_cost_wad) if taken else 0
        if reward_wei is None or exit_cost_wei is None:
            return None
        worth_wei = (reward_wei - exit_cost_wei) * self._odds(desk, simulation).p_win_ppm // PPM
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

    def worth_per_gas_wei(self, desk: Desk, simulation: Simulated) -> int | None:
        """Return the price of gas up to which a simulated liquidation pays; None: not known."""
        spend = self.spend(desk, simulation)
        if spend is None:
            return None
        least_wei = self.rules.profit_wei_min if desk.rules.objective is Objective.PROFIT else 0
        return (spend.worth_wei - spend.value_wei - least_wei) // spend.gas

    def plan(
        self, desk: Desk, nominated: Nominated, simulation: Simulated, fee: Fee
    ) -> Plan | HoldReason:
        """Weigh a simulated liquidation at a fee; the answer of the gate."""
        economics = self._economics(desk, simulation, fee)
        if economics is None:
            return HoldReason.NO_NATIVE_PRICE
        factor_ppm = self._gas_limit_factor_ppm(desk, nominated)
        gas_limit = simulation.gas * factor_ppm // PPM
        worst = [gas_limit * fee.max_fee_wei + simulation.call.value_wei]
        for step in simulation.then:
            step_limit = step.gas * factor_ppm // PPM
            worst.append(step_limit * fee.max_fee_wei + step.call.value_wei)
        upkeep = simulation.job in UPKEEP
        data_fee_wei = simulation.data_fee_wei * DATA_FEE_HEADROOM
        dearest = max(worst) + data_fee_wei
        reason = after_simulation(economics, dearest, self.limits(desk), upkeep=upkeep)
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
            optimistic=simulation.optimistic,
        )

    def _gas_limit_factor_ppm(self, desk: Desk, nominated: Nominated) -> int:
        """Return the configured factor, half as much again after each of some failures in a row.

        What is included late may need more gas than it was simulated with.
        """
        failures = min(desk.agenda.failures(nominated.assessment.account), FAILURES_MAX)
        return self.rules.gas_limit_factor_ppm * (2 + failures) // 2

    def limits(self, desk: Desk) -> Limits:
        """Return what the gate goes by at a venue."""
        rules = self.rules
        return Limits(
            head_age_ms_max=rules.head_age_ms_max,
            transaction_cost_wei_max=rules.transaction_cost_wei_max,
            profit_wei_min=rules.profit_wei_min,
            open_attempts_max=rules.open_attempts_max,
            objective=desk.rules.objective,
            solvency_budget_wei=desk.rules.solvency_budget_wei,
        )

    def _economics(self, desk: Desk, simulation: Simulated, fee: Fee) -> Economics | None:
        reward_wei = self.reward_wei(desk, simulation.reward_wad)
        taken = simulation.takes_over
        exit_cost_wei = self.reward_wei(desk, taken.exit_cost_wad) if taken else 0
        if reward_wei is None or exit_cost_wei is None:
            return None
        gas = simulation.gas + sum(step.gas for step in simulation.then)
        fee_per_gas = fee.paid_at(simulation.head.base_fee_wei)
        odds = self._odds(desk, simulation)
        return Economics(
            reward_wei=reward_wei,
            gas_cost_wei=gas * fee_per_gas,
            oracle_fee_wei=simulation.oracle_fee_wei,
            revert_cost_wei=odds.revert_gas * fee_per_gas,
            p_win_ppm=odds.p_win_ppm,
            exit_cost_wei=exit_cost_wei,
            data_fee_wei=simulation.data_fee_wei,
        )

    def _odds(self, desk: Desk, simulation: Simulated) -> Odds:
        """Return the venue's odds; what stands or falls together has to win every race in it."""
        odds = self.spending.odds(desk.venue.id)
        return odds.together(simulation.all_or_none)
