"""Synthetix V3's rows, windows, updates and logs, without a chain: brute force is the oracle.

That the exact arithmetic is the contracts' own is shown on them, in ``tests/synthetix``.
"""

import random
from dataclasses import replace

import pytest
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from keeper.facts import AccountId, Head, Log
from keeper.margin import MarginBook
from keeper.units import WAD, wad_to_float
from keeper.venues._pyth import Quote, read_update
from keeper.venues._synthetix_v3_markets import SynthetixMarkets
from keeper.venues._synthetix_v3_math import (
    INTEREST,
    Costs,
    Guards,
    Holding,
    Interest,
    Market,
    Position,
    System,
    Terms,
)
from keeper.venues._synthetix_v3_reads import EVENTS
from keeper.venues.synthetix_v3 import Settings, build
from tests.market_chain import seeded
from tests.venues.recording import UnreachableRpc

NOW_S = 1_767_225_600
HEAD = Head(7, "0x07", "0x06", NOW_S, 1, NOW_S * 1_000)
SEEDS = st.integers(0, 2**32)


def usd(amount: float) -> int:
    return int(amount * 10**6) * 10**12


def random_terms(rng: random.Random) -> Terms:
    return Terms(
        skew_scale=usd(rng.choice([0, 1_000, 100_000])),
        velocity_max=usd(rng.choice([0, 9])),
        maker_fee=usd(0.0002),
        taker_fee=usd(0.0005),
        initial_ratio=usd(rng.uniform(0, 2)),
        initial_ratio_min=usd(rng.uniform(0.01, 0.1)),
        maintenance_scalar=usd(rng.uniform(0.3, 1)),
        flag_ratio=usd(rng.choice([0, 0.0003, 0.001])),
        position_margin_min=usd(rng.choice([0, 50])),
        window_multiplier=usd(rng.choice([0.1, 1])),
        window_s=rng.choice([10, 30]),
        pd_max=0,
        locked_ratio=usd(rng.choice([0, 0.5, 1])),
    )


def random_system(rng: random.Random) -> System:
    markets = {
        100 * (n + 1): Market(
            terms=random_terms(rng),
            skew=usd(rng.uniform(-500, 500)),
            funding_rate=usd(rng.uniform(-1, 1)),
            funding_value=usd(rng.uniform(-50, 50)),
            funding_s=NOW_S - rng.randrange(100_000),
        )
        for n in range(rng.randrange(1, 4))
    }
    dear = rng.choice([0, 0, 1])
    flag = tuple(usd(dear * n * rng.uniform(0, 3)) for n in range(rng.choice([2, 4, 4])))
    costs = Costs(flag, usd(2.2 * dear))
    scaling, maximum = rng.choice([0.01, 0.5, 100]), rng.choice([3, 50, 1_000, 1_000])
    share = rng.choice([0, 0.001, 0.02])
    guards = Guards(usd(rng.choice([0, 5, 60])), usd(0.1), usd(maximum), usd(scaling), usd(share))
    interest = Interest(usd(rng.uniform(0, 0.2)), usd(rng.choice([0, 0.1, 5])), NOW_S - 5_000)
    return System(markets, interest, guards, costs)


def random_holding(rng: random.Random, system: System) -> tuple[Holding, dict[int, int]]:
    """Return an account near its margin and the prices it is there at."""
    prices = {
        key: usd(rng.choice([2.5, 2_000, 60_000]) * rng.uniform(0.8, 1.2)) for key in system.markets
    }
    held = rng.sample(sorted(system.markets), rng.randrange(len(system.markets) + 1))
    positions = {}
    for key in held:
        size = int(usd(rng.uniform(1_000, 200_000)) * WAD / prices[key]) * rng.choice([-1, 1])
        entry = int(prices[key] * rng.uniform(0.95, 1.05))
        accrued = system.interest.accrued * rng.randrange(5) // 4
        positions[key] = Position(
            size, entry, usd(rng.uniform(-50, 50)), min(accrued, system.interest.accrued)
        )
    others = rng.choice([0, 0, 0, 1])
    bare = Holding(0, usd(rng.choice([0, 4])), positions, others)
    found = system.margin(bare, prices, NOW_S)
    lack = max(0, found.required - found.available)
    return bare._replace(
        usd=int(lack * rng.choice([0.9, 1, 1.01, 1.2])) + rng.randrange(100)
    ), prices


def values_of(system: System, prices: dict[int, int], at_s: int) -> dict[str, float]:
    values = {str(key): wad_to_float(price) for key, price in prices.items()}
    for key, market in system.markets.items():
        values[f"F:{key}"] = wad_to_float(market.funding_at(prices[key], at_s))
    return values | {INTEREST: wad_to_float(system.interest.at(at_s))}


@settings(max_examples=400)
@given(SEEDS)
def test_the_screen_never_misses_and_is_exact_where_it_was_made(seed: int) -> None:
    rng = seeded(seed)
    system = random_system(rng)
    holding, prices = random_holding(rng, system)
    row = system.row(holding, prices, NOW_S)
    found = system.margin(holding, prices, NOW_S)
    if row is None:
        assert found.available >= found.required
        return
    keys = [str(key) for key in system.markets]
    book: MarginBook[int] = MarginBook(keys, [*(f"F:{key}" for key in keys), INTEREST])
    book.move(values_of(system, prices, NOW_S))
    book.put(1, row)
    assert 1 not in book.unpriced
    exact_usd = wad_to_float(found.available - found.required)
    rounding_usd = wad_to_float(found.rewards) / 8  # of costs, upwards
    assert exact_usd - rounding_usd - 1e-6 <= book.excess(1) <= exact_usd + 1e-6


@settings(max_examples=400)
@given(SEEDS)
def test_an_account_that_sinks_by_a_wei_elsewhere_is_not_missed(seed: int) -> None:
    """Made at one place, the row is looked at where the account is under by next to nothing."""
    rng = seeded(seed)
    system = random_system(rng)
    holding, prices = random_holding(rng, system)
    keys = [str(key) for key in system.markets]
    for _ in range(6):
        spread = rng.choice([0.001, 0.05, 0.24, 0.6])
        at_s = NOW_S + rng.choice([0, 3, 9_000_000])
        rate = Interest(system.interest.at(NOW_S), usd(rng.uniform(0, 2)), NOW_S)
        later = replace(system, interest=rng.choice([system.interest, rate]))
        moved = {
            key: int(price * rng.uniform(1 - spread, 1 + spread)) for key, price in prices.items()
        }
        sinking = brought_under(holding, later, moved, at_s)
        row = system.row(sinking, prices, NOW_S)
        margin = later.margin(sinking, moved, at_s)
        if margin.available >= margin.required:
            continue
        assert row is not None
        book: MarginBook[int] = MarginBook(keys, [*(f"F:{key}" for key in keys), INTEREST])
        book.move(values_of(system, prices, NOW_S))
        book.put(1, row)
        book.move(values_of(later, moved, at_s))
        assert book.is_under(1), f"missed by {margin.required - margin.available} wei"


def brought_under(holding: Holding, system: System, prices: dict[int, int], at_s: int) -> Holding:
    """Return the account with so much USD that it is under by a wei, where there is such."""
    for _ in range(4):  # what it needs depends on what it has
        margin = system.margin(holding, prices, at_s)
        usd_wad = max(0, holding.usd + margin.required - margin.available - 1)
        holding = holding._replace(usd=usd_wad)
    return holding


@given(SEEDS)
def test_a_window_has_the_room_that_adding_up_says(seed: int) -> None:
    rng = seeded(seed)
    terms = random_terms(rng)._replace(skew_scale=usd(1_000), pd_max=usd(rng.choice([0, 0.4])))
    whole = terms.window
    times = sorted(rng.sample(range(NOW_S - 40, NOW_S + 1), rng.randrange(6)), reverse=True)
    closed = tuple((rng.randrange(1, whole), at_s) for at_s in times)
    market = Market(terms, usd(rng.uniform(-900, 900)), 0, 0, NOW_S, closed)

    def room(at_s: int) -> int:
        used = sum(size for size, s in closed if at_s - terms.window_s < s <= at_s)
        left = max(0, whole - used)
        calm = abs(market.skew) * WAD // terms.skew_scale < terms.pd_max
        return whole if left == 0 and calm and closed[0][1] != at_s else left

    for at_s in range(NOW_S, NOW_S + 45):
        assert market.capacity(at_s) == room(at_s)
        assert market.reopens_s(at_s) == next(t for t in range(at_s, at_s + 90) if room(t))


def test_a_market_without_a_window_has_room_for_all() -> None:
    terms = random_terms(seeded(1))._replace(skew_scale=0)
    market = Market(terms, 0, 0, 0, NOW_S, ((5, NOW_S),))
    assert terms.window == 0
    assert market.capacity(NOW_S) is None
    assert market.reopens_s(NOW_S) == NOW_S


def test_an_account_with_other_collateral_is_called_under_by_its_usd_alone() -> None:
    system = random_system(seeded(4))
    key = next(iter(system.markets))
    prices = dict.fromkeys(system.markets, usd(2_000))
    position = Position(
        usd(1), prices[key], system.markets[key].funding_value, system.interest.at(NOW_S)
    )
    plain = system.margin(Holding(usd(500), 0, {key: position}), prices, NOW_S)
    other = system.margin(Holding(usd(500), 0, {key: position}, others=1), prices, NOW_S)
    assert other.available == plain.available
    assert other.reward == system.guards.maximum >= plain.reward


# --- updates --------------------------------------------------------------------------------------

ETH_FEED, BTC_FEED = b"E" * 32, b"B" * 32


def message(feed: bytes, price: int, exponent: int, published_s: int) -> bytes:
    """Return a price as Hermes has it inside an accumulator update."""
    signed = price.to_bytes(8, "big", signed=True), exponent.to_bytes(4, "big", signed=True)
    times = published_s.to_bytes(8, "big") + (published_s - 1).to_bytes(8, "big")
    return b"\0" + feed + signed[0] + bytes(8) + signed[1] + times + bytes(16)


def accumulator(*messages: bytes) -> bytes:
    proof = bytes([2]) + bytes(40)
    parts = [len(one).to_bytes(2, "big") + one + proof for one in messages]
    head = b"PNAU" + bytes([1, 0, 3]) + b"???" + b"\0"
    return head + (5).to_bytes(2, "big") + b"signed"[:5] + bytes([len(parts)]) + b"".join(parts)


def test_an_accumulator_update_says_all_its_prices() -> None:
    update = accumulator(
        message(ETH_FEED, 178_012_345_678, -8, NOW_S), message(BTC_FEED, 64, 3, NOW_S + 1)
    )
    assert read_update(update) == {
        ETH_FEED: Quote(178_012_345_678 * 10**10, NOW_S),
        BTC_FEED: Quote(64_000 * WAD, NOW_S + 1),
    }


@given(st.data())
def test_what_is_cut_off_or_garbage_is_no_update(data: st.DataObject) -> None:
    whole = accumulator(message(ETH_FEED, 5, -8, NOW_S))
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert read_update(whole[:cut]) == {}
    for quote in read_update(data.draw(st.binary(max_size=400))).values():
        assert quote.price >= 0


def test_the_flat_update_of_the_sdk_is_read() -> None:
    quote = (178_000_000_000, 5, -8, NOW_S)
    kind = "(bytes32,(int64,uint64,int32,uint256),(int64,uint64,int32,uint256))"
    update = encode([kind, "uint64"], [(ETH_FEED, quote, quote), NOW_S - 1])
    assert read_update(update) == {ETH_FEED: Quote(1_780 * WAD, NOW_S)}
    assert read_update(update[:-1]) == {}


@pytest.mark.parametrize(
    ("price", "exponent", "wads"), [(-5, -8, 0), (0, -8, 0), (12_345, -20, 0), (1, 0, WAD)]
)
def test_a_price_is_scaled_as_the_oracle_manager_does(price: int, exponent: int, wads: int) -> None:
    found = read_update(accumulator(message(ETH_FEED, price, exponent, NOW_S)))
    assert [quote.price for quote in found.values()] == ([wads] if abs(exponent) <= 18 else [])


# --- logs and epochs ------------------------------------------------------------------------------


def log_of(name: str, *values: object, indexed: int = 1) -> Log:
    """Return a log of one of the events, all fields numbers."""
    words = [int(value) if isinstance(value, int) else 0 for value in values]
    topics = ["0x" + word.to_bytes(32, "big").hex() for word in words[:indexed]]
    data = b"".join(word.to_bytes(32, "big") for word in words[indexed:])
    return Log("0x" + "aa" * 20, (EVENTS.named[name].topic, *topics), data, 9, "0x09", "0xcc")


def test_an_attempt_that_closed_and_paid_nothing_is_no_liquidation() -> None:
    venue = build(Settings(id="s", address="0x" + "aa" * 20, feeds={}), UnreachableRpc(), 1)
    huge = 2**127 + 5
    paid = venue.touched(log_of("AccountLiquidationAttempt", huge, 7, 0))
    assert paid.accounts == {AccountId(str(huge))}
    (seen,) = paid.liquidations
    assert (seen.account, seen.reward_wad, seen.liquidator, seen.block_number) == (
        str(huge),
        7,
        "",
        9,
    )
    assert venue.touched(log_of("AccountLiquidationAttempt", 3, 0, 1)).liquidations
    idle = venue.touched(log_of("AccountLiquidationAttempt", 3, 0, 0))
    assert (idle.accounts, idle.liquidations) == (frozenset({AccountId("3")}), ())
    also = venue.touched(log_of("AccountMarginLiquidation", 3, 10, 7))
    assert also == idle, "an attempt is logged beside it"


def test_what_is_of_the_market_touches_nobody_and_what_is_unknown_everybody() -> None:
    venue = build(Settings(id="s", address="0x" + "aa" * 20, feeds={}), UnreachableRpc(), 1)
    for name, count, indexed in (("MarketUpdated", 8, 0), ("InterestRateUpdated", 2, 1)):
        touched = venue.touched(log_of(name, *([100] * count), indexed=indexed))
        assert (touched.accounts, touched.everything) == (frozenset(), False)
    charged = venue.touched(log_of("AccountCharged", 11, 5, 6, indexed=0))
    assert charged.accounts == {"11"}
    strange = structs.replace(log_of("DebtPaid", 1, 2, 3, indexed=2), topics=("0x" + "77" * 32,))
    assert venue.touched(strange).everything


def test_an_epoch_is_of_parameters_and_not_of_prices_or_small_change() -> None:
    system = replace(random_system(seeded(9)), costs=Costs((0, usd(1), usd(2)), usd(2.1)))
    state = SynthetixMarkets(HEAD, system, {}, {}, {})
    steady = replace(system, costs=Costs(system.costs.flag, system.costs.liquidate + 1))
    assert replace(state, system=steady).epoch == state.epoch, "a wei is within the same rounding"
    assert replace(state, quotes={100: Quote(1, 2)}).epoch == state.epoch
    moved = {key: one._replace(skew=one.skew + 1) for key, one in system.markets.items()}
    assert replace(state, system=replace(system, markets=moved)).epoch == state.epoch
    dearer = replace(system, costs=Costs(system.costs.flag, 2 * system.costs.liquidate))
    assert replace(state, system=dearer).epoch != state.epoch
    key, market = next(iter(system.markets.items()))
    terms = market.terms._replace(flag_ratio=market.terms.flag_ratio + 1)
    changed = system.markets | {key: market._replace(terms=terms)}  # type: ignore[operator]
    assert replace(state, system=replace(system, markets=changed)).epoch != state.epoch
