"""Who may fail how: the task group of the process, heartbeats, and the one exception to its rule.

A bug ends the process with a non-zero code, but for two cases that would make one poisoned account
a crash loop for all: a bug while handling one account sets that account aside, and a bug in a
venue's loop restarts that venue. Both are counted, logged whole and named by ``/readyz``.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import structlog

from keeper.errors import TransientError
from keeper.facts import VenueId
from keeper.ports import Clock, Telemetry
from keeper.quarantine import ERROR_CHARS_MAX, Guard, Quarantine, Quarantined, leaves

__all__ = ["Backoff", "Heartbeats", "Quarantine", "Quarantined", "Supervisor", "run"]

log = structlog.get_logger(__name__)

_NS_PER_S = 1_000_000_000
CANCEL_AGAIN_S = 1.5  # a loop that cleans up longer is told once more
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


# --- heartbeats -----------------------------------------------------------------------------------


class Heartbeats:
    """When each loop was last seen alive, for ``/healthz`` and the metrics."""

    def __init__(self, clock: Clock) -> None:
        """Start without loops."""
        self._clock = clock
        self._beaten_ns: dict[str, int] = {}
        self._limits_s: dict[str, float] = {}
        self._waiting: set[str] = set()

    def register(self, loop: str, limit_s: float) -> None:
        """Expect ``loop`` to beat at least every ``limit_s`` seconds, counted from now.

        Registering again changes the limit. Raises ValueError for a limit that is not positive.
        """
        if not limit_s > 0:
            msg = f"heartbeat limit of loop {loop!r} must be positive, got {limit_s}"
            raise ValueError(msg)
        self._limits_s[loop] = limit_s
        self.beat(loop)

    def beat(self, loop: str) -> None:
        """Note that the loop is alive. Raises KeyError for one that was not registered."""
        if loop not in self._limits_s:
            raise KeyError(loop)
        self._beaten_ns[loop] = self._clock.monotonic_ns()

    @contextmanager
    def waiting(self, loop: str) -> Iterator[None]:
        """Excuse the loop while it waits on purpose: a pause before a retry is no sign of death."""
        self.beat(loop)
        self._waiting.add(loop)
        try:
            yield
        finally:
            self._waiting.discard(loop)
            self.beat(loop)

    def ages(self) -> dict[str, float]:
        """Return seconds since the last beat of each loop; 0 for one that waits on purpose."""
        now_ns = self._clock.monotonic_ns()
        return {
            loop: 0.0 if loop in self._waiting else (now_ns - beaten_ns) / _NS_PER_S
            for loop, beaten_ns in self._beaten_ns.items()
        }

    def limits(self) -> dict[str, float]:
        """Return the limit of each loop in seconds."""
        return dict(self._limits_s)

    def late(self) -> dict[str, float]:
        """Return the age in seconds of each loop that has not beaten within its limit."""
        return {loop: age for loop, age in self.ages().items() if age > self._limits_s[loop]}

    def publish(self, telemetry: Telemetry) -> None:
        """Set the gauges of age and limit of every loop."""
        for loop, age_s in self.ages().items():
            telemetry.gauge("keeper_loop_heartbeat_age_seconds", age_s, loop=loop)
            telemetry.gauge("keeper_loop_heartbeat_limit_seconds", self._limits_s[loop], loop=loop)


# --- loops that run again -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before another try: doubling from ``first_s`` to ``ceiling_s``, jittered.

    A loop that has run for ``healthy_s`` starts over at ``first_s``.
    """

    first_s: float = 0.5
    ceiling_s: float = 15.0
    healthy_s: float = 60.0

    def delay_s(self, failures: int, jitter: float) -> float:
        """Return the wait after the n-th failure in a row.

        ``jitter`` in [0, 1) spreads it over its upper half, so that keepers cut off together do
        not come back together.
        """
        doublings = min(failures - 1, 30)  # beyond it the power only grows, never matters
        full_s = min(self.ceiling_s, self.first_s * 2.0**doublings)
        return full_s * (1 + jitter) / 2


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Keeps loops running that depend on a connection.

    A loop is registered with the heartbeats under its name, and excused from beating between its
    runs. ``sleep`` and ``jitter`` are for tests to replace.
    """

    telemetry: Telemetry
    quarantine: Quarantine
    heartbeats: Heartbeats
    backoff: Backoff = field(default_factory=Backoff)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    async def run_stream_loop(self, name: str, body: Callable[[], Awaitable[None]]) -> NoReturn:
        """Run ``body()`` for ever, again after each TransientError.

        Each is counted (``keeper_reconnects_total``, stream ``name``). Ends when cancelled, or with
        a bug; to end by itself is one.
        """

        async def once() -> None:
            await body()
            raise _ended(name)

        await self._run_again(name, once, lambda: None)

    async def run_venue_loop(
        self, name: str, venue: VenueId, body: Callable[[], Awaitable[None]]
    ) -> NoReturn:
        """Run ``body()`` for ever, like ``run_stream_loop``, and again after a bug.

        A bug puts the venue into quarantine until the loop has run for ``backoff.healthy_s``.
        Ends when cancelled, or with what no restart can mend: ConfigError, MemoryError.
        """

        async def once() -> None:
            with self.quarantine.venue(venue):
                await body()
                raise _ended(name)

        def recovered() -> None:
            if self.quarantine.release(venue):
                log.info("venue released", venue=venue, loop=name)

        await self._run_again(name, once, recovered)

    async def _run_again(
        self, name: str, once: Callable[[], Awaitable[None]], recovered: Callable[[], None]
    ) -> NoReturn:
        failures = 0

        def healthy() -> None:
            nonlocal failures
            failures = 0
            recovered()

        while True:
            timer = asyncio.get_running_loop().call_later(self.backoff.healthy_s, healthy)
            try:
                await once()
            except* TransientError as lost:
                error = "; ".join(str(leaf) for leaf in leaves(lost))[:ERROR_CHARS_MAX]
                log.warning("connection lost", loop=name, error=error)
                self.telemetry.count("keeper_reconnects_total", stream=name)
            finally:
                timer.cancel()
            failures += 1
            with self.heartbeats.waiting(name):
                await self.sleep(self.backoff.delay_s(failures, self.jitter()))


def _ended(loop: str) -> RuntimeError:
    return RuntimeError(f"loop {loop!r} ended by itself; loops run until they are cancelled")


# --- the whole process ----------------------------------------------------------------------------


class _Stopped(Exception):  # noqa: N818 - no error: it carries a signal through the task group
    """The process was told to stop."""


async def run(
    loops: Mapping[str, Callable[[], Awaitable[None]]],
    on_hangup: Callable[[], None] | None = None,
) -> int:
    """Run the loops side by side until SIGINT or SIGTERM, then cancel them; return exit code 0.

    The first exception of a loop cancels the others and is raised, with the loop's name as a note;
    an ExceptionGroup only when several failed. A loop that ends by itself is a bug (RuntimeError).
    Further signals while the loops clean up are ignored; the handlers found are put back at the
    end. ``on_hangup`` is called on every SIGHUP; without it that signal is left alone. Main thread
    only. Raises ValueError without loops.
    """
    if not loops:
        msg = "no loops to run"
        raise ValueError(msg)
    stopping = asyncio.Event()
    try:
        with _signals_set(stopping, on_hangup):
            await _run_until(stopping, loops)
    except BaseExceptionGroup as failed:
        errors = list(leaves(failed))
        if len(errors) > 1:
            raise
        raise errors[0] from None  # the group around a single one only hides it
    return 0


async def _run_until(
    stopping: asyncio.Event, loops: Mapping[str, Callable[[], Awaitable[None]]]
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_endless(name, body), name=name) for name, body in loops.items()
            ]
            group.create_task(_stopped(stopping, tasks), name="signals")
    except* _Stopped:
        log.info("stopped")


async def _stopped(stopping: asyncio.Event, tasks: Collection[asyncio.Task[None]]) -> NoReturn:
    """Wait for a signal, or for the group to end, then cancel the loops until they are gone.

    Once is not enough: Python 3.11's ``wait_for``, which libraries use, swallows a cancellation
    that comes at the moment when what it waits for is done.
    """
    try:
        await stopping.wait()
    finally:
        waiting = {task for task in tasks if not task.done()}
        while waiting:
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=CANCEL_AGAIN_S)
    raise _Stopped


async def _endless(name: str, body: Callable[[], Awaitable[None]]) -> None:
    with Guard(lambda error: _note(error, f"in loop {name!r}")):
        await body()
        raise _ended(name)


def _note(error: BaseException | None, note: str) -> bool:
    """Write a note on whatever leaves a loop, but for its cancelling; nothing stops here."""
    if error is not None:
        for leaf in leaves(error):
            if not isinstance(leaf, asyncio.CancelledError):
                leaf.add_note(note)
    return False


@contextmanager
def _signals_set(stopping: asyncio.Event, on_hangup: Callable[[], None] | None) -> Iterator[None]:
    """Let SIGINT and SIGTERM set the event, and SIGHUP make the call.

    Both explicitly: a shell starts what runs in its background with SIGINT ignored, and Python then
    installs no handler of its own.
    """
    loop = asyncio.get_running_loop()
    numbers = _SIGNALS if on_hangup is None else (*_SIGNALS, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}

    def stop(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        stopping.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    if on_hangup is not None:
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        yield
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            # None: not installed from Python, nothing to put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
