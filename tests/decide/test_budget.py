"""Rolling budgets against a sum over everything that ever happened."""

from hypothesis import given
from hypothesis import strategies as st

from keeper.decide.budget import (
    DAY_MS,
    HOUR_MS,
    SPANS_MS,
    Amounts,
    Budget,
    Limit,
    Sort,
    Span,
    Spent,
    Unit,
)
from keeper.units import WAD

T = 10**12
ETH_USD = 2_000 * WAD
HOUR = Limit(Sort.GAS, Span.HOUR, Unit.WEI, 100)
LOSS = Limit(Sort.LOSS, Span.DAY, Unit.WEI, 100)
LIMITS = [
    Limit(sort, span, unit, most)
    for sort in Sort
    for span in Span
    for unit, most in ((Unit.WEI, 1_000), (Unit.USD, 1_500_000))
]


def both(wei: int) -> Amounts:
    return Amounts(wei, wei)


def spent(at_ms: int, wei: int, usd: int | None = ETH_USD) -> Spent:
    return Spent(at_ms, both(wei), usd)


def test_what_is_settled_in_flight_and_wanted_must_fit_together() -> None:
    budget = Budget([HOUR])
    budget.spend(spent(T, 40))
    assert budget.over(both(30), [both(30)], T, ETH_USD) is None
    over = budget.over(both(31), [both(30)], T, ETH_USD)
    assert over is not None
    assert (over.limit, over.left, over.wanted) == (HOUR, 30, 31)
    assert over.until_ms is None, "what is in flight is in the way, not the past"


def test_it_names_when_enough_has_left_the_hour() -> None:
    budget = Budget([HOUR])
    for minute, wei in ((0, 30), (10, 30), (20, 30)):
        budget.spend(spent(T + minute * 60_000, wei))
    now_ms = T + 30 * 60_000
    over = budget.over(both(50), [], now_ms, ETH_USD)
    assert over is not None
    assert over.until_ms == T + 10 * 60_000 + HOUR_MS + 1
    still = budget.over(both(50), [], over.until_ms - 1, ETH_USD)
    assert still is not None
    assert budget.over(both(50), [], over.until_ms, ETH_USD) is None


def test_what_is_more_than_the_whole_budget_has_no_time() -> None:
    over = Budget([HOUR]).over(both(101), [], T, ETH_USD)
    assert over is not None
    assert over.until_ms is None


def test_the_budget_that_has_room_last_is_named() -> None:
    day = Limit(Sort.GAS, Span.DAY, Unit.WEI, 100)
    budget = Budget([HOUR, day])
    budget.spend(spent(T, 90))
    over = budget.over(both(20), [], T + 1, ETH_USD)
    assert over is not None
    assert (over.limit, over.until_ms) == (day, T + DAY_MS + 1)


def test_a_win_costs_gas_and_loses_nothing() -> None:
    budget = Budget([HOUR, LOSS])
    budget.spend(Spent(T, Amounts(gas_wei=50, loss_wei=0), ETH_USD))
    assert budget.left([], T, ETH_USD) == {HOUR: 50, LOSS: 100}
    assert budget.left([Amounts(10, 20)], T, ETH_USD) == {HOUR: 40, LOSS: 80}


def test_dollars_are_those_of_the_time_and_todays_where_that_is_unknown() -> None:
    limit = Limit(Sort.GAS, Span.DAY, Unit.USD, 10_000 * WAD)
    budget = Budget([limit])
    budget.spend(spent(T, WAD, 1_000 * WAD))
    budget.spend(spent(T, WAD, None))
    assert budget.left([], T, 3_000 * WAD) == {limit: 6_000 * WAD}
    assert budget.left([both(WAD)], T, 4_000 * WAD) == {limit: 1_000 * WAD}
    assert budget.left([], T, None) == {limit: None}


AMOUNT = st.integers(0, 400)
STEP_MS = st.one_of(st.integers(0, 600_000), st.integers(0, DAY_MS))


@given(st.lists(st.tuples(STEP_MS, AMOUNT, st.sampled_from([WAD, ETH_USD, None]), AMOUNT)))
def test_no_budget_is_exceeded_in_any_window(
    steps: list[tuple[int, int, int | None, int]],
) -> None:
    """Send whatever is let through, at its worst case; sum over every window there ever was."""
    budget, done, now_ms = Budget(LIMITS), [], T
    for waited_ms, wei, usd, reserved in steps:
        now_ms += waited_ms
        if budget.over(both(wei), [both(reserved)], now_ms, ETH_USD) is None:
            one = Spent(now_ms, both(wei), usd)
            budget.spend(one)
            done.append(one)
    for limit in LIMITS:
        for end in done:
            since_ms = end.at_ms - SPANS_MS[limit.span]
            inside = [one for one in done if since_ms <= one.at_ms <= end.at_ms]
            if limit.unit is Unit.WEI:
                assert sum(one.amounts.gas_wei for one in inside) <= limit.most
            elif all(one.native_usd_wad == ETH_USD for one in inside):
                assert sum(one.amounts.gas_wei * 2_000 for one in inside) <= limit.most


@given(
    st.lists(st.tuples(STEP_MS, AMOUNT, st.sampled_from([WAD, ETH_USD, None]))),
    STEP_MS,
    st.lists(AMOUNT, max_size=3),
)
def test_what_is_left_is_the_limit_less_the_sum_over_everything(
    history: list[tuple[int, int, int | None]], later_ms: int, reserved: list[int]
) -> None:
    budget, done, now_ms = Budget(LIMITS), [], T
    for waited_ms, wei, usd in history:
        now_ms += waited_ms
        done.append(Spent(now_ms, Amounts(wei, wei // 2), usd))
        budget.spend(done[-1])
        budget.left([], now_ms, ETH_USD)  # looking changes nothing
    now_ms += later_ms
    for limit, left in budget.left([both(wei) for wei in reserved], now_ms, ETH_USD).items():
        wanted = limit.most
        price = 2_000 if limit.unit is Unit.USD else 1
        wanted -= sum(reserved) * price
        for one in done:
            if one.at_ms + SPANS_MS[limit.span] >= now_ms:
                usd = one.native_usd_wad or ETH_USD
                wei = one.amounts.gas_wei if limit.sort is Sort.GAS else one.amounts.loss_wei
                wanted -= wei * (usd // WAD) if limit.unit is Unit.USD else wei
        assert left == wanted
