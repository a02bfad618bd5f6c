"""The machine's clocks. Implements ``ports.Clock``."""

import time


class SystemClock:
    """Wall and monotonic time of this machine."""

    def wall_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never jumps."""
        return time.monotonic_ns()
