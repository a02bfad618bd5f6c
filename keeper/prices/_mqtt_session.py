"""What any MQTT source needs, whatever its topics and payloads; no kind of its own.

One connection, and the outbox for what is to be published.
"""

import asyncio
import contextlib
import select
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

import aiomqtt
from paho.mqtt.client import Client, MQTTMessageInfo

from keeper.facts import Rejected, Tick
from keeper.prices._stream import Inbox
from keeper.quarantine import Guard

ANSWER_S_MAX = 5.0  # for the broker to answer a connect or a subscribe
MESSAGES_WAITING_MAX = 256  # messages kept for the next connection
PACKETS_A_TURN_MAX = 512  # some 20 ms
_QOS = 1


class Connection(aiomqtt.Client):
    """One connection with one subscription; used once. Differs from its base in two things.

    A message goes to the inbox at once: the base's own queue either grows without bound or discards
    the newest message. And the socket is closed on every way out: the base leaves it open and
    registered with the loop when connecting is cancelled or not answered, and lets an MqttError
    take the place of a cancellation when the farewell is not acknowledged.
    """

    def __init__(
        self,
        inbox: Inbox,
        decode: Callable[[str, bytes], Tick | Rejected],
        topics: str,
        **options: Any,  # noqa: ANN401 - the base's
    ) -> None:
        """Prepare; ``decode`` takes a topic and a payload, ``topics`` is what to subscribe to."""

        class HandOver(asyncio.Queue[aiomqtt.Message]):
            def put_nowait(_, item: aiomqtt.Message) -> None:  # noqa: N805 - self is the connection
                self._receiving = True
                inbox.put(decode(item.topic.value, item.payload))
                self._receiving = False

        super().__init__(queue_type=HandOver, timeout=ANSWER_S_MAX, **options)
        self._client.connect_timeout = ANSWER_S_MAX
        self._inbox = inbox
        self._topics = topics
        self._receiving = self._dialling = self._closing = False
        self._dialled = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect and subscribe; raises MqttError."""
        entered = False
        try:
            await super().__aenter__()
            self._disconnected.add_done_callback(self._inbox.wake)
            self._inbox.heard_s = self._loop.time()
            await self._subscribe()
            entered = True
        finally:
            if not entered:
                await self._close()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Say farewell if that is possible at once, and close the socket."""
        await self._close()

    def raise_if_lost(self) -> None:
        """Raise MqttError when the connection has ended; a bug in the inbox ended it as itself."""
        if not self._disconnected.done():
            return
        error = self._disconnected.exception()
        if error is not None and self._receiving:
            raise error  # the base takes whatever a callback raises for a lost connection
        msg = f"connection lost: {error}"
        raise aiomqtt.MqttError(msg) from error

    def send(self, topic: str, payload: bytes) -> MQTTMessageInfo | None:
        """Send without waiting; None when the connection has ended."""
        if self._disconnected.done():
            return None
        return self._client.publish(topic, payload, qos=_QOS)

    async def _subscribe(self) -> None:
        for code in await self.subscribe(self._topics, qos=_QOS):
            if not isinstance(code, int) and code.is_failure:
                msg = f"subscription to {self._topics} refused: {code}"
                raise aiomqtt.MqttError(msg)

    def _on_socket_open(self, client: Client, userdata: object, sock: Any) -> None:  # noqa: ANN401 - the base's
        super()._on_socket_open(client, userdata, sock)
        # The base reads one packet a turn of the loop: in a flood prices would wait in the socket,
        # where the newest does not displace the rest.
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._read, sock)

    def _read(self, sock: Any) -> None:  # noqa: ANN401 - the base's
        """Read the packets that are there, up to ``PACKETS_A_TURN_MAX``."""
        with Guard(self._broken):
            for _ in range(PACKETS_A_TURN_MAX):
                self._client.loop_read()
                if self._client.socket() is not sock or not _holds_data(sock):
                    return

    def _broken(self, error: BaseException | None) -> bool:
        """Take whatever reading raises for the end of the connection, as the base does."""
        if not isinstance(error, Exception):
            return False
        if not self._disconnected.done():
            self._disconnected.set_exception(error)
        return True

    def _client_connect(self) -> None:
        # Runs in a thread that a cancellation cannot stop; ``_close`` waits for its end. Whichever
        # of the two flags is set second sees the other one.
        self._dialling = True
        try:
            if not self._closing:
                super()._client_connect()
        except UnicodeError as error:
            msg = f"not a host name: {error}"
            raise OSError(msg) from None
        finally:
            self._loop.call_soon_threadsafe(self._dialled.set)

    async def _close(self) -> None:
        self._closing = True
        try:
            if self._dialling:
                await self._dialled.wait()
            self._client.disconnect()
            await asyncio.sleep(0)  # the base registers the writer with the loop a step later
            self._client.loop_write()
        finally:
            self._client._sock_close()  # noqa: SLF001 - the public ways wait for an answer
            if self._disconnected.done():
                self._disconnected.exception()  # else asyncio logs it as never retrieved


def _holds_data(sock: Any) -> bool:  # noqa: ANN401 - a socket, plain or TLS
    pending = getattr(sock, "pending", None)
    if pending is not None and pending() > 0:
        return True
    return bool(select.select([sock], [], [], 0)[0])


class Outbox:
    """Messages to publish: kept until the broker has acknowledged them, the oldest shed first."""

    def __init__(self, shed: Callable[[], None]) -> None:
        """Start empty; ``shed`` is called for each message that had to make room."""
        self._shed = shed
        self._client: Connection | None = None
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._sent: deque[tuple[MQTTMessageInfo, tuple[str, bytes]]] = deque()

    def put(self, topic: str, payload: bytes) -> None:
        """Send now if connected, else keep."""
        self._waiting.append((topic, payload))
        self.flush()
        self._trim()

    @contextlib.contextmanager
    def through(self, client: Connection) -> Iterator[None]:
        """Send over this connection; what it did not see acknowledged waits for the next one."""
        self._client = client
        self.flush()
        try:
            yield
        finally:
            self._client = None
            lost = [message for info, message in self._sent if not info.is_published()]
            self._sent.clear()
            self._waiting.extendleft(reversed(lost))
            self._trim()

    def flush(self) -> None:
        """Forget what was acknowledged; send what waits, unless too much is unacknowledged."""
        while self._sent and self._sent[0][0].is_published():
            self._sent.popleft()
        while self._client and self._waiting and len(self._sent) < MESSAGES_WAITING_MAX:
            info = self._client.send(*self._waiting[0])
            if info is None:
                return
            self._sent.append((info, self._waiting.popleft()))

    def _trim(self) -> None:
        while len(self._waiting) > MESSAGES_WAITING_MAX:
            self._waiting.popleft()
            self._shed()
