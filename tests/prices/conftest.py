"""Brokers for the tests of price sources."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keeper.config import SecretRef
from tests.brokers import Broker, running_broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running_broker(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may kill."""
    with running_broker(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[str], SecretRef]:
    numbers = itertools.count()

    def write(text: str) -> SecretRef:
        file = tmp_path / f"password-{next(numbers)}"
        file.write_text(text)
        file.chmod(0o600)
        return SecretRef(file=file)

    return write
