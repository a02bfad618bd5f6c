"""``keeper journal`` on what a keeper really did: one attempt replaced, one whose keeper died.

The README shows the output of this run: ``pytest -s tests/e2e/test_journal_cli.py`` prints it.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keeper.cli import cli
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.test_kill_keeper import automine, pending
from tests.market_chain import under_eth_long
from tests.nodes import running_anvil

SENT_S_MAX = 10.0
SETTLED_S_MAX = 20.0


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["journal", "--config", str(config), *arguments])


def said(config: Path, *arguments: str) -> str:
    result = run(config, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def until_won(rig: Rig, keeper: KeeperProcess, number: int) -> None:
    def won() -> bool:
        rig.node.rpc("evm_mine")
        return keeper.metric("keeper_attempts_total", outcome="won") == number

    keeper.until(won, SETTLED_S_MAX)


def replaced_one(rig: Rig, keeper: KeeperProcess) -> int:
    """Let the base fee jump to tenfold while a transaction waits."""
    account = rig.open_safe()
    keeper.until(lambda: keeper.metric("keeper_accounts") == 1, SENT_S_MAX)
    automine(rig.node, on=False)
    rig.oracle.set(0, 1_900 * WAD)
    keeper.until(lambda: len(pending(rig, keeper)) == 1, SENT_S_MAX)
    gas_price_wei = int(rig.node.rpc("eth_gasPrice"), 16)
    rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(10 * gas_price_wei))
    until_won(rig, keeper, 1)
    automine(rig.node, on=True)
    return account


def crashed_one(rig: Rig, keeper: KeeperProcess) -> int:
    """Kill the keeper while a transaction waits, and start another."""
    account = rig.chain.seed([under_eth_long(12.0)])[0]  # safe at 1,900 USD
    keeper.until(lambda: keeper.metric("keeper_accounts") == 2, SENT_S_MAX)
    automine(rig.node, on=False)
    rig.oracle.set(0, 1_800 * WAD)
    keeper.until(lambda: len(pending(rig, keeper)) == 1, SENT_S_MAX)
    keeper.kill()
    keeper.start()
    keeper.until_ready()
    until_won(rig, keeper, 1)
    return account


@pytest.fixture(scope="module")
def lived(
    tmp_path_factory: pytest.TempPathFactory, broker: Broker
) -> Iterator[tuple[Rig, KeeperProcess, int, int]]:
    """Both attempts settled; the keeper still runs."""
    folder = tmp_path_factory.mktemp("journal")
    with running_anvil() as node, opened(folder, node, broker) as rig:
        rig.oracle.set(0, 2_000 * WAD)
        rig.chain.set_prices(rig.oracle.prices)
        with rig.keeper(Options(ws=None)) as keeper:
            keeper.until_ready()
            first = replaced_one(rig, keeper)
            yield rig, keeper, first, crashed_one(rig, keeper)


def test_a_replaced_attempt_is_told_whole(lived: tuple[Rig, KeeperProcess, int, int]) -> None:
    rig, keeper, account, _ = lived
    (row,) = list(
        csv.DictReader(io.StringIO(said(keeper.config, "export", "--account", str(account))))
    )
    told = said(keeper.config, "show", row["id"][:12])
    print(told)  # noqa: T201 - for the README
    events = re.findall(r"s  (\w+)", told)
    assert events[:3] == ["planned", "signed", "broadcast"]
    assert events[-2:] == ["included", "settled"]
    assert events.count("signed") == int(row["transactions"]) >= 2
    assert "replacement, 0x" in told
    (seen,) = [one for one in rig.liquidations() if one["account"] == account]
    assert row["tx_hash"] == seen["tx"]
    assert f"{row['tx_hash']}, succeeded" in told
    receipt = rig.node.rpc("eth_getTransactionReceipt", seen["tx"])
    sent = rig.node.rpc("eth_getTransactionByHash", seen["tx"])
    gas_wei = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    assert int(row["cost_wei"]) == gas_wei + int(sent["value"], 16)


def test_an_attempt_whose_keeper_died_goes_on_in_the_next_ones_hands(
    lived: tuple[Rig, KeeperProcess, int, int],
) -> None:
    _, keeper, _, account = lived
    document = json.loads(
        said(keeper.config, "export", "--format", "json", "--account", str(account))
    )
    told = said(keeper.config, "show", document["tx_hash"])
    print(told)  # noqa: T201 - for the README
    events = [line["event"] for line in document["history"]]
    assert re.findall(r"s  (\w+)", told) == events
    died = events.index("resumed")  # before or after it had heard that the node took it
    assert events[:died] in (["planned", "signed"], ["planned", "signed", "broadcast"])
    assert events[-2:] == ["included", "settled"]
    assert document == json.loads(said(keeper.config, "show", "--json", document["id"]))
    assert len(document["transactions"]) == events.count("signed")


def test_the_list_filters_while_the_keeper_runs(
    lived: tuple[Rig, KeeperProcess, int, int],
) -> None:
    rig, keeper, first, second = lived
    listed = said(keeper.config, "list")
    print(listed)  # noqa: T201 - for the README
    lines = listed.splitlines()
    assert [line.split()[4:6] for line in lines[1:]] == [[str(first), "0"], [str(second), "1"]]
    for arguments, found in (
        (("--limit", "1"), [second]),
        (("--account", str(first)), [first]),
        (("--wallet", keeper.wallet.upper().replace("0X", "0x")), [first, second]),
        (("--wallet", "0x" + "11" * 20), []),
        (("--outcome", "won", "--venue", "demo", "--since", "1h"), [first, second]),
        (("--outcome", "open"), []),
        (("--since", "2100-01-01"), []),
    ):
        lines = said(keeper.config, "list", *arguments).splitlines()[1:]
        assert [int(line.split()[4]) for line in lines if line.strip()] == found, arguments
    assert keeper.healthy
    assert rig.nonce(keeper.wallet) == 2


def test_mistakes_name_the_place_and_the_mend(
    lived: tuple[Rig, KeeperProcess, int, int], tmp_path: Path
) -> None:
    _, keeper, _, _ = lived
    path = keeper.config.parent / "state" / "journal.sqlite"
    wrong = tmp_path / "notes.txt"
    wrong.write_text("no database")
    for arguments, problem in (
        (("--config", str(keeper.config), "show", "zzz"), f"zzz is no attempt in journal {path}; "),
        (("--file", "/nowhere/j", "list"), "journal /nowhere/j: no such file; name the config"),
        (("--file", str(wrong), "list"), f"journal {wrong}: file is not a database; run this as"),
    ):
        result = CliRunner().invoke(cli, ["journal", *arguments])
        assert problem in str(result.exception)
    assert not Path("/nowhere").exists()
    result = run(keeper.config, "list", "--since", "4x")
    assert (result.exit_code, "write 90s, 30m, 6h, 2d (ago)" in result.output) == (2, True)
