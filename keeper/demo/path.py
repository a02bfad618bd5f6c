"""The price path: one candle a block, several ticks a candle, ETH moving along with BTC.

BTC comes from a seeded generator (calm, a crash of 20 to 25 %, rebounds) or from a file of real
candles. ETH follows it with a seeded beta and noise of its own. Prices are USD wads in whole cents.
"""

import csv
import gzip
import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TextIO

from keeper.demo.processes import DemoError
from keeper.units import WAD, wad_to_float

COLUMNS = ("timestamp", "open", "high", "low", "close")
ROWS_MAX = 3_000_000  # five years of minutes
CANDLES_MAX = 100_000
PRICE_MAX = 10**9  # USD; beyond it the column is no price
TICKS_PER_S = 8  # aimed at; a candle has at least its own four prices
STEPS_MAX = 5  # interpolated between two of them
_CENT = WAD // 100
_BTC_START = (45_000.0, 70_000.0)
_ETH_PER_BTC = (0.045, 0.075)
_ETH_BETA = (1.05, 1.25)  # what ETH made of BTC's moves in the falls of 2021 to 2025
_ETH_NOISE = 0.0004  # a tick, of the log price
_CRASH = (0.20, 0.25)
_NOISE = 0.0012  # a candle, of the log price
_WICK = 0.0008
# (share of the run, share of the whole fall reached): calm, first leg, rebound, low, two rebounds
_SHAPE = (
    (0.0, 0.0),
    (0.22, 0.02),
    (0.42, 0.68),
    (0.50, 0.42),
    (0.66, 1.0),
    (0.76, 0.66),
    (0.86, 0.82),
    (1.0, 0.55),
)


@dataclass(frozen=True, slots=True)
class Candle:
    """Prices of one interval, USD wads."""

    open: int
    high: int
    low: int
    close: int


@dataclass(frozen=True, slots=True)
class Prices:
    """Both feeds at one tick, USD wads."""

    btc: int
    eth: int


@dataclass(frozen=True, slots=True)
class PricePath:
    """What is played: the ticks of each candle. ``note`` says where they are from."""

    candles: tuple[tuple[Prices, ...], ...]
    note: str

    @property
    def start(self) -> Prices:
        """The first tick."""
        return self.candles[0][0]


def steps_per_leg(speed: float) -> int:
    """Return into how many steps each third of a candle is cut at ``speed`` candles a second."""
    return min(max(round((TICKS_PER_S / speed - 1) / 3), 1), STEPS_MAX)


def generated_path(seed: int, candles: int, steps: int) -> PricePath:
    """Draw a path of ``candles`` candles with a fall of 20 to 25 % from the start to the low."""
    rng = random.Random(f"path {seed}")  # noqa: S311 - a seeded simulation, no secret
    start, crash = rng.uniform(*_BTC_START), rng.uniform(*_CRASH)
    closes = [0.0]  # log price against the start
    noise = 0.0
    for index in range(1, candles + 1):
        noise = 0.9 * noise + rng.gauss(0.0, _NOISE)  # pulled back, so that the shape stays
        closes.append(math.log1p(-crash) * _shape(index / candles) + noise)
    drawn = []
    for before, after in itertools.pairwise(closes):
        high = max(before, after) + abs(rng.gauss(0.0, _WICK))
        low = min(before, after) - abs(rng.gauss(0.0, _WICK))
        drawn.append((before, high, low, after))
    # stretched so that the low is the drawn one, noise or not
    stretch = math.log1p(-crash) / min(low for _, _, low, _ in drawn)
    made = [Candle(*(_cents(start * math.exp(stretch * x)) for x in row)) for row in drawn]
    note = f"generated from seed {seed}: {candles} candles, low at {-100 * crash:.1f} %"
    return _with_eth(made, seed, steps, note)


def file_path(file: Path, seed: int, candles: int, steps: int) -> PricePath:
    """Take the steepest window of ``candles`` candles out of a CSV file (``.gz`` or not).

    Steepest: its lowest low lies farthest below its first open. Raises DemoError with file, line
    and column when the file cannot be read.
    """
    stamps, rows = _read(file)
    first = steepest(rows, candles)
    window = rows[first : first + candles]
    fall = 100 * (1 - min(row.low for row in window) / window[0].open)
    note = (
        f"{file.name}: the steepest {len(window)} of {len(rows)} candles, "
        f"from {stamps[first]} on, low at {-fall:.1f} %"
    )
    return _with_eth(window, seed, steps, note)


def steepest(rows: Sequence[Candle], length: int) -> int:
    """Return where the window starts whose low lies farthest below its first open."""
    length = min(length, len(rows))
    best, best_ratio = 0, Decimal(2)
    lows: deque[int] = deque()  # indices of rising lows: the window's lowest is the first
    for index, row in enumerate(rows):
        while lows and rows[lows[-1]].low >= row.low:
            lows.pop()
        lows.append(index)
        first = index - length + 1
        if first < 0:
            continue
        if lows[0] < first:
            lows.popleft()
        ratio = Decimal(rows[lows[0]].low) / rows[first].open
        if ratio < best_ratio:
            best, best_ratio = first, ratio
    return best


def candle_ticks(candle: Candle, steps: int) -> list[int]:
    """Return 3 x ``steps`` + 1 prices through open, both extremes and close.

    A rising candle goes by its low first, a falling one by its high; between two of the four prices
    there are ``steps`` equal steps.
    """
    rising = candle.close >= candle.open
    middle = (candle.low, candle.high) if rising else (candle.high, candle.low)
    prices = [candle.open]
    for left, right in itertools.pairwise((candle.open, *middle, candle.close)):
        between = [left + (right - left) * step // steps for step in range(1, steps)]
        prices += [*(price // _CENT * _CENT for price in between), right]
    return prices


def _shape(share: float) -> float:
    for (left, low), (right, high) in itertools.pairwise(_SHAPE):
        if share <= right:
            return low + (high - low) * (share - left) / (right - left)
    return _SHAPE[-1][1]


def _cents(price: float) -> int:
    return round(price * 100) * _CENT


def _with_eth(candles: Sequence[Candle], seed: int, steps: int, note: str) -> PricePath:
    rng = random.Random(f"eth {seed}")  # noqa: S311 - a seeded simulation, no secret
    start = wad_to_float(candles[0].open)
    eth_start = start * rng.uniform(*_ETH_PER_BTC)
    beta = rng.uniform(*_ETH_BETA)
    noise = 0.0
    played = []
    for candle in candles:
        points = []
        for btc in candle_ticks(candle, steps):
            noise = 0.98 * noise + rng.gauss(0.0, _ETH_NOISE)
            move = beta * math.log(wad_to_float(btc) / start) + noise
            points.append(Prices(btc, max(_cents(eth_start * math.exp(move)), _CENT)))
        played.append(tuple(points))
    return PricePath(tuple(played), f"{note}; ETH with beta {beta:.2f}")


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
                yield stream
        else:
            with file.open(encoding="utf-8", newline="") as stream:
                yield stream
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{file}: cannot be read as CSV: {error}"
        raise DemoError(msg) from None


def _read(file: Path) -> tuple[list[str], list[Candle]]:
    stamps: list[str] = []
    rows: list[Candle] = []
    with _opened(file) as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            msg = (
                f"{file}: line 1: no column {', '.join(missing)}; "
                f"the first line must name the columns {', '.join(COLUMNS)}"
            )
            raise DemoError(msg)
        before: float | None = None
        for row in reader:
            where = f"{file}: line {reader.line_num}"
            at = _timestamp(row["timestamp"], where)
            if before is not None and at <= before:
                msg = f"{where}, column timestamp: {row['timestamp']!r} is not after the row above"
                raise DemoError(msg)
            before = at
            stamps.append(row["timestamp"])
            rows.append(_candle(row, where))
            if len(rows) > ROWS_MAX:
                msg = f"{where}: more than {ROWS_MAX} rows; cut the file to the days you want"
                raise DemoError(msg)
    if not rows:
        msg = f"{file}: no candle in it"
        raise DemoError(msg)
    return stamps, rows


def _timestamp(text: str | None, where: str) -> float:
    try:
        try:
            return float(text or "")
        except ValueError:
            return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        msg = f"{where}, column timestamp: neither a number nor an ISO date and time: {text!r}"
        raise DemoError(msg) from None


def _candle(row: dict[str, str], where: str) -> Candle:
    candle = Candle(*(_price(row[name], f"{where}, column {name}") for name in COLUMNS[1:]))
    if candle.low > min(candle.open, candle.close):
        msg = f"{where}, column low: {row['low']} is above open or close"
        raise DemoError(msg)
    if candle.high < max(candle.open, candle.close):
        msg = f"{where}, column high: {row['high']} is below open or close"
        raise DemoError(msg)
    return candle


def _price(text: str | None, where: str) -> int:
    try:
        price = Decimal(text or "")
    except InvalidOperation:
        price = Decimal("nan")
    if not price.is_finite() or not 0 < price <= PRICE_MAX:
        msg = f"{where}: not a price in USD between 0 and {PRICE_MAX}: {text!r}"
        raise DemoError(msg)
    return max(int(price * 100), 1) * _CENT
