"""The loops: prices, chain, decide, attempt, settle; ``accounts`` is in ``watch/reading.py``.

Each is a few lines; the work is in ``watch/desk.py``, ``act/execute.py`` and ``act/settle.py``.

    prices ─▶ inbox ─▶ decide ─▶ candidates ─▶ attempt ─▶ (in flight) ─▶ settle
    chain ─▶ intake ─▶ accounts ─▶ inbox

``inbox`` and ``candidates`` are latest-wins mailboxes: one value per key, never a backlog.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from keeper.act.execute import Execution
from keeper.act.settle import Settlement
from keeper.act.together import Together
from keeper.decide.agenda import Hold, HoldReason
from keeper.decide.rank import Ranking
from keeper.errors import RpcError, TransientError
from keeper.facts import (
    AccountId,
    AccountState,
    Head,
    Log,
    MarketState,
    Price,
    VenueId,
)
from keeper.mailbox import LatestWins
from keeper.ports import Board, Chain, PriceSource
from keeper.watch.desk import Desk, Nominated
from keeper.watch.reading import BEAT_S, Fact, Reading
from keeper.watch.reconcile import differences
from keeper.watch.ticks import facts_of

logger = structlog.get_logger(__name__)

SLICE_NS = 4_000_000  # assess this long, then let the other loops run
Key = tuple[VenueId, AccountId]


class Pipeline:
    """Everything between a price and a settled outcome."""

    def __init__(
        self,
        *,
        reading: Reading,
        board: Board,
        chain: Chain,
        execution: Execution,
        settlement: Settlement,
        recover: Callable[[], Awaitable[object]],
    ) -> None:
        """Wire the parts; nothing runs before the loops do."""
        self.reading = reading
        self.desks = reading.desks
        self.intakes = reading.intakes
        self.head: Head | None = None
        self.head_how = "polled"  # how it was learned of
        self.chain_trouble = ""  # what the last failed reading of the head said
        self._board = board
        self._chain = chain
        self.execution = execution
        self.together = Together(execution)
        self._settlement = settlement
        self._submitter = reading.submitter
        self._recover = recover
        self._term: int | None = None  # in which settling has begun
        self._quarantine = reading.quarantine
        self._heartbeats = reading.heartbeats
        self._telemetry = reading.telemetry
        self._clock = reading.clock
        self._unlearned: set[VenueId] = set()  # whose market a bug kept from being learned
        self._inbox = reading.inbox
        self._candidates: LatestWins[Key, Nominated] = LatestWins()
        self._waiting: dict[Key, Nominated] = {}  # taken out of it
        self._order: Ranking[Key] = Ranking()  # of these, best first
        self._settle_at: LatestWins[str, Head] = LatestWins()

    # --- prices -----------------------------------------------------------------------------------

    async def prices(self, source: PriceSource) -> None:
        """Put what a source sees through the gates and into the inbox."""
        async with contextlib.aclosing(source.ticks()) as ticks:
            async for tick in ticks:
                self._heartbeats.beat(f"prices/{source.name}")
                if tick is None:
                    continue
                now_ms = self._clock.wall_ms()
                for key, price in facts_of(tick, self._board, self._telemetry, now_ms):
                    self._inbox.put(key, price)

    # --- chain ------------------------------------------------------------------------------------

    async def chain(self) -> None:
        """Hand every new head and its logs to the venues' intakes and to settlement."""
        try:
            await self._follow_chain()
        except TransientError as error:
            self.chain_trouble = str(error)
            raise
        except RpcError as error:
            # nothing but the head and its logs was asked for: who refuses that is in trouble
            self.chain_trouble = str(error)
            raise TransientError(str(error)) from error

    async def _follow_chain(self) -> None:
        self._advance(await self._chain.start())
        async with contextlib.aclosing(self._chain.updates()) as updates:
            async for update in updates:
                self._heartbeats.beat("chain")
                self.chain_trouble = ""
                if update is None:
                    continue
                if update.reorged_from is not None:
                    self._telemetry.count("keeper_reorgs_total")
                    self._settlement.reorged(update.reorged_from)
                self.head_how = "announced" if self._chain.announced else "polled"
                delay_s = max(0.0, update.head.seen_ms / 1000 - update.head.timestamp_s)
                self._telemetry.observe("keeper_head_delay_seconds", delay_s, how=self.head_how)
                for intake in self.intakes.values():
                    intake.post(update)
                self._advance(update.head)

    def hint(self, log: Log) -> None:
        """Take in a log that was announced, perhaps of a block not yet made."""
        for intake in self.intakes.values():
            intake.hint(log)

    def _advance(self, head: Head) -> None:
        self.head = head
        for intake in self.intakes.values():
            intake.advance(head)
        self._settle_at.put("head", head)

    # --- decide -----------------------------------------------------------------------------------

    async def decide(self) -> None:
        """The only writer of the books: learn what came in, assess what is due, hand it on."""
        while True:
            self._heartbeats.beat("decide")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s()):
                    await self._inbox.wait()
            self._learn()
            for desk in self.desks.values():
                await self._decide(desk)

    def _idle_s(self) -> float:
        """Return how long nothing can become due by itself."""
        if any(desk.has_due for desk in self.desks.values()):
            return 0.0
        wakes = [desk.agenda.next_wake_ms() for desk in self.desks.values()]
        soonest = min((wake for wake in wakes if wake is not None), default=None)
        if soonest is None:
            return BEAT_S
        return min(BEAT_S, max(0.001, (soonest - self._clock.wall_ms()) / 1000))

    def between_decisions(self, change: Callable[[], None]) -> None:
        """Have this done between two decisions; of several at a time the last alone."""
        self._inbox.put("change", change)

    def _learn(self) -> None:
        facts = self._inbox.take()
        for fact in facts.items():
            match fact:
                case "change" | "term", change if callable(change):
                    change()
                case ("price", _), Price() as price:
                    for desk in self.desks.values():
                        desk.learn_price(price)
                case ("returned", _), Price():
                    for desk in self.desks.values():
                        desk.price_returned()
                case (_, str(venue)), MarketState() as market:
                    self._learn_market(VenueId(venue), market)
                case ("read", str(venue)), Head() as head:
                    self.desks[VenueId(venue)].read_at = head
        self._learn_states(facts)

    def _learn_states(self, facts: Mapping[object, Fact]) -> None:
        """Learn what was read of accounts, all of a venue at once: that is several times faster."""
        read: defaultdict[VenueId, list[AccountState]] = defaultdict(list)
        for key, fact in facts.items():
            if isinstance(key, tuple) and isinstance(fact, AccountState):
                read[key[1]].append(fact)
        for venue, states in read.items():
            self.desks[venue].learn_states(states)

    def _learn_market(self, venue: VenueId, market: MarketState) -> None:
        """Learn a market; a venue that a bug in this set aside comes back when it works again."""
        with self._quarantine.venue(venue):
            self.desks[venue].learn_market(market)
            if venue in self._unlearned:
                self._unlearned.discard(venue)
                self._quarantine.release(venue)
            return
        self._unlearned.add(venue)

    async def _decide(self, desk: Desk) -> None:
        """Assess the venue's due accounts in slices; prices that came in meanwhile go first."""
        started_ns = self._clock.monotonic_ns()
        for account in desk.due(self._clock.wall_ms()):
            nominated = desk.decide(account)
            if nominated is not None:
                self._candidates.put((desk.venue.id, account), nominated)
            if self._clock.monotonic_ns() - started_ns > SLICE_NS:
                await asyncio.sleep(0)
                self._heartbeats.beat("decide")
                self._learn()
                started_ns = self._clock.monotonic_ns()

    # --- attempt ----------------------------------------------------------------------------------

    async def attempt(self) -> None:
        """Simulate and send the best candidates, a bounded number at once."""
        running: dict[asyncio.Task[None], int] = {}  # of how many accounts each is
        async with asyncio.TaskGroup() as group:
            while True:
                self._heartbeats.beat("attempt")
                if not self._waiting:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(BEAT_S):
                            await self._candidates.wait()
                self._take()
                if not self._waiting:
                    continue
                await self._room(running, 1)
                self._take()
                key, some = self._next()
                await self._room(running, len(some))
                task = group.create_task(self._work(key, some), name=f"attempt/{key}")
                running[task] = len(some)
                task.add_done_callback(running.pop)

    async def _room(self, running: Mapping[asyncio.Task[None], int], accounts: int) -> None:
        """Wait until so many accounts more can be simulated at once, or none is."""
        while running:
            if sum(running.values()) + accounts <= self.execution.rules.simulations_at_once_max:
                return
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)

    def _take(self) -> None:
        for key, nominated in self._candidates.take().items():
            self._waiting[key] = nominated
            self._order.put(key, nominated.priority)

    def _next(self) -> tuple[Key, list[Nominated]]:
        """Take out the best candidate, and who is to be tried together with it."""
        best = self._order.pop()
        keys = self.together.group(self.desks[best[0]], best, self._waiting)
        for key in keys:
            self._order.drop(key)
        return best, [self._waiting.pop(key) for key in keys]

    async def _work(self, best: Key, some: Sequence[Nominated]) -> None:
        if len(some) == 1:
            await self._one(best, some[0])
        else:
            await self.together.attempt(self.desks[best[0]], some)

    async def _one(self, key: Key, nominated: Nominated) -> None:
        venue, account = key
        desk = self.desks[venue]
        try:
            with self._quarantine.account(venue, account):
                if not desk.suspect or await self._confirmed(desk, account):
                    await self.execution.attempt(desk, nominated)
                return
            desk.quarantined(account)
        except (TransientError, RpcError) as error:
            logger.warning("simulation failed", venue=venue, account=account, error=str(error))
            desk.failed_to_ask(account, self.execution.rules.hold_ms)

    async def _confirmed(self, desk: Desk, account: AccountId) -> bool:
        """Read an account of a suspect venue; if the book has it otherwise, have it learned."""
        if self.head is None:
            return False
        (state,) = await desk.venue.read_accounts([account], self.head)
        if not any(differences(desk.states[account], state)):
            return True
        desk.hold(account, Hold(HoldReason.SUSPECT, until_block=self.head.number + 1))
        self.intakes[desk.venue.id].mark([account])
        self.intakes[desk.venue.id].retry()
        return False

    # --- settle -----------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Follow what is in flight; the first thing done on a start is to find it again."""
        recovered = False
        while True:
            self._heartbeats.beat("settle")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._settle_at.wait()
            head = self._settle_at.take().get("head")
            term = self.execution.brakes.leading.term
            begins = term is not None and term != self._term
            if head is None and begins:
                head = self.head  # a lead that was won between two blocks begins at once
            if head is None:
                continue
            try:
                if not recovered:
                    await self._recover()
                    recovered = True
                await self._settlement.on_head(head)
            except (TransientError, RpcError) as error:
                logger.warning("settling again at the next head", error=str(error))
                continue
            if begins:
                self._term = term
                self._inbox.put("term", self._begin)

    def _begin(self) -> None:
        """Look again at what was left to another keeper."""
        for desk in self.desks.values():
            desk.agenda.release(HoldReason.STANDBY)
            desk.agenda.release(HoldReason.LANE_PARKED)
