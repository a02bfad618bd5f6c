"""What the tests of the demo market's venue share."""

import random
from collections.abc import Mapping

from keeper.facts import AccountId, FeedId, Price
from keeper.margin.model import Account, Position
from keeper.units import WAD
from keeper.venues._demo_market_state import DemoAccountState, DemoMarketState
from keeper.venues.demo_market import DemoMarket
from tests.market_chain import FEEDS, START_PRICES, MarketChain, Update
from tests.venues.wire import head_of, tick

MAX_AGE_S = 600
ETH = "0"


async def read(
    venue: DemoMarket, chain: MarketChain, ids: list[int]
) -> tuple[DemoMarketState, list[DemoAccountState]]:
    head = head_of(chain.node)
    market = await venue.read_market(head)
    accounts = await venue.read_accounts([AccountId(str(number)) for number in ids], head)
    return market, list(accounts)


def eth_long(cash_usd: int, size: int = 50) -> Account:
    """Return an ETH long of that many units; 50 of them need 700 USD and 200 of reserve."""
    return Account(cash_usd * WAD, {}, {ETH: Position(size * WAD, 2_000 * WAD)})


def random_updates(rng: random.Random, chain: MarketChain) -> dict[int, Update]:
    """Return newer signed prices for some of the feeds."""
    feeds = rng.sample(range(4), rng.randrange(5))
    return {
        feed: chain.sign(feed, int(START_PRICES[feed] * rng.uniform(0.93, 1.07)), chain.next_ms())
        for feed in feeds
    }


def ticks(updates: Mapping[int, Update]) -> dict[FeedId, Price]:
    return {FeedId(FEEDS[feed]): tick(FEEDS[feed], update) for feed, update in updates.items()}
