"""Hand-written fakes for what a test must be able to set: time, and what was counted."""

from collections import Counter


class ManualClock:
    def __init__(self) -> None:
        self.now_ns = 5_000_000_000
        self.now_ms = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)
        self.now_ms += int(seconds * 1e3)


class CountingTelemetry:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.gauges: dict[tuple[str, ...], float] = {}
        self.seconds: dict[tuple[str, ...], list[float]] = {}

    def count(self, metric: str, _amount: float = 1.0, /, **labels: str) -> None:
        self.counts[metric, *labels.values()] += 1

    def gauge(self, metric: str, value: float, /, **labels: str) -> None:
        self.gauges[metric, *labels.values()] = value

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        self.seconds.setdefault((metric, *labels.values()), []).append(seconds)
