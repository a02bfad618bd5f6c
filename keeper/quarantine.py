"""What a bug sets aside instead of ending the process: one account, or one venue's loop.

Without it one poisoned account, read again at every start, would be a crash loop for all. Whatever
is set aside is counted, logged whole and named by ``/readyz``. Used by ``supervise.py``.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import TypeVar

import structlog

from keeper.errors import FatalError, RpcError, TransientError
from keeper.facts import AccountId, VenueId
from keeper.ports import Clock, Telemetry

StateT = TypeVar("StateT")

log = structlog.get_logger(__name__)

ERROR_CHARS_MAX = 500  # of an error kept in memory; the log has it whole
_POISONED_MAX = 16  # accounts that fail before any succeeds; beyond it the venue is at fault

_RETRIED = (TransientError,)
_ANSWERED = (TransientError, RpcError)


class _Sort(Enum):
    """What an exception asks for (a group: what all of it asks for)."""

    BUG = auto()  # set aside what was being handled
    EXPECTED = auto()  # for the caller, who knows what to do about it
    FATAL = auto()  # the operator's to mend, or the process's own end: never set aside


def _sort(error: Exception, expected: tuple[type[Exception], ...]) -> _Sort:
    parts = list(leaves(error))
    if any(isinstance(leaf, FatalError | MemoryError) for leaf in parts):
        return _Sort.FATAL
    if all(isinstance(leaf, expected) for leaf in parts):
        return _Sort.EXPECTED
    return _Sort.BUG


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, or those in the group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


@dataclass(frozen=True, slots=True)
class Quarantined:
    """What is set aside: an account, or (``account`` None) a venue whose loop was restarted."""

    venue: VenueId
    account: AccountId | None
    error: str  # type and text of the newest one, shortened
    since_ms: int  # wall clock, of the first one
    times: int  # bugs since then, the first one included


class Quarantine:
    """The accounts and venues that a bug has set aside.

    It holds at most ``entries_max`` accounts; the one set aside longest makes room for a new one
    (and is tried again). Venues are few, and do not count.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry, entries_max: int = 1000) -> None:
        """Start empty. Raises ValueError when there is no room for an entry."""
        if entries_max < 1:
            msg = f"entries_max must be at least 1, got {entries_max}"
            raise ValueError(msg)
        self._clock = clock
        self._telemetry = telemetry
        self._entries_max = entries_max
        self._accounts: dict[tuple[VenueId, AccountId], Quarantined] = {}
        self._venues: dict[VenueId, Quarantined] = {}
        self._venues_seen: set[VenueId] = set()

    def account(self, venue: VenueId, account: AccountId) -> "Guard":
        """Handle one account inside: a bug sets the account aside instead of going further.

        Passes on TransientError and RpcError (the edge has said what they are; the caller knows
        what to do), ConfigError and MemoryError (no account is to blame for them), groups of these,
        and everything that is no Exception.
        """
        return Guard(lambda error: self._set_aside(venue, account, error))

    def venue(self, venue: VenueId) -> "Guard":
        """Run a venue's loop inside: like ``account`` for the whole venue.

        An RpcError that is not transient is a bug here: nobody in the loop knew what to do.
        """
        return Guard(lambda error: self._set_aside(venue, None, error))

    def _set_aside(
        self, venue: VenueId, account: AccountId | None, error: BaseException | None
    ) -> bool:
        """Return whether the exception stops here: the one place in the project where any may."""
        expected = _RETRIED if account is None else _ANSWERED
        if not isinstance(error, Exception) or _sort(error, expected) is not _Sort.BUG:
            return False
        self._quarantine(venue, account, error)
        return True

    async def each_alone(
        self,
        venue: VenueId,
        accounts: Sequence[AccountId],
        read: Callable[[Sequence[AccountId]], Awaitable[Sequence[StateT]]],
    ) -> list[StateT]:
        """Return ``read(accounts)``, in order, without the accounts that a bug sets aside.

        A batch that fails is halved until the accounts that make it fail are alone: one poisoned
        account must not keep the others from being read. An RpcError that is not transient (a
        revert, say) counts as a bug of the account it is alone with. When the first 16 all fail and
        none succeeds it is no account's fault: the last error is raised, and none is set aside.
        TransientError, ConfigError and MemoryError are raised at once.
        """
        states: list[StateT] = []
        poisoned: list[tuple[AccountId, Exception]] = []
        failed: list[Exception] = []
        batches = [accounts] if accounts else []  # a stack: the order is kept
        while batches:
            batch = batches.pop()
            with Guard(lambda error: _collect(error, failed)):
                states += await read(batch)
                continue
            if len(batch) > 1:
                middle = len(batch) // 2
                batches += [batch[middle:], batch[:middle]]
                continue
            poisoned.append((batch[0], failed[-1]))
            if len(poisoned) >= _POISONED_MAX and not states:
                raise failed[-1]
        for account, error in poisoned:
            self._quarantine(venue, account, error)
        return states

    def _quarantine(self, venue: VenueId, account: AccountId | None, error: Exception) -> None:
        kind = "venue" if account is None else "account"
        logger = log.bind(kind=kind, venue=venue, account=account)
        before, entry = self._remember(venue, account, error)
        if before is None or before.error != entry.error:
            logger.error("quarantined", exc_info=error)
        else:  # the same again, perhaps every block: one whole account of it is enough
            logger.warning("quarantined again", error=entry.error, times=entry.times)
        self._telemetry.count("keeper_quarantined_total", venue=venue, kind=kind)

    def _remember(
        self, venue: VenueId, account: AccountId | None, error: Exception
    ) -> tuple[Quarantined | None, Quarantined]:
        """Return the entry there was, and the one there is now."""
        self._venues_seen.add(venue)
        old = self._venues.get(venue) if account is None else self._accounts.get((venue, account))
        entry = Quarantined(
            venue=venue,
            account=account,
            error=f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX],
            since_ms=old.since_ms if old else self._clock.wall_ms(),
            times=old.times + 1 if old else 1,
        )
        if account is None:
            self._venues[venue] = entry
            return old, entry
        if old is None and len(self._accounts) >= self._entries_max:
            self._accounts.pop(next(iter(self._accounts)))
        self._accounts[venue, account] = entry
        return old, entry

    def is_quarantined(self, venue: VenueId, account: AccountId | None = None) -> bool:
        """Return whether the account (without one: the venue's loop) is set aside."""
        if account is None:
            return venue in self._venues
        return (venue, account) in self._accounts

    def release(self, venue: VenueId, account: AccountId | None = None) -> bool:
        """Take it back; return False when it was not set aside."""
        if account is None:
            return self._venues.pop(venue, None) is not None
        return self._accounts.pop((venue, account), None) is not None

    def entries(self) -> list[Quarantined]:
        """Return what is set aside: venues first, each kind oldest first."""
        return [*self._venues.values(), *self._accounts.values()]

    def to_retry(self, venue: VenueId, accounts_max: int) -> list[AccountId]:
        """Return accounts of a venue to try again, those that failed least often first."""
        entries = [entry for entry in self._accounts.values() if entry.venue == venue]
        entries.sort(key=lambda entry: entry.times)  # so that each has its turn
        return [entry.account for entry in entries[:accounts_max] if entry.account is not None]

    def publish(self, telemetry: Telemetry, venues: Collection[VenueId] = ()) -> None:
        """Set the gauge of entries for every venue that ever had one, and for ``venues``."""
        counts = dict.fromkeys([*venues, *self._venues_seen], 0)
        for entry in self.entries():
            counts[entry.venue] += 1
        for venue, entries in counts.items():
            telemetry.gauge("keeper_quarantine_entries", entries, venue=venue)


class Guard:
    """A ``with`` block whose end asks ``stops`` what to do with the exception that leaves it."""

    __slots__ = ("_stops",)

    def __init__(self, stops: Callable[[BaseException | None], bool]) -> None:
        """Ask ``stops``, with the exception or None, whether it goes no further."""
        self._stops = stops

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        """Return what ``stops`` says."""
        return self._stops(error)


def _collect(error: BaseException | None, failed: list[Exception]) -> bool:
    if not isinstance(error, Exception) or _sort(error, _RETRIED) is not _Sort.BUG:
        return False
    failed.append(error)
    return True
