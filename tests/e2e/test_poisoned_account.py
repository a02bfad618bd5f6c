"""One account that the venue's adapter cannot handle: it is set aside, the others are served."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import Options, Rig, opened
from tests.nodes import Anvil

COMMAND = (sys.executable, "-m", "tests.e2e.keeper_with_kinds")
DONE_S_MAX = 15.0


@pytest.fixture
def own_rig(tmp_path: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path, node, broker) as rig:
        yield rig


@pytest.mark.parametrize("step", ["read", "compile", "assess"])
def test_the_others_are_liquidated_and_it_is_named(own_rig: Rig, step: str) -> None:
    rig = own_rig
    before, poisoned, after = (rig.open_safe() for _ in range(3))
    venue = f'poison = "{poisoned}"\nstep = "{step}"'
    with rig.keeper(Options(kind="poisoned_market", venue=venue), command=COMMAND) as keeper:
        keeper.until(lambda: keeper.metric("keeper_accounts", venue="demo") >= 2, DONE_S_MAX)
        rig.oracle.set(0, 1_900 * WAD)
        later = rig.open_under()

        others = {before, after, later}
        keeper.until(lambda: others == {one["account"] for one in rig.liquidations()}, DONE_S_MAX)
        keeper.until(lambda: keeper.metric("keeper_attempts_total", outcome="won") == 3, DONE_S_MAX)
        named = f"venue demo: account {poisoned} is in quarantine: ZeroDivisionError"
        keeper.until(lambda: any(named in reason for reason in keeper.unready()), DONE_S_MAX)
        assert len(keeper.unready()) == 1, "nothing else is wrong"
        assert keeper.metric("keeper_quarantined_total", venue="demo", kind="account") >= 1
        assert keeper.metric("keeper_quarantined_total", venue="demo", kind="venue") == 0
        assert keeper.metric("keeper_quarantine_entries", venue="demo") == 1
        assert keeper.healthy
        keeper.stop()

    assert not rig.liquidated(poisoned)
    assert f"poisoned in {step}" in keeper.run.stderr
    assert {row.account for row in keeper.journal()} == {str(account) for account in others}
