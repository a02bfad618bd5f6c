"""What any stream of prices needs, whatever its transport and messages; no kind of its own.

An inbox for what has arrived, the keys of config.toml that all streams have, and the loop that
connects again whenever the stream ends or falls silent.
"""

import asyncio
import contextlib
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from typing import Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator
from structlog import get_logger

from keeper.errors import ConfigError, TransientError
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.ports import Clock, Telemetry
from keeper.prices.board import is_older

IDLE_S = 1.0  # after which a quiet stream shows that it is being looked after
CHECK_S_MAX = 5.0  # how long ``check_stream`` waits for a price of every feed
REFUSED_WAITING_MAX = 256  # refusals kept for a slow consumer
DOUBLINGS_MAX = 20  # 2**20 ms is beyond the largest maximum
RETRY_S_MAX = 600.0  # whatever a server asks for
FEED_CHARS_MAX = 80
DETAIL_CHARS_MAX = 200
# What decoding a stranger's message may raise; the last for brackets nested too deep.
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)

log = get_logger(__name__)


class RefusedError(TransientError):
    """The server will not serve us. ``retry_s``: the pause it asks for, if it does."""

    def __init__(self, message: str, retry_s: float = 0.0) -> None:
        """Keep what was said."""
        super().__init__(message)
        self.retry_s = min(retry_s, RETRY_S_MAX)


class StreamSettings(BaseModel):
    """The keys that every stream has."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    silence_ms_max: int = Field(
        default=10_000,
        ge=100,
        le=3_600_000,
        strict=True,
        description="Milliseconds without a message on any feed until the connection is replaced, "
        "although it looks alive.",
    )
    reconnect_ms_min: int = Field(
        default=200,
        ge=1,
        le=60_000,
        strict=True,
        description="Upper bound in ms of the first reconnect delay.",
    )
    reconnect_ms_max: int = Field(
        default=5_000,
        ge=1,
        le=600_000,
        strict=True,
        description="Upper bound in ms of every reconnect delay.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.reconnect_ms_min > self.reconnect_ms_max:
            msg = "reconnect_ms_min must not be above reconnect_ms_max"
            raise ValueError(msg)
        return self

    def delay_s(self, failures: int, *, refused: bool = False) -> float:
        """Return how long to wait: exponential with full jitter, so that many do not come at once.

        A refusal takes the longest: what an operator must mend is not mended by hurry.
        """
        if refused:
            return self.reconnect_ms_max / 1000
        bound_ms = self.reconnect_ms_min << min(failures, DOUBLINGS_MAX)
        return secrets.randbelow(min(bound_ms, self.reconnect_ms_max) + 1) / 1000


class Inbox:
    """What has arrived and was not yet taken, in order of arrival; one consumer.

    Bounded: the newest tick of each feed, and ``REFUSED_WAITING_MAX`` refusals. What had to make
    room is counted.
    """

    def __init__(self, name: str, telemetry: Telemetry) -> None:
        """Start empty, for the source of this name."""
        self._name = name
        self._telemetry = telemetry
        self._waiting: dict[FeedId | int, Tick | Rejected] = {}  # a refusal's key is its number
        self._refused: deque[int] = deque()
        self._numbered = 0
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.heard_s = self._loop.time()  # when the last item came, on the loop's clock

    def put(self, item: Tick | Rejected) -> None:
        """Take in what was read from the socket; never waits."""
        self.heard_s = self._loop.time()
        if isinstance(item, Tick):
            waiting = self._waiting.get(item.feed)
            if isinstance(waiting, Tick):
                if is_older(item, waiting):
                    detail = "a newer one was waiting"
                    item = Rejected(item.source, Rejection.OUT_OF_ORDER, item.feed, detail)
                else:
                    self._telemetry.count("keeper_price_conflated_total", stream=self._name)
        if isinstance(item, Tick):
            self._waiting[item.feed] = item
        else:
            self._refuse(item)
        self._event.set()

    def take(self) -> Tick | Rejected | None:
        """Return what has waited longest; None when there is nothing."""
        if not self._waiting:
            return None
        key = next(iter(self._waiting))
        if isinstance(key, int):
            self._refused.popleft()
        return self._waiting.pop(key)

    def wake(self, *_: object) -> None:
        """End a ``wait`` although nothing has arrived."""
        self._event.set()

    async def wait(self) -> None:
        """Return once something has arrived since the last ``wait``, or ``wake`` was called."""
        await self._event.wait()
        self._event.clear()

    async def next(self) -> Tick | Rejected | None:
        """Return what came in, or None after ``IDLE_S`` without anything."""
        item = self.take()
        if item is not None:
            return item
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await self.wait()
        return self.take()

    def _refuse(self, item: Rejected) -> None:
        if len(self._refused) == REFUSED_WAITING_MAX:
            del self._waiting[self._refused.popleft()]
            self._telemetry.count("keeper_price_refusals_shed_total", stream=self._name)
        self._numbered += 1
        self._refused.append(self._numbered)
        self._waiting[self._numbered] = item


Read = Callable[[Inbox], Awaitable[None]]
"""Connects once and puts what it reads into the inbox.

Returns when the server ends the stream; raises TransientError when it is lost.
"""


async def follow(
    name: str, settings: StreamSettings, read: Read, telemetry: Telemetry
) -> AsyncGenerator[Tick | Rejected | None, None]:
    """Yield the newest tick of each feed, and what was refused; reconnect without end.

    A task of its own reads, so that a slow consumer misses superseded ticks, never the newest.
    """
    inbox = Inbox(name, telemetry)
    async with asyncio.TaskGroup() as group:
        reading = _read_again(name, settings, read, inbox, telemetry)
        task = group.create_task(reading, name=f"reading {name}")
        with contextlib.suppress(GeneratorExit):  # a group would take it for an error
            while True:
                yield await inbox.next()
        task.cancel()


async def _read_again(
    name: str, settings: StreamSettings, read: Read, inbox: Inbox, telemetry: Telemetry
) -> None:
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        opened_s = inbox.heard_s = loop.time()
        error = TransientError("the server ended the stream")
        try:
            await _until_silent(settings, read, inbox)
        except* TransientError as lost:
            error = next(each for each in lost.exceptions if isinstance(each, TransientError))
        # A server that accepts and drops at once is failing too: only a stream that has lasted
        # starts the delays anew.
        if inbox.heard_s - opened_s > settings.reconnect_ms_max / 1000:
            failures = 0
        refused = isinstance(error, RefusedError)
        delay_s = settings.delay_s(failures, refused=refused)
        if isinstance(error, RefusedError):
            delay_s = max(delay_s, error.retry_s)
        failures += 1
        telemetry.count("keeper_reconnects_total", stream=name)
        write = log.error if refused else log.warning
        said = "price source refuses the keeper" if refused else "price source lost"
        write(said, source=name, error=str(error), retry_ms=round(delay_s * 1000))
        await asyncio.sleep(delay_s)


async def _until_silent(settings: StreamSettings, read: Read, inbox: Inbox) -> None:
    """Read until the stream ends; raises a group of one TransientError."""
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_awaited(read, inbox), name="one connection")
        while not reading.done():
            quiet_s = asyncio.get_running_loop().time() - inbox.heard_s
            left_s = settings.silence_ms_max / 1000 - quiet_s
            if left_s <= 0:
                msg = f"no message on any feed for {settings.silence_ms_max} ms"
                raise TransientError(msg)
            await asyncio.wait({reading}, timeout=left_s)


async def _awaited(read: Read, inbox: Inbox) -> None:
    await read(inbox)


async def check_stream(
    name: str, server: str, feeds: Collection[FeedId], read: Read, telemetry: Telemetry
) -> str:
    """Connect once and say which feeds have a price; raises TransientError."""
    inbox = Inbox(name, telemetry)
    priced: set[FeedId] = set()
    refused: dict[str, str] = {}
    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_awaited(read, inbox), name=f"checking {name}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S_MAX):
                    while len(priced) < len(feeds) and not reading.done():
                        item = await inbox.next()
                        if isinstance(item, Tick):
                            priced.add(item.feed)
                        elif item is not None:
                            refused[item.feed] = f"{item.reason}: {item.detail}"
            reading.cancel()
    except* TransientError as lost:
        msg = f"{name}: {server}: {'; '.join(str(each) for each in lost.exceptions)}"
        raise TransientError(msg) from lost
    return told(server, feeds, priced, refused)


class StreamSource(ABC):
    """What a source over one stream has beside its messages. Implements ``ports.PriceSource``.

    ``server``: safe to print. ``feeds``: the feed of each symbol, in the source's own words.
    """

    def __init__(
        self,
        name: str,
        server: str,
        settings: StreamSettings,
        feeds: Mapping[str, FeedId],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """Connect to nothing yet."""
        self.name = name
        self._server = server
        self._stream = settings
        self._feeds = dict(feeds)
        self._clock = clock
        self._telemetry = telemetry

    def ticks(self) -> AsyncGenerator[Tick | Rejected | None, None]:
        """Yield the newest tick of each feed, and what was refused; reconnect without end."""
        return follow(self.name, self._stream, self.read, self._telemetry)

    async def check(self) -> str:
        """Connect once and say which feeds have a price; raises TransientError."""
        feeds = self._feeds.values()
        return await check_stream(self.name, self._server, feeds, self.read, self._telemetry)

    @abstractmethod
    async def read(self, inbox: Inbox) -> None:
        """Connect once and put what is read into the inbox, until the server ends the stream.

        Raises TransientError.
        """

    def rejected(self, reason: Rejection, feed: str, detail: str) -> Rejected:
        """Return a refusal; what it quotes is cut short."""
        return rejected(self.name, reason, feed, detail)


def told(
    server: str, feeds: Collection[FeedId], priced: Collection[FeedId], refused: Mapping[str, str]
) -> str:
    """Say what a check has found."""
    parts = [f"{server} answered, {len(priced)} of {len(feeds)} feeds have a price"]
    if missing := sorted(set(feeds) - set(priced)):
        parts.append(f"none for {', '.join(missing)}")
    parts += [f"{feed or 'a message'} refused ({detail})" for feed, detail in refused.items()]
    return "; ".join(parts)


def by_symbol(
    name: str, given: Mapping[str, FeedId], feeds: Collection[FeedId], what: str
) -> dict[str, FeedId]:
    """Check the feeds of a source's symbols against the feeds that name the source.

    Raises ConfigError with every mistake. ``what``: a symbol, in the words of the source.
    """
    mapped = list(given.values())
    problems = [
        f"{name}: feed {feed} names this source, which has no {what} for it: add one to its feeds"
        for feed in feeds
        if feed not in mapped
    ]
    problems += [
        f"{name}: feed {feed} has {mapped.count(feed)} {what}s: leave one"
        for feed in dict.fromkeys(mapped)
        if mapped.count(feed) > 1
    ]
    if problems:
        raise ConfigError(problems)
    return {symbol: feed for symbol, feed in given.items() if feed in feeds}


def rejected(source: str, reason: Rejection, feed: str, detail: str) -> Rejected:
    """Return a refusal; what it quotes is cut short."""
    return Rejected(source, reason, feed[:FEED_CHARS_MAX], detail[:DETAIL_CHARS_MAX])
