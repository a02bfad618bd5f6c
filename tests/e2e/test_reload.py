"""SIGHUP to a keeper as an operator runs it: what is taken over, named, refused."""

import json
import signal
from pathlib import Path
from typing import Any

from tests.e2e.rig import KeeperProcess, Options, Rig
from tests.e2e.runs import KEEPER, Run, until
from tests.e2e.test_settings import CONFIG, STOP_S_MAX, answers
from tests.nodes import free_port

TAKEN_S_MAX = 30.0
REFUSED = "config not taken over: nothing has changed"
NO_BUDGET = "[gate]\ngas_wei_per_day_max = 1\n"


def hang_up(keeper: KeeperProcess, text: str) -> None:
    """Write the config and tell the keeper."""
    keeper.config.write_text(text)
    keeper.run.signal(signal.SIGHUP)


def reloads(keeper: KeeperProcess, result: str) -> float:
    return keeper.metric("keeper_config_reloads_total", result=result)


def told(log: str, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_budget_is_raised_while_an_account_waits_for_it(rig: Rig) -> None:
    with rig.keeper(Options(venue=f"probe_ms = 60_000\n{NO_BUDGET}")) as keeper:
        keeper.until_ready()
        text = keeper.config.read_text()
        account = rig.open_under()
        keeper.until(lambda: keeper.metric("keeper_held_total", reason="budget") > 0, TAKEN_S_MAX)

        hang_up(
            keeper, text.replace("max = 1\n", "max = 0.5\n").replace("[gate]", "[gates]\n[gate]")
        )
        keeper.until(lambda: reloads(keeper, "invalid") == 1, TAKEN_S_MAX)
        assert not rig.liquidated(account)
        problems = [line["problem"] for line in told(keeper.run.stderr, REFUSED)]
        assert len(problems) == 2
        assert all(one.startswith(f"{keeper.config}:") for one in problems)

        raised = text.replace(NO_BUDGET, "").replace('level = "info"', 'level = "debug"')
        hang_up(keeper, raised.replace("poll_ms = 50", "poll_ms = 60"))
        keeper.until(lambda: reloads(keeper, "restart_needed") == 1, TAKEN_S_MAX)
        keeper.until(lambda: rig.liquidated(account), TAKEN_S_MAX)
        (waiting,) = told(keeper.run.stderr, "config needs a restart")
        assert (waiting["key"], waiting["before"], waiting["after"]) == (
            "chain.poll_ms",
            "50",
            "60",
        )
        _, shown = keeper.get("/api/v1/config")
        assert json.loads(shown)["chain"]["poll_ms"] == 50

        hang_up(keeper, text.replace('level = "info"', 'level = "debug"'))
        keeper.until(lambda: reloads(keeper, "applied") == 1, TAKEN_S_MAX)
        spared = rig.open_under()
        keeper.until(lambda: told(keeper.run.stderr, "held") != [], TAKEN_S_MAX)
        assert told(keeper.run.stderr, "held")[0]["reason"] == "budget"
        assert not rig.liquidated(spared)
        keeper.stop()


def read_again(run: Run) -> dict[int, str]:
    """Return what came of the last reading of each chain's file."""
    return {line["chain"]: line["result"] for line in told(run.stderr, "config read again")}


def test_each_chain_of_a_process_takes_over_its_own_file(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    files = [tmp_path / name / "config.toml" for name in ("one", "two")]
    for number, (file, port) in enumerate(zip(files, ports, strict=True)):
        file.parent.mkdir()
        text = CONFIG.format(level="info", format="json", port=port)
        file.write_text(text.replace("id = 31337", f"id = {31337 + number}"))
    files[0].write_text("[keeper]\nwatch_config = true\n" + files[0].read_text())
    arguments = [part for file in files for part in ("--config", str(file))]
    run = Run(tmp_path, (*KEEPER, "run", *arguments))
    run.start()
    try:
        for port in ports:
            until(lambda: answers("127.0.0.2", port), TAKEN_S_MAX, lambda: run.stderr)  # noqa: B023
        files[1].write_text(files[1].read_text() + "[gate]\nhold_ms = 7\n")
        run.signal(signal.SIGHUP)
        until(lambda: len(read_again(run)) == 2, TAKEN_S_MAX, lambda: run.stderr)
        assert read_again(run) == {31337: "unchanged", 31338: "applied"}

        new = tmp_path / "new.toml"  # the file that is watched needs no signal
        new.write_text(files[0].read_text() + "[gate]\nhold_ms = 8\n")
        new.replace(files[0])
        until(lambda: read_again(run)[31337] == "applied", TAKEN_S_MAX, lambda: run.stderr)
        changes = [(one["chain"], one["key"], one["after"]) for one in told(run.stderr, "config")]
        assert changes == [(31338, "gate.hold_ms", "7"), (31337, "gate.hold_ms", "8")]
        run.signal(signal.SIGTERM)
        assert run.wait(STOP_S_MAX) == 0
    finally:
        run.end()
