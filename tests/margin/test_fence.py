"""Where looking at few rows could miss one: tiny steps, huge scales, errors that add up."""

import math
import random

import numpy as np
import pytest

from keeper.margin import MarginBook, Moved, Row
from keeper.margin import book as book_module
from keeper.margin.fence import ERROR, STEPS_MAX
from tests.margin.oracle import Oracle, follow


def test_a_tick_inside_the_fences_looks_at_nobody_far_and_finds_who_is_near() -> None:
    book: MarginBook[str] = MarginBook(["ETH", "BTC"])
    book.move({"ETH": 1000.0, "BTC": 1000.0})
    book.put("far", Row(-500.0, {"ETH": 1.0}))
    book.put("near", Row(-999.5, {"ETH": 1.0}))
    assert book.watched == 1
    built = book.rebuilds
    assert book.move({"ETH": 999.6}) == Moved()
    assert book.move({"ETH": 999.4}) == Moved(under=("near",))
    assert book.move({"ETH": 999.6}) == Moved(cured=("near",))
    assert book.rebuilds == built
    assert sorted(book.move({"ETH": 499.0}).under) == ["far", "near"]
    assert book.rebuilds == built + 1


def test_a_row_comes_into_the_watch_as_prices_creep_to_it() -> None:
    book: MarginBook[str] = MarginBook(["ETH"])
    book.move({"ETH": 1000.0})
    book.put("a", Row(-900.0, {"ETH": 1.0}))
    for tenths in range(9999, 9000, -1):
        assert book.move({"ETH": tenths / 10}) == Moved()
    assert book.move({"ETH": 899.9}) == Moved(under=("a",))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_one_factor_may_be_a_trillion_times_another(scale: float) -> None:
    rng = random.Random(5)  # noqa: S311 - a price path
    oracle = Oracle()
    oracle.factors = ["P0", "P1", "F0"]
    book: MarginBook[object] = MarginBook(["P0", "P1"], ["F0"])
    follow(book, oracle, {"P0": 3.0, "P1": 3.0 * scale, "F0": 0.0})
    for id_ in range(200):
        row = Row(-6.0 + rng.gauss(0, 1e-3), {"P0": 1.0, "P1": 1 / scale, "F0": rng.gauss(0, 1)})
        book.put(id_, row)
        oracle.put(id_, row)
    crossed = 0
    for _ in range(500):
        name = rng.choice(oracle.factors)
        step = rng.choice([1e-7, 1e-4, 3e-3]) * rng.gauss(0, 1)
        value = step if name == "F0" else oracle.values[name] * (1 + step)
        moved = follow(book, oracle, {name: value})
        crossed += len(moved.under) + len(moved.cured)
        assert book.under == oracle.under()
    assert crossed > 100


def test_a_price_that_falls_to_dust_and_returns_leaves_no_error_behind() -> None:
    oracle = Oracle()
    oracle.factors = ["P0", "P1"]
    book: MarginBook[object] = MarginBook(["P0", "P1"])
    follow(book, oracle, {"P0": 1.0, "P1": 1.0})
    for k in range(20):
        row = Row(-1.0 + (k - 10) * 1e-12, {"P0": 0.7, "P1": 0.3})
        book.put(k, row)
        oracle.put(k, row)
    for k in range(20, 100):  # so that the column is followed, not everything worked out again
        row = Row(0.0, {"P1": 1.0})
        book.put(k, row)
        oracle.put(k, row)
    for value in (1e18 / 7, 1e-18 / 7, 1e-3, 1e9, 1.0, 1.0 + 1e-12, 1.0 - 1e-12, 1.0):
        follow(book, oracle, {"P0": value})
        assert book.under == oracle.under()


def test_an_index_creeps_from_zero_in_steps_of_any_size() -> None:
    oracle = Oracle()
    oracle.factors = ["F0"]
    book: MarginBook[object] = MarginBook([], ["F0"])
    follow(book, oracle, {"F0": 0.0})
    for k in range(-50, 50):
        row = Row(k / 10, {"F0": 1.0})
        book.put(k, row)
        oracle.put(k, row)
    value = 0.0
    for step in (1e-9, 1e-3, 0.01, -0.02, 0.3, -1.0):
        for _ in range(40):
            value += step
            follow(book, oracle, {"F0": value})
    assert book.under == oracle.under()


def test_an_envelope_that_ends_inside_the_fence_is_not_overlooked() -> None:
    book: MarginBook[int] = MarginBook(["ETH"])
    book.move({"ETH": 1000.0})
    for k in range(100):
        book.put(k, Row(1e6, {"ETH": 1.0}, {"ETH": (999.9 - k / 10, 1000.1 + k / 10)}))
    book.put(50, Row(1e6, {"ETH": 1.0}))  # its old envelope is gone with the old row
    book.drop(60)
    gone: list[int] = []
    for tenths in range(9999, 9899, -1):
        gone += book.move({"ETH": tenths / 10}).expired
    assert sorted(gone) == sorted(set(range(100)) - {50, 60, 99})
    assert book.under == set(gone)


def test_sums_are_taken_afresh_before_their_errors_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(book_module, "STEPS_MAX", 50)
    book: MarginBook[int] = MarginBook(["A", "B"])
    book.move({"A": 1.0, "B": 1.0})
    book.put(0, Row(-1.999, {"A": 1.0, "B": 1.0}))
    book._watch._room[:] = 1e9  # as if errors had grown beyond all bounds
    crossed = [book.move({"A": 1.0 - 1e-4 * math.sin(k)}) for k in range(60)]
    assert all(one == Moved() for one in crossed)
    assert book.move({"A": 0.998}) == Moved(under=(0,))


def test_the_error_that_is_allowed_for_covers_what_float64_does() -> None:
    rng = np.random.default_rng(3)
    weights, values = rng.normal(size=(1000, 16)), rng.uniform(0.5, 2.0, 16)
    kept = weights @ values
    gross = np.abs(weights) @ np.full(16, 2.0)
    for _ in range(20_000):
        k = int(rng.integers(16))
        value = rng.uniform(0.5, 2.0)
        kept += weights[:, k] * (value - values[k])
        values[k] = value
    worst = np.abs(kept - weights @ values).max()
    assert (np.abs(kept - weights @ values) < 20_000 * 4e-16 * gross).all()
    assert worst > 0.0
    assert STEPS_MAX * 4e-16 < ERROR
