"""The venue on a deployed market, as the keeper's loops use it."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from keeper.chain.rpc import log_from_json
from keeper.facts import AccountId, Assessment, FeedId, Head, Log, Price, Refused, Simulated
from keeper.ports import Rpc
from keeper.units import WAD
from keeper.venues._synthetix_v3_markets import SynthetixMarkets
from keeper.venues.synthetix_v3 import (
    Settings,
    SynthetixAccount,
    SynthetixV3,
    build,
)
from tests.synthetix.scenario import BTC, ETH
from tests.synthetix.world import Order, World, usd
from tests.venues.wire import head_of

FEEDS = {str(ETH): FeedId("ETH/USD"), str(BTC): FeedId("BTC/USD")}


class Read(NamedTuple):
    """Everything read at one head."""

    head: Head
    market: SynthetixMarkets
    accounts: Mapping[int, SynthetixAccount]


def venue_of(world: World, rpc: Rpc) -> SynthetixV3:
    pyth = world.system.pyth.address if world.system.pyth else None
    settings = Settings(id="synthetix", address=world.perps.address, feeds=FEEDS, pyth=pyth)
    return build(settings, rpc, 31_337)


def ids(accounts: Iterable[int]) -> list[AccountId]:
    return [AccountId(str(number)) for number in accounts]


async def read(venue: SynthetixV3, world: World, accounts: Sequence[int]) -> Read:
    head = head_of(world.chain.node)
    market = await venue.read_market(head)
    states = await venue.read_accounts(ids(accounts), head)
    return Read(head, market, dict(zip(accounts, states, strict=True)))


def ticks(world: World, published_s: int | None = None) -> dict[FeedId, Price]:
    """Return signed prices as a source gives them; their own price and time are a lie."""
    updates = dict(zip(world.prices, world.updates(published_s), strict=True))
    feeds = {market: FEEDS[str(market)] for market in updates}
    return {
        feed: Price(feed, "test", 7 * WAD, 1, 1, 1, payload=updates[market])
        for market, feed in feeds.items()
    }


def assess(
    venue: SynthetixV3,
    found: Read,
    account: int,
    prices: Mapping[FeedId, Price] | None = None,
    later_s: int = 1,
) -> Assessment:
    at_s = found.head.timestamp_s + later_s
    return venue.assess(found.accounts[account], found.market, prices or {}, at_s)


async def simulate(venue: SynthetixV3, world: World, assessment: Assessment) -> Simulated | Refused:
    return await venue.simulate(assessment, keeper_of(world), head_of(world.chain.node))


def logs_since(world: World, block: int) -> list[Log]:
    """Return the market's logs after a block, as the chain loop passes them on."""
    span = {"address": world.perps.address, "fromBlock": hex(block + 1), "toBlock": "latest"}
    return [log_from_json(raw) for raw in world.chain.node.rpc("eth_getLogs", span)]


def send(
    world: World, simulated: Simulated, gas: int | None = None
) -> tuple[int, dict[str, object]]:
    """Send what was simulated from the keeper's wallet; return USD received and the receipt."""
    call, wallet = simulated.call, keeper_of(world)
    before = world.system.usd.call("balanceOf", wallet)
    sent = world.chain.broadcast(
        wallet,
        call.to,
        "0x" + call.data.hex(),
        value_wei=call.value_wei,
        gas=gas or simulated.gas * 3 // 2,
    )
    receipt = world.chain.receipts([sent])[0]
    assert receipt["status"] == "0x1", world.perps.interface.refusal(world.chain.revert_data(sent))
    received: int = world.system.usd.call("balanceOf", wallet) - before
    return received, receipt


def keeper_of(world: World) -> str:
    """Return a wallet that has no part in the market."""
    return world.chain.dev[5]


def crowd(world: World, rng: random.Random, count: int) -> list[int]:
    """Open random accounts in both markets; some are large, some numbers are huge."""
    numbers = [1_000 + n + (2**127 if n % 7 == 0 else 0) for n in range(count)]
    world.create({number: usd(rng.choice([2_500, 9_000, 120_000])) for number in numbers})
    orders: list[Order] = []
    for number in numbers:
        scale = rng.choice([0.5, 2.0, 4.0])
        margin = world.perps.call("getCollateralAmount", number, 0) / WAD
        for market in rng.sample([ETH, BTC], rng.choice([1, 1, 2])):
            notional = margin * scale * rng.uniform(0.3, 3) * rng.choice([-1, 1])
            orders.append(Order(number, market, usd(notional / (world.prices[market] / WAD))))
    world.trade(orders)
    return numbers
