"""How far the reading of old logs is: a bar on a terminal, log lines elsewhere."""

import sys
import time
from typing import TextIO

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = structlog.get_logger(__name__)

LINE_S = 10.0  # between two log lines of one reading


class LogProgress:
    """Shows each venue's reading from its first range to its last."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """``stream``: standard error unless given."""
        out = sys.stderr if stream is None else stream
        self._console = Console(file=out) if out.isatty() else None
        self._bars: dict[str, Progress] = {}
        self._said_s: dict[str, float] = {}

    def __call__(self, venue: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` blocks have been read."""
        if self._console is not None:
            self._draw(self._console, venue, done, total)
            return
        now_s = time.monotonic()
        if done == total or now_s - self._said_s.setdefault(venue, now_s) >= LINE_S:
            self._said_s[venue] = now_s
            logger.info("logs read", venue=venue, blocks=done, of=total)

    def _draw(self, console: Console, venue: str, done: int, total: int) -> None:
        bar = self._bars.get(venue)
        if bar is None:
            columns = TextColumn(f"reading logs of {venue}"), BarColumn(), MofNCompleteColumn()
            bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            bar.add_task("", total=total)
            bar.start()
            self._bars[venue] = bar
        bar.update(bar.task_ids[0], completed=done, total=total)
        if done == total:
            bar.stop()
            del self._bars[venue]
