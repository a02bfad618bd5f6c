"""The venue that newcomers copy, against the contract its docstring describes."""

import random
from collections.abc import Iterator

import pytest

from keeper.facts import AccountId, Assessment, Refused, Simulated
from keeper.venues._template import RATE, Settings, TemplateVenue, build
from tests.market_chain import seeded
from tests.nodes import Anvil, running_anvil
from tests.venues.isolated import BTC, ETH, FEEDS, MAINTENANCE, MONEY, PRICE, SIZE, IsolatedMarket
from tests.venues.wire import connected, head_of


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    with running_anvil() as node:
        yield node


def open_at_the_edge(rng: random.Random, market: IsolatedMarket, number: int) -> str:
    """Set a position that is short of its requirement, or above it, by very little or by much."""
    name, price = rng.choice([(ETH, 2_000 * PRICE), (BTC, 60_000 * PRICE)])
    size = rng.choice([-1, 1]) * int(10 ** rng.uniform(-3, 2) * SIZE) + rng.randrange(100)
    entry = int(price * rng.uniform(0.9, 1.1))
    notional = abs(size) * price * MONEY // (SIZE * PRICE)
    gained = size * (price - entry) * MONEY // (SIZE * PRICE)
    slack = rng.choice([-2, -1, 0, 1, 2, int(rng.uniform(-0.05, 0.05) * notional)])
    margin = notional * MAINTENANCE // RATE - gained + slack
    return market.open(name, number, size, entry, margin)


async def judged(venue: TemplateVenue, node: Anvil, account: str) -> Assessment:
    head = head_of(node)
    market = await venue.read_market(head)
    (state,) = await venue.read_accounts([AccountId(account)], head)
    return venue.assess(state, market, {}, head.timestamp_s)


async def test_verdict_and_reward_are_the_contracts_to_the_unit(node: Anvil) -> None:
    market, rng, seen = IsolatedMarket(node), seeded(51), {True: 0, False: 0}
    wallet = market.dev[4]
    async with connected(node) as rpc:
        venue = build(Settings(id="t", address=market.address, feeds=FEEDS), rpc, market.chain_id)
        for number in range(1, 81):
            account = open_at_the_edge(rng, market, number)
            found = await judged(venue, node, account)
            answer = await venue.simulate(found, wallet, head_of(node))
            seen[found.liquidatable] += 1
            if not found.liquidatable:
                assert answer == Refused("not_liquidatable", "healthy")
                continue
            assert isinstance(answer, Simulated)
            before = market.call("balanceOf", wallet)
            market.send_raw("0x" + answer.call.data.hex(), wallet)
            paid_wad = (market.call("balanceOf", wallet) - before) * 10**18 // MONEY
            assert answer.reward_wad == found.reward_wad == paid_wad
        assert min(seen.values()) > 15, f"one-sided sample: {seen}"
        market.send("set_paused", True)  # noqa: FBT003 - ABI
        probe = await venue.probe(wallet)
        assert (probe.open, probe.detail) == (False, "paused")
        assert probe.facts["ETH/USD"] == "maintenance 6.25%, reward 1.25%"
        assert probe.facts["liquidators"].startswith("1 distinct")
