"""What differs between storms."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Form:
    """One storm; windows, ages and limits are so many of its blocks."""

    oracle: Literal["push", "pull"] = "push"
    blocks: int = 36
    block_time_s: float = 2.0
    seed: int = 1
    trades: bool = False
    silence: range = range(0)  # steps of the path in which the broker hears nothing
    window_part: int = 1  # a market's window is its usual one divided by this
    together: int = 1  # accounts in one transaction, at most

    def blocks_s(self, count: float) -> int:
        """Return how long so many blocks take, in whole seconds."""
        return round(count * self.block_time_s)
