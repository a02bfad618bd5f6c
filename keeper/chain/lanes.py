"""All wallets of a chain, side by side: each owns its nonces, none waits for another."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from keeper.batching import accounts_of
from keeper.chain.data_fee import read_data_fees
from keeper.chain.fees import first_fee, read_tip
from keeper.chain.journal_rows import Event
from keeper.chain.lane_rules import LaneParts, LaneRules
from keeper.chain.orphans import GIVEN_UP_MS_MAX, orphaned, reappeared
from keeper.chain.signer import Wallet
from keeper.chain.submit import Lane
from keeper.chain.treasury import Treasury, TreasuryRules
from keeper.decide.agenda import HoldReason
from keeper.decide.economics import DataFee, Fee, Spend
from keeper.errors import RpcError
from keeper.facts import (
    OWN,
    AccountId,
    Attempt,
    Head,
    Mined,
    NotSent,
    Plan,
    Settled,
    Step,
    VenueId,
)

logger = structlog.get_logger(__name__)


class Lanes:
    """Chooses the wallet of each attempt. Without any (a dry run) nothing is sent."""

    def __init__(
        self,
        wallets: Sequence[Wallet],
        allowed: Mapping[VenueId, Collection[str]],
        rules: LaneRules,
        parts: LaneParts,
        treasury: TreasuryRules | None = None,
    ) -> None:
        """``allowed``: names of the wallets that may act at a venue; none named: all of them.

        ``treasury``: which wallet acts nowhere and tops up the others, and when.
        """
        self._allowed = allowed
        self._rules = rules
        self._parts = parts
        made = [Lane(wallet, self._rules, self._parts) for wallet in wallets]
        vault = treasury.wallet if treasury else None
        self.lanes = [lane for lane in made if lane.name != vault]
        self._own = made  # that of the treasury too
        self._treasury: Treasury | None = None
        if treasury is not None:
            own = next((lane for lane in made if lane.name == vault), None)
            self._treasury = Treasury(own, treasury, rules.fees, parts.rpc, parts.journal)
        self._followed: list[Lane] = []  # wallets that have something in flight and are not ours
        self._turns: dict[str, int] = {}  # wallet → when it was chosen last
        self._turn = 0
        self._tip_wei: int | None = None  # what others pay, at the last head

    def adopt(self, rules: LaneRules, balances_wei_min: Mapping[str, int]) -> None:
        """Go by other rules, in what is in flight too; ``balances_wei_min``: by wallet's name."""
        self._rules = rules
        for lane in self._all:
            lane.rules = rules
            least_wei = balances_wei_min.get(lane.name, lane.wallet.balance_wei_min)
            lane.wallet = replace(lane.wallet, balance_wei_min=least_wei)

    @property
    def wallets(self) -> Sequence[str]:
        """Return the addresses that pay and are paid; none in a dry run."""
        return [lane.address for lane in self.lanes]

    @property
    def own(self) -> Sequence[Lane]:
        """Return the lanes of all wallets of the config, the treasury's too."""
        return self._own

    @property
    def sending_trouble(self) -> str:
        """Say why nothing can be sent now; "" while something can."""
        return self._parts.broadcaster.trouble or self.inherited

    @property
    def inherited(self) -> str:
        """Say what another keeper has in flight, perhaps for any account; "" when nothing."""
        found = [
            f"{lane.name}: nonces {', '.join(map(str, lane.tenure.inherited))}"
            for lane in self._own
            if lane.tenure.inherited
        ]
        return f"in flight and not ours: {'; '.join(found)}" if found else ""

    @property
    def _all(self) -> Sequence[Lane]:
        return (*self._own, *self._followed)

    @property
    def open_attempts(self) -> Sequence[Attempt]:
        """Return what is in flight."""
        return tuple(attempt for lane in self._all for attempt in lane.open_attempts)

    @property
    def tick_to_sent_ms(self) -> Sequence[float]:
        """Return the latest latencies from a price to a sent transaction."""
        return [latency for lane in self.lanes for latency in lane.tick_to_sent_ms]

    def is_ours(self, tx_hash: str) -> bool:
        """Say whether we signed a transaction lately."""
        return any(lane.is_ours(tx_hash) for lane in self._all)

    def attempt_of(self, venue: VenueId, account: AccountId) -> Attempt | None:
        """Return the account's open attempt."""
        found = (lane.attempt_of(venue, account) for lane in self._all)
        return next((attempt for attempt in found if attempt is not None), None)

    def wallets_of(self, venue: VenueId) -> Sequence[str]:
        """Return the addresses that may act at a venue."""
        names = self._allowed.get(venue)
        return [lane.address for lane in self.lanes if not names or lane.name in names]

    def wallet_for(self, venue: VenueId) -> str | None:
        """Return the wallet that is to send next at a venue; None when all are parked.

        One that can pay the dearest transaction goes first, then the one with the least in flight,
        then the one that was not chosen for longest.
        """
        own = self.wallets_of(venue)
        able = [lane for lane in self.lanes if lane.address in own and not lane.parked]
        if not able or self.inherited:
            return None
        best = min(
            able,
            key=lambda lane: (
                lane.free_wei < self._rules.cost_wei_max,
                len(lane.open_attempts),
                self._turns.get(lane.address, 0),
            ),
        )
        self._turn += 1
        self._turns[best.address] = self._turn
        return best.address

    def first_fee(self, venue: VenueId, head: Head, spend: Spend) -> Fee | HoldReason:
        """Return the fee of a first try, or why there is none."""
        return first_fee(venue, head, self._rules.fees, spend, self._tip_wei)

    async def data_fees(self, steps: Sequence[Step]) -> Sequence[DataFee] | None:
        """Return what each costs on a rollup beside its execution; None when it is not known."""
        rules = self._rules
        return await read_data_fees(self._parts.rpc, rules.rollup, rules.chain_id, steps)

    async def submit(self, plan: Plan, wallet: str, fee: Fee, head: Head) -> Attempt | NotSent:
        """Open an attempt from a wallet: nonce, signature, journal, broadcast."""
        for account in accounts_of(plan):
            if self.attempt_of(plan.venue, account) is not None:
                msg = f"account {account} has an open attempt"
                raise ValueError(msg)
        lane = next((lane for lane in self.lanes if lane.address == wallet), None)
        if lane is not None and self.inherited:
            return NotSent.LANE_PARKED
        return NotSent.NO_WALLET if lane is None else await lane.submit(plan, fee, head)

    async def recover(self) -> Sequence[Attempt]:
        """Read from the journal what is in flight; the first poll asks the chain about it."""
        attempts = await self._parts.journal.open_attempts()
        for attempt in attempts:
            self._lane_of(attempt.wallet).adopt(attempt)
        await self._parts.journal.resumed(attempts, self._parts.clock.wall_ms())
        return attempts

    def _lane_of(self, address: str) -> Lane:
        """Return a wallet's lane; that of one which is not configured any more is only followed."""
        lane = next((lane for lane in self._all if lane.address == address), None)
        if lane is None:
            logger.warning("open attempts of another wallet", wallet=address)
            lane = Lane(Wallet(address, address, None), self._rules, self._parts)
            self._followed.append(lane)
        return lane

    async def reopen(self, first: int, head: Head) -> Sequence[Attempt]:
        """Return what was settled by a block from ``first`` on that is gone: in flight again.

        Blocks are looked back to as far as a reorganisation is followed. Raises RpcError and
        JournalUnavailableError; nothing is changed then.
        """
        journal, oldest = self._parts.journal, head.number - self._rules.reorg_depth_max
        settled = await journal.settled_since(max(first, oldest))
        gone = await orphaned(self._parts.rpc, settled, head)
        await self._in_flight_again(gone, Event.ORPHANED, head)
        return gone

    async def reappeared(self, head: Head) -> Sequence[Attempt]:
        """Return what was given up lately and is on the chain after all: in flight again.

        Raises as ``reopen`` does.
        """
        since_ms = self._parts.clock.wall_ms() - GIVEN_UP_MS_MAX
        given_up = await self._parts.journal.given_up_since(since_ms)
        there = await reappeared(self._parts.rpc, given_up)
        await self._in_flight_again(there, Event.REAPPEARED, head)
        return there

    async def _in_flight_again(self, some: Sequence[Attempt], event: Event, head: Head) -> None:
        if some:
            await self._parts.journal.reopen(some, event, self._parts.clock.wall_ms())
        for attempt in some:
            logger.warning(event.value, attempt=attempt.id, nonce=attempt.nonce)
            self._lane_of(attempt.wallet).reopen(attempt, head)

    async def poll(self, head: Head) -> Sequence[Mined]:
        """Ask the chain about every open attempt; return those consumed deep enough.

        A lane that cannot be asked about is asked again at the next head.
        """
        fees = self._rules.fees
        if fees.needs_tip(head):
            self._tip_wei = await read_tip(self._parts.rpc, head, fees)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._poll(lane, head), name=f"poll/{lane.name}")
                for lane in self._all
            ]
        return [mined for task in tasks for mined in task.result()]

    async def _poll(self, lane: Lane, head: Head) -> Sequence[Mined]:
        try:
            return await lane.poll(head, self._tip_wei)
        except RpcError as error:
            logger.warning("asking again at the next head", wallet=lane.name, error=str(error))
            return []

    def overdue(self, head: Head) -> Sequence[Attempt]:
        """Return the attempts whose newest transaction has waited too long, by nonce.

        What is for an account waits for what another keeper has in flight, perhaps for the same.
        """
        late = [attempt for lane in self._own for attempt in lane.overdue(head)]
        return [one for one in late if one.plan.venue == OWN] if self.inherited else late

    def is_stuck(self, attempt: Attempt, head: Head) -> bool:
        """Say whether an attempt was to be replaced long ago, and holds up all behind it."""
        return self._lane(attempt).is_stuck(attempt, head)

    def waiting(self, head: Head) -> Sequence[Attempt]:
        """Return the attempts in flight that are neither overdue nor being cancelled, by nonce."""
        if self.inherited:
            return []
        return [attempt for lane in self._own for attempt in lane.waiting(head)]

    def replacement_fee(self, attempt: Attempt, head: Head, spend: Spend) -> Fee | None:
        """Return a fee that replaces what is in flight; None when it would cost too much."""
        return self._lane(attempt).replacement_fee(attempt, head, spend)

    async def replace(self, attempt: Attempt, plan: Plan, fee: Fee, head: Head) -> None:
        """Send a dearer transaction at the attempt's nonce; raises SigningError."""
        await self._lane(attempt).replace(attempt, plan, fee, head)

    async def cancel(self, attempt: Attempt, head: Head, cost_wei_max: int) -> bool:
        """Take the nonce with a transfer of nothing to ourselves; False when it costs too much."""
        return await self._lane(attempt).cancel(attempt, head, cost_wei_max)

    async def fill_gaps(self, head: Head, may: Callable[[Plan, Fee], bool]) -> None:
        """Use up the nonces that all later ones wait for; ``may`` says which of it is paid for."""
        for lane in self._own:
            await lane.fill_gaps(head, may)

    async def top_up(self, head: Head, may: Callable[[Plan, Fee], bool]) -> None:
        """Send wallets that are low what they pay gas with; raises RpcError."""
        if self._treasury is not None and not self.inherited:
            clock = self._parts.clock
            await self._treasury.top_up(self.lanes, head, self._tip_wei, may, clock)

    async def close(self, settled: Sequence[Settled]) -> None:
        """Write the end of an attempt, for each of its accounts, and forget it."""
        await self._lane(settled[0].attempt).close(settled)

    def _lane(self, attempt: Attempt) -> Lane:
        return next(lane for lane in self._all if lane.address == attempt.wallet)
