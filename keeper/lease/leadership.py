"""Holding a lease, or waiting for it.

No two machines' clocks are compared. Who leads counts from the moment before a renewal was *sent*,
and stops ``renew_s`` before ``ttl_s`` is over; who waits counts from the moment after a record was
*seen* to be another, and takes over when it has stayed the same for ``ttl_s``. So a leader that
cannot renew has stopped sending, whatever became of it, before anybody else begins.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from keeper.errors import TransientError
from keeper.leading import Lease, Record
from keeper.ports import Clock, Telemetry

logger = structlog.get_logger(__name__)

RETRY_S = 0.5  # a leader that could not renew tries again so soon
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """From ``[lease]``; ``holder``: what this process is called in the record."""

    holder: str
    ttl_s: int
    renew_s: int


class Leadership:
    """One keeper's part in a lease. Implements ``leading.Leading``."""

    def __init__(self, lease: Lease, rules: LeaseRules, clock: Clock, telemetry: Telemetry) -> None:
        """Lead nothing before ``keep`` has won the lease."""
        self.trouble = ""  # why the lease could not be asked for; "": it could
        self._lease = lease
        self._rules = rules
        self._clock = clock
        self._telemetry = telemetry
        self._terms = 0
        self._until_ns = 0  # of this keeper's lead
        self._record: Record | None = None  # as last seen
        self._was_seen = False  # a record, ever
        self._seen_ns = 0  # when it was first seen to be this one
        self._led = False  # as last told

    @property
    def term(self) -> int | None:
        """Return the number of this keeper's term; None: it does not lead, or no longer."""
        return self._terms if self._clock.monotonic_ns() < self._until_ns else None

    @property
    def holder(self) -> str:
        """Return who leads, by what was last read; "" while nobody is known to."""
        return self._record.holder if self._record else ""

    async def keep(self, beat: Callable[[], None]) -> None:
        """Renew the lease, or wait for it, until cancelled."""
        while True:
            beat()
            try:
                async with asyncio.timeout(self._rules.renew_s):
                    await self._step()
                self._note_trouble("")
            except TimeoutError:
                self._note_trouble(f"no answer in {self._rules.renew_s} s")
            except TransientError as error:
                self._note_trouble(str(error))
            self._tell()
            await asyncio.sleep(self._pause_s())

    async def give_up(self) -> None:
        """Stop leading at once, and let the next take over without waiting."""
        leads, self._until_ns = self.term is not None, 0
        if not leads:
            return
        try:
            async with asyncio.timeout(self._rules.renew_s):
                if not await self._hand_over():  # a renewal was cut off: its version is not known
                    await self._look()
                    await self._hand_over()
        except (TransientError, TimeoutError) as error:
            logger.warning("lease not given up: the next waits until it is over", why=str(error))
        self._tell()

    async def _hand_over(self) -> bool:
        if self._record is None or not self._is_mine():
            return True
        return await self._lease.write(replace(self._record, holder="")) is not None

    async def _step(self) -> None:
        if self.term is None:
            await self._look()
        # twice: what was changed meanwhile may be an own renewal whose answer was lost
        if self._is_free() and not await self._take() and self._is_mine():
            await self._take()

    async def _look(self) -> None:
        found = await self._lease.read()
        before = self._record
        if (found and found.version) != (before and before.version):
            self._seen_ns = self._clock.monotonic_ns()
        self._record = found
        self._was_seen = self._was_seen or found is not None

    def _is_mine(self) -> bool:
        return self._record is not None and self._record.holder == self._rules.holder

    def _is_free(self) -> bool:
        """Say whether the lease may be taken, over the version that was seen."""
        record = self._record
        if record is not None and (self._is_mine() or not record.holder):
            return True
        if record is None and not self._was_seen:
            return True
        return self._left_ns() <= 0  # one that was deleted may still be led by

    def _left_ns(self) -> int:
        """Return how long another's lease is still waited for."""
        ttl_s = max(self._rules.ttl_s, self._record.ttl_s if self._record else 0)
        return self._seen_ns + ttl_s * _NS_PER_S - self._clock.monotonic_ns()

    async def _take(self) -> bool:
        """Write our name over what was seen; False: another was faster, and was looked at."""
        before, rules = self._record, self._rules
        stays = before is not None and self._is_mine()
        changes = before.changes if before else 0
        wanted = Record(
            holder=rules.holder,
            ttl_s=rules.ttl_s,
            acquired_ms=before.acquired_ms if before and stays else self._clock.wall_ms(),
            changes=changes if stays or before is None else changes + 1,
            version=before.version if before else "",
        )
        sent_ns = self._clock.monotonic_ns()
        written = await self._lease.write(wanted)
        if written is None:
            await self._look()
            if not self._is_mine():
                self._until_ns = 0
            return False
        if self.term is None:
            self._terms += 1
        self._record, self._was_seen, self._seen_ns = written, True, sent_ns
        self._until_ns = sent_ns + (rules.ttl_s - rules.renew_s) * _NS_PER_S
        return True

    def _pause_s(self) -> float:
        renew_s = float(self._rules.renew_s)
        if self.term is not None:
            return min(renew_s, RETRY_S) if self.trouble else renew_s
        left_s = self._left_ns() / _NS_PER_S
        return min(renew_s, left_s) if left_s > 0 else RETRY_S

    def _tell(self) -> None:
        """Count and log what has changed."""
        leads = self.term is not None
        if leads == self._led:
            return
        self._led = leads
        self._telemetry.count("keeper_lease_changes_total")
        if leads:
            logger.info("lease taken: this keeper leads", term=self._terms)
        else:
            logger.warning("lease lost: this keeper sends nothing", holder=self.holder)

    def _note_trouble(self, trouble: str) -> None:
        if trouble and not self.trouble:
            logger.warning("lease cannot be asked for", why=trouble, leads=self.term is not None)
        self.trouble = trouble
