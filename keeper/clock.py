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


class SinceBootClock(SystemClock):
    """The same, but its monotonic time goes on while the machine is suspended, where it can."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since the machine was started."""
        return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
