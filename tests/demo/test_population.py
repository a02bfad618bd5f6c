import statistics

import pytest

from keeper.demo.path import Prices
from keeper.demo.population import draw_population, start_terms
from keeper.demo.terms import MARKETS
from keeper.margin.model import margin
from keeper.units import WAD

START = Prices(50_000 * WAD, 3_000 * WAD)
FALLEN = Prices(40_000 * WAD, 2_310 * WAD)  # ETH with beta 1.15


@pytest.mark.parametrize("seed", range(5))
def test_everybody_is_solvent_and_well_above_maintenance_at_the_start(seed: int) -> None:
    terms = start_terms(START)
    for one in draw_population(seed, 500, START):
        found = margin(one.account, terms)
        assert found.net_value > 0
        assert found.equity * 10 >= (found.maintenance + found.reserve) * 13
        assert one.account.positions


@pytest.mark.parametrize("seed", range(5))
def test_a_fall_of_a_fifth_sinks_about_a_quarter(seed: int) -> None:
    population = draw_population(seed, 1_000, START)
    terms = start_terms(FALLEN)
    sunk = sum(margin(one.account, terms).excess < 0 for one in population)
    assert 180 <= sunk <= 320


def test_the_draw_follows_the_documented_distribution() -> None:
    population = draw_population(1, 3_000, START)
    terms = start_terms(START)
    others = [one.account for one in population if not one.trader]
    equity = [margin(account, terms).equity / WAD for account in others]
    sizes = [position.size for one in others for position in one.positions.values()]
    two = sum(len(account.positions) == len(MARKETS) for account in others) / len(others)
    cash_only = sum(not account.collateral for account in others) / len(others)
    assert 3_600 < statistics.median(equity) < 4_400
    assert 0.81 < sum(size > 0 for size in sizes) / len(sizes) < 0.87
    assert 0.31 < two < 0.39
    assert 0.41 < cash_only < 0.49
    assert {name for one in others for name in one.collateral} == {"WETH", "WBTC"}


def test_every_twentieth_account_trades_and_survives_any_path() -> None:
    population = draw_population(1, 400, START)
    traders = [index for index, one in enumerate(population) if one.trader]
    assert traders == list(range(19, 400, 20))
    terms = start_terms(Prices(START.btc * 7 // 10, START.eth * 6 // 10))
    longs = [
        population[index].account
        for index in traders
        if all(position.size > 0 for position in population[index].account.positions.values())
    ]
    assert longs
    assert sum(margin(account, terms).excess < 0 for account in longs) <= len(longs) // 4


def test_a_seed_gives_the_same_accounts_again_and_another_seed_others() -> None:
    assert draw_population(1, 20, START) == draw_population(1, 20, START)
    assert draw_population(1, 20, START) != draw_population(2, 20, START)
