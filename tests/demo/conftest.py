"""One node for a module, one furnished market for a test."""

from collections.abc import Iterator

import pytest

from tests.market_chain import FEE_WEI, MarketChain, furnish
from tests.nodes import Anvil, running_anvil


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    with running_anvil() as node:
        yield node


@pytest.fixture
def chain(node: Anvil) -> MarketChain:
    chain = MarketChain(node, max_price_age_s=600, update_fee_wei=FEE_WEI)
    furnish(chain)
    return chain
