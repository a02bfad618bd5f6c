"""One node and one broker for all tests, one market and its prices for those of a module."""

from collections.abc import Iterator

import pytest

from tests.brokers import Broker, running_broker
from tests.e2e.rig import Rig, opened
from tests.nodes import Anvil, running_anvil


@pytest.fixture(scope="session")
def node() -> Iterator[Anvil]:
    """A chain with a block every 0.25 s, and one for every transaction."""
    with running_anvil("--block-time", "0.25", "--mixed-mining") as running:
        yield running


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running_broker(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path_factory.mktemp("rig"), node, broker) as running:
        yield running
