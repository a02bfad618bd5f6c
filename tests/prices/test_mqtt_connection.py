"""How the MQTT source connects, loses and replaces connections, with a real broker."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.config import SecretRef
from keeper.errors import TransientError
from keeper.facts import Tick
from keeper.prices import _mqtt_session
from tests.brokers import Broker, running_broker
from tests.certificates import make_authority
from tests.prices.mqtt_rig import (
    BTC,
    PASSWORD,
    Proxy,
    Rig,
    first_tick,
    open_sockets,
    reading,
    until,
)

# --- connections ----------------------------------------------------------------------------------


async def test_a_killed_broker_is_reconnected_and_the_newest_price_comes(
    own_broker: Broker,
) -> None:
    rig = Rig(own_broker)
    async with reading(rig.source) as ticks:
        for sequence in (1, 2, 3):
            async with rig.publisher() as publisher:
                await publisher.price("BTC-USD", epoch=7, seq=sequence)
                assert (await first_tick(ticks, sequence)).feed == BTC
            own_broker.kill()
            own_broker.start()
            assert rig.reconnects == sequence - 1
        async with rig.publisher() as publisher:
            for sequence in (4, 5):
                await publisher.price("BTC-USD", epoch=7, seq=sequence)
        assert (await first_tick(ticks, 5)).feed == BTC
    assert rig.reconnects >= 3


async def test_a_reader_that_waits_outlives_a_broker_that_comes_and_goes(
    own_broker: Broker,
) -> None:
    rig = Rig(own_broker)
    own_broker.kill()
    async with reading(rig.source) as ticks, asyncio.TaskGroup() as group:
        waiting = group.create_task(first_tick(ticks, 2), name="reader")
        await until(lambda: rig.reconnects >= 3)
        own_broker.start()
        async with rig.publisher() as publisher:
            while not rig.clock.arrivals:  # a broker that has just come up may lose the first
                await publisher.price("BTC-USD", seq=1)
                await asyncio.sleep(0.1)
        lost = rig.reconnects
        own_broker.kill()
        await until(lambda: rig.reconnects > lost)
        own_broker.start()
        async with rig.publisher() as publisher:
            while not waiting.done():  # likewise
                await publisher.price("BTC-USD", seq=2)
                await asyncio.wait({waiting}, timeout=0.1)
        assert (await waiting).feed == BTC


async def test_a_socket_that_stays_open_and_falls_silent_is_replaced(broker: Broker) -> None:
    proxy = Proxy(broker)
    async with proxy.running() as port:
        rig = Rig(broker, port=port, silence_ms_max=400)
        async with rig.publisher() as publisher:
            await publisher.price("BTC-USD", seq=1)
            async with reading(rig.source) as ticks:
                await first_tick(ticks, 1)
                proxy.freeze()
                await publisher.price("BTC-USD", seq=2)
                with capture_logs() as logs:
                    await first_tick(ticks, 2)
        assert (rig.reconnects, proxy.accepted) == (1, 2)
        assert "no message on any feed for 400 ms" in logs[0]["error"]


async def test_a_steady_stream_is_never_taken_for_silence(broker: Broker) -> None:
    rig = Rig(broker, silence_ms_max=300)
    async with (
        rig.publisher() as publisher,
        reading(rig.source) as ticks,
        asyncio.TaskGroup() as group,
    ):
        last = group.create_task(first_tick(ticks, 15), name="reader")
        for sequence in range(1, 16):
            await publisher.price("BTC-USD", seq=sequence)
            await asyncio.sleep(0.05)
        await last
    assert rig.reconnects == 0


async def test_a_broker_that_does_not_answer_is_given_up(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mqtt_session, "ANSWER_S_MAX", 0.2)
    rig = Rig(own_broker)
    own_broker.pause()
    with pytest.raises(TransientError, match="timed out"):
        await rig.source.check()
    own_broker.resume()
    assert "0 of 3 feeds" in await rig.source.check()


@pytest.mark.parametrize("state", ["connecting", "connected", "choked", "backing off"])
async def test_cancellation_ends_it_at_once_and_leaves_nothing_open(
    own_broker: Broker, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(own_broker, reconnect_ms_min=60_000, reconnect_ms_max=60_000)
    tasks_before, sockets_before = asyncio.all_tasks(), open_sockets()
    if state == "connecting":
        own_broker.pause()
    if state == "backing off":
        own_broker.kill()
    with contextlib.suppress(TimeoutError):
        async with reading(rig.source) as ticks, asyncio.TaskGroup() as group:
            reader = group.create_task(first_tick(ticks, 1), name="reader")
            await asyncio.sleep(0.2)  # the state is that of a time, not an event to wait for
            if state == "choked":  # what is to be sent does not fit into the socket's buffer
                own_broker.pause()
                for _ in range(100):
                    rig.source.publish("venues/demo/liquidations", bytes(100_000))
                await asyncio.sleep(0.1)
            cancelled = time.monotonic()
            reader.cancel()
    assert time.monotonic() - cancelled < 1.0
    assert open_sockets() == sockets_before
    await until(lambda: asyncio.all_tasks() == tasks_before)
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_cancellation_while_a_thread_dials_waits_for_the_thread_and_closes(
    monkeypatch: pytest.MonkeyPatch, own_broker: Broker
) -> None:
    monkeypatch.setattr(_mqtt_session, "ANSWER_S_MAX", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, never shakes hands
        rig = Rig(own_broker, port=mute.getsockname()[1], tls=True)
        sockets_before = open_sockets()
        with contextlib.suppress(TimeoutError):
            async with reading(rig.source) as ticks, asyncio.timeout(0.1):
                await anext(ticks)
        assert rig.reconnects == 0
        assert open_sockets() == sockets_before


async def test_a_peer_that_is_no_broker_is_a_failure_that_may_pass(
    monkeypatch: pytest.MonkeyPatch, own_broker: Broker
) -> None:
    monkeypatch.setattr(_mqtt_session, "ANSWER_S_MAX", 0.3)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        rig = Rig(own_broker, port=server.sockets[0].getsockname()[1])
        with pytest.raises(TransientError):
            await rig.source.check()


async def test_a_bug_in_the_reading_of_a_message_is_not_taken_for_a_lost_connection(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(broker)
    monkeypatch.setattr(rig.clock, "wall_ms", lambda: 1 // 0)
    async with rig.publisher() as publisher, reading(rig.source) as ticks:
        await publisher.price("BTC-USD")
        with pytest.raises(ZeroDivisionError):
            await anext(ticks)


async def test_leaving_the_loop_early_closes_the_connection(broker: Broker) -> None:
    rig = Rig(broker)
    async with rig.publisher() as publisher:
        await publisher.price("BTC-USD")
        sockets_before = open_sockets()
        async with reading(rig.source) as ticks:
            async for _ in ticks:
                break
            assert open_sockets() > sockets_before
        assert open_sockets() == sockets_before


def test_delays_grow_with_jitter_up_to_the_maximum(broker: Broker) -> None:
    source = Rig(broker, reconnect_ms_min=200, reconnect_ms_max=5_000).source
    for failures, bound_s in [(0, 0.2), (1, 0.4), (4, 3.2), (5, 5.0), (10**9, 5.0)]:
        delays = [source._settings.delay_s(failures) for _ in range(200)]
        assert 0 <= min(delays) < bound_s / 4
        assert bound_s / 2 < max(delays) <= bound_s


# --- who may connect ------------------------------------------------------------------------------


async def test_a_password_lets_in_and_a_wrong_one_is_reported_and_tried_again(
    tmp_path: Path, secret: Callable[[str], SecretRef]
) -> None:
    with running_broker(tmp_path / "nats", user="keeper", password=PASSWORD) as broker:
        right = Rig(broker, user="keeper", password=secret(PASSWORD))
        async with right.publisher() as publisher, reading(right.source) as ticks:
            first = asyncio.ensure_future(anext(ticks))
            while not first.done():  # a broker that has just come up may lose a message
                await publisher.price("BTC-USD")
                await asyncio.wait([first], timeout=0.2)
            assert isinstance(await first, Tick)
        wrong = Rig(broker, user="keeper", password=secret("letmein"))
        with pytest.raises(TransientError, match="Not authorized"):
            await wrong.source.check()
        with capture_logs() as logs:
            async with reading(wrong.source) as ticks, asyncio.TaskGroup() as group:
                reader = group.create_task(first_tick(ticks, 1), name="reader")
                await until(lambda: wrong.reconnects == 2)
                reader.cancel()
    assert {line["log_level"] for line in logs} == {"error"}
    assert logs[0]["retry_ms"] == 100
    assert "check user and password" in logs[0]["event"]
    assert "letmein" not in str(logs)


async def test_a_subscription_that_is_refused_is_a_failure(
    tmp_path: Path, secret: Callable[[str], SecretRef]
) -> None:
    permissions = f"""authorization {{ users: [ {{ user: "keeper", password: "{PASSWORD}",
        permissions: {{ subscribe: {{ deny: ["test.>"] }} }} }} ] }}"""
    with running_broker(tmp_path / "nats", extra=permissions) as broker:
        rig = Rig(broker, user="keeper", password=secret(PASSWORD))
        with pytest.raises(TransientError, match=r"subscription to test/\d+/prices/\+ refused"):
            await rig.source.check()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and server.pem and server.key for 127.0.0.1 signed by it."""
    return make_authority(tmp_path_factory.mktemp("tls"))


async def test_tls_verifies_the_broker(tmp_path: Path, authority: Path) -> None:
    certificate = authority / "server.pem", authority / "server.key"
    with running_broker(tmp_path / "nats", certificate=certificate) as broker:
        trusted = Rig(broker, tls=True, tls_ca=authority / "ca.pem")
        assert (await trusted.source.check()).startswith(
            f"mqtts://127.0.0.1:{broker.port} answered"
        )
        with pytest.raises(TransientError, match="certificate verify failed"):
            await Rig(broker, tls=True).source.check()
        named = Rig(broker, tls=True, tls_ca=authority / "ca.pem", host="localhost")
        with pytest.raises(TransientError, match="Hostname mismatch"):
            await named.source.check()


async def test_plain_text_to_a_tls_port_and_tls_to_a_plain_one_fail(
    tmp_path: Path, authority: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mqtt_session, "ANSWER_S_MAX", 1.0)
    with pytest.raises(TransientError):
        await Rig(broker, tls=True, tls_ca=authority / "ca.pem").source.check()
    certificate = authority / "server.pem", authority / "server.key"
    with (
        running_broker(tmp_path / "nats", certificate=certificate) as encrypted,
        pytest.raises(TransientError),
    ):
        await Rig(encrypted).source.check()


async def test_check_says_what_answered(broker: Broker) -> None:
    rig = Rig(broker)
    async with rig.publisher() as publisher:
        await publisher.price("BTC-USD")
        await publisher.raw("WETH", b"{}", retain=True)
        answer = await rig.source.check()
        assert answer.startswith(f"mqtt://127.0.0.1:{broker.port} answered, 1 of 3 feeds")
        assert "none for ETH/USD, WETH" in answer
        assert "WETH refused (malformed: Object missing required field `price`)" in answer
        await publisher.price("ETH-USD")
        await publisher.price("WETH")
        assert (await rig.source.check()).endswith("3 of 3 feeds have a price")


@pytest.mark.parametrize("host", ["127.0.0.1", "a..b"])
async def test_check_says_why_nothing_answered(own_broker: Broker, host: str) -> None:
    own_broker.kill()
    with pytest.raises(TransientError, match=r"refused|not a host name") as caught:
        await Rig(own_broker, host=host).source.check()
    assert str(caught.value).startswith(f"mqtt-1: mqtt://{host}:{own_broker.port}: ")
