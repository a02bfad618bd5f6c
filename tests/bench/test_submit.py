"""The submit benchmark runs whole, on real servers; what it measures is not judged here."""

import json
import subprocess
import sys

import pytest

from keeper.bench.ladder import START, eth_at, ladder_of
from keeper.bench.submit import Options, Samples, quantiles, report
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


def test_the_verdict_is_that_of_the_targets() -> None:
    options = Options(200, 4, 1, 1)
    floor = {"total": [10.0] * 4}
    good = Samples([11.0, 12.0, 20.0, 50.0], 0, {}, floor, [210.0])
    assert report(options, good)["holds"] is True
    for worse in (
        Samples([11.0, 12.0, 21.0, 50.0], 0, {}, floor, [210.0]),
        Samples([11.0, 12.0, 20.0, 51.0], 0, {}, floor, [210.0]),
        Samples([11.0, 12.0, 20.0, 50.0], 0, {}, floor, [199.0]),
        Samples([11.0, 12.0, 20.0, 50.0], 1, {}, floor, [210.0]),
        Samples([], 0, {}, floor, [210.0]),
    ):
        assert report(options, worse)["holds"] is False


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
    assert result["missed"] == 0
    for name in ("price_to_accepted_ms", "io_floor_ms", "polling_peer_ms"):
        assert result[name]["p50"] > 0
    stages = {"receive", "decide", "waiting", "simulate", "gate", "sign", "journal", "send"}
    assert set(result["stages_ms"]) == stages
    assert done.returncode == (0 if result["holds"] else 1)
