"""What asks a running keeper (status, explain, stress) says what the contract says."""

import csv
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
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
    assert ["demo", "2", "2", "1", "0", "of", "0", "-", "0"] in rows
    assert [row[1] for row in rows if row[:1] == ["http0:127.0.0.1"]] == ["healthy"]
    assert ["gas", "a", "hour", "native", "1.00", "1.00"] in rows
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
    # for a moment it is being simulated again
    held = f"demo, account {under}: dry_run\nheld: dry_run; looked at again "

    def explained() -> str:
        return run(keeper, "explain", str(under)).output

    keeper.until(lambda: explained().startswith(held), KNOWN_S_MAX)
    said = explained()
    assert "exactly: liquidatable by the " in said
    assert "at the sources' prices: under-margined" in said
    said = run(keeper, "explain", str(safe), "--venue", "demo").output
    assert said.startswith(f"demo, account {safe}: not_under_margined\nexactly: not liquidatable")
    assert "at the contract's prices: above its margin" in said


def test_stress_foretells_the_contracts_numbers(watched: Watched) -> None:
    """A fall of 4 % sinks the safe one too: what it has then is worked out by the model itself."""
    rig, keeper, under, safe = watched
    (line,) = run(keeper, "stress", "--shock", "ETH=-4%", "--json").output.splitlines()
    venue = json.loads(line)["venues"]["demo"]
    price = int(venue["prices"]["ETH/USD"]["shocked_usd"] * WAD)
    terms = rig.chain.terms(venue["at_s"])
    market = replace(terms.markets["0"], price=price)
    shocked = replace(terms, markets={**terms.markets, "0": market})
    found = [margin(rig.chain.account(number), shocked) for number in (under, safe)]
    assert all(one.excess < 0 for one in found)
    assert venue["total"]["under_margined_accounts"] == 2
    assert venue["total"]["equity_usd"] == pytest.approx(
        sum(one.equity for one in found) / WAD, abs=0.02
    )
    assert venue["total"]["bad_debt_usd"] == pytest.approx(
        sum(max(0, -one.net_value) for one in found) / WAD, abs=0.02
    )
    assert {one["account"] for one in venue["top_accounts"]} == {str(under), str(safe)}


def test_stress_is_shown_as_a_table_and_as_csv(watched: Watched) -> None:
    _, keeper, under, safe = watched
    said = run(keeper, "stress").output
    assert said.startswith("no shock: as things stand\n\ndemo at block ")
    rows = [line.split() for line in said.splitlines()]
    assert [row[:2] for row in rows if row[0:1] == ["ETH-PERP"]] == [["ETH-PERP", "2"]]
    assert str(under) in said.split("largest under-margined accounts:")[1]
    assert run(keeper, "stress", "--all=-10%").output.startswith("ETH/USD -10 %, BTC/USD -10 %")
    lines = run(keeper, "stress", "--shock", "eth-perp=-4%", "--csv").output.splitlines()
    table = {row["market"]: row for row in csv.DictReader(lines)}
    assert sorted(table) == ["*", "ETH-PERP"]
    assert table["*"]["venue"] == "demo"
    assert table["ETH-PERP"]["under_margined_accounts"] == "2"
    assert float(table["*"]["long_usd"]) == pytest.approx(192_000, rel=1e-3)
    assert safe


def test_the_gauges_of_risk_are_kept(watched: Watched) -> None:
    rig, keeper, under, _ = watched
    at = {"venue": "demo", "market": "ETH-PERP"}
    keeper.until(lambda: keeper.metric("keeper_open_interest_usd", **at, side="long") > 0, 10.0)
    found = margin(rig.chain.account(under), rig.chain.terms())
    assert keeper.metric("keeper_under_margined_notional_usd", **at) == pytest.approx(
        found.notional / WAD, rel=1e-3
    )
    assert keeper.metric("keeper_near_accounts", **at, within_bp="1000") == 1
    assert keeper.metric("keeper_evaluations_total", venue="demo") > 0
    assert keeper.metric("keeper_fence_rebuilds_total", venue="demo") > 0


def test_the_map_is_drawn_and_written(watched: Watched, tmp_path: Path) -> None:
    _, keeper, _, _ = watched
    file = tmp_path / "map.svg"
    said = run(keeper, "stress", "--map", "--svg", str(file))
    assert said.exit_code == 0, said.output
    assert "demo, ETH/USD from " in said.output
    assert file.read_text().count("ETH-PERP") == 1
    document = json.loads(run(keeper, "stress", "--map", "--json").output)
    ray = document["venues"]["demo"]["rays"]["ETH/USD"]
    by_move = dict(zip(document["moves_pct"], ray["accounts"], strict=True))
    assert (by_move[-4], by_move[0], by_move[50]) == (2, 1, 0)


def test_what_cannot_be_answered_is_told_with_the_mend(watched: Watched, tmp_path: Path) -> None:
    _, keeper, _, _ = watched

    def mistake(*arguments: str) -> str:
        said = run(keeper, *arguments)
        assert said.exit_code == 1
        return str(said.exception)

    assert "no account '777' is known at a venue 'demo'" in mistake("explain", "777")
    assert "no account '1' is known at a venue 'x'" in mistake("explain", "1", "--venue", "x")
    said = mistake("stress", "--shock", "DOGE=-20%")
    assert "no price or market 'DOGE' is known; there are ETH/USD, BTC/USD, SOL/USD" in said
    assert "exclude each other" in mistake("stress", "--csv", "--json")
    assert "exclude each other" in mistake("stress", "--map", "--shock", "ETH=-1%")
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
