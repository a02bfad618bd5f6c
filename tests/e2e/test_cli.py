"""``keeper run`` and ``keeper check`` as an operator meets them: exit codes, words, dry runs."""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, busy_port, opened
from tests.e2e.runs import run_to_end
from tests.nodes import Anvil, free_port

DECIDED_S_MAX = 10.0


@pytest.fixture(scope="module")
def quiet_rig(
    tmp_path_factory: pytest.TempPathFactory, node: Anvil, broker: Broker
) -> Iterator[Rig]:
    """A market that nobody acts on."""
    with opened(tmp_path_factory.mktemp("quiet"), node, broker) as rig:
        yield rig


# --- mistakes in the config ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line", "key", "exists"),
    [
        (Options(kind="acme"), 'kind = "acme"', 'venues[0].kind = "acme"', "demo_market"),
        (Options(source_kind="carrier"), 'kind = "carrier"', "sources[0].kind", "mqtt"),
    ],
    ids=["venue", "source"],
)
def test_an_unknown_kind_names_file_line_key_and_what_exists(
    quiet_rig: Rig, tmp_path: Path, options: Options, line: str, key: str, exists: str
) -> None:
    config, _, _ = quiet_rig.configure(tmp_path, options)

    code, out, err = run_to_end(tmp_path, "run", "--config", str(config))

    assert code == 2
    assert "Traceback" not in err
    number = config.read_text().splitlines().index(line) + 1
    (said,) = err.splitlines()
    assert said.startswith(f"{config}:{number}: {key}")
    assert "unknown kind" in said
    assert exists in said.partition("kinds in keeper/")[2]
    assert out == ""


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["run"], 'key = "0x{key}"'),
        (["run"], 'key = {{ file = "wallet.key" }}  # {key}'),
        (["check", "--json"], 'key = "0x{key}"'),
    ],
    ids=["run", "run, in a comment", "check"],
)
def test_a_private_key_in_the_file_is_refused_and_never_printed(
    quiet_rig: Rig, tmp_path: Path, command: list[str], line: str
) -> None:
    key = secrets.token_hex(32)
    config, _, _ = quiet_rig.configure(tmp_path, Options(key=line.format(key=key)))

    code, out, err = run_to_end(tmp_path, *command, "--config", str(config))

    assert code == 2
    said = out + err
    assert "private key" in said
    assert key[:12] not in said.lower()
    assert key[-12:] not in said.lower()


def test_a_busy_http_port_is_a_mistake_in_the_config(quiet_rig: Rig, tmp_path: Path) -> None:
    with busy_port() as port:
        config, _, _ = quiet_rig.configure(tmp_path, Options(http_port=port))
        code, _, err = run_to_end(tmp_path, "run", "--config", str(config))

    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "Traceback" not in err


# --- check --------------------------------------------------------------------------------------


def test_check_passes_on_a_good_world(quiet_rig: Rig, tmp_path: Path) -> None:
    config, _, wallet = quiet_rig.configure(tmp_path, Options(ws=None))

    code, out, err = run_to_end(tmp_path, "check", "--config", str(config), "--json")

    assert code == 0, out + err
    (line,) = out.splitlines()
    found = json.loads(line)
    assert found["ok"] is True
    verdicts = {finding["what"]: finding["verdict"] for finding in found["findings"]}
    assert set(verdicts.values()) == {"ok"}
    wanted = {"config", "wallet main", "head", "balance main", "journal", "websocket ws0"}
    wanted.add("venue demo")
    assert wanted | {"source broker", "feed ETH/USD", "feed USDC/USD"} <= set(verdicts)
    details = {finding["what"]: finding["detail"] for finding in found["findings"]}
    assert details["wallet main"].lower() == wallet
    assert "anyone may liquidate" in details["venue demo"]
    (facts,) = [one["facts"] for one in found["findings"] if one["what"] == "venue demo"]
    assert (facts["reward kind"], facts["price kind"]) == ("cash", "pull")
    assert "distinct in 5000 blocks" in facts["liquidators"]
    assert quiet_rig.nonce(wallet, "pending") == 0
    assert not (tmp_path / "state").exists(), "a check leaves nothing behind"


def test_check_prints_a_table_for_people(quiet_rig: Rig, tmp_path: Path) -> None:
    config, _, _ = quiet_rig.configure(tmp_path, Options())

    code, out, _ = run_to_end(tmp_path, "check", "--config", str(config))

    assert code == 0
    lines = out.splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["what", "found", "mend"]
    assert sum(line.startswith("ok") for line in lines) >= 10
    assert "failed" not in out


def test_check_fails_and_names_everything_that_is_broken(quiet_rig: Rig, tmp_path: Path) -> None:
    nowhere = "0x" + "5" * 40
    mqtt_port = free_port()
    options = Options(address=nowhere, mqtt_port=mqtt_port)
    config, _, wallet = quiet_rig.configure(tmp_path, options)
    quiet_rig.node.rpc("anvil_setBalance", wallet, "0x0")

    code, out, err = run_to_end(tmp_path, "check", "--config", str(config), "--json")

    assert code == 1, out + err
    found = json.loads(out)
    assert found["ok"] is False
    failed = {f["what"]: f for f in found["findings"] if f["verdict"] == "failed"}
    assert set(failed) == {"balance main", "venue demo", "source broker"}
    assert "no contract" in failed["venue demo"]["detail"]
    assert nowhere in failed["venue demo"]["detail"]
    assert str(mqtt_port) in failed["source broker"]["detail"]
    assert wallet in failed["balance main"]["mend"].lower()
    assert all(finding["mend"] for finding in failed.values())


def test_check_names_an_endpoint_of_another_chain(quiet_rig: Rig, tmp_path: Path) -> None:
    config, _, _ = quiet_rig.configure(tmp_path, Options(chain_id=8453))

    code, out, _ = run_to_end(tmp_path, "check", "--config", str(config), "--json")

    assert code == 1
    details = [f["detail"] for f in json.loads(out)["findings"] if f["verdict"] == "failed"]
    assert any("serves chain 31337" in detail and "8453" in detail for detail in details)
    polled = [f["detail"] for f in json.loads(out)["findings"] if f["what"] == "heads"]
    assert re.match(r"heads are polled every \d+ ms, and seen up to that much later", polled[0])


# --- dry run ------------------------------------------------------------------------------------


def would_liquidate(keeper: KeeperProcess) -> set[str]:
    """Return the accounts of which the log says so."""
    lines = keeper.run.stderr.splitlines()
    said = [json.loads(line) for line in lines if "would liquidate" in line and line[-1] == "}"]
    return {account for line in said for account in line["accounts"]}


@pytest.mark.parametrize(
    ("options", "arguments"),
    [(Options(key=""), ()), (Options(), ("--dry-run",))],
    ids=["no wallet", "--dry-run"],
)
def test_a_dry_run_decides_and_simulates_and_sends_nothing(
    quiet_rig: Rig, options: Options, arguments: tuple[str, ...]
) -> None:
    account = quiet_rig.open_under()
    with quiet_rig.keeper(options, *arguments) as keeper:
        keeper.until_ready()
        keeper.until(lambda: str(account) in would_liquidate(keeper), DECIDED_S_MAX)
        assert keeper.metric("keeper_held_total", reason="dry_run") > 0
        assert keeper.metric("keeper_simulated_total", venue="demo", result="ok") > 0
        assert keeper.metric("keeper_dry_run") == 1
        status = json.loads(keeper.get("/api/v1/status")[1])
        assert (status["dry_run"], status["wallets"]) == (True, [])
        keeper.stop()

    assert "nothing is signed or sent" in keeper.run.stderr
    assert keeper.journal() == []
    assert quiet_rig.nonce(keeper.wallet, "pending") == 0
    assert quiet_rig.liquidations() == []
