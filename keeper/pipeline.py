"""The loops: prices, chain, accounts, decide, attempt, settle.

Each is a few lines; the work is in ``desk.py``, ``execute.py`` and ``settle.py``.

    prices ─▶ inbox ─▶ decide ─▶ candidates ─▶ attempt ─▶ (in flight) ─▶ settle
    chain ─▶ intake ─▶ accounts ─▶ inbox

``inbox`` and ``candidates`` are latest-wins mailboxes: one value per key, never a backlog.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import structlog

from keeper.decide.agenda import Hold, HoldReason
from keeper.desk import QUARANTINE_MS, Desk, Nominated
from keeper.errors import RpcError, TransientError
from keeper.execute import Execution
from keeper.facts import (
    AccountId,
    AccountState,
    Head,
    MarketState,
    Price,
    Probe,
    VenueId,
)
from keeper.intake import Intake
from keeper.mailbox import LatestWins
from keeper.ports import Board, Chain, Clock, Memory, PriceSource, Submitter, Telemetry
from keeper.quarantine import Quarantine
from keeper.reconcile import Reconciler, differences
from keeper.rivals import report
from keeper.settle import Settlement
from keeper.supervise import Heartbeats
from keeper.ticks import facts_of

logger = structlog.get_logger(__name__)

Fact = Price | MarketState | AccountState
BEAT_S = 1.0  # how often an idle loop shows that it is alive
SLICE_NS = 4_000_000  # assess this long, then let the other loops run
RETRY_S = 0.2  # after a failed reading; the next head may be long in coming
RETRIES_MAX = 8  # accounts set aside that are read again at once; were it 16, the venue is blamed
READ_MAX = 256  # accounts read in one go; a reading of all is posted as it comes in

Discover = Callable[[Desk, Head], AsyncIterator[list[AccountId]]]


class Pipeline:
    """Everything between a price and a settled outcome."""

    def __init__(  # noqa: PLR0913 - one composition root calls it
        self,
        *,
        desks: Mapping[VenueId, Desk],
        intakes: Mapping[VenueId, Intake],
        board: Board,
        chain: Chain,
        discover: Discover,
        memory: Memory,
        reconciler: Reconciler,
        execution: Execution,
        settlement: Settlement,
        submitter: Submitter,
        recover: Callable[[], Awaitable[object]],
        quarantine: Quarantine,
        heartbeats: Heartbeats,
        telemetry: Telemetry,
        clock: Clock,
        simulations_at_once_max: int,
    ) -> None:
        """Wire the parts; nothing runs before the loops do."""
        self.desks = desks
        self.intakes = intakes
        self.head: Head | None = None
        self.chain_trouble = ""  # what the last failed reading of the head said
        self._board = board
        self._chain = chain
        self._discover = discover
        self._memory = memory
        self._reconciler = reconciler
        self._execution = execution
        self._settlement = settlement
        self._submitter = submitter
        self._recover = recover
        self._quarantine = quarantine
        self._heartbeats = heartbeats
        self._telemetry = telemetry
        self._clock = clock
        self._unlearned: set[VenueId] = set()  # whose market a bug kept from being learned
        self._set_aside_at_ms: dict[VenueId, int] = {}  # when those accounts are read again
        self._slots = asyncio.Semaphore(simulations_at_once_max)
        self._inbox: LatestWins[object, Fact] = LatestWins()
        self._candidates: LatestWins[tuple[VenueId, AccountId], Nominated] = LatestWins()
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
                for intake in self.intakes.values():
                    intake.post(update)
                self._advance(update.head)

    def _advance(self, head: Head) -> None:
        self.head = head
        for intake in self.intakes.values():
            intake.advance(head)
        self._settle_at.put("head", head)

    # --- accounts ---------------------------------------------------------------------------------

    async def accounts(self, venue: VenueId) -> None:
        """Read what is dirty at one venue, whole, at the newest head.

        Raises TransientError only before the venue was loaded; a bug restarts it from here.
        """
        desk, intake = self.desks[venue], self.intakes[venue]
        intake.everything = True
        head = await intake.wait()
        await self._find(desk, intake, head)
        head = intake.head or head  # what came in meanwhile is folded in below: read at its head
        while True:
            try:
                for seen in intake.fold():
                    report(desk, seen, self._submitter, self._telemetry)
                if intake.gap:
                    await self._find(desk, intake, head)
                await self._read(desk, intake, head)
            except TransientError as error:
                logger.warning("reading again", venue=venue, error=str(error))
                intake.retry()
                await asyncio.sleep(RETRY_S)
            head = await self._next_head(f"accounts/{venue}", intake)

    async def _find(self, desk: Desk, intake: Intake, head: Head) -> None:
        """Mark the accounts in the logs up to a head that no update has brought or will bring."""
        venue, intake.gap = desk.venue.id, False
        try:
            async for found in self._discover(desk, head):
                intake.mark(found)
                self._heartbeats.beat(f"accounts/{venue}")
        except BaseException:
            intake.gap = True
            raise

    async def _next_head(self, loop: str, intake: Intake) -> Head:
        while True:
            self._heartbeats.beat(loop)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    return await intake.wait()

    async def _read(self, desk: Desk, intake: Intake, head: Head) -> None:
        venue = desk.venue.id
        everything, intake.everything = intake.everything, False
        if everything:
            intake.mark(desk.states)
        self._mark_set_aside(venue, intake)
        dirty = intake.take()
        try:
            if everything or desk.access.due:
                desk.access.learn(await self._probe(desk))
            market = await desk.venue.read_market(head)
            self._inbox.put(("market", venue), market)
            known = {*desk.states, *dirty}
            dirty += [account for account in market.listed if account not in known]
            for start in range(0, len(dirty), READ_MAX):
                await self._read_some(desk, dirty[start : start + READ_MAX], head)
                self._heartbeats.beat(f"accounts/{venue}")
            await self._note(desk, intake, head, dirty)
            await self._reconcile(desk, head, dirty)
        except BaseException:
            intake.mark(dirty)
            intake.everything = intake.everything or everything
            raise
        desk.loaded = True

    async def _probe(self, desk: Desk) -> Probe:
        """Ask for every wallet that may be chosen, or for nobody; one shut out is the answer."""
        wallets: Sequence[str | None] = self._submitter.wallets_of(desk.venue.id) or [None]
        probes = [await desk.venue.probe(wallet) for wallet in wallets]
        return next((probe for probe in probes if not probe.open), probes[0])

    async def _note(
        self, desk: Desk, intake: Intake, head: Head, accounts: Sequence[AccountId]
    ) -> None:
        """Put in the ledger what has been folded in and read; what cannot be is kept for later."""
        intake.touched.update(dict.fromkeys(accounts, head.number))
        noted = await self._memory.cover(
            desk.scope, intake.covered, intake.touched, cut_from=intake.cut_from
        )
        if noted:
            intake.noted()

    def _mark_set_aside(self, venue: VenueId, intake: Intake) -> None:
        """Read again by and by what a bug has set aside: perhaps nothing will touch it."""
        now_ms = self._clock.wall_ms()
        if now_ms < self._set_aside_at_ms.get(venue, 0):
            return
        self._set_aside_at_ms[venue] = now_ms + QUARANTINE_MS
        intake.mark(self._quarantine.to_retry(venue, RETRIES_MAX))

    async def _read_some(self, desk: Desk, accounts: Sequence[AccountId], head: Head) -> None:
        """Read a batch; one poisoned account must not keep the others from being read."""
        venue = desk.venue.id
        readings = await self._quarantine.each_alone(
            venue, accounts, lambda some: desk.venue.read_accounts(some, head)
        )
        for state in readings:
            self._inbox.put(("account", venue, state.account), state)

    async def _reconcile(self, desk: Desk, head: Head, dirty: Sequence[AccountId]) -> None:
        """Compare some accounts with the chain, but those whose new state is on its way."""
        venue = desk.venue.id
        waiting = {one for one in desk.states if ("account", venue, one) in self._inbox}
        for state in await self._reconciler.compare(desk, head, {*dirty, *waiting}):
            self._inbox.put(("account", venue, state.account), state)

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

    def _learn(self) -> None:
        for fact in self._inbox.take().items():
            match fact:
                case ("price", _), Price() as price:
                    for desk in self.desks.values():
                        desk.learn_price(price)
                case ("returned", _), Price():
                    for desk in self.desks.values():
                        desk.price_returned()
                case (_, str(venue)), MarketState() as market:
                    self._learn_market(VenueId(venue), market)
                case (_, str(venue), _), AccountState() as state:
                    self.desks[VenueId(venue)].learn_state(state)

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
        waiting: dict[tuple[VenueId, AccountId], Nominated] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._heartbeats.beat("attempt")
                if not waiting:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(BEAT_S):
                            await self._candidates.wait()
                waiting.update(self._candidates.take())
                if not waiting:
                    continue
                await self._slots.acquire()
                waiting.update(self._candidates.take())
                best = min(waiting, key=lambda key: waiting[key].priority)
                group.create_task(self._one(best, waiting.pop(best)), name=f"attempt/{best}")

    async def _one(self, key: tuple[VenueId, AccountId], nominated: Nominated) -> None:
        venue, account = key
        desk = self.desks[venue]
        try:
            with self._quarantine.account(venue, account):
                if not desk.suspect or await self._confirmed(desk, account):
                    await self._execution.attempt(desk, nominated)
                return
            desk.quarantined(account)
        except (TransientError, RpcError) as error:
            logger.warning("simulation failed", venue=venue, account=account, error=str(error))
            desk.failed_to_ask(account, self._execution.rules.hold_ms)
        finally:
            self._slots.release()

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
            if head is None:
                continue
            try:
                if not recovered:
                    await self._recover()
                    recovered = True
                await self._settlement.on_head(head)
            except (TransientError, RpcError) as error:
                logger.warning("settling again at the next head", error=str(error))
