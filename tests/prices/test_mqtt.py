"""What the MQTT source makes of messages, with a real broker: nats-server on loopback."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt
import pytest
from pydantic import ValidationError

from keeper.config import SecretRef
from keeper.errors import ConfigError
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.prices import _mqtt_session, _stream
from keeper.prices.board import FeedRules, PriceBoard
from keeper.prices.mqtt import Settings, build
from keeper.units import WAD
from tests.brokers import Broker
from tests.fakes import NoRpc
from tests.prices.mqtt_rig import (
    BTC,
    ETH,
    FEEDS,
    S_MAX,
    WETH,
    CountingClock,
    CountingTelemetry,
    Proxy,
    Rig,
    first_tick,
    flood,
    payload_of,
    reading,
    until,
)

if TYPE_CHECKING:
    from keeper.ports import PriceSource

# --- messages -------------------------------------------------------------------------------------


async def test_a_full_message_becomes_a_full_tick(broker: Broker) -> None:
    rig = Rig(broker)
    source: PriceSource = rig.source
    assert source.name == "mqtt-1"
    async with rig.publisher() as publisher:
        message = {"price": "64123.45", "conf": "12.3", "epoch": 1767220000, "seq": 42}
        await publisher.price("BTC-USD", **message, payload="0x00fF")
        before_ms = rig.clock.wall_ms()
        async with reading(rig.source) as ticks:
            tick = await anext(ticks)
    assert isinstance(tick, Tick)
    assert before_ms <= tick.received_ms <= rig.clock.wall_ms()
    assert 0 < tick.received_ns <= time.monotonic_ns()
    assert tick == Tick(
        feed=BTC,
        source="mqtt-1",
        price_wad=64_123_450_000_000_000_000_000,
        published_ms=1_767_225_600_123,
        received_ms=tick.received_ms,
        received_ns=tick.received_ns,
        conf_wad=12_300_000_000_000_000_000,
        epoch=1_767_220_000,
        sequence=42,
        payload=b"\x00\xff",
    )


async def test_retained_prices_come_first_and_live_ones_after(broker: Broker) -> None:
    rig = Rig(broker)
    async with rig.publisher() as publisher:
        for label in ("BTC-USD", "ETH-USD", "WETH"):
            await publisher.price(label, seq=1)
        async with reading(rig.source) as ticks:
            retained = [await anext(ticks) for _ in FEEDS]
            assert {tick.feed for tick in retained} == set(FEEDS)
            await publisher.raw("WETH", payload_of(seq=2))
            live = await anext(ticks)
    assert isinstance(live, Tick)
    assert (live.feed, live.sequence) == (WETH, 2)


async def test_a_number_is_taken_for_a_price_as_well(broker: Broker) -> None:
    rig = Rig(broker)
    given = {64123.45: 64_123_450 * 10**15, 7: 7 * WAD, 1e-7: 10**11, "1.5e3": 1_500 * WAD}
    async with rig.publisher() as publisher, reading(rig.source) as ticks:
        for sequence, (price, wad) in enumerate(given.items(), start=1):
            await publisher.price("WETH", price=price, seq=sequence)
            assert (await first_tick(ticks, sequence)).price_wad == wad


MALFORMED = {
    b"": "truncated",
    b"nonsense": "malformed",
    b"[]": "Expected `object`",
    b'{"ts":1}': "missing required field `price`",
    b'{"price":"1"}': "missing required field `ts`",
    b'{"price":"1","ts":1,"size":2}': "unknown field `size`",
    b'{"price":"NaN","ts":1}': "$.price",
    b'{"price":"Infinity","ts":1}': "$.price",
    b'{"price":NaN,"ts":1}': "malformed",
    b'{"price":1e999,"ts":1}': "$.price",
    b'{"price":"1_000","ts":1}': "$.price",
    b'{"price":"0x10","ts":1}': "$.price",
    b'{"price":"","ts":1}': "$.price",
    b'{"price":"1e99","ts":1}': "absurdly large",
    b'{"price":true,"ts":1}': "$.price",
    b'{"price":null,"ts":1}': "$.price",
    b'{"price":"1","ts":"1"}': "$.ts",
    b'{"price":"1","ts":1.5}': "$.ts",
    b'{"price":"1","ts":0}': "$.ts",
    b'{"price":"1","ts":1,"conf":"-1"}': "conf is negative",
    b'{"price":"1","ts":1,"seq":-1}': "$.seq",
    b'{"price":"1","ts":1,"epoch":"a"}': "$.epoch",
    b'{"price":"1","ts":1,"payload":"abcd"}': "not 0x-hex",
    b'{"price":"1","ts":1,"payload":"0xabc"}': "fromhex",
    b'{"price":"\xff\xfe","ts":1}': "utf-8",
    b'{"price":' + b"[" * 3_000: "$.price",
}


async def test_what_is_malformed_is_refused_with_the_reason_and_nothing_else_happens(
    broker: Broker,
) -> None:
    rig = Rig(broker)
    async with rig.publisher() as publisher:
        await publisher.price("BTC-USD", seq=1)
        async with reading(rig.source) as ticks:
            await first_tick(ticks, 1)
            for payload, words in MALFORMED.items():
                await publisher.raw("BTC-USD", payload)
                refused = await anext(ticks)
                assert isinstance(refused, Rejected), payload
                assert (refused.reason, refused.feed) == (Rejection.MALFORMED, BTC), payload
                assert words in refused.detail, payload
            await publisher.price("BTC-USD", seq=2)
            await first_tick(ticks, 2)
    assert rig.reconnects == 0


async def test_unknown_feeds_and_large_messages_are_refused_unread(broker: Broker) -> None:
    rig = Rig(broker, payload_bytes_max=100)
    fitting = payload_of(seq=1).ljust(100)
    async with rig.publisher() as publisher, reading(rig.source) as ticks:
        await publisher.price("ETH-USD")
        await anext(ticks)
        await publisher.raw("DOGE-USD", b"")
        await publisher.raw("BTC-USD", fitting + b" ")
        await publisher.raw("BTC-USD", fitting)
        answers = [await anext(ticks) for _ in range(3)]
    unknown, oversized, tick = answers
    assert isinstance(unknown, Rejected)
    assert (unknown.reason, unknown.feed) == (Rejection.UNKNOWN_FEED, "DOGE-USD")
    assert isinstance(oversized, Rejected)
    assert (oversized.reason, oversized.feed) == (Rejection.OVERSIZED, BTC)
    assert "101 bytes > 100" in oversized.detail
    assert isinstance(tick, Tick)


async def test_implausible_prices_pass_the_wire_and_fail_at_the_board(broker: Broker) -> None:
    rig = Rig(broker)
    rules = FeedRules(10_000, 1_000, 10_000, 100_000, ("mqtt-1",))
    board = PriceBoard(dict.fromkeys(FEEDS, rules), rig.clock)
    now_ms = rig.clock.wall_ms()
    cases: list[tuple[dict[str, object], Rejection | None]] = [
        ({"price": "-1", "ts": now_ms}, Rejection.NOT_POSITIVE),
        ({"price": 0, "ts": now_ms}, Rejection.NOT_POSITIVE),
        ({"price": "1e-19", "ts": now_ms}, Rejection.NOT_POSITIVE),
        ({"price": "1e16", "ts": now_ms}, Rejection.ABSURD),
        ({"price": "1", "ts": now_ms - 60_000}, Rejection.STALE),
        ({"price": "1", "ts": now_ms + 60_000}, Rejection.FUTURE),
        ({"price": "1", "ts": now_ms // 1000}, Rejection.STALE),
        ({"price": "100", "conf": "2", "ts": now_ms}, Rejection.WIDE_CONFIDENCE),
        ({"price": "100", "ts": now_ms}, None),
        ({"price": "100", "ts": now_ms}, Rejection.DUPLICATE),
    ]
    async with rig.publisher() as publisher:
        await publisher.price("ETH-USD")
        async with reading(rig.source) as ticks:
            await anext(ticks)
            for fields, reason in cases:
                await publisher.raw("BTC-USD", payload_of(**fields))
                tick = await anext(ticks)
                assert isinstance(tick, Tick)
                answer = board.offer(tick)[0]
                assert (answer.reason if isinstance(answer, Rejected) else None) is reason, fields


# --- a slow consumer ------------------------------------------------------------------------------


async def test_a_consumer_slower_than_a_flood_gets_the_newest_of_each_feed(broker: Broker) -> None:
    rig = Rig(broker)
    each = 10_000
    messages = [
        (rig.topic(label), payload_of(seq=sequence))
        for sequence in range(1, each + 1)
        for label in ("BTC-USD", "ETH-USD")
    ]
    messages += [(rig.topic("WETH"), b"garbage")] * 1_000
    messages += [(rig.topic("BTC-USD"), payload_of(seq=5))]  # late: must not displace the newest
    async with rig.publisher() as publisher:
        await publisher.price("WETH")
        async with reading(rig.source) as ticks:
            await anext(ticks)
            await flood(broker, messages)
            await until(lambda: rig.clock.arrivals >= 1 + len(messages))
            await publisher.price("WETH", seq=1)
            await until(lambda: rig.clock.arrivals >= 2 + len(messages))
            items: list[Tick | Rejected] = []
            while not items or items[-1].feed != WETH or not isinstance(items[-1], Tick):
                items.append(await anext(ticks))
    newest = {item.feed: item.sequence for item in items if isinstance(item, Tick)}
    assert newest == {BTC: each, ETH: each, WETH: 1}
    assert len(items) == 3 + _stream.REFUSED_WAITING_MAX
    refused = Counter(item.reason for item in items if isinstance(item, Rejected))
    assert refused == {Rejection.MALFORMED: 255, Rejection.OUT_OF_ORDER: 1}
    shed = rig.telemetry.counts["keeper_price_refusals_shed_total", "mqtt-1"]
    assert shed == 1_001 - _stream.REFUSED_WAITING_MAX
    conflated = rig.telemetry.counts["keeper_price_conflated_total", "mqtt-1"]
    assert conflated == 2 * (each - 1)
    assert rig.reconnects == 0


# --- outcomes -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def outcomes(rig: Rig) -> AsyncIterator[aiomqtt.MessagesIterator]:
    async with aiomqtt.Client(rig.broker.host, rig.broker.port) as client, asyncio.timeout(S_MAX):
        await client.subscribe(f"{rig.prefix}/venues/+/liquidations", qos=1)
        yield client.messages


async def test_outcomes_go_out_over_the_same_connection(broker: Broker) -> None:
    rig = Rig(broker)
    async with outcomes(rig) as messages, rig.publisher() as publisher:
        await publisher.price("BTC-USD")
        rig.source.publish("venues/demo/liquidations", b"early")
        async with reading(rig.source) as ticks:
            await anext(ticks)
            rig.source.publish("venues/demo/liquidations", b"live")
            received = [await anext(messages) for _ in range(2)]
    assert [message.payload for message in received] == [b"early", b"live"]
    assert received[0].topic.value == f"{rig.prefix}/venues/demo/liquidations"
    assert not received[0].retain


async def test_more_outcomes_than_may_be_unacknowledged_go_out_in_order(broker: Broker) -> None:
    rig = Rig(broker)
    count = _mqtt_session.MESSAGES_WAITING_MAX + 50
    async with outcomes(rig) as messages, rig.publisher() as publisher:
        await publisher.price("BTC-USD", seq=1)
        async with reading(rig.source) as ticks:
            await first_tick(ticks, 1)
            for number in range(count):
                rig.source.publish("venues/demo/liquidations", str(number).encode())
            sent = _mqtt_session.MESSAGES_WAITING_MAX
            received = [int((await anext(messages)).payload) for _ in range(sent)]
            await publisher.price("BTC-USD", seq=2)
            await publisher.price("BTC-USD", seq=3)
            await first_tick(ticks, 3)
            received += [int((await anext(messages)).payload) for _ in range(count - sent)]
    assert received == list(range(count))
    assert rig.telemetry.counts["keeper_outcomes_shed_total", "mqtt-1"] == 0


async def test_outcomes_wait_for_a_connection_and_the_oldest_are_shed(broker: Broker) -> None:
    rig = Rig(broker)
    for number in range(_mqtt_session.MESSAGES_WAITING_MAX + 5):
        rig.source.publish("venues/demo/liquidations", str(number).encode())
    assert rig.telemetry.counts["keeper_outcomes_shed_total", "mqtt-1"] == 5
    async with outcomes(rig) as messages, rig.publisher() as publisher:
        await publisher.price("BTC-USD")
        async with reading(rig.source) as ticks:
            await anext(ticks)
            received = [
                int((await anext(messages)).payload)
                for _ in range(_mqtt_session.MESSAGES_WAITING_MAX)
            ]
    assert received == list(range(5, _mqtt_session.MESSAGES_WAITING_MAX + 5))


async def test_an_outcome_the_broker_did_not_acknowledge_is_sent_again(own_broker: Broker) -> None:
    proxy = Proxy(own_broker)
    async with proxy.running() as port:
        rig = Rig(own_broker, port=port, silence_ms_max=300)
        async with rig.publisher() as publisher, outcomes(rig) as messages:
            await publisher.price("BTC-USD", seq=1)
            async with reading(rig.source) as ticks:
                await first_tick(ticks, 1)
                rig.source.publish("venues/demo/liquidations", b"sent")
                assert (await anext(messages)).payload == b"sent"
                proxy.freeze()
                rig.source.publish("venues/demo/liquidations", b"lost")
                await publisher.price("BTC-USD", seq=2)
                await first_tick(ticks, 2)
                payload = b"sent"
                while payload == b"sent":  # its acknowledgement may have been lost as well
                    payload = bytes((await anext(messages)).payload)
    assert payload == b"lost"


@pytest.mark.parametrize("topic", ["", "venues/+/liquidations", "venues/#", "a\x00"])
def test_only_a_topic_can_be_published_to(broker: Broker, topic: str) -> None:
    with pytest.raises(ValueError, match="not a topic"):
        Rig(broker).source.publish(topic, b"")


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "host"),
        ({"host": "h", "port": 0}, "port"),
        ({"host": "h", "port": "1883"}, "port"),
        ({"host": "h", "prefix": "a/#"}, "prefix"),
        ({"host": "h", "prefix": "a/"}, "prefix"),
        ({"host": "h", "qos": 2}, "qos"),
        ({"host": "h", "password": {"env": "MQTT_PASSWORD"}}, "password needs user"),
        ({"host": "h", "tls_ca": "ca.pem"}, "tls_ca needs tls"),
        ({"host": "h", "reconnect_ms_min": 9_000}, "reconnect_ms_min"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate(values)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert Settings(host="h").model_dump(exclude={"host"}) == {
        "port": 1883,
        "prefix": "keeper",
        "client_id": None,
        "user": None,
        "password": None,
        "tls": False,
        "tls_ca": None,
        "keepalive_s": 15,
        "silence_ms_max": 10_000,
        "reconnect_ms_min": 200,
        "reconnect_ms_max": 5_000,
        "payload_bytes_max": 4_096,
    }


def test_feeds_that_share_a_topic_or_cannot_have_one_are_refused() -> None:
    feeds = [FeedId("A/B"), FeedId("A-B"), FeedId("A/B"), FeedId("C+D")]
    with pytest.raises(ConfigError) as caught:
        build(Settings(host="h"), "m", feeds, CountingClock(), CountingTelemetry(), NoRpc())
    shared, wild = caught.value.problems
    assert "A/B and A-B share the topic A-B" in shared
    assert "C+D" in wild


def test_an_unusable_authority_or_secret_is_a_mistake_of_the_config(tmp_path: Path) -> None:
    garbage = tmp_path / "ca.pem"
    garbage.write_text("no certificate")
    for ca in (garbage, tmp_path / "none.pem"):
        settings = Settings(host="h", tls=True, tls_ca=ca)
        with pytest.raises(ConfigError, match="tls_ca"):
            build(settings, "m", FEEDS, CountingClock(), CountingTelemetry(), NoRpc())
    missing = SecretRef(file=tmp_path / "none")
    settings = Settings(host="h", user="u", password=missing)
    with pytest.raises(ConfigError, match="none"):
        build(settings, "m", FEEDS, CountingClock(), CountingTelemetry(), NoRpc())


async def test_a_quiet_source_shows_that_it_is_alive(broker: Broker) -> None:
    source = Rig(broker).source
    async with asyncio.timeout(S_MAX), contextlib.aclosing(source.ticks()) as ticks:
        assert await anext(ticks) is None
