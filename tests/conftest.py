"""For all tests: the slow forms behind a flag, two workers, and logging as it was found."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

HERE = Path(__file__).parent
# modules that keep a machine busy by themselves: never two of them at once
CROWDED = {
    "bench/test_submit.py",
    "curie/test_storm.py",
    "e2e/test_demo.py",
    "e2e/test_outages.py",
    "faults/test_bursts.py",
    "faults/test_crowds.py",
    "faults/test_spending.py",
    "storm/test_storms.py",
}

# keepers, nodes and brokers with clocks of their own: what fails is tried once more, and listed
BY_THE_CLOCK = {
    *("bench", "chain", "curie", "demo", "deploy", "e2e", "faults", "lease", "prices", "storm"),
    *("synthetix", "venues"),
}

# a busy machine is no defect
settings.register_profile("keeper", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("keeper")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the long forms")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite on two workers; what is named on the command line in this process."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return 2


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker a module at a time, and one of them all that is crowded."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.split("::", maxsplit=1)[0].removeprefix(f"{HERE.name}/")
        return "crowded" if module in CROWDED else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByModule:
    return ByModule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        module = item.path.relative_to(HERE).as_posix()
        if module.split("/")[0] in BY_THE_CLOCK:
            item.add_marker(pytest.mark.flaky(reruns=1))
    if config.getoption("--slow"):
        return
    kept = [item for item in items if item.get_closest_marker("slow") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(autouse=True)
def _logging_as_found() -> Iterator[None]:
    """A command run in this process configures logging; the next test must not inherit it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
