"""The oracle of the demo: signs prices, publishes them over MQTT, remembers what it published when.

One retained message a feed, QoS 1, the payload described in ARCHITECTURE.md. Each tick is signed
when it is published, so a price that had to wait for the broker carries the time it really left.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Self

import aiomqtt

from keeper.demo.contract import PriceSigner, SignedPrice
from keeper.demo.path import PricePath, Prices
from keeper.demo.terms import FEED_BTC, FEED_ETH, FEEDS
from keeper.units import WAD

PREFIX = "keeper"
ACK_LIMIT_S = 5.0
RECONNECT_S = 0.2  # the broker is on loopback and ours
REPEAT_S = 0.5  # how often a standing price is published again
_CENT = WAD // 100
_quiet = logging.getLogger(__name__)
_quiet.setLevel(logging.CRITICAL)  # a broker that is killed on purpose is not worth a line


@dataclass(slots=True)
class Published:
    """One signed price: when it was handed to the broker, and when the broker took it (ms)."""

    update: SignedPrice
    sent_ms: int
    acked_ms: int | None = None


class PriceRecord:
    """Every price that left, by feed, oldest first: what the judge judges by."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_feed: dict[int, list[Published]] = {feed: [] for feed in range(len(FEEDS))}
        self.ticks = 0

    def add(self, published: Published) -> None:
        """Note a price before it leaves: nobody can have acted on it earlier."""
        self._by_feed[published.update.feed].append(published)

    def acknowledge(self, published: Published, now_ms: int) -> None:
        """Note that the broker has it: from now on everybody can know it."""
        published.acked_ms = now_ms
        self.ticks += 1

    def newest(self, at_ms: int) -> list[SignedPrice]:
        """Return each feed's newest price that the broker had at ``at_ms``."""
        newest = []
        for prices in self._by_feed.values():
            for price in reversed(prices):
                if price.acked_ms is not None and price.acked_ms <= at_ms:
                    newest.append(price.update)
                    break
        return newest

    def usable(self, feed: int, oldest_ms: int, at_ms: int) -> list[SignedPrice]:
        """Return a feed's prices, newest first: left by ``at_ms``, not older than that."""
        found = []
        for price in reversed(self._by_feed[feed]):
            if price.update.published_ms < oldest_ms:
                break
            if price.sent_ms <= at_ms:
                found.append(price.update)
        return found


class _Connection(aiomqtt.Client):
    """A connection whose loss is no news: the next publish says so, and the log need not."""

    async def __aenter__(self) -> Self:
        """Connect; the base leaves the socket with the loop when this is cancelled."""
        entered = False
        try:
            await super().__aenter__()
            entered = True
        finally:
            if not entered:
                await asyncio.sleep(0)  # the base registers the writer with the loop a step later
                self._client._sock_close()  # noqa: SLF001 - the public ways wait for an answer
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # looked at, or asyncio complains that nobody did
        await super().__aexit__(exc_type, exc, tb)


class Publisher:
    """Publishes the newest price of each feed; when the broker is away, ticks are skipped."""

    def __init__(self, signer: PriceSigner, record: PriceRecord, port: int) -> None:
        """Publish to the broker on loopback ``port``; ``run`` does the work."""
        self.current: Prices | None = None
        self._signer = signer
        self._record = record
        self._port = port
        self._epoch = int(time.time())
        self._sequence = 0
        self._last_ms = 0
        self._fresh = asyncio.Event()

    def offer(self, prices: Prices) -> None:
        """Make these the prices to publish next."""
        self.current = prices
        self._fresh.set()

    async def run(self) -> None:
        """Publish what is offered, and again what stands, until cancelled."""
        while not _is_cancelled():
            try:
                async with self._connect() as client:
                    while not _is_cancelled():
                        await self._offered()
                        await self._publish(client)
            except aiomqtt.MqttError:
                if not _is_cancelled():
                    self._fresh.set()  # whatever is newest by then
                    await asyncio.sleep(RECONNECT_S)

    def _connect(self) -> _Connection:
        return _Connection("127.0.0.1", self._port, timeout=ACK_LIMIT_S, logger=_quiet)

    async def _offered(self) -> None:
        """Wait for new prices, at most until the old ones have stood for ``REPEAT_S``."""
        try:
            async with asyncio.timeout(REPEAT_S):
                await self._fresh.wait()
        except TimeoutError:
            return
        self._fresh.clear()

    async def _publish(self, client: aiomqtt.Client) -> None:
        if self.current is None:
            return
        for feed, price in ((FEED_BTC, self.current.btc), (FEED_ETH, self.current.eth)):
            published = self._sign(feed, price)
            self._record.add(published)
            topic = f"{PREFIX}/prices/{FEEDS[feed].replace('/', '-')}"
            await client.publish(topic, self._message(published.update), qos=1, retain=True)
            self._record.acknowledge(published, _now_ms())

    def _sign(self, feed: int, price: int) -> Published:
        self._last_ms = max(_now_ms(), self._last_ms + 1)  # the contract wants strictly newer ones
        return Published(self._signer.sign(feed, price, self._last_ms), _now_ms())

    def _message(self, update: SignedPrice) -> bytes:
        self._sequence += 1
        message = {
            "price": str(Decimal(update.price // _CENT) / 100),
            "ts": update.published_ms,
            "epoch": self._epoch,
            "seq": self._sequence,
            "payload": "0x" + update.payload.hex(),
        }
        return json.dumps(message).encode()


async def play(path: PricePath, publisher: Publisher, speed: float) -> None:
    """Offer the ticks of the path at ``speed`` candles a second, by the clock."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for index, candle in enumerate(path.candles):
        for number, prices in enumerate(candle):
            due = start + (index + number / len(candle)) / speed
            await asyncio.sleep(max(0.0, due - loop.time()))
            publisher.offer(prices)
    await asyncio.sleep(max(0.0, start + len(path.candles) / speed - loop.time()))


def newest_first_pairs(
    left: Sequence[SignedPrice], right: Sequence[SignedPrice]
) -> list[tuple[SignedPrice, ...]]:
    """Return every choice of at most one price a feed, the newest ones first, none at all last."""
    return [
        (*left[first : first + 1], *right[total - first : total - first + 1])
        for total in range(len(left) + len(right) + 1)
        for first in range(max(0, total - len(right)), min(total, len(left)) + 1)
    ]


def _is_cancelled() -> bool:
    """Whether this task shall end: aiomqtt may take the cancellation itself for an answer.

    (Its ``wait_for`` returns a result that comes with the cancellation, before Python 3.12, and an
    unanswered farewell raises in its place.)
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
