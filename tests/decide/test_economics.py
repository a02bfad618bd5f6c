from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.decide.agenda import HoldReason
from keeper.decide.economics import Economics, reward_in_wei
from keeper.decide.gate import Facts, Limits, after_simulation, before_simulation
from keeper.decide.rank import Objective, priority
from keeper.units import GWEI, PPM, WAD

WEI = st.integers(0, 10**24)


def test_an_example_by_hand() -> None:
    # 40 USD at 2000 USD per native token = 0.02; 300k gas at 10 gwei = 0.003; p(win) 90 %
    reward = reward_in_wei(40 * WAD, WAD, 2000 * WAD)
    assert reward == WAD // 50
    weighed = Economics(reward, 300_000 * 10 * GWEI, 5, 100_000 * 10 * GWEI, 900_000)
    assert weighed.expected_wei == WAD * 18 // 1000 - WAD * 3 // 1000 - 5 - WAD // 10_000


@given(WEI, WEI, WEI, WEI, st.integers(1, PPM))
def test_expected_value_is_the_formula_rounded_against_us(
    reward: int, gas: int, fee: int, revert: int, p_win: int
) -> None:
    p = Fraction(p_win, PPM)
    exact = p * reward - gas - fee - (1 - p) * revert
    found = Economics(reward, gas, fee, revert, p_win).expected_wei
    assert exact - 2 < found <= exact


@given(WEI, st.integers(1, 10**24), st.integers(1, 10**24))
def test_reward_conversion_rounds_down(reward: int, price: int, native: int) -> None:
    exact = Fraction(reward * price, native)
    assert exact - 1 < reward_in_wei(reward, price, native) <= exact


@pytest.mark.parametrize(("price", "native"), [(0, 1), (1, 0), (-1, 1)])
def test_a_price_that_is_not_positive_is_no_price(price: int, native: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        reward_in_wei(WAD, price, native)


FACTS = Facts(
    venue_open=True,
    head_age_ms=500,
    native_price_wad=2000 * WAD,
    reward_price_wad=WAD,
    attempts_open=0,
)
LIMITS = Limits(
    head_age_ms_max=1000,
    transaction_cost_wei_max=1000,
    profit_wei_min=10,
    open_attempts_max=2,
    objective=Objective.PROFIT,
    solvency_budget_wei=50,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"venue_open": False}, HoldReason.VENUE_CLOSED),
        ({"head_age_ms": 1000}, None),
        ({"head_age_ms": 1001}, HoldReason.STALE_HEAD),
        ({"native_price_wad": None}, HoldReason.NO_NATIVE_PRICE),
        ({"reward_price_wad": None}, HoldReason.NO_NATIVE_PRICE),
        ({"attempts_open": 1}, None),
        ({"attempts_open": 2}, HoldReason.OPEN_ATTEMPTS),
    ],
)
def test_gate_before_simulation(change: dict[str, object], reason: HoldReason | None) -> None:
    assert before_simulation(replace(FACTS, **change), LIMITS) is reason  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expected", "worst", "change", "reason"),
    [
        (10, 1000, {}, None),
        (9, 1000, {}, HoldReason.UNPROFITABLE),
        (10, 1001, {}, HoldReason.COST_CAP),
        (0, 0, {"profit_wei_min": 0}, HoldReason.UNPROFITABLE),
        (1, 0, {"profit_wei_min": 0}, None),
        (-50, 1000, {"objective": Objective.SOLVENCY}, None),
        (-51, 1000, {"objective": Objective.SOLVENCY}, HoldReason.UNPROFITABLE),
        (-1, 1001, {"objective": Objective.SOLVENCY}, HoldReason.COST_CAP),
    ],
)
def test_gate_after_simulation(
    expected: int, worst: int, change: dict[str, object], reason: HoldReason | None
) -> None:
    limits = replace(LIMITS, **change)  # type: ignore[arg-type]
    weighed = Economics(max(expected, 0), max(-expected, 0), 0, 0, PPM)
    assert weighed.expected_wei == expected
    assert after_simulation(weighed, worst, limits) is reason


def test_upkeep_is_not_weighed_but_capped() -> None:
    losing = Economics(-WAD, 1, 0, 1, PPM)
    limits = replace(LIMITS, transaction_cost_wei_max=10)
    assert after_simulation(losing, 10, limits) is HoldReason.UNPROFITABLE
    assert after_simulation(losing, 10, limits, upkeep=True) is None
    assert after_simulation(losing, 11, limits, upkeep=True) is HoldReason.COST_CAP


def test_profit_ranks_by_reward_and_solvency_by_bad_debt_then_shortfall() -> None:
    rich = {"reward_wad": 10 * WAD, "shortfall_wad": 1 * WAD, "bad_debt_wad": 0}
    deep = {"reward_wad": 1 * WAD, "shortfall_wad": 10 * WAD, "bad_debt_wad": 0}
    lost = {"reward_wad": 1 * WAD, "shortfall_wad": 9 * WAD, "bad_debt_wad": 1}
    assert priority(Objective.PROFIT, **rich) < priority(Objective.PROFIT, **deep)
    assert priority(Objective.SOLVENCY, **deep) < priority(Objective.SOLVENCY, **rich)
    assert priority(Objective.SOLVENCY, **lost) < priority(Objective.SOLVENCY, **deep)
