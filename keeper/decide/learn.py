"""What attempts have taught: the chance to be first, the gas of a lost race and of a won one.

    p(win) = (20 × configured + won) / (20 + tried),   revert gas likewise with a weight of 5

over the attempts of one venue in the last 7 days that were included: won, or paid for and not won.
The configured value counts like so many attempts, so that the first few decide little. Both stay
within bounds from the configuration, and attempts grow too old to count: a venue that looked
hopeless is tried again.
"""

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace

from keeper.units import PPM

AGE_MS_MAX = 7 * 24 * 3_600_000
RESULTS_MAX = 1_000  # of one venue; older ones are forgotten first
P_WIN_WEIGHT = 20
REVERT_GAS_WEIGHT = 5
INTRINSIC_GAS = 21_000  # no transaction burns less
WON_MIN = 3  # before it is known what a won one uses


@dataclass(frozen=True, slots=True)
class Prior:
    """What is configured: the values to begin with, and the bounds of what is learned."""

    p_win_ppm: int
    p_win_ppm_min: int
    p_win_ppm_max: int
    revert_gas: int
    revert_gas_max: int

    @property
    def p_win_bounds_ppm(self) -> tuple[int, int]:
        """Return lowest and highest of what is learned; what is configured is always within."""
        return min(self.p_win_ppm_min, self.p_win_ppm), max(self.p_win_ppm_max, self.p_win_ppm)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attempt that was included. ``gas``: what it used; None: not known."""

    at_ms: int
    won: bool
    gas: int | None = None


@dataclass(frozen=True, slots=True)
class Odds:
    """What to reckon with now, and why in words."""

    p_win_ppm: int
    revert_gas: int
    why: str
    won_gas_max: int | None = None  # the most that a won one used; None: too few were

    def together(self, count: int) -> "Odds":
        """Return the odds of so many races that all have to be won for one to count."""
        p_win_ppm = self.p_win_ppm**count // PPM ** (count - 1)
        return replace(self, p_win_ppm=p_win_ppm)


class Record:
    """The results by venue, oldest first."""

    def __init__(self, prior: Prior) -> None:
        """Start knowing what is configured; ``prior`` may be exchanged."""
        self.prior = prior
        self._results: dict[Hashable, deque[Result]] = {}
        self._odds: dict[Hashable, tuple[Prior, Odds]] = {}  # worked out since the last change

    def note(self, venue: Hashable, result: Result) -> None:
        """Learn from one more attempt."""
        self._results.setdefault(venue, deque(maxlen=RESULTS_MAX)).append(result)
        self._odds.pop(venue, None)

    def odds(self, venue: Hashable, now_ms: int) -> Odds:
        """Return what a venue's attempts of the last days make likely."""
        results = self._results.get(venue, deque())
        while results and results[0].at_ms + AGE_MS_MAX < now_ms:
            results.popleft()
            self._odds.pop(venue, None)
        prior, odds = self._odds.get(venue, (None, None))
        if odds is None or prior is not self.prior:
            odds = self._learned(results)
            self._odds[venue] = self.prior, odds
        return odds

    def _learned(self, results: Collection[Result]) -> Odds:
        prior, tried = self.prior, len(results)
        won = sum(result.won for result in results)
        learned = (P_WIN_WEIGHT * prior.p_win_ppm + won * PPM) // (P_WIN_WEIGHT + tried)
        low, high = prior.p_win_bounds_ppm
        p_win_ppm = min(max(learned, low), high)
        used = [result.gas for result in results if result.won and result.gas is not None]
        won_gas_max = max(used) if len(used) >= WON_MIN else None
        burned = [result.gas for result in results if not result.won and result.gas is not None]
        gas = (REVERT_GAS_WEIGHT * prior.revert_gas + sum(burned)) // (
            REVERT_GAS_WEIGHT + len(burned)
        )
        gas_max = max(prior.revert_gas_max, prior.revert_gas)
        revert_gas = min(max(gas, INTRINSIC_GAS), gas_max)
        why = (
            f"p(win) {p_win_ppm / 10_000:g} %: won {won} of {tried} in 7 days, beside "
            f"{prior.p_win_ppm / 10_000:g} % configured as {P_WIN_WEIGHT} more, within "
            f"{low / 10_000:g} to {high / 10_000:g} %; "
            f"a lost race burns {revert_gas} gas: {len(burned)} seen, beside {prior.revert_gas} "
            f"configured as {REVERT_GAS_WEIGHT} more, at most {gas_max}"
        )
        if won_gas_max is not None:
            why += f"; a won one used up to {won_gas_max}"
        return Odds(p_win_ppm, revert_gas, why, won_gas_max)
