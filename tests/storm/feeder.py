"""Brings a price to the world with every block: on chain, to the broker, or both.

*push*  the aggregators are set for the next block; the broker's price leads them by ``LEAD``
        blocks, is half a percent off, and falls silent for a while
*pull*  nothing goes on chain but by the keeper; every price comes signed, through the broker

What the broker took, and when, is kept: it is what the judge judges by.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from keeper.units import wad_to_float
from tests.storm.path import BTC, ETH
from tests.synthetix.deploy import signed_update
from tests.synthetix.world import Call, World

LEAD = 3  # blocks that the broker's price is ahead of the chain's
OFF_PPM = 5_000  # and how far it is off, to one side and then to the other
OFF_BLOCKS = 8  # so long to one side
TAKEN_S_MAX = 1.0
POLL_S = 0.01
FEEDS = {ETH: "ETH/USD", BTC: "BTC/USD"}
NATIVE = "NATIVE/USD"
Prices = Mapping[int, int]


class Heard(Protocol):
    """Who is told of every new block."""

    def __call__(self, number: int, known: "Known", /) -> None: ...


@dataclass(frozen=True, slots=True)
class Signed:
    """Updates of all feeds, published at one second of chain time."""

    published_s: int
    updates: tuple[bytes, ...]
    taken: bool  # by the broker, as far as we heard: anybody can know it


@dataclass(frozen=True, slots=True)
class Known:
    """What had been sent to the broker when a block was mined, newest last."""

    signed: tuple[Signed, ...] = ()
    prices: Prices = field(default_factory=dict)  # set on chain for this block, in a push market

    @property
    def newest(self) -> tuple[bytes, ...]:
        """Return the newest updates that the broker had; what was only sent may be anywhere."""
        return next((it.updates for it in reversed(self.signed) if it.taken), ())


class Feeder(threading.Thread):
    """One thread that follows the chain's clock."""

    def __init__(
        self, world: World, broker_port: int, prefix: str, path: Sequence[Prices], heard: Heard
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self.playing = False  # else the present price stands
        self.silent: range = range(0)  # steps of the path without a message to the broker
        self.at = 0  # step of the path
        self.trouble: BaseException | None = None
        self._world = world
        self._port = broker_port
        self._prefix = prefix
        self._path = path
        self._heard = heard
        self._ended = threading.Event()
        self._sequence = 0
        self._signed: list[Signed] = []
        self._set: Prices = {}
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.taken = 0  # by the broker

    @property
    def over(self) -> bool:
        """Say whether the last price of the path stands."""
        return self.at == len(self._path) - 1

    def run(self) -> None:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        try:
            self._follow()
        except BaseException as error:
            self.trouble = error
            raise
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _follow(self) -> None:
        last = self._head() or 0
        while not self._ended.wait(POLL_S):
            number = self._head()
            if number is None or number <= last:
                continue
            for block in range(last + 1, number + 1):
                self._heard(block, Known(tuple(self._signed), dict(self._set)))
            last = number
            if self.playing and not self.over:
                self.at += 1
            self._bring()

    def _head(self) -> int | None:
        try:
            return self._world.chain.number()
        except ConnectionError:
            return None  # it is being restarted

    def _bring(self) -> None:
        prices = self._path[self.at]
        self._world.prices.update(prices)
        if self._world.system.pyth is None:
            self._push(prices)
            ahead = self._path[min(self.at + LEAD, len(self._path) - 1)]
            side = 1 if self.at // OFF_BLOCKS % 2 else -1
            off = {it: p + side * p * OFF_PPM // 1_000_000 for it, p in ahead.items()}
            self._publish(off, {})
            return
        second = int(time.time())
        if self._signed and second <= self._signed[-1].published_s:
            return  # the contract takes one price a second
        payloads = {
            market: signed_update(self._world.system.markets[market].feed, price, second)
            for market, price in prices.items()
        }
        taken = self._publish(prices, payloads, second * 1_000)
        self._signed.append(Signed(second, tuple(payloads.values()), taken))

    def _push(self, prices: Prices) -> None:
        """Set the aggregators in the next block, without waiting for it."""
        calls = [
            Call(feed, "setAnswer", (prices[market],))
            for market, feed in self._world.system.aggregators.items()
        ]
        try:
            self._world.begin(calls, self._world.publisher)
        except ConnectionError:
            return
        self._set = prices

    def _publish(
        self, prices: Prices, payloads: Mapping[int, bytes], ts_ms: int | None = None
    ) -> bool:
        """Send all feeds; say whether the broker took every one."""
        if self.at in self.silent or not self._client.is_connected():
            return False
        now_ms = ts_ms or time.time_ns() // 1_000_000
        sent = []
        named = {FEEDS[market]: (price, payloads.get(market)) for market, price in prices.items()}
        for feed, (price, payload) in (named | {NATIVE: (prices[ETH], None)}).items():
            self._sequence += 1
            message = {
                "price": f"{wad_to_float(price):.2f}",
                "ts": now_ms,
                "epoch": 1,
                "seq": self._sequence,
            }
            if payload is not None:
                message["payload"] = "0x" + payload.hex()
            topic = f"{self._prefix}/prices/{feed.replace('/', '-')}"
            sent.append(self._client.publish(topic, json.dumps(message), qos=1, retain=True))
        deadline = time.monotonic() + TAKEN_S_MAX
        while not all(it.is_published() for it in sent) and time.monotonic() < deadline:
            time.sleep(POLL_S / 5)
        taken = all(it.is_published() for it in sent)
        self.taken += taken
        return taken
