"""The benchmark's own arithmetic; what it measures is for people to read."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from keeper.bench.accounts import Accounts, Shape
from keeper.bench.margin import Run, _sparse
from keeper.cli import cli

SMALL = Shape(accounts=3000, factors=23)


def test_the_book_equals_brute_force_after_every_phase_and_the_code_is_0() -> None:
    said = CliRunner().invoke(
        cli, ["bench", "margin", "--accounts", "3000", "--ticks", "60", "--sizes", "--json"]
    )
    assert said.exit_code == 0, said.output
    told = json.loads(said.output)
    assert told["different"] == 0
    assert told["shape"]["accounts"] == 3000
    assert 50 < told["bytes_per_account"] < 1000
    names = {line["name"] for line in told["lines"]}
    assert {"bulk load", "5 bp, random factor", "gap 10 %, all, 300 under", "drop"} <= names
    assert "6,000 accounts: 5 bp, popular factor" in names
    assert "6,000 accounts, as many near: 5 bp, popular factor" in names
    assert told["missed"] == [line["name"] for line in told["lines"] if line["met"] is False] + (
        ["memory"] if told["bytes_per_account"] > 200 else []
    )
    for line in told["lines"]:
        if line["name"].startswith("gap"):
            assert line["floor_us"] >= line["against_us"] > 0.0
            assert line["judged_us"] <= line["max_us"]


def test_a_shape_with_so_many_near_has_them() -> None:
    for accounts in (2000, 20_000):
        drawn = Accounts(Shape(accounts=accounts).with_near(200))
        excess = drawn.constants + (drawn.weights * drawn.values[drawn.factors]).sum(axis=1)
        assert 140 < (excess < 0.01 * drawn.moving).sum() < 260


def test_a_book_that_differs_is_counted() -> None:
    run = Run(SMALL, 20)
    assert run.different() == 0
    run.accounts.sink(np.arange(10))  # the book is not told
    assert run.different() == 10
    run.walk(1, "popular")
    assert run.lines[-1].different == 10


def test_the_seed_decides_and_every_way_finds_the_same() -> None:
    one, two, other = Accounts(SMALL), Accounts(SMALL), Accounts(Shape(accounts=3000, seed=2))
    assert (one.constants == two.constants).all()
    assert not (one.constants == other.constants).any()
    one.values *= np.linspace(0.7, 1.2, len(one.values))
    under = one.recompute()
    assert 30 < under.sum() < 2900
    assert (one.screen() == under).all()
    assert (one.recompute(np.arange(50, 90)) == under[50:90]).all()
    assert (one.screen(np.arange(50, 90)) == under[50:90]).all()
    assert one.naive(len(one)) == under.sum()
    assert len({len(set(row)) for row in one.factors.tolist()}) == 1, "markets are distinct"
    product = _sparse(one)
    if product is not None:
        assert (np.asarray(product()) == under).all()


@pytest.mark.parametrize("option", [["--accounts", "5"], ["--ticks", "0"], ["--factors", "3"]])
def test_a_shape_that_cannot_be_is_a_mistake(option: list[str]) -> None:
    assert CliRunner().invoke(cli, ["bench", "margin", *option]).exit_code == 2
