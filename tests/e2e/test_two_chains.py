"""Two venues on two chains in one process: one fails in every way, the other works undisturbed."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.proxy import Fault, Proxy, running_proxy
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.runs import Run, run_to_end
from tests.nodes import Anvil, running_anvil

COMMAND = (sys.executable, "-m", "tests.e2e.keeper_with_kinds")
DONE_S_MAX = 20.0


@pytest.fixture
def well(tmp_path: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path / "well", node, broker) as rig:
        yield rig


@pytest.fixture
def ill(tmp_path: Path, broker: Broker) -> Iterator[Rig]:
    flags = ("--chain-id", "31338", "--block-time", "0.25", "--mixed-mining")
    with running_anvil(*flags) as other, opened(tmp_path / "ill", other, broker) as rig:
        yield rig


@pytest.fixture
def proxy(ill: Rig) -> Iterator[Proxy]:
    with running_proxy(ill.node.port) as proxy:
        yield proxy


def both(folder: Path, well: Rig, ill: Rig, proxy: Proxy) -> tuple[KeeperProcess, KeeperProcess]:
    """Return one process, seen at the HTTP port of each of its chains."""
    poisoned = ill.open_safe()
    venue = f'poison = "{poisoned}"\nstep = "assess"'
    options = Options(
        http=proxy.url, ws="", chain_id=31338, head_age_ms_max=2_000, kind="poisoned_market",
        venue=venue,
    )  # fmt: skip
    one, port, wallet = well.configure(folder / "one", Options())
    two, other_port, other_wallet = ill.configure(folder / "two", options)
    run = Run(folder, (*COMMAND, "run", "--config", str(one), "--config", str(two)))
    return KeeperProcess(run, one, port, wallet), KeeperProcess(run, two, other_port, other_wallet)


def liquidates(rig: Rig, keeper: KeeperProcess) -> int:
    """Open an account that is under water, wait until it was dealt with."""
    account = rig.open_under()
    keeper.until(lambda: rig.liquidated(account), DONE_S_MAX)
    return account


def won(keeper: KeeperProcess) -> float:
    return keeper.metric("keeper_attempts_total", outcome="won")


def test_one_chain_fails_completely_and_the_other_is_undisturbed(
    tmp_path: Path, well: Rig, ill: Rig, proxy: Proxy
) -> None:
    first, second = both(tmp_path, well, ill, proxy)
    first.start()
    try:
        first.until_ready()
        second.until_ready()
        done = [liquidates(well, first)]
        done_there = [liquidates(ill, second)]

        for fault in (Fault.SILENT, Fault.RESET, Fault.GARBAGE, Fault.WRONG_CHAIN):
            proxy.break_with(fault)
            second.until(lambda: second.unready() != [], DONE_S_MAX)
            assert first.unready() == []
            done.append(liquidates(well, first))
            proxy.mend()
            second.until_ready()
            done_there.append(liquidates(ill, second))

        ill.oracle.set(0, 1_900 * WAD)  # the account that its adapter cannot handle is due
        second.until(
            lambda: any("ZeroDivisionError" in why for why in second.unready()), DONE_S_MAX
        )
        assert first.unready() == []
        done.append(liquidates(well, first))
        done_there.append(liquidates(ill, second))
        assert (first.healthy, second.healthy) == (True, True)
        for keeper, wanted in ((first, done), (second, done_there)):
            keeper.until(lambda: won(keeper) == len(wanted), DONE_S_MAX)  # noqa: B023 - called here
        first.stop()
    finally:
        first.kill()

    for keeper, wanted in ((first, done), (second, done_there)):
        rows = keeper.journal()
        assert sorted(int(row.account) for row in rows) == sorted(wanted)
        assert {row.outcome for row in rows} == {"won"}
    lines = [json.loads(line) for line in first.run.stderr.splitlines() if line.startswith("{")]
    told = {line["chain"] for line in lines if line["event"] == "attempt"}
    assert told == {31337, 31338}


def test_what_two_chains_cannot_share_is_told(tmp_path: Path, well: Rig) -> None:
    one, _, _ = well.configure(tmp_path, Options())
    two = tmp_path / "other.toml"
    two.write_text(one.read_text())
    code, _, err = run_to_end(tmp_path, "run", "--config", str(one), "--config", str(two))
    assert code == 2
    said = err.splitlines()
    assert len(said) == 3
    for key, line in zip(("chain.id", "keeper.state_dir", "http.port"), said, strict=True):
        assert line.startswith(f"{two}: {key} is that of {one} as well")
