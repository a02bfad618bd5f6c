"""What attempts have come to: the canonical line, the counters, and what the status page shows."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from keeper.act.spending import Past
from keeper.batching import accounts_of
from keeper.decide.learn import AGE_MS_MAX
from keeper.facts import Attempt, Mined, Receipt, Settled, VenueId
from keeper.jobs import Gain
from keeper.ports import Telemetry
from keeper.units import wad_to_float

logger = structlog.get_logger(__name__)

RECENT_MAX = 200  # settled attempts kept for the status page


class Books(Protocol):
    """What the journal says was earned and spent."""

    async def profit_wei(self) -> Mapping[str, int]:
        """Return reward less cost by venue, over everything settled."""
        ...

    async def past(self, since_ms: int) -> Sequence[Past]:
        """Return what was settled since, oldest first."""
        ...


class Tally:
    """Counts every settled attempt, and takes back those that are in flight again."""

    def __init__(self, books: Books, telemetry: Telemetry) -> None:
        """Start without a past; ``learn_past`` reads it."""
        self._books = books
        self._telemetry = telemetry
        self.recent: deque[Settled] = deque(maxlen=RECENT_MAX)
        self.profit_wei: dict[str, int] = {}  # by venue, since the journal began
        self.outcomes: Counter[str] = Counter()  # since the start
        self.gains_wad: Counter[tuple[VenueId, Gain]] = Counter()  # since the start

    async def learn_past(self, now_ms: int) -> Sequence[Past]:
        """Take the profits from the journal; return what was settled of late."""
        self.profit_wei = dict(await self._books.profit_wei())
        return await self._books.past(now_ms - AGE_MS_MAX)

    def cost(self, attempt: Attempt, receipt: Receipt | None, value_wei: int) -> None:
        """Count what a transaction cost, whoever was in it."""
        count, venue = self._telemetry.count, attempt.plan.venue
        count("keeper_gas_spent_wei_total", receipt.cost_wei if receipt else 0, venue=venue)
        count("keeper_oracle_fee_wei_total", value_wei, venue=venue)

    def settled(self, settled: Settled, mined: Mined) -> None:
        """Write the canonical line and the counters of one account's attempt."""
        attempt, receipt, venue = settled.attempt, settled.receipt, settled.attempt.plan.venue
        self.recent.append(settled)
        self.outcomes[settled.outcome.value] += 1
        gain = settled.reward_wei - settled.cost_wei
        self.profit_wei[venue] = self.profit_wei.get(venue, 0) + gain
        count = self._telemetry.count
        count("keeper_attempts_total", venue=venue, outcome=settled.outcome.value)
        count("keeper_reward_wei_total", max(0, settled.reward_wei), venue=venue)
        count("keeper_losses_wei_total", max(0, -settled.reward_wei), venue=venue)
        for part, wad in settled.gains.items():
            self._gain(venue, part, wad)
        logger.info(
            "attempt",
            outcome=settled.outcome.value,
            venue=venue,
            account=attempt.plan.account,
            id=attempt.id,
            wallet=attempt.wallet,
            nonce=attempt.nonce,
            tx=mined.transaction.hash if mined.transaction else None,
            block=receipt.block_number if receipt else None,
            gas_used=receipt.gas_used if receipt else None,
            transactions=len(attempt.transactions),
            job=mined.transaction.job.value if mined.transaction else attempt.plan.job.value,
            steps_left=len(attempt.plan.then),
            together=len(accounts_of(attempt.plan)),
            expected_wei=attempt.plan.expected.expected_wei,
            reward_wad=settled.reward_wad,
            gains={part.value: wad for part, wad in settled.gains.items()},
            reward_wei=settled.reward_wei,
            cost_wei=settled.cost_wei,
            detail=settled.detail,
        )

    def reopened(self, attempts: Iterable[Attempt]) -> None:
        """Take back what was counted of these since the start; counters themselves only grow."""
        ids = {attempt.id for attempt in attempts}
        count = self._telemetry.count
        for settled in [each for each in self.recent if each.attempt.id in ids]:
            self.recent.remove(settled)
            venue, outcome = settled.attempt.plan.venue, settled.outcome.value
            self.outcomes[outcome] -= 1
            for part, wad in settled.gains.items():
                self._gain(venue, part, -wad)
            count("keeper_reopened_attempts_total", venue=venue, outcome=outcome)
            amounts = {
                "reward": max(0, settled.reward_wei),
                "loss": max(0, -settled.reward_wei),
                "cost": settled.cost_wei,
            }
            for what, wei in amounts.items():
                count("keeper_taken_back_wei_total", wei, venue=venue, part=what)

    def _gain(self, venue: VenueId, part: Gain, wad: int) -> None:
        self.gains_wad[venue, part] += wad
        usd = wad_to_float(self.gains_wad[venue, part])
        self._telemetry.gauge("keeper_gains_usd", usd, venue=venue, part=part.value)
