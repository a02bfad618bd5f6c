"""Prices of Chainlink feeds on the keeper's own chain: what a push venue itself goes by.

A proxy passes on to an aggregator, which logs ``AnswerUpdated`` and may be exchanged. So each proxy
is asked at the start, and again every ``ask_ms``, for its aggregator and its latest answer; between
that the aggregators' logs tell. An answer stands until the next one: feeds that only write when the
price has moved need an ``age_ms_max`` beyond their heartbeat.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from structlog import get_logger

from keeper.errors import RpcError, RpcFault, TransientError, TransientRpcError
from keeper.facts import FeedId, Log, Rejected, Rejection, Tick
from keeper.ports import Clock, Rpc, Telemetry
from keeper.prices._stream import by_symbol, rejected
from keeper.units import WAD

LATEST_ROUND_DATA = "0xfeaf968c"
AGGREGATOR = "0x245a7bfc"
DECIMALS = "0x313ce567"
ANSWER_UPDATED = "0x0559884fd3a460db3073b7fc896cc77986f16e378210ded43186175bf646fc5f"
DECIMALS_MAX = 36
SECONDS_MAX = 10**11  # the year 5138
BLOCKS_MAX = 500  # of one log query; further behind, every proxy is asked again
WORD = 64  # hexadecimal digits

log = get_logger(__name__)


class Settings(BaseModel):
    """The proxies, on the chain of the keeper."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    feeds: dict[Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")], FeedId] = Field(
        min_length=1, max_length=200, description="Address of the proxy → keeper feed."
    )
    poll_ms: int = Field(
        default=1_000,
        ge=50,
        le=30_000,
        strict=True,
        description="Milliseconds between two looks at the logs.",
    )
    ask_ms: int = Field(
        default=60_000,
        ge=1_000,
        le=3_600_000,
        strict=True,
        description="Milliseconds until every proxy is asked for its aggregator and answer again.",
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an aggregator says, in its own decimals."""

    answer: int
    updated_s: int


class ChainlinkSource:
    """Implements ``ports.PriceSource`` by polling."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        feeds: Mapping[str, FeedId],
        clock: Clock,
        telemetry: Telemetry,
        rpc: Rpc,
    ) -> None:
        """Ask nothing yet. ``feeds``: by proxy, lower case."""
        self.name = name
        self._settings = settings
        self._feeds = dict(feeds)
        self._clock = clock
        self._telemetry = telemetry
        self._rpc = rpc
        self._decimals: dict[FeedId, int] = {}
        self._feed_of: dict[str, FeedId] = {}  # by aggregator
        self._last: dict[FeedId, _Answer] = {}
        self._block: int | None = None  # up to which logs were read
        self._asked_ns = 0

    async def ticks(self) -> AsyncGenerator[Tick | Rejected | None, None]:
        """Yield every answer that is new, None after each look without one."""
        while True:
            try:
                found = await self._look()
            except TransientError as error:
                self._telemetry.count("keeper_reconnects_total", stream=self.name)
                log.warning("price source lost", source=self.name, error=str(error))
                self._block = None  # whatever was missed: ask all again
                found = []
            for item in found:
                yield item
            yield None
            await asyncio.sleep(self._settings.poll_ms / 1000)

    async def check(self) -> str:
        """Ask every proxy once; raises TransientError."""
        found = await self._ask_all(await self._head())
        refused = [item for item in found if isinstance(item, Rejected)]
        said = f"{len(self._feeds) - len(refused)} of {len(self._feeds)} proxies answered"
        return "; ".join([said, *(f"{item.feed} refused ({item.detail})" for item in refused)])

    async def _look(self) -> list[Tick | Rejected]:
        head = await self._head()
        elapsed_ms = (self._clock.monotonic_ns() - self._asked_ns) // 1_000_000
        behind = None if self._block is None else head - self._block
        if behind is None or not 0 <= behind <= BLOCKS_MAX or elapsed_ms >= self._settings.ask_ms:
            found = await self._ask_all(head)
            self._asked_ns = self._clock.monotonic_ns()
        else:
            found = await self._logs(head - behind + 1, head) if behind else []
        self._block = head
        return found

    async def _head(self) -> int:
        return _number(await _asked(self._rpc, "eth_blockNumber", []))

    async def _ask_all(self, block: int) -> list[Tick | Rejected]:
        """Ask every proxy at a block for its decimals, its aggregator and its answer."""
        requests = [
            ("eth_call", [{"to": proxy, "data": data}, hex(block)])
            for proxy in self._feeds
            for data in (DECIMALS, AGGREGATOR, LATEST_ROUND_DATA)
        ]
        answers = await _asked_each(self._rpc, requests)
        feed_of: dict[str, FeedId] = {}
        found: list[Tick | Rejected] = []
        for number, feed in enumerate(self._feeds.values()):
            try:
                decimals, aggregator, data = answers[3 * number : 3 * number + 3]
                self._decimals[feed] = _number(decimals)
                feed_of["0x" + _words(aggregator, 1)[0][-40:]] = feed
                _, answer, _, updated, _ = _words(data, 5)
                found += self._new(feed, _Answer(_signed(answer), int(updated, 16)))
            except TransientRpcError as error:
                found.append(rejected(self.name, Rejection.MALFORMED, feed, str(error)))
        self._feed_of = feed_of
        return found

    async def _logs(self, first: int, last: int) -> list[Tick | Rejected]:
        """Read what the aggregators logged in these blocks."""
        query = {
            "address": list(self._feed_of),
            "fromBlock": hex(first),
            "toBlock": hex(last),
            "topics": [ANSWER_UPDATED],
        }
        found: list[Tick | Rejected] = []
        logs: list[Log] = await _asked(self._rpc, "eth_getLogs", [query]) if self._feed_of else []
        for log in logs:
            try:
                feed = self._feed_of[log.address]
                answer = _signed(_words(log.topics[1], 1)[0])
                updated_s = _number("0x" + _words("0x" + log.data.hex(), 1)[0])
            except (TransientRpcError, KeyError, IndexError) as error:
                found.append(rejected(self.name, Rejection.MALFORMED, "", f"log: {error}"))
                continue
            found += self._new(feed, _Answer(answer, updated_s))
        return found

    def _new(self, feed: FeedId, answer: _Answer) -> list[Tick | Rejected]:
        """Return the tick of an answer, unless it was said before."""
        if answer == self._last.get(feed):
            return []
        self._last[feed] = answer
        decimals = self._decimals[feed]
        if decimals > DECIMALS_MAX or not 0 < answer.updated_s < SECONDS_MAX:
            detail = f"{decimals} decimals, updated at {answer.updated_s}"
            return [rejected(self.name, Rejection.MALFORMED, feed, detail)]
        tick = Tick(
            feed=feed,
            source=self.name,
            price_wad=answer.answer * WAD // 10**decimals,
            published_ms=answer.updated_s * 1000,
            received_ms=self._clock.wall_ms(),
            received_ns=self._clock.monotonic_ns(),
        )
        return [tick]


async def _asked(rpc: Rpc, method: str, params: Sequence[object]) -> Any:  # noqa: ANN401 - JSON
    """Return the answer; whatever goes wrong is worth another try."""
    try:
        return await rpc.call(method, params)
    except RpcError as error:
        raise TransientError(str(error)) from error


async def _asked_each(rpc: Rpc, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
    try:
        return await rpc.batch(requests)
    except RpcError as error:
        raise TransientError(str(error)) from error


def _words(data: object, count: int) -> list[str]:
    """Cut return data into its words; raises TransientRpcError when it has fewer."""
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 2 + count * WORD:
        digits = data[2:].lower()
        if not digits.strip("0123456789abcdef"):
            return [digits[at : at + WORD] for at in range(0, count * WORD, WORD)]
    raise TransientRpcError(RpcFault.GARBAGE, f"no answer of a price feed: {str(data)[:60]}")


def _number(data: object) -> int:
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return int(data, 16)
        except ValueError:
            pass
    raise TransientRpcError(RpcFault.GARBAGE, f"not a number: {str(data)[:60]}")


def _signed(word: str) -> int:
    value = int(word, 16)
    return value - 2**256 if value >= 2**255 else value


def build(
    settings: Settings,
    name: str,
    feeds: Sequence[FeedId],
    clock: Clock,
    telemetry: Telemetry,
    rpc: Rpc,
) -> ChainlinkSource:
    """Put a source together; raises ConfigError for feeds without a proxy."""
    given = {proxy.lower(): feed for proxy, feed in settings.feeds.items()}
    return ChainlinkSource(
        name, settings, by_symbol(name, given, feeds, "proxy"), clock, telemetry, rpc
    )
