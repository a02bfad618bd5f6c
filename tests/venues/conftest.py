"""One node for a module, one furnished market and its venue for a test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.venues.demo_market import DemoMarket, Settings, build
from tests.market_chain import FEE_WEI, MarketChain, furnish
from tests.nodes import Anvil, running_anvil
from tests.venues.demo import MAX_AGE_S
from tests.venues.wire import connected


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    with running_anvil() as node:
        yield node


@pytest.fixture
def chain(node: Anvil) -> MarketChain:
    chain = MarketChain(node, max_price_age_s=MAX_AGE_S, update_fee_wei=FEE_WEI)
    furnish(chain)
    return chain


@pytest.fixture
async def rpc(node: Anvil) -> AsyncIterator[HttpRpc]:
    async with connected(node) as rpc:
        yield rpc


@pytest.fixture
def venue(chain: MarketChain, rpc: HttpRpc) -> DemoMarket:
    return build(Settings(id="demo", address=chain.address), rpc, 31_337)
