"""What ``keeper demo`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path

from keeper.demo.path import CANDLES_MAX, PricePath, file_path, generated_path, steps_per_leg
from keeper.demo.processes import DemoError

ACCOUNTS_MAX = 5_000
SPEED_MIN, SPEED_MAX = 0.1, 20.0
SECONDS_MIN = 1.0
CANDLES_MIN = 2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of ``keeper demo``. ``prices``: a CSV file instead of the drawn path."""

    accounts: int = 300
    seed: int = 1
    prices: Path | None = None
    speed: float = 2.0  # candles a second, one a block
    seconds: float = 60.0  # of path; set-up and the grace come on top
    grace_s: float = 15.0
    json: bool = False

    def check(self) -> None:
        """Raise DemoError naming the option that is out of range."""
        for name, value, low, high in (
            ("accounts", self.accounts, 1, ACCOUNTS_MAX),
            ("speed", self.speed, SPEED_MIN, SPEED_MAX),
            ("seconds", self.seconds, SECONDS_MIN, CANDLES_MAX / max(self.speed, SPEED_MIN)),
        ):
            if not low <= value <= high:
                msg = f"--{name} {value:g} is out of range: {low:g} to {high:g}"
                raise DemoError(msg)

    @property
    def block_time_s(self) -> float:
        """Seconds a block."""
        return 1 / self.speed

    @property
    def grace_blocks(self) -> int:
        """Blocks that the last prices stand at most."""
        return max(round(self.grace_s * self.speed), 1)

    def path(self) -> PricePath:
        """Draw or read the price path; raises DemoError."""
        candles = max(round(self.seconds * self.speed), CANDLES_MIN)
        steps = steps_per_leg(self.speed)
        if self.prices is None:
            return generated_path(self.seed, candles, steps)
        return file_path(self.prices, self.seed, candles, steps)
