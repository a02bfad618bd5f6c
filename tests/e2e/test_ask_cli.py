"""``keeper status`` and ``keeper explain`` ask a running keeper, and say what the contract says."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keeper.cli import cli
from keeper.margin.model import margin
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.runs import KEEPER
from tests.nodes import Anvil, free_port

KNOWN_S_MAX = 10.0
WIDE = {"COLUMNS": "240"}


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, node: Anvil, broker: Broker
) -> Iterator[tuple[Rig, KeeperProcess, int, int]]:
    """A keeper in a dry run, with an account that is under water and one that is not."""
    with opened(tmp_path_factory.mktemp("ask"), node, broker) as rig:
        under, safe = rig.open_under(), rig.open_safe()
        with rig.keeper(Options(key="")) as keeper:
            keeper.until_ready()
            held = lambda: keeper.metric("keeper_held_total", reason="dry_run") > 0  # noqa: E731
            keeper.until(held, KNOWN_S_MAX)
            yield rig, keeper, under, safe


def run(keeper: KeeperProcess, *arguments: str) -> Result:
    command = [*arguments, "--config", str(keeper.config)]
    return CliRunner(env={**os.environ, **WIDE}).invoke(cli, command)


Watched = tuple[Rig, KeeperProcess, int, int]


def test_status_shows_what_the_api_says(watched: Watched) -> None:
    _, keeper, under, safe = watched
    said = run(keeper, "status")
    assert said.exit_code == 0, said.output
    assert said.output.startswith("ready\ndry run: nothing is sent\n")
    rows = [line.split() for line in said.output.splitlines()]
    assert ["demo", "2", "2", "1", "0"] in rows
    assert [row[1] for row in rows if row[-1:] == ["dry_run"]] == [str(under)]
    assert [row[1] for row in rows if row[-1:] == ["not_under_margined"]] == [str(safe)]
    document = json.loads(run(keeper, "status", "--json").output)
    assert document["venues"]["demo"]["accounts"] == 2


def test_status_is_shown_again_until_it_is_interrupted(watched: Watched) -> None:
    _, keeper, _, _ = watched
    ours, theirs = pty.openpty()
    command = [*KEEPER, "status", "--watch", "--config", str(keeper.config)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ | WIDE) as shown:
        os.close(theirs)
        seen = b""
        while seen.count(b"dry run: nothing is sent") < 3:
            seen += os.read(ours, 65_536)
        shown.send_signal(signal.SIGINT)
        assert shown.wait(KNOWN_S_MAX) == 0
    os.close(ours)


def test_explain_gives_the_contracts_numbers(watched: Watched) -> None:
    rig, keeper, under, safe = watched
    for account, verdict in ((under, True), (safe, False)):
        (line,) = run(keeper, "explain", str(account), "--json").output.splitlines()
        said = json.loads(line)
        exact = said["assessment"]
        found = margin(rig.chain.account(account), rig.chain.terms(exact["at_s"]))
        assert exact["liquidatable"] is verdict
        assert exact["equity_usd"] == pytest.approx(found.equity / WAD, rel=1e-9)
        assert exact["requirement_usd"] == pytest.approx(
            (found.maintenance + found.reserve) / WAD, rel=1e-9
        )
        held = rig.chain.account(account).positions
        kept = said["state"]["holdings"]["positions"]
        assert {name: int(one["size"]) for name, one in kept.items()} == {
            str(name): one.size for name, one in held.items()
        }


def test_explain_says_it_in_words(watched: Watched) -> None:
    _, keeper, under, safe = watched
    said = run(keeper, "explain", str(under)).output
    assert said.startswith(f"demo, account {under}: dry_run\nheld: dry_run; looked at again ")
    assert "exactly: liquidatable by the " in said
    assert "at the sources' prices: under-margined" in said
    said = run(keeper, "explain", str(safe), "--venue", "demo").output
    assert said.startswith(f"demo, account {safe}: not_under_margined\nexactly: not liquidatable")
    assert "at the contract's prices: above its margin" in said


def test_what_cannot_be_answered_is_told_with_the_mend(watched: Watched, tmp_path: Path) -> None:
    _, keeper, _, _ = watched

    def mistake(*arguments: str) -> str:
        said = run(keeper, *arguments)
        assert said.exit_code == 1
        return str(said.exception)

    assert "no account '777' is known at a venue 'demo'" in mistake("explain", "777")
    assert "no account '1' is known at a venue 'x'" in mistake("explain", "1", "--venue", "x")
    nowhere = f"http://127.0.0.1:{free_port()}"
    said = mistake("status", "--url", nowhere)
    assert said.startswith(f"no keeper answers at {nowhere} (")
    assert said.endswith("is it running? or give --url")
    assert "--url should start with http" in mistake("status", "--url", "ftp://x")
    free = tmp_path / "config.toml"
    text = keeper.config.read_text()
    free.write_text(text.replace(f"port = {keeper.http_port}", "port = 0"))
    said = str(CliRunner().invoke(cli, ["status", "--config", str(free)]).exception)
    assert "http.port is 0" in said
