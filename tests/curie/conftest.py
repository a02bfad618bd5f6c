"""One chain for all tests here with a furnished market on it; each test leaves no trace."""

from collections.abc import AsyncIterator, Iterator

import pytest

from keeper.chain.rpc import HttpRpc
from tests.curie.deploy import deploy
from tests.curie.world import World, furnished
from tests.nodes import Anvil, running_anvil
from tests.synthetix.packages import modules
from tests.venues.wire import connected


@pytest.fixture(scope="session")
def node() -> Iterator[Anvil]:
    modules()  # installed before the node's clock starts
    with running_anvil() as running:
        yield running


@pytest.fixture(scope="session")
def made(node: Anvil) -> World:
    return furnished(World(deploy(node)))


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """Lend the world to a test; then take the chain back to where it was."""
    snapshot = made.chain.node.rpc("evm_snapshot")
    yield World(made.curie)
    assert made.chain.node.rpc("evm_revert", snapshot)


@pytest.fixture
async def rpc(node: Anvil) -> AsyncIterator[HttpRpc]:
    async with connected(node) as found:
        yield found
