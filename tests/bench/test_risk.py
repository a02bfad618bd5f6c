"""``keeper bench risk`` measures what it says, and compares."""

import json
import time

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
    said = json.loads(done.stdout)
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


async def test_work_in_one_piece_makes_the_loop_as_late_as_it_takes() -> None:
    lines: list[risk.Line] = []
    async with risk.watched("work", lambda: 0, lines):
        until_s = time.perf_counter() + 0.02
        while time.perf_counter() < until_s:
            pass
    assert lines[0].late_max_ms >= 20 - 2e3 * risk.NAP_S
    assert lines[0].late_p99_ms is None, "of a few naps there is none"


def test_it_ends_when_its_time_is_up_and_compares_what_it_came_to() -> None:
    arguments = ["--accounts", "2000", "--mapped", "1", "--seconds", "0.001", "--json"]
    done = CliRunner().invoke(cli, ["bench", "risk", *arguments])
    said = json.loads(done.stdout)
    assert said["same"] is True
    counted = {one["name"]: one["accounts"] for one in said["lines"]}
    assert 0 < counted["a round of the gauges"] < 2_000
    assert "a round of the gauges" in done.stderr


def test_a_total_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk, "margin", lambda *_: Margin(1, 1, 0, 0, 0))
    done = CliRunner().invoke(cli, ["bench", "risk", "--accounts", "100", "--mapped", "1"])
    assert done.exit_code == 1
    assert "totals DIFFER FROM the plain sum" in done.output
