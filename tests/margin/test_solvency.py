"""Totals by hand, and where an account sinks against asking at every move."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.margin.model import (
    Account,
    AssetTerms,
    MarketTerms,
    Position,
    ReserveTerms,
    Terms,
    Tier,
    margin,
)
from keeper.margin.solvency import NO_MARKET, Exposure, Solvency, sunk
from keeper.units import WAD

USD = WAD
MOVES = range(-50, 51, 2)


def exposure(
    equity: int, required: int, notional: Mapping[str, int], net: int | None = None, **held: int
) -> Exposure:
    """Make one of whole dollars."""
    return Exposure(
        under=equity < required,
        equity=equity * USD,
        requirement=required * USD,
        net_value=(equity if net is None else net) * USD,
        notional={name: size * USD for name, size in notional.items()},
        collateral={name: value * USD for name, value in held.items()},
    )


def test_totals_are_those_by_hand() -> None:
    found: Solvency[str] = Solvency(2)
    found.add("fine", exposure(500, 50, {"ETH": 1_000}))
    found.add("under", exposure(40, 100, {"ETH": -1_500, "BTC": 500}))
    found.add("broke", exposure(-300, 100, {"BTC": 4_000}))
    found.add("idle", exposure(70, 0, {}))
    whole = found.whole
    assert (whole.accounts, whole.long, whole.short) == (4, 5_500 * USD, 1_500 * USD)
    assert whole.notional == 7_000 * USD
    assert (whole.equity, whole.requirement, whole.bad_debt) == (310 * USD, 250 * USD, 300 * USD)
    assert (whole.under_accounts, whole.under_notional) == (2, 6_000 * USD)
    assert (whole.insolvent_accounts, whole.insolvent_notional) == (1, 4_000 * USD)
    eth, btc, none = (found.markets[name] for name in ("ETH", "BTC", NO_MARKET))
    assert (eth.accounts, eth.long, eth.short) == (2, 1_000 * USD, 1_500 * USD)
    assert eth.equity == 500 * USD + 30 * USD, "three quarters of the second one's"
    assert (btc.equity, btc.bad_debt) == (10 * USD - 300 * USD, 300 * USD)
    assert (btc.under_notional, eth.under_notional) == (4_500 * USD, 1_500 * USD)
    assert (none.accounts, none.equity, none.notional) == (1, 70 * USD, 0)
    assert [id_ for id_, _ in found.top] == ["broke", "under"]


def test_only_the_largest_are_named() -> None:
    found: Solvency[int] = Solvency(3)
    for id_, size in enumerate([5, 9, 1, 9, 7, 3]):
        found.add(id_, exposure(0, 1, {"ETH": size}))
    assert [id_ for id_, _ in found.top] == [1, 3, 4]
    assert found.whole.under_accounts == 6


def test_what_is_sold_is_what_cash_lacks() -> None:
    """Cash of −120 after closing, 300 of collateral: 120 of it are sold, by value."""
    one = exposure(100, 200, {"ETH": 4_000}, net=180, WETH=200, USDC=100)
    assert one.sold == {"WETH": 80 * USD, "USDC": 40 * USD}
    assert exposure(250, 200, {"ETH": 4_000}, net=180, WETH=300).sold == {}, "it is not under"
    assert exposure(100, 200, {"ETH": 4_000}, net=350, WETH=300).sold == {}, "cash is enough"
    assert exposure(-9, 200, {"ETH": 4_000}, net=-5, WETH=300).sold == {"WETH": 300 * USD}
    found: Solvency[str] = Solvency(1)
    for name in ("a", "b"):
        found.add(name, one)
    assert found.sold == {"WETH": 160 * USD, "USDC": 80 * USD}


def test_equity_is_shared_even_where_the_price_is_nothing() -> None:
    found: Solvency[str] = Solvency(1)
    found.add("dust", exposure(10, 0, {"ETH": 0, "BTC": 0}))
    assert [one.equity for one in found.markets.values()] == [5 * USD, 5 * USD]


amounts = st.integers(-10 * WAD, 10 * WAD)
TIERS = (Tier(2_000 * WAD, WAD // 100), Tier(9_000 * WAD, WAD // 20), Tier(None, WAD // 5))


@given(
    eth=amounts.filter(bool),
    btc=amounts.filter(bool),
    cash=st.integers(-20_000 * WAD, 20_000 * WAD),
    weth=st.integers(0, 10 * WAD),
)
def test_an_account_sinks_where_asking_at_every_move_says(
    eth: int, btc: int, cash: int, weth: int
) -> None:
    account = Account(
        cash,
        {"WETH": weth},
        {"ETH": Position(eth, 1_000 * WAD), "BTC": Position(btc, 3_000 * WAD)},
    )
    haircuts = (Tier(3 * WAD, WAD // 10), Tier(None, WAD // 3))
    asked = []

    def is_under(move: int) -> bool:
        asked.append(move)
        price = 1_000 * WAD * (100 + move) // 100
        terms = Terms(
            {"ETH": MarketTerms(price, TIERS), "BTC": MarketTerms(3_000 * WAD, TIERS)},
            {"WETH": AssetTerms(price, haircuts)},
            ReserveTerms(WAD // 100, 5 * WAD, 90 * WAD),
        )
        return margin(account, terms).excess < 0

    brute = [is_under(move) for move in MOVES]
    asked.clear()
    assert sunk(is_under, MOVES) == brute
    if not brute[MOVES.index(0)]:
        assert len(asked) <= 3 + 2 * 5


@pytest.mark.parametrize("moves", [[0], [-1, 0], [0, 1], [-1, 0, 1]])
def test_few_moves_are_enough(moves: list[int]) -> None:
    assert sunk(lambda move: move < 0, moves) == [move < 0 for move in moves]
