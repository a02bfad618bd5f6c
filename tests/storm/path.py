"""The fall that is played: real minutes of January 2022 where the file is, else the same shape."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keeper.demo.path import file_path, generated_path
from tests.e2e.runs import REPOSITORY

ETH, BTC = 100, 200
MINUTES = Path(
    os.environ.get("KEEPER_TEST_MINUTES")
    or REPOSITORY.parent / "shared" / "data" / "btc-perp-1m-2022-01.csv.gz"
)
CALM = 3 / 8  # of the steepest window: it begins before the fall, which takes the rest


@dataclass(frozen=True, slots=True)
class Fall:
    """Prices by market (wads), one a block; ``note`` says where they are from."""

    prices: Sequence[Mapping[int, int]]
    note: str


def fall(seed: int, blocks: int) -> Fall:
    """Return the steep part of the fall, a minute a block; ETH is derived from BTC."""
    window = round(blocks / (1 - CALM)) + 1
    real = MINUTES.is_file()
    drawn = file_path(MINUTES, seed, window, 1) if real else generated_path(seed, window, 1)
    closes = [candle[-1] for candle in drawn.candles]
    first = round(window * CALM)
    played = [{ETH: it.eth, BTC: it.btc} for it in closes[first : first + blocks]]
    return Fall(played, drawn.note)
