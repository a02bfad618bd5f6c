"""``keeper bench risk`` measures what it says, and compares."""

import json

import pytest
from click.testing import CliRunner

from keeper.bench import risk
from keeper.cli import cli
from keeper.margin.model import Margin


def test_it_measures_each_analysis_and_compares() -> None:
    done = CliRunner().invoke(
        cli, ["bench", "risk", "--accounts", "200", "--mapped", "20", "--json"]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["same"] is True
    assert [(one["name"], one["accounts"]) for one in said["lines"]] == [
        ("nothing", 0),
        ("copying the states first", 200),
        ("the 50 nearest", 200),
        ("a round of the gauges", 200),
        ("a stress of -20 %", 200),
        ("a liquidation map", 20),
    ]
    assert all(one["wall_s"] > 0 for one in said["lines"])


def test_a_total_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk, "margin", lambda *_: Margin(1, 1, 0, 0, 0))
    done = CliRunner().invoke(cli, ["bench", "risk", "--accounts", "100", "--mapped", "1"])
    assert done.exit_code == 1
    assert "totals DIFFER FROM the plain sum" in done.output
