"""One chain for all tests here, with a push and a pull market on it; each test leaves no trace."""

from collections.abc import Iterator

import pytest

from tests.nodes import Anvil, running_anvil
from tests.synthetix.chain import Event
from tests.synthetix.deploy import Setup, deploy
from tests.synthetix.packages import artifacts
from tests.synthetix.world import Order, World, usd

ETH, BTC = 100, 200
ALICE, BOB, CAROL, DAVE = 11, 2**127 + 12, 13, 14  # account numbers may be this large
MARGINS = {ALICE: usd(10_000), BOB: usd(10_000), CAROL: usd(400_000), DAVE: usd(2_000)}
TRADES = (
    Order(ALICE, ETH, usd(40)),
    Order(ALICE, BTC, usd(-0.5)),
    Order(BOB, ETH, usd(5)),
    Order(CAROL, ETH, usd(2_000)),
    Order(DAVE, ETH, usd(9)),
)


@pytest.fixture(scope="session")
def node() -> Iterator[Anvil]:
    artifacts()  # compiled before the node's clock starts
    with running_anvil() as running:
        yield running


@pytest.fixture(scope="session")
def pushed(node: Anvil) -> World:
    return populated(World(deploy(node)))


@pytest.fixture(scope="session")
def pulled(node: Anvil, pushed: World) -> World:
    """Deployed after the push market, so that one snapshot holds both."""
    assert pushed.chain.node is node
    return populated(World(deploy(node, Setup(oracle="pull", strict_age_s=5, node_age_s=60))))


def populated(world: World) -> World:
    """Open alice's two positions, bob's and dave's small ones and carol's large one."""
    world.create(MARGINS)
    world.trade(TRADES)
    return world


def put_back(world: World) -> Iterator[World]:
    """Lend the world to a test; then take the chain back to where it was."""
    snapshot = world.chain.node.rpc("evm_snapshot")
    yield World(world.system, dict(world.prices))
    assert world.chain.node.rpc("evm_revert", snapshot)


@pytest.fixture
def push(pushed: World, pulled: World) -> Iterator[World]:
    assert pulled
    yield from put_back(pushed)


@pytest.fixture
def pull(pulled: World) -> Iterator[World]:
    yield from put_back(pulled)


def named(events: list[Event], name: str) -> list[Event]:
    return [event for event in events if event.name == name]
