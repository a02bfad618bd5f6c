"""The submit benchmark runs whole, on real servers; what it measures is not judged here."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from keeper.bench.ladder import START, eth_at, ladder_of
from keeper.bench.submit import Options, Run, Samples, quantiles, report
from keeper.demo.path import Prices
from keeper.demo.population import start_terms
from keeper.margin.model import margin
from tests.nodes import find_anvil

RUN_S_MAX = 180.0


def due(accounts: int, rungs: int, rung: int) -> list[int]:
    """Return who is under-margined at the price of a rung, by account id."""
    terms = start_terms(Prices(START.btc, eth_at(rung)))
    found = [margin(one.account, terms) for one in ladder_of(accounts, rungs, 3).population]
    return [
        number
        for number, each in enumerate(found, start=1)
        if each.equity < each.maintenance + each.reserve
    ]


@pytest.mark.parametrize("rung", [-1, 0, 1, 39])
def test_each_price_makes_one_more_account_due(rung: int) -> None:
    ladder = ladder_of(300, 40, 3)
    assert len(ladder.population) == 300
    assert due(300, 40, rung) == [ladder.account(number) for number in range(rung + 1)]


def samples(
    accepted: Sequence[float], *, missed: int = 0, unasked: int = 0, peer: float = 210.0
) -> Samples:
    """Return a run. ``missed``, ``unasked``: rungs that the two keepers did not get."""
    floor = {"total": [10.0] * 4, "simulate": [4.0] * 4}
    optimistic = Run([6.0, 9.0], unasked)
    return Samples(Run(list(accepted), missed), optimistic, floor, [peer])


def test_the_verdict_is_that_of_the_targets() -> None:
    options = Options(200, 4, 1, 1)
    good = report(options, samples([11.0, 12.0, 20.0, 50.0]))
    assert good["holds"] is True
    for worse in (
        samples([11.0, 12.0, 21.0, 50.0]),
        samples([11.0, 12.0, 20.0, 51.0]),
        samples([11.0, 12.0, 20.0, 50.0], peer=199.0),
        samples([11.0, 12.0, 20.0, 50.0], missed=1),
        samples([11.0, 12.0, 20.0, 50.0], unasked=1),
        samples([]),
    ):
        assert report(options, worse)["holds"] is False


def test_an_optimistic_venue_is_held_against_the_floor_without_a_simulation() -> None:
    found = report(Options(200, 4, 1, 1), samples([11.0]))["optimistic"]
    assert isinstance(found, dict)
    assert found["io_floor_ms"]["p50"] == 6.0
    assert found["p50_to_floor_p50"] == 1.5


def test_quantiles_are_nearest_ranks() -> None:
    assert quantiles(range(1, 101)) == {"p50": 51, "p99": 100}
    assert quantiles([]) == {"p50": None, "p99": None}


def test_a_small_run_misses_nobody_and_tells_everything() -> None:
    find_anvil()
    argv = [sys.executable, "-m", "keeper", "bench", "submit", "--json", "--accounts", "200"]
    done = subprocess.run(
        [*argv, "--rounds", "2", "--peer-rounds", "1"],
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    result = json.loads(done.stdout)
    for name in ("price_to_accepted_ms", "io_floor_ms", "polling_peer_ms"):
        assert result[name]["p50"] > 0
    stages = {"receive", "decide", "waiting", "simulate", "gate", "sign", "journal", "send"}
    for run in (result, result["optimistic"]):
        assert run["missed"] == 0
        assert set(run["stages_ms"]) == stages
    assert done.returncode == (0 if result["holds"] else 1)
