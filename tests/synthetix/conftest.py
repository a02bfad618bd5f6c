"""One chain for all tests here, with a push and a pull market on it; each test leaves no trace."""

from collections.abc import Iterator, Mapping

import pytest

from tests.nodes import Anvil, running_anvil
from tests.synthetix.deploy import Setup, deploy
from tests.synthetix.packages import artifacts
from tests.synthetix.scenario import populated
from tests.synthetix.world import World


@pytest.fixture(scope="session")
def node() -> Iterator[Anvil]:
    artifacts()  # compiled before the node's clock starts
    with running_anvil() as running:
        yield running


@pytest.fixture(scope="session")
def worlds(node: Anvil) -> Mapping[str, World]:
    """Both markets, populated: a snapshot of the one holds the other too."""
    pull = Setup(oracle="pull", strict_age_s=5, node_age_s=60)
    return {
        setup.oracle: populated(World(deploy(node, setup)))
        for setup in (Setup(oracle="push"), pull)
    }


def lent(world: World) -> Iterator[World]:
    """Lend a world to a test; then take the chain back to where it was."""
    snapshot = world.chain.node.rpc("evm_snapshot")
    yield World(world.system, dict(world.prices))
    assert world.chain.node.rpc("evm_revert", snapshot)


@pytest.fixture
def push(worlds: Mapping[str, World]) -> Iterator[World]:
    yield from lent(worlds["push"])


@pytest.fixture
def pull(worlds: Mapping[str, World]) -> Iterator[World]:
    yield from lent(worlds["pull"])
