"""When a market is open: spans of a week in a time zone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MINUTES_A_DAY = 24 * 60
_SPAN = re.compile(
    rf"({'|'.join(DAYS)})(?:-({'|'.join(DAYS)}))? (\d\d):([0-5]\d)-(\d\d):([0-5]\d)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class MarketHours:
    """Spans as (day of the week, first minute, minute after the last), Monday 0, local time."""

    zone: ZoneInfo
    spans: tuple[tuple[int, int, int], ...]

    def open_at(self, at_ms: int) -> bool:
        """Say whether the market is open at this wall time."""
        local = datetime.fromtimestamp(at_ms / 1000, self.zone)
        minute = local.hour * 60 + local.minute
        return any(
            day == local.weekday() and start <= minute < end for day, start, end in self.spans
        )


def market_hours(spans: Sequence[str], zone: str) -> MarketHours | None:
    """Read spans as ``Mon-Fri 09:30-16:00``; None when there are none: always open.

    A span ends on the day on which it begins, at 24:00 at the latest. Raises ValueError.
    """
    try:
        local = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        msg = f"there is no time zone {zone[:40]!r}; write one as America/New_York"
        raise ValueError(msg) from None
    read = tuple(part for span in spans for part in _span(span))
    return MarketHours(local, read) if read else None


def _span(text: str) -> list[tuple[int, int, int]]:
    found = _SPAN.fullmatch(text)
    if found is None:
        msg = f"no span of market hours: {text[:40]!r}; write one as Mon-Fri 09:30-16:00"
        raise ValueError(msg)
    first = DAYS.index(found[1])
    last = DAYS.index(found[2]) if found[2] else first
    start, end = int(found[3]) * 60 + int(found[4]), int(found[5]) * 60 + int(found[6])
    if first > last or start >= end or end > MINUTES_A_DAY:
        msg = f"a span of market hours runs forward within one day and one week: {text[:40]!r}"
        raise ValueError(msg)
    return [(day, start, end) for day in range(first, last + 1)]
