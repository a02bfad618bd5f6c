"""``keeper demo`` as a user runs it, to its end and interrupted."""

import csv
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.runs import KEEPER, REPOSITORY, Run, until

REAL_MINUTES = REPOSITORY.parent / "shared" / "data" / "btc-perp-1m-2022-01.csv.gz"
KEYS = {
    "accounts": int,
    "liquidatable": int,
    "liquidated": int,
    "missed": int,
    "wrong": int,
    "attempts": int,
    "reverted": int,
    "profit_wei": int,
    "ticks": int,
    "tick_to_sent_ms": dict,
    "blocks_late": dict,
}
RUN_S_MAX = 60.0
STOP_S_MAX = 15.0


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Runs to end after the test, whatever happened."""
    started: list[Run] = []
    yield started
    for run in started:
        run.end()


def started(tmp_path: Path, runs: list[Run], *options: str) -> Run:
    run = Run(tmp_path, (*KEEPER, "demo", "--json", *options))
    runs.append(run)
    run.start()
    return run


def minutes(folder: Path) -> Path:
    """Return the real minutes, else a file of the same shape: quiet, a fall of 9 %, half back."""
    if REAL_MINUTES.is_file():
        return REAL_MINUTES
    file = folder / "minutes.csv"
    before = 40_000.0
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["timestamp", "open", "high", "low", "close"])
        for minute in range(240):
            fall = min(max(minute - 100, 0), 60) / 60 - min(max(minute - 170, 0), 50) / 100
            close = 40_000 * (1 - 0.09 * fall) + 20 * math.sin(minute)
            high, low = max(before, close) + 5, min(before, close) - 5
            stamp = f"2022-01-21 {minute // 60:02}:{minute % 60:02}:00"
            rows.writerow([stamp, round(before, 1), round(high, 1), round(low, 1), round(close, 1)])
            before = close
    return file


@pytest.mark.parametrize("real", [False, True], ids=["generated", "minutes"])
def test_the_last_line_is_a_summary_that_holds(
    tmp_path: Path, runs: list[Run], *, real: bool
) -> None:
    # slow enough for a machine that has other things to do
    length = ["--speed", "5", "--seconds", "12" if real else "5"]
    prices = ["--prices", str(minutes(tmp_path))] if real else []
    run = started(tmp_path, runs, "--accounts", "60", *length, *prices)

    code = run.wait(RUN_S_MAX)

    assert code == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 1, "standard output is for JSON readers"
    summary = json.loads(lines[-1])
    assert {key: type(summary.get(key)) for key in KEYS} == KEYS
    assert summary["accounts"] == 60
    assert summary["missed"] == summary["wrong"] == 0
    assert summary["liquidated"] > 0
    assert summary["attempts"] >= summary["liquidated"]
    assert summary["ticks"] > 60
    assert summary["tick_to_sent_ms"]["p99"] >= summary["tick_to_sent_ms"]["p50"] > 0
    assert summary["blocks_late"]["max"] >= 0
    assert run.left_processes() == []
    assert run.left_files() == []


@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGINT, "playing"),
        (signal.SIGTERM, "playing"),
        (signal.SIGTERM, "waiting for the keeper"),
    ],
    ids=["SIGINT", "SIGTERM", "SIGTERM while setting up"],
)
def test_a_signal_ends_it_without_a_trace(
    tmp_path: Path, runs: list[Run], number: int, when: str
) -> None:
    run = started(tmp_path, runs, "--accounts", "20", "--speed", "4", "--seconds", "100")
    run.said(when, RUN_S_MAX)
    assert len(run.left_processes()) > 2, "broker, chain and demo run now"

    run.signal(number)

    assert run.wait(STOP_S_MAX) == 130, run.stderr
    assert "nothing was judged" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert run.left_processes() == []
    assert run.left_files() == []


def test_even_a_kill_leaves_no_process(tmp_path: Path, runs: list[Run]) -> None:
    run = started(tmp_path, runs, "--accounts", "20", "--speed", "4", "--seconds", "100")
    run.said("playing", RUN_S_MAX)

    run.signal(signal.SIGKILL)

    assert run.wait(STOP_S_MAX) == -signal.SIGKILL
    until(lambda: not run.left_processes(), 5.0, lambda: str(run.left_processes()))
