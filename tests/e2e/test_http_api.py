"""The HTTP API of a keeper at work, over TLS: fuzzed by its own document, and asked by commands."""

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from keeper.cli import cli
from tests.brokers import Broker
from tests.certificates import make_authority
from tests.e2e.rig import Options, Rig, opened
from tests.e2e.runs import KEEPER, Run, until
from tests.nodes import Anvil

TOKEN = "opensesame-0123456789"  # noqa: S105 - of a file made by the test
DONE_S_MAX = 30.0
EXAMPLES_MAX = 100  # of each operation, when it is fuzzed
EVENTS = "/api/v1/events"  # never ends: tests/observe/test_events.py
LISTEN = """[http]
token = { file = "http.token" }
tls_cert = "server.pem"
tls_key = "server.key"
"""


@dataclass
class Served:
    """A keeper that has liquidated one account and may not liquidate another."""

    rig: Rig
    run: Run
    config: Path
    url: str
    authority: Path
    done: int
    waiting: int

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        context = ssl.create_default_context(cafile=self.authority / "ca.pem")
        with urllib.request.urlopen(self.url + path, context=context) as answer:  # noqa: S310
            return json.load(answer)

    def command(self, *arguments: str) -> Result:
        runner = CliRunner(env={**os.environ, "COLUMNS": "240"})
        return runner.invoke(cli, [*arguments, "--config", str(self.config)])


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, node: Anvil, broker: Broker
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("api")
    make_authority(folder)
    with opened(folder / "rig", node, broker) as rig:
        config, port, _ = rig.configure(folder, Options(venue="[gate]\nprofit_wei_min = 0\n"))
        config.write_text(config.read_text().replace("[http]\n", LISTEN))
        token = folder / "http.token"
        token.touch(mode=0o600)
        token.write_text(f"{TOKEN}\n")
        run = Run(folder, (*KEEPER, "run", "--config", str(config)))
        run.start()
        try:
            keeper = Served(rig, run, config, f"https://127.0.0.1:{port}", folder, 0, 0)
            run.said("http listening", DONE_S_MAX)
            until(lambda: keeper.get("/api/v1/status")["ready"], DONE_S_MAX, lambda: run.stderr)
            keeper.done = rig.open_under()
            won = lambda: keeper.get("/api/v1/attempts?outcome=won")["total"] == 1  # noqa: E731
            until(won, DONE_S_MAX, lambda: run.stderr)
            text = config.read_text().replace("profit_wei_min = 0", f"profit_wei_min = {10**24}")
            config.write_text(text)
            run.signal(1)
            run.said("config read again", DONE_S_MAX)
            keeper.waiting = rig.open_under()
            held = lambda: keeper.get("/api/v1/candidates")["total"] == 1  # noqa: E731
            until(held, DONE_S_MAX, lambda: run.stderr)
            yield keeper
        finally:
            run.end()


@pytest.mark.parametrize("phase", ["coverage", pytest.param("fuzzing", marks=pytest.mark.slow)])
def test_whatever_its_document_allows_is_answered_as_it_says(served: Served, phase: str) -> None:
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        *(f"{served.url}/api/v1/openapi.json", "--url", served.url),
        *("--tls-verify", str(served.authority / "ca.pem")),
        *("--header", f"Authorization: Bearer {TOKEN}", "--checks", "all"),
        *("--exclude-path", EVENTS),
        *("--max-examples", str(EXAMPLES_MAX), "--seed", "1", "--no-color"),
        *("--phases", phase, "--generation-database", "none"),
    ]
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=served.run.cwd, timeout=200
    )
    assert found.returncode == 0, found.stdout[-8_000:] + found.stderr[-2_000:]
    assert served.run.running
    assert '"level": "error"' not in served.run.stderr


def test_every_document_is_of_its_shape(served: Served) -> None:
    told = served.get("/api/v1/openapi.json")["paths"]
    for path, operations in told.items():
        if "get" not in operations or path == EVENTS:
            continue
        asked = path.format(venue="demo", account=served.waiting)
        content = operations["get"]["responses"]["200"]["content"]
        schema = content["application/json"]["schema"]
        Draft202012Validator(schema).validate(served.get(asked))


def test_an_attempt_is_told_as_the_journal_tells_it(served: Served) -> None:
    (attempt,) = served.get(f"/api/v1/attempts?account={served.done}")["attempts"]
    said = CliRunner().invoke(
        cli, ["journal", "--config", str(served.config), "show", attempt["id"], "--json"]
    )
    assert attempt == json.loads(said.output)
    assert attempt["outcome"] == "won"
    assert [event["event"] for event in attempt["history"]][:2] == ["planned", "signed"]
    assert "raw" not in json.dumps(attempt)
    nobody = served.get("/api/v1/attempts?account=777&offset=0&limit=1")
    assert nobody == {"total": 0, "offset": 0, "attempts": []}


def test_pause_and_resume_by_command(served: Served) -> None:
    assert served.command("pause").output == "paused: paused over HTTP\n"
    assert "paused: paused over HTTP" in served.command("status").output
    assert served.get("/api/v1/status")["paused"] == "paused over HTTP"
    assert json.loads(served.command("resume", "--json").output) == {"paused": ""}
    assert served.get("/api/v1/status")["paused"] == ""
    assert served.command("resume").output == "running\n"


def test_without_the_right_token_nothing_is_paused(served: Served, tmp_path: Path) -> None:
    text = served.config.read_text().replace('"server.', f'"{served.authority}/server.')
    other = tmp_path / "config.toml"
    other.write_text(text)
    token = tmp_path / "http.token"
    token.touch(mode=0o600)
    token.write_text("guess-0123456789\n")
    said = CliRunner().invoke(cli, ["pause", "--config", str(other)])
    assert "/api/v1/pause: give the token" in str(said.exception)
    assert TOKEN not in str(said.exception)
    other.write_text(text.replace('token = { file = "http.token" }\n', ""))
    said = CliRunner().invoke(cli, ["pause", "--config", str(other)])
    assert "http.token is missing; set it" in str(said.exception)
    assert served.get("/api/v1/status")["paused"] == ""


def test_status_shows_lanes_budgets_and_what_was_captured(served: Served) -> None:
    said = served.command("status").output
    rows = [line.split() for line in said.splitlines()]
    (venue,) = [row for row in rows if row[:1] == ["demo"] and "%" in row]
    assert venue[4:9] == ["1", "of", "1", "100.0", "%"]
    (lane,) = [row for row in rows if row[:1] == ["main"]]
    assert lane[-2:] == ["0", "free"]
    left = [row for row in rows if row[:3] == ["gas", "a", "day"]]
    assert left[0][3] == "native"
    assert float(left[0][4]) < float(left[0][5]) + 1e-9
    (attempt,) = [row for row in rows if "won" in row]
    assert attempt[:3] == ["demo", str(served.done), "won"]


def test_a_certificate_of_nobody_we_trust_is_refused(served: Served) -> None:
    said = served.command("status", "--url", served.url)
    assert "certificate verify failed" in str(said.exception)
