"""The venue's integers are the contracts' own, to the unit, in many random states."""

import contextlib
import random
from collections.abc import Mapping
from typing import Any

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.facts import AccountId, FeedId
from keeper.margin import MarginBook
from keeper.units import WAD
from keeper.venues._perp_curie_math import sqrt_price
from keeper.venues.perp_curie import PerpCurie
from keeper.watch.reconcile import differences
from tests.curie.keeping import Read, assess, read, venue_of
from tests.curie.world import World
from tests.market_chain import seeded
from tests.synthetix.chain import RevertedError

SEED = 20_210_915
TAKERS, MAKERS = 14, 4
UNIT = 10**12  # of the settlement token, in wads


def crowd(world: World, rng: random.Random) -> list[str]:
    """Make takers with one or two positions, some margined in WETH, and makers near the price."""
    names = [f"taker{n}" for n in range(TAKERS)] + [f"lp{n}" for n in range(MAKERS)]
    for n, name in enumerate(names):
        margin = rng.choice([900, 3_000, 20_000])
        if n % 3 == 1:
            world.deposit_weth(name, margin / 2_000)
        else:
            world.deposit(name, margin)
        if n % 5 == 2:
            world.deposit_weth(name, 0.1)
        for market, price in rng.sample([("ETH", 2_000), ("BTC", 60_000)], 2):
            usd = margin * rng.uniform(1.5, 3.0)
            if n < TAKERS:
                world.trade(name, market, usd * rng.choice([-1, 1]))
            else:
                span = price * rng.uniform(0.93, 0.999), price * rng.uniform(1.001, 1.07)
                world.provide(name, market, (usd / 2 / price, usd / 2), span)
    return names


def shake(world: World, rng: random.Random, trend: float = 0.0) -> None:
    """Move the index and the pools, let time pass, as far as the protocol lets prices move."""
    for market in ("ETH", "BTC"):
        world.set_index(market, world.pool_price(market) * rng.uniform(0.93, 1.06 + trend))
        for _ in range(3):
            with contextlib.suppress(RevertedError):  # beyond a limit of the protocol
                world.trade("whale", market, (trend * 20 + rng.uniform(-1, 1)) * 6e5)
            world.chain.pass_time(rng.choice([2, 20, 300]))


def by_contract(world: World, account: str, block: str) -> dict[str, Any]:
    """Return what the contracts say themselves."""
    curie, at = world.curie, {"blockHash": block}
    value = curie.house.call("getAccountValue", account, block=at)
    requirement = curie.balances.call("getMarginRequirementForLiquidation", account, block=at)
    found = {
        "value": value,
        "requirement": requirement,
        "free": curie.vault.call("getFreeCollateralByRatio", account, 100_000, block=at) * UNIT,
        "sizes": {},
    }
    for one in curie.markets.values():
        base = one.base.address
        size = curie.balances.call("getLiquidatablePositionSize", account, base, value, block=at)
        found["sizes"][base] = size
    return found


def by_us(found: Read, name: str) -> dict[str, Any]:
    system, balance = found.market.system, found.accounts[name].balance
    value = system.value(balance)
    sizes = dict.fromkeys(system.markets, 0)
    for base in balance.holdings:
        sizes[base] = system.liquidatable(value, base)
    return {
        "value": system.account_value(value),
        "requirement": system.requirement(value),
        "free": system.free(value),
        "sizes": sizes,
    }


def marks(world: World, found: Read) -> Mapping[str, int]:
    at = {"blockHash": found.head.hash}
    bases = [one.base.address for one in world.curie.markets.values()]
    return {base: world.curie.balances.call("getMarkPrice", base, block=at) for base in bases}


async def test_values_and_sizes_are_the_contracts(world: World, rpc: HttpRpc) -> None:
    rng, venue = seeded(SEED), venue_of(world, rpc)
    names = crowd(world, rng)
    verdicts = set[bool]()
    for trend in (0, -0.05, -0.05, -0.05, 0.05):
        shake(world, rng, trend)
        found = await read(venue, world, names)
        assert {base: one.mark for base, one in found.market.system.markets.items()} == marks(
            world, found
        )
        for name in names:
            theirs = by_contract(world, world.person(name), found.head.hash)
            assert by_us(found, name) == theirs, (SEED, name)
            verdict = assess(venue, found, name)
            assert verdict.liquidatable == any(theirs["sizes"].values()), (SEED, name)
            verdicts.add(verdict.liquidatable)
    assert verdicts == {True, False}


async def test_an_account_read_earlier_is_still_exact(world: World, rpc: HttpRpc) -> None:
    """Nobody touched the takers: marks, funding and collateral move them all the same."""
    rng, venue = seeded(SEED + 1), venue_of(world, rpc)
    names = crowd(world, rng)[:TAKERS]
    before = await read(venue, world, names)
    shake(world, rng)
    world.chain.pass_time(40_000)
    after = await read(venue, world, [])
    mixed = Read(after.head, after.market, before.accounts)
    for name in names:
        theirs = by_contract(world, world.person(name), after.head.hash)
        assert by_us(mixed, name) == theirs, (SEED, name)


async def test_what_nobody_touched_is_the_same_when_read_again(world: World, rpc: HttpRpc) -> None:
    """Time, marks and funding go on; what is kept of an account does not change with them."""
    rng, venue = seeded(SEED + 3), venue_of(world, rpc)
    names = crowd(world, rng)
    before = await read(venue, world, names)
    world.set_index("ETH", 1_950)
    world.chain.pass_time(4_000)
    after = await read(venue, world, names)
    assert any(one.balance.has_orders for one in before.accounts.values())
    for name in names:
        assert list(differences(before.accounts[name], after.accounts[name])) == []


async def test_a_row_is_never_above_the_exact_excess(world: World, rpc: HttpRpc) -> None:
    """The screen follows marks, funding, pools and collateral, and hardly falls behind."""
    rng, venue = seeded(SEED + 2), venue_of(world, rpc)
    names = crowd(world, rng)
    book, first = await _book(venue, world, names)
    for _ in range(4):
        shake(world, rng)
        found = await read(venue, world, names)
        values = venue.factors(found.market, found.head.timestamp_s)
        expired = book.move(values).expired
        moved = {name: (expired, found.accounts[name]) for name in names}
        for name, (gone, account) in moved.items():
            if account.account in gone or account.balance.has_orders:
                row = venue.compile(account, found.market, values)
                assert row is not None
                book.put(account.account, row)
            exact = assess(venue, found, name)
            excess = (exact.equity_wad - exact.requirement_wad) / WAD
            screened = book.excess(account.account)
            assert screened <= excess + 1e-9 * max(1.0, exact.requirement_wad / WAD), name
            assert screened > excess - 0.01, (name, "the screen is too strict")
            if exact.liquidatable:
                assert account.account in book.under
    assert any(account.balance.has_orders for account in first.accounts.values())


async def _book(
    venue: PerpCurie, world: World, names: list[str]
) -> tuple[MarginBook[AccountId], Read]:
    found = await read(venue, world, names)
    prices, indices = venue.price_factors(found.market), venue.index_factors(found.market)
    book: MarginBook[AccountId] = MarginBook(list(prices), list(indices))
    book.move(venue.factors(found.market, found.head.timestamp_s))
    for account in found.accounts.values():
        row = venue.compile(account, found.market, book.values)
        assert row is not None
        book.put(account.account, row)
    return book, found


async def test_a_newer_price_shows_where_the_mark_would_go(world: World, rpc: HttpRpc) -> None:
    """The mark is a median: a new index price moves it only between the pool's two averages."""
    venue = venue_of(world, rpc)
    world.set_index("ETH", 1_960)
    world.trade("whale", "ETH", -400_000)
    world.chain.pass_time(120)
    found = await read(venue, world, [])
    base = world.market("ETH").base.address
    at_s = found.head.timestamp_s
    ours = {
        price: venue.indices(found.market, at_s, {base: float(price)})[f"M:{base}"]
        for price in (1_500, 1_920, 1_970, 3_000)
    }
    assert ours[1_500] < ours[3_000]
    for price, value in ours.items():
        world.chain.node.rpc("evm_setNextBlockTimestamp", hex(at_s + 1))
        snapshot = world.chain.node.rpc("evm_snapshot")
        world.market("ETH").aggregator.send("set", price * 10**8)
        assert abs(world.mark("ETH") - value) < 0.5, price
        assert world.chain.node.rpc("evm_revert", snapshot)
    assert venue.price_factors(found.market)[base] == FeedId("ETH/USD")


async def test_a_paused_market_is_valued_and_not_acted_on(world: World, rpc: HttpRpc) -> None:
    venue = venue_of(world, rpc)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.set_index("ETH", 1_870)
    world.trade("whale", "ETH", -700_000)
    world.chain.pass_time(2_000)
    world.market("ETH").base.send("pause")
    found = await read(venue, world, ["alice"])
    verdict = assess(venue, found, "alice")
    theirs = by_contract(world, world.person("alice"), found.head.hash)
    assert (verdict.equity_wad, verdict.requirement_wad) == (
        theirs["value"],
        theirs["requirement"],
    )
    assert verdict.equity_wad < verdict.requirement_wad
    assert not verdict.liquidatable
    world.market("ETH").base.send("close", 1_234 * WAD)
    found = await read(venue, world, ["alice"])
    theirs = by_contract(world, world.person("alice"), found.head.hash)
    assert assess(venue, found, "alice").equity_wad == theirs["value"]


async def test_an_account_in_a_market_without_a_feed_is_not_judged(
    world: World, rpc: HttpRpc
) -> None:
    world.deposit("alice", 1_000)
    world.trade("alice", "BTC", 3_000)
    only = {world.market("ETH").base.address: "ETH/USD"}
    venue = venue_of(world, rpc, feeds=only)
    found = await read(venue, world, ["alice"])
    alice = found.accounts["alice"]
    assert venue.compile(alice, found.market, {}) is None
    assert not assess(venue, found, "alice").liquidatable


@pytest.mark.parametrize("tick", [0, 1, -1, 76_012, -76_012, 887_272, -887_272])
def test_square_roots_of_ticks(tick: int) -> None:
    """The ends are Uniswap's constants; between them, powers of 1.0001."""
    ends = {
        -887_272: 4_295_128_739,
        887_272: 1_461_446_703_485_210_103_287_273_052_203_988_822_378_723_970_342,
    }
    assert sqrt_price(tick) / 2**96 == pytest.approx(1.0001 ** (tick / 2), rel=1e-9)
    assert sqrt_price(tick) == ends.get(tick, sqrt_price(tick))
