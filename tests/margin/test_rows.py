"""Compiled rows against the exact arithmetic."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from keeper.margin import MarginBook, Row
from keeper.margin.model import (
    Account,
    AssetTerms,
    MarketTerms,
    Position,
    ReserveTerms,
    Tier,
)
from keeper.margin.rows import AssetFactors, MarketFactors, compile_row
from keeper.units import WAD
from tests.margin.worlds import World, accounts, evaluate, worlds

ROUNDING = Fraction(1, 10**13)  # of gross: a tenth of the book's guard band
TRUNCATION = Fraction(100, WAD)  # more products than an account here has
FLAT = (Tier(None, WAD // 100),)
NO_RESERVE = ReserveTerms(0, 0, 0)


# --- the dataclass --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 10**400, "1", None])
def test_a_row_refuses_what_is_no_finite_number(bad: float) -> None:
    with pytest.raises(ValueError, match="constant must be a finite number"):
        Row(bad)
    with pytest.raises(ValueError, match="weight of ETH must be a finite number"):
        Row(0.0, {"ETH": bad})
    with pytest.raises(ValueError, match="envelope of ETH must be a finite number"):
        Row(0.0, {}, {"ETH": (bad, 1.0)})
    with pytest.raises(ValueError, match="envelope of ETH must be a finite number"):
        Row(0.0, {}, {"ETH": (1.0, bad)})


def test_a_row_refuses_an_envelope_upside_down() -> None:
    assert Row(0.0, {}, {"ETH": (1.0, 1.0)}).envelope == {"ETH": (1.0, 1.0)}
    with pytest.raises(ValueError, match="low <= high"):
        Row(0.0, {}, {"ETH": (2.0, 1.0)})


def test_a_row_does_not_follow_the_callers_dicts() -> None:
    weights, envelope = {"ETH": 1.0}, {"ETH": (1.0, 2.0)}
    row = Row(0.0, weights, envelope)
    weights["ETH"], envelope["ETH"] = 5.0, (9.0, 9.0)
    assert row == Row(constant=0.0, weights={"ETH": 1.0}, envelope={"ETH": (1.0, 2.0)})


# --- compiling ------------------------------------------------------------------------------------


@given(world=worlds(), account=accounts())
def test_a_row_is_exact_where_it_was_compiled(world: World, account: Account) -> None:
    row = world.compile(account)
    assert (row is None) == (not account.positions)
    if row is None:
        return
    values = world.values()
    excess, gross = evaluate(row, values)
    exact = Fraction(world.margin(account).excess, WAD)
    assert abs(excess - exact) <= gross * ROUNDING + TRUNCATION
    assert excess <= exact + gross * ROUNDING
    for name, (low, high) in row.envelope.items():
        assert low <= values[name] / WAD <= high


@given(world=worlds(), account=accounts(), data=st.data())
def test_a_row_never_promises_more_inside_its_envelope(
    world: World, account: Account, data: st.DataObject
) -> None:
    row = world.compile(account)
    assume(row is not None and row.weights)
    assert row is not None
    values = {}
    for name, present in world.values().items():
        if name == "F:ETH":
            values[name] = data.draw(st.integers(-100 * WAD, 100 * WAD))
            continue
        low, high = row.envelope.get(name, (0.0, math.inf))
        first = max(1, math.ceil(Fraction(low) * WAD))
        last = math.floor(Fraction(min(high, 1000.0 * present / WAD)) * WAD)
        inside = st.integers(first, max(first, last)) | st.sampled_from([first, max(first, last)])
        values[name] = data.draw(inside)
    exact = Fraction(world.at(values).margin(account).excess, WAD)
    excess, gross = evaluate(row, values)
    event(f"envelopes: {len(row.envelope)}, tight: {excess >= exact - gross * ROUNDING}")
    assert excess <= exact + gross * ROUNDING


def one_market(
    tiers: tuple[Tier, ...], size: int, reserve: ReserveTerms = NO_RESERVE, price: int = 100
) -> Row:
    """A position of ``size`` whole units, entered at 90 USD, with 50 USD of cash."""
    market = MarketFactors(MarketTerms(price * WAD, tiers, 2 * WAD), "P", "F")
    account = Account(50 * WAD, {}, {"M": Position(size * WAD, 90 * WAD, WAD)})
    row = compile_row(account, {"M": market}, {}, reserve)
    assert row is not None
    return row


def test_one_bracket_needs_no_envelope() -> None:
    row = one_market(FLAT, 2)
    assert row.weights == {"P": 2.0 - 0.02, "F": -2.0}
    assert row.constant == 50.0 - 180.0 + 2.0
    assert row.envelope == {}


def test_a_bracket_bounds_the_price_on_both_sides() -> None:
    steps = (Tier(100 * WAD, WAD // 100), Tier(300 * WAD, WAD // 20), Tier(None, WAD // 10))
    row = one_market(steps, -2)
    assert row.weights == {"P": -2.0 - 0.1, "F": 2.0}
    assert row.constant == 50.0 + 180.0 - 2.0 - (1.0 - 5.0)
    assert row.envelope == {"P": (50.0, 150.0)}
    assert one_market(steps, 1).envelope == {"P": (0.0, 100.0)}  # an end belongs to the lower one
    assert one_market(steps, 4).envelope["P"][0] == 75.0
    assert one_market(steps, 4).envelope["P"][1] > 1e300


@pytest.mark.parametrize(
    ("minimum", "weight", "constant", "envelope"),
    [
        (3, 2.0, -3.0, (0.0, 114.0)),  # what 228 USD need: 1 % of 210 and 5 % of the rest
        (2, 2.0, -2.0, (0.0, 100.0)),  # just what 200 USD need: the minimum still holds
        (1, 1.98, 0.0, (50.0, 105.0)),  # below 100 USD it would be the minimum
    ],
)
def test_a_minimum_margin_bounds_the_price(
    minimum: int, weight: float, constant: float, envelope: tuple[float, float]
) -> None:
    steps = (Tier(210 * WAD, WAD // 100), Tier(None, WAD // 20))
    terms = MarketTerms(100 * WAD, steps, minimum_margin=minimum * WAD)
    account = Account(0, {}, {"M": Position(2 * WAD, 0)})
    row = compile_row(account, {"M": MarketFactors(terms, "P")}, {}, NO_RESERVE)
    assert row is not None
    assert row.weights["P"] == pytest.approx(weight)
    assert row.constant == pytest.approx(constant)
    assert row.envelope["P"] == pytest.approx(envelope)


def test_a_minimum_that_no_notional_needs_never_ends() -> None:
    terms = MarketTerms(100 * WAD, (Tier(None, 0),), minimum_margin=WAD)
    account = Account(0, {}, {"M": Position(2 * WAD, 0)})
    row = compile_row(account, {"M": MarketFactors(terms, "P")}, {}, NO_RESERVE)
    assert row is not None
    assert row.envelope == {}


def test_a_debt_is_owed_in_full() -> None:
    haircuts = (Tier(2 * WAD, WAD // 10), Tier(None, WAD // 2))
    asset = AssetFactors(AssetTerms(7 * WAD, haircuts), "LP")
    market = MarketFactors(MarketTerms(100 * WAD, FLAT), "P")
    account = Account(0, {"LP": -4 * WAD}, {"M": Position(WAD, 0)})
    row = compile_row(account, {"M": market}, {"LP": asset}, NO_RESERVE)
    assert row is not None
    assert row.weights == pytest.approx({"LP": -4.0, "P": 0.99})


@pytest.mark.parametrize(
    ("reserve", "weight", "taken", "envelope"),
    [
        (ReserveTerms(WAD // 10, 5 * WAD, 15 * WAD), 1.98, 15.0, {}),
        (ReserveTerms(WAD // 10, 5 * WAD, 20 * WAD), 1.98, 20.0, {}),
        (ReserveTerms(WAD // 10, 30 * WAD, 10 * WAD), 1.98, 10.0, {}),  # the maximum wins
        (ReserveTerms(WAD // 10, 5 * WAD, 40 * WAD), 1.78, 0.0, {"P": 25.0}),
        (ReserveTerms(WAD // 10, 0, 40 * WAD), 1.78, 0.0, {}),
        (ReserveTerms(WAD // 10, 25 * WAD, 40 * WAD), 1.98, 25.0, {"P": 125.0}),
        (ReserveTerms(0, 5 * WAD, 40 * WAD), 1.98, 5.0, {}),
    ],
)
def test_the_reserve_by_where_the_notional_stands(
    reserve: ReserveTerms, weight: float, taken: float, envelope: dict[str, float]
) -> None:
    row = one_market(FLAT, 2, reserve)
    assert row.weights["P"] == pytest.approx(weight)
    assert row.constant == pytest.approx(-128.0 - taken)
    assert row.envelope.keys() == envelope.keys()
    if envelope:
        low, high = row.envelope["P"]
        assert envelope["P"] in {low, high}
        assert low == 0.0 or high > 1e300


def test_several_markets_share_the_reserves_bound_at_one_ratio() -> None:
    markets = {
        name: MarketFactors(MarketTerms(price * WAD, FLAT), name)
        for name, price in (("A", 100), ("B", 40))
    }
    positions = {"A": Position(WAD, WAD), "B": Position(-5 * WAD, WAD)}
    reserve = ReserveTerms(WAD // 10, 15 * WAD, 100 * WAD)
    row = compile_row(Account(0, {}, positions), markets, {}, reserve)
    assert row is not None
    lows = {name: low for name, (low, _) in row.envelope.items()}
    assert lows == {"A": 50.0, "B": 20.0}
    assert row.weights == pytest.approx({"A": 1 - 0.01 - 0.1, "B": -5 - 0.05 - 0.5})


def test_shared_factors_add_up_and_fixed_ones_go_into_the_constant() -> None:
    haircuts = (Tier(2 * WAD, WAD // 10), Tier(None, WAD // 2))
    assets = {
        "WETH": AssetFactors(AssetTerms(100 * WAD, haircuts), "P"),
        "USDX": AssetFactors(AssetTerms(WAD, haircuts), None),
        "LP": AssetFactors(AssetTerms(7 * WAD, haircuts), "LP"),
    }
    market = MarketFactors(MarketTerms(100 * WAD, FLAT, 3 * WAD), "P")
    account = Account(
        WAD, {"WETH": 4 * WAD, "USDX": WAD, "LP": 0}, {"M": Position(WAD, 90 * WAD, WAD)}
    )
    row = compile_row(account, {"M": market}, assets, NO_RESERVE)
    assert row is not None
    assert row.weights == pytest.approx({"P": 2 * 0.9 + 2 * 0.5 + 1 - 0.01})  # no LP held: no LP
    assert row.constant == pytest.approx(1 + 0.9 - 90 - 2)


def test_what_cannot_be_compiled_says_why() -> None:
    market = MarketFactors(MarketTerms(100 * WAD, FLAT), "P")
    asset = AssetFactors(AssetTerms(99 * WAD, FLAT), "P")
    account = Account(0, {"A": WAD}, {"M": Position(WAD, WAD)})
    with pytest.raises(ValueError, match="two present values"):
        compile_row(account, {"M": market}, {"A": asset}, NO_RESERVE)
    with pytest.raises(KeyError, match="A"):
        compile_row(account, {"M": market}, {}, NO_RESERVE)
    with pytest.raises(KeyError, match="M"):
        compile_row(Account(0, {}, account.positions), {}, {}, NO_RESERVE)
    for free in (
        {"M": MarketFactors(MarketTerms(0, FLAT), "P")},
        {"M": MarketFactors(MarketTerms(-WAD, FLAT), "P")},
    ):
        with pytest.raises(ValueError, match="must be positive"):
            compile_row(Account(0, {}, account.positions), free, {}, NO_RESERVE)


# --- rows in a book -------------------------------------------------------------------------------


def walking_world() -> World:
    """Two markets with narrow brackets, so that a walk crosses many of them."""

    def steps(*bounds: int) -> tuple[Tier, ...]:
        rates = [WAD * n // 100 for n in range(1, len(bounds) + 2)]
        ends = [*(bound * WAD for bound in bounds), None]
        return tuple(Tier(end, rate) for end, rate in zip(ends, rates, strict=True))

    return World(
        markets={
            "ETH": MarketFactors(
                MarketTerms(2000 * WAD, steps(2_000, 4_000, 9_000)), "ETH", "F:ETH"
            ),
            "BTC": MarketFactors(MarketTerms(60_000 * WAD, steps(5_000, 20_000)), "BTC"),
        },
        assets={"WETH": AssetFactors(AssetTerms(2000 * WAD, steps(1, 2)), "ETH")},
        reserve=ReserveTerms(WAD // 50, 100 * WAD, 300 * WAD),
    )


def near_the_edge(world: World, rng: random.Random) -> Account:
    """An account with little excess for its size, on either side."""
    positions = {
        "ETH": Position(rng.randrange(-6 * WAD, 6 * WAD), 2000 * WAD),
        "BTC": Position(rng.randrange(-WAD // 3, WAD // 3), 60_000 * WAD),
    }
    held = rng.sample(sorted(positions), rng.choice([1, 2]))
    account = Account(0, {"WETH": rng.randrange(4 * WAD)}, {name: positions[name] for name in held})
    now = world.margin(account)
    return Account(
        int(now.notional * rng.uniform(-0.02, 0.2)) - now.excess,
        account.collateral,
        account.positions,
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_through_the_brackets_misses_no_account(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a price path, not a secret
    world = walking_world()
    held = {number: near_the_edge(world, rng) for number in range(60)}
    book: MarginBook[int] = MarginBook(["ETH", "BTC"], indices=["F:ETH"])
    book.move({name: value / WAD for name, value in world.values().items()})
    due = set(held)
    expiries = sunk = cured = 0
    for _ in range(150):
        for number in due:
            row = world.compile(held[number])
            assert row is not None
            book.put(number, row)
        exact = {n for n, account in held.items() if world.margin(account).excess < 0}
        assert exact <= book.under
        assert all(n in exact for n in book.under & due if abs(book.excess(n)) > 1e-6)
        step = {n: round(v * rng.gauss(1, 0.02)) for n, v in world.values().items() if n != "F:ETH"}
        step["F:ETH"] = world.values()["F:ETH"] + rng.randrange(-WAD, WAD)
        world = world.at(step)
        moved = book.move({name: value / WAD for name, value in step.items()})
        # before anything is compiled again: what expired counts as under, so nothing is missed
        assert {n for n, account in held.items() if world.margin(account).excess < 0} <= book.under
        due = set(moved.expired)
        expiries, sunk, cured = (
            expiries + len(due),
            sunk + len(moved.under),
            cured + len(moved.cured),
        )
    assert min(expiries, sunk, cured) > 20  # the walk went where it was meant to
