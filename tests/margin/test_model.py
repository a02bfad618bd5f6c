"""The exact arithmetic against rational numbers, and by hand."""

from fractions import Fraction

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
    haircut_value,
    maintenance_for,
    margin,
    position_value,
    progressive,
    reserve_for,
)
from keeper.units import WAD
from tests.margin.worlds import World, accounts, tiers, usd, worlds

STEPS = (Tier(50 * WAD, WAD // 100), Tier(80 * WAD, WAD // 20), Tier(None, WAD // 10))


def rational(amount: int, steps: tuple[Tier, ...]) -> Fraction:
    """Σ rate x part of the amount inside each bracket, from each bracket's own ends, unrounded."""
    total, lower = Fraction(0), 0
    for tier in steps:
        upper = amount if tier.up_to is None else tier.up_to
        total += max(0, min(amount, upper) - lower) * Fraction(tier.rate, WAD)
        lower = upper
    return total


@pytest.mark.parametrize(
    ("amount", "margin_usd"),
    [(0, "0"), (50, "0.5"), (60, "1"), (80, "2"), (100, "4")],
)
def test_each_bracket_takes_its_own_part(amount: int, margin_usd: str) -> None:
    assert progressive(amount * WAD, STEPS) == Fraction(margin_usd) * WAD


@given(amount=usd(1e-9, 1e7), steps=tiers())
def test_progressive_truncates_less_than_a_wei_a_bracket(
    amount: int, steps: tuple[Tier, ...]
) -> None:
    exact = rational(amount, steps)
    assert exact - len(steps) < progressive(amount, steps) <= exact


@pytest.mark.parametrize(
    "bounds",
    [
        (),
        (1,),
        (1, 2),
        (None, None),
        (2, 1, None),
        (1, 1, None),
        (0, None),
        (-1, None),
        (1, None, 2),
    ],
)
def test_brackets_with_a_gap_are_refused(bounds: tuple[int | None, ...]) -> None:
    broken = tuple(Tier(bound, 0) for bound in bounds)
    with pytest.raises(ValueError, match="tiers must rise"):
        MarketTerms(WAD, broken)
    with pytest.raises(ValueError, match="tiers must rise"):
        AssetTerms(WAD, broken)


def test_haircuts_by_amount() -> None:
    asset = AssetTerms(3 * WAD, (Tier(10 * WAD, WAD // 10), Tier(None, WAD // 2)))
    assert haircut_value(14 * WAD, asset) == (10 * 3 * 9 // 10 + 4 * 3 // 2) * WAD
    assert haircut_value(0, asset) == 0
    assert haircut_value(-14 * WAD, asset) == -14 * 3 * WAD, "a debt counts in full"


@pytest.mark.parametrize(
    ("size", "needed"), [(0, 0), (1, 5), (-1, 5), (99, 5), (101, 6), (-500, 25)]
)
def test_a_position_needs_a_minimum_unless_it_is_none(size: int, needed: int) -> None:
    market = MarketTerms(WAD, (Tier(None, WAD // 20),), minimum_margin=5 * WAD)
    assert -(-maintenance_for(size * WAD, market) // WAD) == needed


def test_products_are_truncated_toward_zero_on_both_sides() -> None:
    market = MarketTerms(2 * WAD + 1, STEPS)
    assert position_value(Position(WAD // 2, 2 * WAD), market) == 0
    assert position_value(Position(-WAD // 2, 2 * WAD), market) == 0
    paid = MarketTerms(2 * WAD, STEPS, funding_index=3)
    assert position_value(Position(WAD // 2, 2 * WAD), paid) == -1
    assert position_value(Position(-WAD // 2, 2 * WAD), paid) == 1


@pytest.mark.parametrize(("notional", "kept"), [(0, 5), (50, 5), (70, 7), (100, 10), (500, 10)])
def test_the_reserve_is_clamped(notional: int, kept: int) -> None:
    reserve = ReserveTerms(WAD // 10, 5 * WAD, 10 * WAD)
    assert reserve_for(notional * WAD, reserve) == kept * WAD


def test_an_account_by_hand() -> None:
    terms = Terms(
        markets={"ETH": MarketTerms(20 * WAD, STEPS, 2 * WAD), "BTC": MarketTerms(50 * WAD, STEPS)},
        assets={"WETH": AssetTerms(20 * WAD, (Tier(None, WAD // 10),))},
        reserve=ReserveTerms(WAD // 10, WAD, 12 * WAD),
    )
    account = Account(
        cash=-3 * WAD,
        collateral={"WETH": 2 * WAD},
        positions={
            "ETH": Position(3 * WAD, 18 * WAD, WAD),  # PnL 6, funding owed 3, margin 1 on 60
            "BTC": Position(-2 * WAD, 49 * WAD),  # PnL -2, margin 4 on 100
        },
    )
    found = margin(account, terms)
    assert found.equity == (-3 + 36 + 6 - 3 - 2) * WAD
    assert found.net_value == (-3 + 40 + 6 - 3 - 2) * WAD
    assert (found.maintenance, found.notional) == (5 * WAD, 160 * WAD)
    assert found.reserve == 12 * WAD
    assert found.excess == (34 - 5 - 12) * WAD


def test_no_positions_no_reserve() -> None:
    terms = Terms({}, {}, ReserveTerms(WAD, WAD, WAD))
    assert margin(Account(-WAD), terms).excess == -WAD
    with pytest.raises(KeyError, match="ETH"):
        margin(Account(0, {}, {"ETH": Position(1, 1)}), terms)
    with pytest.raises(KeyError, match="WETH"):
        margin(Account(0, {"WETH": 1}), terms)


@given(world=worlds(), account=accounts())
def test_margin_is_the_rational_formula_less_truncation(world: World, account: Account) -> None:
    equity = net = Fraction(account.cash)
    for name, amount in account.collateral.items():
        asset = world.assets[name].terms
        full = Fraction(amount * asset.price, WAD)
        net += full
        equity += full - rational(max(amount, 0), asset.haircuts) * asset.price / WAD
    maintenance = notional = Fraction(0)
    for name, position in account.positions.items():
        market = world.markets[name].terms
        value = position.size * Fraction(
            market.price - position.entry_price - market.funding_index + position.funding_index, WAD
        )
        equity, net = equity + value, net + value
        size = Fraction(abs(position.size) * market.price, WAD)
        notional += size
        least = market.minimum_margin if position.size else 0
        maintenance += max(rational_margin(size, market.tiers), Fraction(least))
    found = world.margin(account)
    close = 40  # wei: more products than an account here has
    assert abs(found.equity - equity) < close
    assert abs(found.net_value - net) < close
    assert abs(found.maintenance - maintenance) < close
    assert abs(found.notional - notional) < close
    sloping = notional * Fraction(world.reserve.rate, WAD)
    low, high = Fraction(world.reserve.minimum), Fraction(world.reserve.maximum)
    kept = min(max(sloping, low), high) if account.positions else Fraction(0)
    assert abs(found.reserve - kept) < close
    assert found.excess == found.equity - found.maintenance - found.reserve


def rational_margin(notional: Fraction, steps: tuple[Tier, ...]) -> Fraction:
    """``rational`` for an amount that is no integer: between its neighbours it is linear."""
    whole = int(notional)
    low, high = rational(whole, steps), rational(whole + 1, steps)
    return low + (high - low) * (notional - whole)


@given(amounts=st.lists(usd(1e-6, 1e6), min_size=2, max_size=2), steps=tiers())
def test_more_notional_never_needs_less(amounts: list[int], steps: tuple[Tier, ...]) -> None:
    assert progressive(min(amounts), steps) <= progressive(max(amounts), steps) + len(steps)
