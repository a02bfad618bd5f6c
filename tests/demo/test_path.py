import gzip
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.demo.path import (
    Candle,
    candle_ticks,
    file_path,
    generated_path,
    steepest,
    steps_per_leg,
)
from keeper.demo.processes import DemoError
from keeper.units import WAD

CENT = WAD // 100
MINUTES = Path(__file__).parents[3] / "shared" / "data" / "btc-perp-1m-2022-01.csv.gz"
HEADER = "timestamp,open,high,low,close\n"


@st.composite
def candle(draw: st.DrawFn) -> Candle:
    cents = sorted(draw(st.lists(st.integers(1, 10_000), min_size=4, max_size=4)))
    low, one, other, high = (price * CENT for price in cents)
    falling = draw(st.booleans())
    return Candle(other if falling else one, high, low, one if falling else other)


@given(st.lists(candle(), min_size=1, max_size=30), st.integers(1, 35))
def test_steepest_window_is_the_one_brute_force_finds(rows: list[Candle], length: int) -> None:
    size = min(length, len(rows))
    falls = [
        Decimal(min(row.low for row in rows[at : at + size])) / rows[at].open
        for at in range(len(rows) - size + 1)
    ]
    assert steepest(rows, length) == falls.index(min(falls))


@given(candle(), st.integers(1, 5))
def test_ticks_pass_every_price_of_the_candle_and_stay_inside(one: Candle, steps: int) -> None:
    ticks = candle_ticks(one, steps)
    assert len(ticks) == 3 * steps + 1
    assert (ticks[0], ticks[-1]) == (one.open, one.close)
    assert (min(ticks), max(ticks)) == (one.low, one.high)
    first_extreme = ticks[steps]
    assert first_extreme == (one.low if one.close >= one.open else one.high)
    assert all(tick % CENT == 0 for tick in ticks)


@given(st.integers(0, 10_000), st.integers(20, 400))
def test_generated_paths_fall_by_20_to_25_percent_and_rebound(seed: int, candles: int) -> None:
    path = generated_path(seed, candles, 1)
    ticks = [tick for played in path.candles for tick in played]
    low = min(ticks, key=lambda tick: tick.btc)
    fall = 1 - low.btc / path.start.btc
    assert len(path.candles) == candles
    assert 0.199 < fall < 0.251
    assert ticks[-1].btc > low.btc * 1.03
    assert 0.15 < 1 - min(tick.eth for tick in ticks) / path.start.eth < 0.35  # it comes along
    assert all(tick.btc > 0 and tick.eth > 0 for tick in ticks)


def test_a_seed_gives_the_same_path_again_and_another_seed_another() -> None:
    assert generated_path(3, 50, 2) == generated_path(3, 50, 2)
    assert generated_path(3, 50, 2).candles != generated_path(4, 50, 2).candles


@pytest.mark.parametrize(("speed", "ticks"), [(0.1, 16), (0.5, 16), (1.0, 7), (2.0, 4), (10.0, 4)])
def test_slow_candles_are_cut_into_more_ticks(speed: float, ticks: int) -> None:
    assert 3 * steps_per_leg(speed) + 1 == ticks


@pytest.mark.parametrize("name", ["minutes.csv", "minutes.csv.gz"])
def test_the_steepest_window_of_a_file_is_played_and_said(tmp_path: Path, name: str) -> None:
    rows = HEADER + "".join(
        f"2022-01-0{day} 00:00:00,{price},{price},{price},{price}\n"
        for day, price in enumerate((100, 90, 60, 90, 95), start=1)
    )
    file = tmp_path / name
    file.write_bytes(gzip.compress(rows.encode()) if name.endswith(".gz") else rows.encode())
    path = file_path(file, 1, 2, 1)
    assert [played[0].btc // WAD for played in path.candles] == [90, 60]
    assert "from 2022-01-02 00:00:00 on, low at -33.3 %" in path.note


def test_a_short_file_is_played_whole_and_columns_may_come_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "minutes.csv"
    file.write_text("close,volume,open,high,low,timestamp\n10.5,7,10,11,9,0\n10,7,10.5,11,9,60\n")
    path = file_path(file, 1, 50, 1)
    assert [tick.btc * 2 // WAD for tick in path.candles[0]] == [20, 18, 22, 21]
    assert "the steepest 2 of 2 candles" in path.note


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: no column timestamp, open, high, low, close"),
        ("timestamp,open,high,low\n", "line 1: no column close"),
        (HEADER, "no candle in it"),
        (HEADER + "0,1,1,1,1\n60,1,x,1,1\n", "line 3, column high: not a price"),
        (HEADER + "0,1,1,1\n", "line 2, column close: not a price"),
        (HEADER + "0,1,1,1,nan\n", "line 2, column close: not a price"),
        (HEADER + "0,-1,1,1,1\n", "line 2, column open: not a price"),
        (HEADER + "0,1,1,1,1e12\n", "line 2, column close: not a price"),
        (HEADER + "0,5,6,5.5,6\n", "line 2, column low: 5.5 is above open or close"),
        (HEADER + "0,5,5.5,5,6\n", "line 2, column high: 5.5 is below open or close"),
        (HEADER + "60,1,1,1,1\n0,1,1,1,1\n", "line 3, column timestamp: '0' is not after"),
        (HEADER + "noon,1,1,1,1\n", "line 2, column timestamp: neither a number nor an ISO date"),
    ],
)
def test_mistakes_in_a_file_are_named_by_line_and_column(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "minutes.csv"
    file.write_text(text)
    with pytest.raises(DemoError) as error:
        file_path(file, 1, 10, 1)
    assert str(error.value).startswith(str(file))
    assert complaint in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x1f\x8b rubbish"])
def test_files_that_are_no_csv_are_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("minutes.csv", "minutes.csv.gz"):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(DemoError, match="cannot be read as CSV"):
            file_path(file, 1, 10, 1)
    with pytest.raises(DemoError, match="No such file"):
        file_path(tmp_path / "none.csv", 1, 10, 1)


@pytest.mark.skipif(not MINUTES.exists(), reason="the shared minutes are not on this machine")
def test_real_minutes_are_read_whole() -> None:
    path = file_path(MINUTES, 1, 600, 1)
    assert len(path.candles) == 600
    assert "of 45031 candles, from 2022-01-2" in path.note
