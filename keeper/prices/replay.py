"""Prices from a file, played at their own pace, as if they were published now.

A CSV (gzipped if it ends in .gz) with the columns ``ts`` (ms), ``feed``, ``price`` and perhaps
``conf``, the oldest row first. The first row counts as published at the start, the others as much
later as they were. After the last row the source is silent. For trials, not for production.
"""

import asyncio
import contextlib
import csv
import gzip
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from structlog import get_logger

from keeper.config import ConfigPath
from keeper.errors import ConfigError, TransientError
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.ports import Clock, Rpc, Telemetry
from keeper.prices._stream import IDLE_S, rejected
from keeper.units import wad_from_decimal

COLUMNS = frozenset({"ts", "feed", "price"})
LINE_CHARS_MAX = 1_000
MS_MAX = 10**14  # the year 5138

log = get_logger(__name__)


class Settings(BaseModel):
    """A file of prices."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    file: ConfigPath = Field(
        description="CSV file, or .csv.gz, with the columns ts (ms), feed, price and perhaps conf."
    )
    speed: int = Field(
        default=1, ge=1, le=10_000, strict=True, description="Times faster than it was recorded."
    )


class ReplaySource:
    """Implements ``ports.PriceSource``. Every row is yielded: nothing is conflated."""

    def __init__(
        self, name: str, file: Path, speed: int, feeds: Collection[FeedId], clock: Clock
    ) -> None:
        """Read nothing yet."""
        self.name = name
        self._file = file
        self._speed = speed
        self._feeds = frozenset(feeds)
        self._clock = clock

    async def ticks(self) -> AsyncGenerator[Tick | Rejected | None, None]:
        """Yield the rows when they are due, None while none is."""
        start_ms = self._clock.wall_ms()
        first_ms: int | None = None
        for row in self._rows():
            if isinstance(row, Rejected):
                yield row
                continue
            if first_ms is None:
                first_ms = row.published_ms
            due_ms = start_ms + (row.published_ms - first_ms) // self._speed
            while (wait_s := (due_ms - self._clock.wall_ms()) / 1000) > 0:
                await asyncio.sleep(min(wait_s, IDLE_S))
                yield None
            yield self._published(row, due_ms)
        log.info("replay is over", source=self.name, file=str(self._file))
        while True:
            await asyncio.sleep(IDLE_S)
            yield None

    async def check(self) -> str:
        """Read the whole file and say what is in it; raises TransientError for a bad row."""
        counts = dict.fromkeys(sorted(self._feeds), 0)
        for row in self._rows():
            if isinstance(row, Tick):
                counts[row.feed] += 1
            elif row.reason is not Rejection.UNKNOWN_FEED:
                msg = f"{self.name}: {self._file}: {row.detail}"
                raise TransientError(msg)
        said = ", ".join(f"{count} prices of {feed}" for feed, count in counts.items())
        return f"{self._file}: {said}"

    def _rows(self) -> Iterator[Tick | Rejected]:
        """Yield the rows as ticks of their own time."""
        with _opened(self._file) as rows:
            for number, row in enumerate(rows, start=2):
                try:
                    yield self._row(row)
                except (ValueError, KeyError, TypeError) as error:
                    detail = f"line {number}: {error}"
                    yield rejected(self.name, Rejection.MALFORMED, "", detail)

    def _row(self, row: Mapping[str, str]) -> Tick | Rejected:
        feed = FeedId(row["feed"])
        if feed not in self._feeds:
            detail = "not configured for this source"
            return rejected(self.name, Rejection.UNKNOWN_FEED, feed, detail)
        published_ms = int(row["ts"])
        if not 0 < published_ms < MS_MAX:
            msg = f"ts {published_ms} is no time in ms"
            raise ValueError(msg)
        return Tick(
            feed=feed,
            source=self.name,
            price_wad=wad_from_decimal(row["price"]),
            published_ms=published_ms,
            received_ms=0,
            received_ns=0,
            conf_wad=wad_from_decimal(row.get("conf") or "0"),
        )

    def _published(self, row: Tick, at_ms: int) -> Tick:
        return Tick(
            feed=row.feed,
            source=row.source,
            price_wad=row.price_wad,
            published_ms=at_ms,
            received_ms=self._clock.wall_ms(),
            received_ns=self._clock.monotonic_ns(),
            conf_wad=row.conf_wad,
        )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator["csv.DictReader[str]"]:
    """Open the file below its header; raises TransientError when it cannot be read."""
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            yield csv.DictReader(line for line in lines if len(line) <= LINE_CHARS_MAX)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{file}: {error}"
        raise TransientError(msg) from error


def build(
    settings: Settings,
    name: str,
    feeds: Sequence[FeedId],
    clock: Clock,
    telemetry: Telemetry,  # noqa: ARG001 - the loader's
    rpc: Rpc,  # noqa: ARG001 - the loader's
) -> ReplaySource:
    """Put a source together; raises ConfigError for a file that is none of prices."""
    try:
        with _opened(settings.file) as rows:
            columns = frozenset(rows.fieldnames or ())
    except TransientError as error:
        msg = f"{name}: {error}: name a readable CSV file of prices"
        raise ConfigError([msg]) from error
    if not columns >= COLUMNS:
        missing = ", ".join(sorted(COLUMNS - columns))
        msg = f"{name}: {settings.file} has no column {missing}: its first line names the columns"
        raise ConfigError([msg])
    return ReplaySource(name, settings.file, settings.speed, feeds, clock)
