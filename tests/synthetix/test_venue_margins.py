"""The venue's integers are the contract's, to the wei, and its verdicts with them."""

import random
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.facts import PriceView
from keeper.units import WAD
from tests.market_chain import seeded
from tests.nodes import Anvil
from tests.synthetix.deploy import Setup, deploy
from tests.synthetix.keeping import Read, assess, crowd, read, ticks, venue_of
from tests.synthetix.scenario import ALICE, BTC, CAROL, ETH
from tests.synthetix.world import AccountReading, Order, World, usd
from tests.venues.wire import connected

ACCOUNTS = 100
INTEREST = (WAD // 1_000, 8 * WAD // 10, WAD // 100)  # some 10 % a year
SEED = 20_220_121


@pytest.fixture
async def rpc(node: Anvil) -> AsyncIterator[HttpRpc]:
    async with connected(node) as found:
        yield found


@pytest.fixture(params=["push", "pull"])
def crowded(node: Anvil, request: pytest.FixtureRequest) -> Iterator[tuple[World, list[int]]]:
    setup = Setup(oracle=request.param, interest=INTEREST)
    snapshot = node.rpc("evm_snapshot")
    world = World(deploy(node, setup))
    yield world, crowd(world, seeded(SEED), ACCOUNTS)
    assert node.rpc("evm_revert", snapshot)


def random_prices(rng: random.Random, world: World) -> dict[int, int]:
    spread = rng.choice([0.1, 0.4])
    starts = {market.id: market.price / WAD for market in world.system.setup.markets}
    return {it: usd(start * rng.uniform(1 - spread, 1 + spread)) for it, start in starts.items()}


def differing(
    found: Read, readings: Mapping[int, AccountReading], at: Mapping[int, int]
) -> list[int]:
    """Return the accounts whose numbers at these prices are not those of the contract."""
    wrong = []
    for account, reading in readings.items():
        held = found.accounts[account].holding
        margin = found.market.system.margin(held, at, found.head.timestamp_s)
        ours = margin.available, margin.required, margin.rewards
        if ours != (reading.available_margin, reading.maintenance, reading.reward):
            wrong.append(account)
    return wrong


async def test_margins_and_verdicts_are_the_contracts(
    crowded: tuple[World, list[int]], rpc: HttpRpc
) -> None:
    """Twice a hundred accounts at several prices each, with funding, interest and trades."""
    world, accounts = crowded
    venue, rng = venue_of(world, rpc), seeded(SEED)
    verdicts: set[tuple[bool, PriceView]] = set()
    for _ in range(4):
        world.set_prices(random_prices(rng, world))
        world.chain.pass_time(rng.choice([1, 40, 3_000]))
        orders = [Order(rng.choice(accounts), rng.choice([ETH, BTC]), usd(0.1)) for _ in range(4)]
        world.publish()
        world.commit(orders, required=False)  # moves funding, settled or not
        world.set_prices(random_prices(rng, world))
        found = await read(venue, world, accounts)
        survey = world.survey(accounts, found.head.number)
        at = {key: quote.price for key, quote in found.market.quotes.items()}
        assert at == world.prices
        assert differing(found, survey.accounts, at) == [], f"seed {SEED}"
        for account, reading in survey.accounts.items():
            verdict = assess(venue, found, account, later_s=0)
            assert verdict.liquidatable == reading.can_liquidate, (SEED, account)
            verdicts.add((verdict.liquidatable, verdict.view))
    assert {liquidatable for liquidatable, _ in verdicts} == {True, False}


async def test_the_newest_signed_price_is_judged_as_after_its_update(
    crowded: tuple[World, list[int]], rpc: HttpRpc
) -> None:
    world, accounts = crowded
    if world.system.pyth is None:
        return
    venue, rng = venue_of(world, rpc), seeded(SEED)
    carried = 0
    for _ in range(3):
        world.set_prices({it.id: it.price for it in world.system.setup.markets})
        world.chain.pass_time(rng.choice([1, 3, 100]))
        world.set_prices(random_prices(rng, world), publish=False)
        found, prices = await read(venue, world, accounts), ticks(world)
        applied = world.survey(accounts, found.head.number, applying=world.updates())
        assert differing(found, applied.accounts, world.prices) == [], f"seed {SEED}"
        for account, reading in applied.accounts.items():
            verdict = assess(venue, found, account, prices, later_s=0)
            if reading.can_liquidate:
                assert verdict.liquidatable, (SEED, account)
            elif verdict.liquidatable:
                assert verdict.view is PriceView.CHAIN, (SEED, account)
            carried += bool(verdict.updates)
    assert carried > 10


async def test_funding_moves_with_the_price_it_is_asked_at(push: World, rpc: HttpRpc) -> None:
    venue = venue_of(push, rpc)
    push.chain.pass_time(3_000)
    found = await read(venue, push, [CAROL])
    at_s = found.head.timestamp_s
    now = venue.factors(found.market, at_s)
    push.chain.node.rpc("evm_setNextBlockTimestamp", at_s + 1)
    push.set_prices({ETH: usd(1_500)})
    later = await read(venue, push, [CAROL])
    expected = venue.factors(later.market, at_s + 1)
    moved = venue.indices(found.market, at_s + 1, {str(ETH): 1_500.0})
    assert moved == {f"F:{ETH}": expected[f"F:{ETH}"]}
    assert moved[f"F:{ETH}"] != now[f"F:{ETH}"]
    assert set(venue.index_factors(found.market)) == {f"F:{ETH}", f"F:{BTC}", "I"}


async def test_costs_that_change_without_an_event_are_a_new_epoch(
    push: World, rpc: HttpRpc
) -> None:
    venue = venue_of(push, rpc)
    before = await read(venue, push, [ALICE])
    push.chain.pass_time(60)
    same = await read(venue, push, [ALICE])
    assert same.market.epoch == before.market.epoch
    push.system.costs.send("set", usd(1), usd(4), usd(9))
    after = await read(venue, push, [ALICE])
    assert after.market.epoch != before.market.epoch
    at = push.prices
    margins = [
        one.market.system.margin(one.accounts[ALICE].holding, at, 0) for one in (before, after)
    ]
    assert margins[1].required - margins[0].required == 2 * usd(3) + usd(7)


async def test_a_market_that_is_created_later_is_read_too(push: World, rpc: HttpRpc) -> None:
    venue = venue_of(push, rpc)
    before = await read(venue, push, [ALICE])
    push.perps.send("createMarket", 300, "SOL", "SOL")
    feed, tolerance = push.perps.call("getPriceData", ETH)
    push.perps.send("updatePriceData", 300, feed, tolerance)
    after = await read(venue, push, [ALICE])
    assert set(venue.price_factors(before.market)) == {str(ETH), str(BTC)}
    assert set(venue.price_factors(after.market)) == {str(ETH), str(BTC), "300"}
    assert after.market.quotes[300].price == push.prices[ETH]


async def test_an_account_that_does_not_exist_is_empty(push: World, rpc: HttpRpc) -> None:
    venue = venue_of(push, rpc)
    found = await read(venue, push, [987])
    assert found.accounts[987].holding == type(found.accounts[987].holding)(0, 0, {})
    assert venue.compile(found.accounts[987], found.market, {}) is None
    assert not assess(venue, found, 987).liquidatable


async def test_prices_are_as_old_as_the_contract_allows(pull: World, rpc: HttpRpc) -> None:
    """Liquidating asks for five seconds, the views for sixty."""
    venue = venue_of(pull, rpc)
    pull.set_prices({ETH: usd(1_780)})
    found = await read(venue, pull, [ALICE])
    age_s = [source.age_s_max for source in found.market.sources.values()]
    assert age_s == [pull.system.setup.strict_age_s] * 2
    assert assess(venue, found, ALICE).view is PriceView.CHAIN
    assert assess(venue, found, ALICE).liquidatable
    stale = assess(venue, found, ALICE, later_s=6)
    assert not stale.liquidatable
    assert stale.equity_wad < stale.requirement_wad
