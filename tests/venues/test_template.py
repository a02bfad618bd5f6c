"""The venue that newcomers copy, against the contract its docstring describes."""

import importlib
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.facts import AccountId, Assessment, FeedId, PriceView, Refused, Simulated
from keeper.units import WAD
from keeper.venues._template import Settings, TemplateVenue, build
from tests.contracts import fields
from tests.market_chain import seeded
from tests.nodes import Anvil, running_anvil
from tests.venues.isolated import REWARD, IsolatedMarket
from tests.venues.wire import connected, head_of, logs_since

PRICE = 100 * WAD


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    with running_anvil() as node:
        yield node


@pytest.fixture
def market(node: Anvil) -> IsolatedMarket:
    market = IsolatedMarket(node)
    market.set_price(PRICE)
    return market


@pytest.fixture
async def rpc(node: Anvil) -> AsyncIterator[HttpRpc]:
    async with connected(node) as rpc:
        yield rpc


@pytest.fixture
def venue(market: IsolatedMarket, rpc: HttpRpc) -> TemplateVenue:
    settings = Settings(id="template", address=market.address, feed=FeedId("ETH/USD"))
    return build(settings, rpc, market.chain_id)


def set_random_position(rng: random.Random, market: IsolatedMarket, number: int) -> None:
    size = rng.choice([-1, 1]) * int(10 ** rng.uniform(-3, 3) * WAD) + rng.randrange(100)
    entry = int(PRICE * rng.uniform(0.9, 1.1))
    gained = size * (PRICE - entry) // WAD
    required = abs(size) * PRICE // WAD // 50 + REWARD
    slack = rng.choice([-2, -1, 0, 1, 2, int(rng.uniform(-1, 1) * required)])  # many at the edge
    market.set_position(number, size, entry, required - gained + slack)


async def judged(venue: TemplateVenue, market: IsolatedMarket, number: int) -> Assessment:
    head = head_of(market.node)
    terms = await venue.read_market(head)
    (state,) = await venue.read_accounts([AccountId(str(number))], head)
    return venue.assess(state, terms, {}, head.timestamp_s + 1)


async def test_verdict_and_reward_are_the_contracts(
    venue: TemplateVenue, market: IsolatedMarket
) -> None:
    rng, wallet = seeded(51), market.dev[4]
    seen = {True: 0, False: 0}
    for number in range(1, 121):
        set_random_position(rng, market, number)
        found = await judged(venue, market, number)
        assert found.view is PriceView.CHAIN
        answer = await venue.simulate(found, wallet, head_of(market.node))
        seen[found.liquidatable] += 1
        if not found.liquidatable:
            assert answer == Refused("not_liquidatable", "healthy")
            continue
        assert isinstance(answer, Simulated)
        assert answer.reward_wad == found.reward_wad == REWARD
        block = head_of(market.node).number
        events = market.send("liquidate", number, sender=wallet)
        assert fields(events, "Liquidated")[0]["reward"] == REWARD
        (log,) = logs_since(market, block)
        (seen_by_venue,) = venue.touched(log).liquidations
        assert (seen_by_venue.account, seen_by_venue.liquidator) == (str(number), wallet)
    assert min(seen.values()) > 20, f"one-sided sample: {seen}"


async def test_an_expired_price_holds(venue: TemplateVenue, market: IsolatedMarket) -> None:
    market.set_position(1, WAD, PRICE, -WAD)
    before = await judged(venue, market, 1)
    assert before.liquidatable
    assert before.bad_debt_wad == WAD
    market.wait(3_700)
    after = await judged(venue, market, 1)
    assert not after.liquidatable
    answer = await venue.simulate(before, market.dev[4], head_of(market.node))
    assert answer == Refused("oracle", "price expired")


async def test_an_empty_position_and_one_without_a_price(
    venue: TemplateVenue, market: IsolatedMarket
) -> None:
    market.set_position(1, WAD, PRICE, -WAD)
    market.set_price(0)
    head = head_of(market.node)
    terms = await venue.read_market(head)
    held, empty = await venue.read_accounts([AccountId("1"), AccountId("2")], head)
    assert venue.compile(empty, terms, {}) is None
    row = venue.compile(held, terms, {})
    assert row is not None
    assert dict(row.envelope) == {"ETH/USD": (0.0, 0.0)}
    assert not venue.assess(held, terms, {}, head.timestamp_s).liquidatable


def test_events_touch(venue: TemplateVenue, market: IsolatedMarket) -> None:
    block = head_of(market.node).number
    market.set_position(7, WAD, PRICE, WAD)
    (changed,) = logs_since(market, block)
    assert venue.touched(changed).accounts == {"7"}
    block = head_of(market.node).number
    market.set_price(PRICE)
    (terms,) = logs_since(market, block)
    assert venue.touched(terms).everything


async def test_probe(venue: TemplateVenue, rpc: HttpRpc) -> None:
    probe = await venue.probe(None)
    assert probe.open
    assert (probe.facts["maintenance"], probe.facts["reward"]) == ("2.00%", "3 USD")
    assert probe.facts["liquidators"].startswith("0 distinct")
    nothing = build(Settings(id="x", address="0x" + "11" * 20, feed=FeedId("ETH/USD")), rpc, 31_337)
    assert not (await nothing.probe(None)).open


def test_it_is_no_kind_of_its_own() -> None:
    kinds = importlib.import_module("keeper.config.kinds")
    assert "_template" not in kinds.kinds("venues")
    assert "demo_market" in kinds.kinds("venues")
