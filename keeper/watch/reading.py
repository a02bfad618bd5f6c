"""The loop that keeps one venue's accounts as the chain has them: found, read, compared, noted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from keeper.errors import TransientError
from keeper.facts import AccountId, AccountState, Head, MarketState, Price, Probe, VenueId
from keeper.mailbox import LatestWins
from keeper.ports import Clock, Memory, Submitter, Telemetry
from keeper.quarantine import Quarantine
from keeper.supervise import Heartbeats
from keeper.watch.desk import QUARANTINE_MS, Desk
from keeper.watch.intake import Intake
from keeper.watch.reconcile import Reconciler
from keeper.watch.rivals import report
from keeper.watch.snapshot import WarmStart

logger = structlog.get_logger(__name__)

Fact = Price | MarketState | AccountState | Head | Callable[[], None]
Discover = Callable[[Desk, Head], AsyncIterator[list[AccountId]]]
BEAT_S = 1.0  # how often an idle loop shows that it is alive
RETRY_S = 0.2  # after a failed reading; the next head may be long in coming
RETRIES_MAX = 8  # accounts set aside that are read again at once; were it 16, the venue is blamed
READ_MAX = 256  # accounts read in one go; a reading of all is posted as it comes in


@dataclass
class Reading:
    """Posts what it reads to ``inbox``, under ("market" or "account" or "read", venue, …)."""

    desks: Mapping[VenueId, Desk]
    intakes: Mapping[VenueId, Intake]
    discover: Discover
    memory: Memory
    warm: WarmStart
    reconciler: Reconciler
    submitter: Submitter
    quarantine: Quarantine
    heartbeats: Heartbeats
    telemetry: Telemetry
    clock: Clock
    loaded: Callable[[], None] = lambda: None  # called once a venue's accounts are all there
    inbox: LatestWins[object, Fact] = field(default_factory=LatestWins)
    _set_aside_at_ms: dict[VenueId, int] = field(default_factory=dict)  # when those are read again

    async def accounts(self, venue: VenueId) -> None:
        """Read what is dirty at one venue, whole, at the newest head.

        Raises TransientError only before the venue was loaded; a bug restarts it from here.
        """
        desk, intake = self.desks[venue], self.intakes[venue]
        intake.everything = True
        head = await intake.wait()
        await self.find(desk, intake, head)
        head = intake.head or head  # what came in meanwhile is folded in below: read at its head
        await self.restore(desk, intake, head)
        while True:
            try:
                for seen in intake.fold():
                    report(desk, seen, self.submitter, self.telemetry)
                self.telemetry.count("keeper_hinted_accounts_total", intake.hinted, venue=venue)
                if intake.gap:
                    await self.find(desk, intake, head)
                await self.read(desk, intake, head)
            except TransientError as error:
                logger.warning("reading again", venue=venue, error=str(error))
                intake.retry()
                await asyncio.sleep(RETRY_S)
            head = await self._next_head(f"accounts/{venue}", intake)

    async def find(self, desk: Desk, intake: Intake, head: Head) -> None:
        """Mark the accounts in the logs up to a head that no update has brought or will bring."""
        venue, intake.gap = desk.venue.id, False
        try:
            async for found in self.discover(desk, head):
                intake.mark(found)
                self.heartbeats.beat(f"accounts/{venue}")
        except BaseException:
            intake.gap = True
            raise

    async def restore(self, desk: Desk, intake: Intake, head: Head) -> None:
        """Post what a snapshot has and nothing has touched since; the rest stays dirty."""
        venue = desk.venue.id
        if desk.states:
            return  # a restart of this loop: what the desk has is no older
        states = await self.warm.states(desk)
        if not states:
            return
        desk.access.learn(await self._probe(desk))
        self.inbox.put(("market", venue), await desk.venue.read_market(head))
        for start in range(0, len(states), READ_MAX):
            for state in states[start : start + READ_MAX]:
                self.inbox.put(("account", venue, state.account), state)
            self.heartbeats.beat(f"accounts/{venue}")
            await asyncio.sleep(0)
        intake.unmark(state.account for state in states)
        intake.everything = False

    async def _next_head(self, loop: str, intake: Intake) -> Head:
        while True:
            self.heartbeats.beat(loop)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    return await intake.wait()

    async def read(self, desk: Desk, intake: Intake, head: Head) -> None:
        """Read the market and what is dirty at a head; what fails stays dirty."""
        venue = desk.venue.id
        everything, intake.everything = intake.everything, False
        if everything:
            intake.mark(desk.states)
        self._mark_set_aside(venue, intake)
        dirty, done = intake.take(), 0
        try:
            if everything or desk.access.due:
                desk.access.learn(await self._probe(desk))
            market = await desk.venue.read_market(head)
            self.inbox.put(("market", venue), market)
            if market.listed:
                known = {*desk.states, *dirty}
                dirty += [account for account in market.listed if account not in known]
            everything = False  # whoever is to be read is dirty by now
            while done < len(dirty):
                await self._read_some(desk, dirty[done : done + READ_MAX], head)
                done += READ_MAX
                self.heartbeats.beat(f"accounts/{venue}")
            await self._note(desk, intake, head, dirty)
            await self._reconcile(desk, head)
        except BaseException:
            # a node may forget the head before all are read at it: the next one does for the rest
            intake.touched.update(dict.fromkeys(dirty[:done], head.number))
            intake.mark(dirty[done:])
            intake.everything = intake.everything or everything
            raise
        self.inbox.put(("read", venue), head)
        if not desk.loaded:
            desk.loaded = True
            self.loaded()

    async def _probe(self, desk: Desk) -> Probe:
        """Ask for every wallet that may be chosen, or for nobody; one shut out is the answer."""
        wallets: Sequence[str | None] = self.submitter.wallets_of(desk.venue.id) or [None]
        probes = [await desk.venue.probe(wallet) for wallet in wallets]
        return next((probe for probe in probes if not probe.open), probes[0])

    async def _note(
        self, desk: Desk, intake: Intake, head: Head, accounts: Sequence[AccountId]
    ) -> None:
        """Put in the ledger what has been folded in and read; what cannot be is kept for later."""
        intake.touched.update(dict.fromkeys(accounts, head.number))
        noted = await self.memory.cover(
            desk.scope, intake.covered, intake.touched, cut_from=intake.cut_from
        )
        if noted:
            intake.noted()

    def _mark_set_aside(self, venue: VenueId, intake: Intake) -> None:
        """Read again by and by what a bug has set aside: perhaps nothing will touch it."""
        now_ms = self.clock.wall_ms()
        if now_ms < self._set_aside_at_ms.get(venue, 0):
            return
        self._set_aside_at_ms[venue] = now_ms + QUARANTINE_MS
        intake.mark(self.quarantine.to_retry(venue, RETRIES_MAX))

    async def _read_some(self, desk: Desk, accounts: Sequence[AccountId], head: Head) -> None:
        """Read a batch; one poisoned account must not keep the others from being read."""
        venue = desk.venue.id
        readings = await self.quarantine.each_alone(
            venue, accounts, lambda some: desk.venue.read_accounts(some, head)
        )
        self.telemetry.count("keeper_accounts_read_total", len(readings), venue=venue)
        for state in readings:
            self.inbox.put(("account", venue, state.account), state)

    async def _reconcile(self, desk: Desk, head: Head) -> None:
        """Compare some accounts with the chain, but those whose new state is on its way."""
        venue = desk.venue.id
        corrected = await self.reconciler.compare(
            desk, head, lambda account: ("account", venue, account) in self.inbox
        )
        for state in corrected:
            self.inbox.put(("account", venue, state.account), state)
