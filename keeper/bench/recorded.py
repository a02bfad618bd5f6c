"""The keeper as ``keeper run`` runs it, with every duration of a stage written down.

    python -m keeper.bench.recorded config.toml stages.jsonl

A line for each: ``[monotonic ns at its end, stage, seconds]``. The monotonic clock is the same for
all processes of a machine, so the lines can be put beside what another process has noted.
"""

import json
import sys
from pathlib import Path
from typing import TextIO

from keeper import __version__
from keeper.app import main_loop
from keeper.clock import SystemClock
from keeper.config import load
from keeper.observe.log import configure
from keeper.observe.metrics import Metrics

STAGES = "keeper_stage_seconds"


class RecordingMetrics(Metrics):
    """Metrics that also write each stage's duration to a file."""

    def __init__(self, file: TextIO) -> None:
        """Write to this file, line by line."""
        super().__init__(__version__)
        self._file = file
        self._clock = SystemClock()

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        """Put a duration into a histogram, and a stage's into the file."""
        super().observe(metric, seconds, **labels)
        if metric == STAGES:
            self._file.write(
                json.dumps([self._clock.monotonic_ns(), labels["stage"], seconds]) + "\n"
            )


def main(config: Path, stages: Path) -> int:
    """Run until SIGTERM; returns the exit code."""
    settings = load(config)
    configure(settings.log.level, settings.log.format, secrets=settings.secret_values())
    with stages.open("w", encoding="utf-8", buffering=1) as file:
        return main_loop([settings], RecordingMetrics(file))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
