"""Prices from a file."""

import gzip
from pathlib import Path

import pytest

from keeper.errors import ConfigError, TransientError
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.prices.replay import ReplaySource, Settings, build
from keeper.units import WAD
from tests.fakes import CountingTelemetry, ManualClock, NoRpc

ETH, BTC = FeedId("ETH/USD"), FeedId("BTC/USD")
ROWS = """ts,feed,price,conf
1767225600000,ETH/USD,2000.5,1.5
1767225600000,BTC/USD,60000,
1767225600400,SOL/USD,100,
1767225600500,ETH/USD,nan,
1767225601000,ETH/USD,1999,
1767225601000,ETH/USD
-5,ETH/USD,1,
"""


def source(
    file: Path, text: str = ROWS, speed: int = 10, clock: ManualClock | None = None
) -> ReplaySource:
    data = text.encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    settings = Settings(file=file, speed=speed)
    clock = clock or ManualClock()
    return build(settings, "file", [ETH, BTC], clock, CountingTelemetry(), NoRpc())


class HastyClock(ManualClock):
    """Time passes with every look at it: 20 ms."""

    def wall_ms(self) -> int:
        self.now_ms += 20
        return self.now_ms


@pytest.mark.parametrize("name", ["prices.csv", "prices.csv.gz"])
async def test_rows_come_at_their_pace_as_if_published_now(tmp_path: Path, name: str) -> None:
    clock = HastyClock()
    start_ms = clock.now_ms + 20
    items: list[Tick | Rejected] = []
    async for item in source(tmp_path / name, clock=clock).ticks():
        if item is not None:
            items.append(item)
        if len(items) == 7:
            break
    ticks = [item for item in items if isinstance(item, Tick)]
    assert [(t.feed, t.price_wad, t.published_ms - start_ms, t.conf_wad) for t in ticks] == [
        (ETH, 4_001 * WAD // 2, 0, 3 * WAD // 2),
        (BTC, 60_000 * WAD, 0, 0),
        (ETH, 1_999 * WAD, 100, 0),
    ]
    assert all(tick.received_ms >= tick.published_ms for tick in ticks)
    refused = [(item.reason, item.detail) for item in items if isinstance(item, Rejected)]
    assert [reason for reason, _ in refused] == [
        Rejection.UNKNOWN_FEED,
        Rejection.MALFORMED,
        Rejection.MALFORMED,
        Rejection.MALFORMED,
    ]
    assert refused[-1][1] == "line 8: ts -5 is no time in ms"


async def test_check_reads_the_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    good = "".join(f"{line}\n" for line in ROWS.splitlines()[:4])
    said = await source(file, good).check()
    assert said == f"{file}: 1 prices of BTC/USD, 1 prices of ETH/USD"
    with pytest.raises(TransientError, match="line 5: not a finite number"):
        await source(file).check()


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (b"", "has no column feed, price, ts"),
        (b"ts,feed,close\n", "has no column price"),
        (b"\xff\xfe", "name a readable CSV file"),
    ],
)
def test_what_is_no_file_of_prices_is_a_mistake_of_the_config(
    tmp_path: Path, content: bytes, mend: str
) -> None:
    file = tmp_path / "prices.csv"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=mend):
        build(Settings(file=file), "f", [ETH], ManualClock(), CountingTelemetry(), NoRpc())
    gone = Settings(file=tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="No such file"):
        build(gone, "f", [ETH], ManualClock(), CountingTelemetry(), NoRpc())
