"""Junk on the price topics of a running keeper: refused, counted, and nothing is done about it."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from keeper.units import WAD
from tests.e2e.rig import KeeperProcess, Options, Rig, topic_of
from tests.market_chain import payload_of

ETH = topic_of("ETH/USD")
COUNTED_S_MAX = 5.0
CRASHED = 1_500 * WAD
REJECTIONS = "keeper_price_rejections_total"


@pytest.fixture(scope="module")
def keeper(rig: Rig) -> Iterator[KeeperProcess]:
    """A ready keeper with an account that the signed price in the junk would sink."""
    rig.open_safe()
    with rig.keeper(Options(ws=None)) as running:
        running.until_ready()
        yield running
        running.stop()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


Make = Callable[[Rig], bytes]


def price(**changes: object) -> Make:
    """Return what makes a message that sinks the account but for these fields; None: without it."""

    def make(rig: Rig) -> bytes:
        good: dict[str, object] = {
            "price": f"{CRASHED / WAD:.2f}",
            "ts": now_ms(),
            # an order newer than everything, so that no other gate refuses it first
            "epoch": 2,
            "seq": 1,
            "payload": "0x" + payload_of(rig.chain.sign(0, CRASHED, now_ms())).hex(),
        }
        fields = {name: value for name, value in (good | changes).items() if value is not None}
        return json.dumps(fields).encode()

    return make


def raw(payload: bytes) -> Make:
    return lambda _: payload


def at(offset_ms: int) -> Make:
    def make(rig: Rig) -> bytes:
        return price(ts=now_ms() + offset_ms)(rig)

    return make


@dataclass(frozen=True)
class Junk:
    name: str
    reason: str
    make: Make
    topic: str = ETH


JUNK = [
    Junk("no JSON", "malformed", raw(b"{")),
    Junk("nothing", "malformed", raw(b"")),
    Junk("no UTF-8", "malformed", raw(b'{"price":"\xff\xfe","ts":1}')),
    Junk("not an object", "malformed", raw(b"[1999.5]")),
    Junk("nested without end", "malformed", raw(b'{"price":' + b"[" * 2_000)),
    Junk("no price", "malformed", price(price=None)),
    Junk("no time", "malformed", price(ts=None)),
    Junk("an extra field", "malformed", price(prize="1")),
    Junk("text for a price", "malformed", price(price="about two thousand")),
    Junk("true for a price", "malformed", price(price=True)),
    Junk("NaN as text", "malformed", price(price="NaN")),
    Junk("NaN", "malformed", price(price=float("nan"))),
    Junk("infinite", "malformed", price(price=float("inf"))),
    Junk("a number without end", "malformed", raw(b'{"price":1e999,"ts":1}')),
    Junk("negative", "not_positive", price(price="-1999.5")),
    Junk("zero", "not_positive", price(price="0")),
    Junk("almost zero", "absurd", price(price="0.0000000000001")),
    Junk("in wads", "absurd", price(price="1999500000000000000000")),
    Junk("half of it", "jump", price(price="900")),
    Junk("very unsure", "wide_confidence", price(conf="500")),
    Junk("confidence below zero", "malformed", price(conf="-1")),
    Junk("a payload that is no hex", "malformed", price(payload="signed")),
    Junk("from the future", "future", at(60_000)),
    Junk("from the past", "stale", at(-60_000)),
    Junk("from before time", "malformed", price(ts=-1)),
    Junk("time as text", "malformed", price(ts="now")),
    Junk("an old order", "out_of_order", price(epoch=0, seq=1)),
    Junk("oversized", "oversized", price(payload="0x" + "00" * 10_000)),
    Junk("megabytes", "oversized", raw(b" " * 900_000)),
    Junk("an unknown feed", "unknown_feed", price(), "prices/DOGE-USD"),
]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: junk.name)
def test_junk_is_refused_and_counted(rig: Rig, keeper: KeeperProcess, junk: Junk) -> None:
    with rig.oracle.calm:
        rig.oracle.publish()
        good = keeper.metric("keeper_price_updates_total")
        before = keeper.metric(REJECTIONS, reason=junk.reason)
        others = keeper.metric(REJECTIONS) - before

        rig.oracle.send(junk.topic, junk.make(rig))

        keeper.until(lambda: keeper.metric(REJECTIONS, reason=junk.reason) > before, COUNTED_S_MAX)
        assert keeper.metric(REJECTIONS, reason=junk.reason) == before + 1
        assert keeper.metric(REJECTIONS) == before + 1 + others
        rig.oracle.publish()
        keeper.until(lambda: keeper.metric("keeper_price_updates_total") > good, COUNTED_S_MAX)
    assert keeper.healthy
    assert keeper.unready() == []
    assert rig.nonce(keeper.wallet, "pending") == 0
    assert keeper.metric("keeper_under_margined_accounts") == 0


def test_a_flood_of_junk_does_not_stop_the_good_prices(rig: Rig, keeper: KeeperProcess) -> None:
    before = keeper.metric(REJECTIONS, reason="malformed")
    shed = keeper.metric("keeper_price_refusals_shed_total")
    for _ in range(1_000):
        rig.oracle.send(ETH, b"{")

    def counted() -> bool:
        refused = keeper.metric(REJECTIONS, reason="malformed") - before
        return refused + keeper.metric("keeper_price_refusals_shed_total") - shed == 1_000

    keeper.until(counted, COUNTED_S_MAX)
    assert keeper.unready() == []
    assert keeper.metric("keeper_price_age_seconds", feed="ETH/USD") < 2


def test_what_the_junk_carried_is_acted_on_when_it_comes_in_a_good_message(
    rig: Rig, keeper: KeeperProcess
) -> None:
    """The last test: it moves the market. It shows that the others could have failed."""
    assert rig.nonce(keeper.wallet, "pending") == 0
    rig.oracle.send(ETH, price()(rig))

    keeper.until(lambda: len(rig.liquidations()) == 1, COUNTED_S_MAX)
    assert rig.liquidations()[0]["liquidator"] == keeper.wallet
