"""Synthetix V3 perps-market in exact integers: margins, funding, interest, rewards, windows, rows.

Pure, so that it can be compared with the contracts by itself. Amounts, prices, sizes and ratios are
wads; ``_s`` is chain time. Signed divisions truncate toward zero, as the contracts' do. Sources, in
the package ``@synthetixio/perps-market`` 3.13: ``storage/Position.sol``, ``PerpsMarket.sol``,
``PerpsMarketConfiguration.sol``, ``PerpsAccount.sol``, ``GlobalPerpsMarketConfiguration.sol``,
``InterestRate.sol``, ``modules/LiquidationModule.sol``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from keeper.margin.rows import Row
from keeper.units import WAD, div_trunc, mul_wad, wad_to_float

DAY_S = 86_400
YEAR_S = 31_557_600
ROOM_PPM, PPM = 1_250_000, 1_000_000  # a row holds up to this multiple of its price
COST_BITS = 4  # of a keeper cost that a row looks at: up to 1/8 too much, and it changes seldom
INTEREST = "I"  # the index factor of interest accrued


class Terms(NamedTuple):
    """A market's parameters."""

    skew_scale: int
    velocity_max: int  # of the funding rate, a day a day
    maker_fee: int
    taker_fee: int
    initial_ratio: int
    initial_ratio_min: int
    maintenance_scalar: int
    flag_ratio: int  # of notional, paid for flagging
    position_margin_min: int
    window_multiplier: int
    window_s: int
    pd_max: int  # below this |skew| / scale a used-up window opens again with every block
    locked_ratio: int  # of notional, which interest is charged on

    @property
    def window(self) -> int:
        """The size that may be liquidated in ``window_s``; 0: any."""
        rate = (self.maker_fee + self.taker_fee) * self.skew_scale // WAD
        return rate * self.window_multiplier // WAD * self.window_s

    def maintenance_ratio(self, size: int) -> int:
        """Return the maintenance margin's share of notional; it grows with the size."""
        impact = abs(size) * WAD // self.skew_scale if self.skew_scale else 0
        initial = impact * self.initial_ratio // WAD + self.initial_ratio_min
        return initial * self.maintenance_scalar // WAD


class Market(NamedTuple):
    """A market: parameters, funding as last recorded, what was liquidated lately."""

    terms: Terms
    skew: int
    funding_rate: int  # a day
    funding_value: int  # USD per unit of size
    funding_s: int
    liquidated: tuple[tuple[int, int], ...] = ()  # (size, chain time), newest first

    def funding_at(self, price: int, at_s: int) -> int:
        """Return the funding value; what is not recorded yet accrues at *this* price."""
        elapsed = (at_s - self.funding_s) * WAD // DAY_S
        rate = self.funding_rate + mul_wad(self._velocity(), elapsed)
        average = -div_trunc((self.funding_rate + rate) * WAD, 2 * WAD)
        return self.funding_value + mul_wad(mul_wad(average, elapsed), price)

    def _velocity(self) -> int:
        if self.terms.skew_scale == 0:
            return 0
        proportional = div_trunc(self.skew * WAD, self.terms.skew_scale)
        return mul_wad(max(-WAD, min(WAD, proportional)), self.terms.velocity_max)

    def capacity(self, at_s: int) -> int | None:
        """Return the size that may be liquidated at this time; None: any."""
        whole = self.terms.window
        if whole == 0:
            return None
        used = sum(size for size, s in self.liquidated if s > at_s - self.terms.window_s)
        if used < whole:
            return whole - used
        deviation = abs(self.skew) * WAD // self.terms.skew_scale
        again = deviation < self.terms.pd_max and self.liquidated[0][1] != at_s
        return whole if again else 0

    def reopens_s(self, at_s: int) -> int:
        """Return the first time from ``at_s`` on at which there is room."""
        ends = {s + self.terms.window_s for _, s in self.liquidated}
        times = sorted(time for time in (at_s, at_s + 1, *ends) if time >= at_s)
        return next(time for time in times if self.capacity(time) != 0)


class Interest(NamedTuple):
    """Interest accrued per USD of locked notional, at a rate a year, up to a time."""

    accrued: int
    rate: int
    last_s: int

    def at(self, at_s: int) -> int:
        """Return what is accrued at this time."""
        return self.accrued + self.rate * ((at_s - self.last_s) * WAD // YEAR_S) // WAD


class Costs(NamedTuple):
    """What the protocol believes that a keeper's transaction costs, in USD."""

    flag: tuple[int, ...]  # by the number of feeds, from 0 on
    liquidate: int

    def rounded_up(self) -> "Costs":
        """Return costs that are a little too high and change seldom."""
        return Costs(tuple(map(_rounded_up, self.flag)), _rounded_up(self.liquidate))


class Guards(NamedTuple):
    """Bounds of the liquidation reward, in USD and as ratios."""

    minimum: int
    profit_ratio_min: int  # of the cost
    maximum: int
    scaling_max: int  # of the collateral
    collateral_ratio: int  # of the collateral, paid for flagging when it is more

    def floor(self, cost: int) -> int:
        """Return the least reward."""
        return max(cost + self.minimum, cost * (self.profit_ratio_min + WAD) // WAD)

    def ceiling(self, collateral: int) -> int:
        """Return the highest reward; it overrides the least one."""
        if collateral == 0:
            return self.maximum
        return min(collateral * self.scaling_max // WAD, self.maximum)

    def reward(self, rewards: int, cost: int, collateral: int) -> int:
        """Return what a keeper is paid."""
        return min(max(self.floor(cost), rewards + cost), self.ceiling(collateral))


class Position(NamedTuple):
    """A position since it was last touched: signed size; price, funding and interest then."""

    size: int
    price: int
    funding: int
    interest: int


class Holding(NamedTuple):
    """An account. ``others``: how many collaterals it has beside USD.

    Those are worth nothing here and its reward is the highest there is: a requirement that is too
    high, never too low.
    """

    usd: int
    debt: int
    positions: Mapping[int, Position]
    others: int = 0


class Margin(NamedTuple):
    """The contract's numbers for an account; it is under when ``available < required``."""

    available: int
    required: int  # maintenance margin and the rewards of all windows
    rewards: int  # of all windows: the part of ``required``
    reward: int  # of the next step


@dataclass(frozen=True)
class System:
    """Everything that margins depend on beside the account and the prices."""

    markets: Mapping[int, Market]
    interest: Interest
    guards: Guards
    costs: Costs

    def margin(self, holding: Holding, prices: Mapping[int, int], at_s: int) -> Margin:
        """Return the margins at these prices and this time; a KeyError for what has no price."""
        available, maintenance, flagging = holding.usd - holding.debt, 0, 0
        accrued = self.interest.at(at_s)
        for key, position in holding.positions.items():
            market, price, size = self.markets[key], prices[key], abs(position.size)
            terms, notional = market.terms, size * price // WAD
            available += mul_wad(position.size, price - position.price)
            available += mul_wad(position.size, market.funding_at(price, at_s) - position.funding)
            locked = notional * terms.locked_ratio // WAD
            available -= locked * (accrued - position.interest) // WAD
            maintenance += notional * terms.maintenance_ratio(size) // WAD
            maintenance += terms.position_margin_min
            flagging += notional * terms.flag_ratio // WAD
        if not holding.positions:
            return self._margin_only(holding)
        reward = self._reward(holding, flagging, self.costs)
        rewards = reward + self._later(holding, self.costs)
        return Margin(available, maintenance + rewards, rewards, reward)

    def flagged_reward(self) -> int:
        """Return what a step of an account that is flagged already pays, if it closes anything."""
        return self.guards.reward(0, self.costs.liquidate, 0)

    def _margin_only(self, holding: Holding) -> Margin:
        """Return the margins of an account without positions: only debt can sink it."""
        reward = self._reward(holding, 0, self.costs)
        required = reward if holding.debt else 0
        return Margin(holding.usd - holding.debt, required, required, reward)

    def _reward(self, holding: Holding, flagging: int, costs: Costs) -> int:
        """Return the reward of flagging and a first step, at most (it is exact for USD only)."""
        cost = self._cost(holding, costs)
        if cost is None:
            return self.guards.maximum
        rewards = max(flagging, holding.usd * self.guards.collateral_ratio // WAD)
        return self.guards.reward(rewards, cost, holding.usd)

    def _cost(self, holding: Holding, costs: Costs) -> int | None:
        """Return the cost of flagging and a first step; None: unknown."""
        feeds = len(holding.positions)
        if holding.others or feeds >= len(costs.flag):
            return None
        return costs.flag[feeds] + costs.liquidate

    def _later(self, holding: Holding, costs: Costs) -> int:
        """Return the rewards of the windows after the first."""
        windows = 0
        for key, position in holding.positions.items():
            window = self.markets[key].terms.window
            windows = max(windows, -(-abs(position.size) // window) if window else 0)
        return self.guards.reward(0, costs.liquidate, 0) * max(0, windows - 1)

    # --- rows -------------------------------------------------------------------------------------

    def row(self, holding: Holding, prices: Mapping[int, int], at_s: int) -> Row | None:
        """Compile to ``excess ≥ constant + Σ weight × factor``, for the time from ``at_s`` on.

        Factors: a market's price under its id as text, its funding under ``F:`` and that, interest
        accrued under ``I``. At these prices and this time the row is exact but for keeper costs
        rounded up. Interest is a product of two factors: inside the envelope it is bounded by the
        tangent at its corner, P × I ≤ P₁ × I + P × I₀ − P₁ × I₀ for P ≤ P₁ and I ≥ I₀.
        """
        if not holding.positions:
            margin = self._at_rounded_costs()._margin_only(holding)  # noqa: SLF001 - its own class
            return Row(wad_to_float(margin.available - margin.required)) if holding.debt else None
        draft, accrued = _Draft((holding.usd - holding.debt) * WAD), self.interest.at(at_s)
        for key, position in holding.positions.items():
            terms, size, price = self.markets[key].terms, position.size, prices[key]
            high, locked = price * ROOM_PPM // PPM, abs(size) * terms.locked_ratio
            owed = -(-locked * (accrued - position.interest) // WAD)
            draft.add(str(key), size * WAD - abs(size) * terms.maintenance_ratio(size) - owed)
            draft.add(f"F:{key}", size * WAD)
            draft.add(INTEREST, locked * high // -WAD)
            draft.constant -= size * (position.price + position.funding)
            draft.constant += locked * high // WAD * accrued // WAD
            draft.constant -= (terms.position_margin_min + 3) * WAD  # 3: truncations
            draft.bound(str(key), 0.0, wad_to_float(high))
        draft.bound(INTEREST, wad_to_float(accrued), 1e300)
        self._at_rounded_costs()._add_reward(draft, holding, prices)  # noqa: SLF001 - its own class
        return draft.row()

    def _at_rounded_costs(self) -> "System":
        return System(self.markets, self.interest, self.guards, self.costs.rounded_up())

    def _add_reward(self, draft: "_Draft", holding: Holding, prices: Mapping[int, int]) -> None:
        """Take off the reward: its sloping part between the clamps, else a constant.

        The ceiling is always enough. The sloping part is too little below its lower end, the floor
        too little above it; as a box of prices, all are bounded at the same ratio to the present.
        """
        draft.constant -= self._later(holding, self.costs) * WAD
        cost, ceiling = self._cost(holding, self.costs), self.guards.ceiling(holding.usd)
        if cost is None:
            draft.constant -= self.guards.maximum * WAD
            return
        slopes = {
            key: abs(position.size) * self.markets[key].terms.flag_ratio
            for key, position in holding.positions.items()
        }
        sloping = sum(slope * prices[key] // WAD for key, slope in slopes.items())  # at 1e36
        least = max(
            self.guards.floor(cost) - cost, holding.usd * self.guards.collateral_ratio // WAD
        )
        if sloping >= (ceiling - cost) * WAD or least >= ceiling - cost:
            draft.constant -= ceiling * WAD
        elif sloping > least * WAD:
            draft.constant -= cost * WAD
            for key, slope in slopes.items():
                draft.add(str(key), -slope)
                draft.bound(str(key), wad_to_float(prices[key]) * (least * WAD / sloping), 1e300)
        else:
            draft.constant -= (cost + least) * WAD
            for key, slope in slopes.items():
                if slope and sloping:
                    high = wad_to_float(prices[key]) * (least * WAD / sloping)
                    draft.bound(str(key), 0.0, min(high, 1e300))


class _Draft:
    """A row in the making, in integers: USD and USD per unit of a factor's value, at 1e36."""

    def __init__(self, constant: int) -> None:
        self.constant = constant
        self._weights: dict[str, int] = {}
        self._envelope: dict[str, tuple[float, float]] = {}

    def add(self, factor: str, weight: int) -> None:
        self._weights[factor] = self._weights.get(factor, 0) + weight

    def bound(self, factor: str, low: float, high: float) -> None:
        was_low, was_high = self._envelope.get(factor, (0.0, 1e300))
        self._envelope[factor] = max(low, was_low), min(high, was_high)

    def row(self) -> Row:
        scale = WAD * WAD
        weights = {name: weight / scale for name, weight in self._weights.items()}
        return Row(self.constant / scale, weights, self._envelope)


def _rounded_up(cost: int) -> int:
    """Return the next number that is zero beyond its first ``COST_BITS`` bits."""
    shift = max(0, cost.bit_length() - COST_BITS)
    return -(-cost >> shift) << shift
