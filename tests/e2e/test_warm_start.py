"""A stop writes the accounts down; the next start acts without reading them again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Rig, opened
from tests.nodes import Anvil

DONE_S_MAX = 15.0


@pytest.fixture
def own_rig(tmp_path: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path, node, broker) as rig:
        yield rig


def said(keeper: KeeperProcess, event: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in keeper.run.stderr.splitlines() if event in line]
    found: dict[str, Any] = lines[-1]
    return found


def test_a_stop_and_a_warm_start(own_rig: Rig) -> None:
    rig = own_rig
    accounts = [rig.open_safe() for _ in range(5)]
    with rig.keeper() as keeper:
        keeper.until_ready()
        keeper.until(lambda: keeper.metric("keeper_accounts", venue="demo") == 5, DONE_S_MAX)
        keeper.stop()
        assert said(keeper, "snapshot written")["accounts"] == 5
        later = rig.open_safe()
        keeper.start()
        keeper.until_ready()
        warm = said(keeper, "warm start")
        assert (warm["kept"], warm["of"]) == (5, 5)
        keeper.until(lambda: keeper.metric("keeper_accounts", venue="demo") == 6, DONE_S_MAX)
        rig.oracle.set(0, 1_800 * WAD)
        every = {*accounts, later}
        keeper.until(lambda: {one["account"] for one in rig.liquidations()} == every, DONE_S_MAX)
        keeper.stop()
