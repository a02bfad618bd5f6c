from dataclasses import replace

import pytest

from keeper.decide.learn import AGE_MS_MAX, Prior, Record, Result

T = 10**12
PRIOR = Prior(900_000, 500_000, 990_000, revert_gas=100_000, revert_gas_max=400_000)


def record(won: int, lost: int, gas: int | None = 80_000) -> Record:
    found = Record(PRIOR)
    for _ in range(won):
        found.note("demo", Result(T, won=True))
    for _ in range(lost):
        found.note("demo", Result(T, won=False, gas=gas))
    return found


def test_without_a_past_it_is_what_is_configured() -> None:
    odds = Record(PRIOR).odds("demo", T)
    assert (odds.p_win_ppm, odds.revert_gas) == (900_000, 100_000)


@pytest.mark.parametrize(
    ("won", "lost", "p_win_ppm"),
    [
        (0, 1, 857_142),  # (20 × 0.9 + 0) / 21: one lost race decides little
        (10, 10, 700_000),
        (0, 400, 500_000),  # the lower bound
        (1_000, 0, 990_000),  # the upper one
    ],
)
def test_the_chance_is_learned_within_its_bounds(won: int, lost: int, p_win_ppm: int) -> None:
    assert record(won, lost).odds("demo", T).p_win_ppm == p_win_ppm


@pytest.mark.parametrize(
    ("lost", "gas", "revert_gas"),
    [
        (5, 60_000, 80_000),
        (1_000, 10_000_000, 400_000),
        (1_000, 1, 21_000),
        (5, None, 100_000),  # included by a block we have no receipt of: unknown is not learned
    ],
)
def test_the_cost_of_a_revert_is_learned_within_its_bounds(
    lost: int, gas: int | None, revert_gas: int
) -> None:
    assert record(0, lost, gas).odds("demo", T).revert_gas == revert_gas


def test_venues_are_apart_and_the_past_grows_old() -> None:
    found = record(0, 400)
    assert found.odds("other", T).p_win_ppm == 900_000
    assert found.odds("demo", T + AGE_MS_MAX).p_win_ppm == 500_000
    assert found.odds("demo", T + AGE_MS_MAX + 1).p_win_ppm == 900_000, "it is tried again"


def test_it_is_explained() -> None:
    assert record(10, 10).odds("demo", T).why == (
        "p(win) 70 %: won 10 of 20 in 7 days, beside 90 % configured as 20 more, within 50 to 99 %;"
        " a lost race burns 86666 gas: 10 seen, beside 100000 configured as 5 more, at most 400000"
    )


def test_what_won_ones_used_is_known_after_some_and_forgotten_with_age() -> None:
    found = Record(PRIOR)
    for number, gas in enumerate((150_000, 230_000, 180_000)):
        assert found.odds("demo", T).won_gas_max is None
        found.note("demo", Result(T + number, won=True, gas=gas))
    odds = found.odds("demo", T)
    assert odds.won_gas_max == 230_000
    assert odds.revert_gas == PRIOR.revert_gas, "nothing was burned"
    assert odds.why.endswith("; a won one used up to 230000")
    assert found.odds("demo", T + AGE_MS_MAX + 2).won_gas_max is None
    found.prior = replace(PRIOR, revert_gas=120_000)
    assert found.odds("demo", T).revert_gas == 120_000
