"""Prices over MQTT 3.1.1: one retained topic a feed, ``<prefix>/prices/<feed>``.

Retained whole states are the catch-up after a reconnect, so the session is clean: a persistent one
would replay old ticks. The payload is JSON; ``price`` (a decimal string; a number is taken too) and
``ts`` (ms, the publisher's clock) are required, ``conf``, ``epoch``, ``seq`` and ``payload`` (a
signed update, 0x-hex) optional, and anything else is refused: a misspelt key must not pass for a
missing one. What is wrong comes out as ``Rejected``, never as an exception.
"""

import asyncio
import contextlib
import math
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

import aiomqtt
import msgspec
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import Field, SecretStr, model_validator
from structlog import get_logger

from keeper.config import ConfigPath, SecretRef
from keeper.errors import ConfigError, TransientError
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.ports import Clock, Rpc, Telemetry
from keeper.prices._mqtt_session import Connection, Outbox
from keeper.prices._stream import IDLE_S, UNREADABLE, Inbox, StreamSettings, rejected, told
from keeper.units import wad_from_decimal

RETAINED_S_MAX = 1.0  # how long ``check`` waits for retained prices; brokers send them at once
NOT_AUTHORISED = (0x86, 0x87)  # reason codes: bad user name or password, not authorised

log = get_logger(__name__)


class Settings(StreamSettings):
    """A broker that publishes prices."""

    host: str = Field(
        min_length=1, max_length=253, description="Host name or address of the broker."
    )
    port: int = Field(
        default=1883, ge=1, le=65_535, strict=True, description="TCP port of the broker."
    )
    prefix: str = Field(
        default="keeper",
        pattern=r"^[^/+#\s\x00]+(/[^/+#\s\x00]+)*$",
        max_length=128,
        description="First levels of every topic: <prefix>/prices/<feed>.",
    )
    client_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="MQTT client id, unique at the broker; unset: the broker assigns one.",
    )
    user: str | None = Field(default=None, min_length=1, description="User name at the broker.")
    password: SecretRef | None = Field(
        default=None, description="Where the password is; needs user."
    )
    tls: bool = Field(
        default=False, strict=True, description="Connect with TLS and verify the certificate."
    )
    tls_ca: ConfigPath | None = Field(
        default=None,
        description="PEM file of the authorities to trust; unset: those of the system. Needs tls.",
    )
    keepalive_s: int = Field(
        default=15,
        ge=1,
        le=3_600,
        strict=True,
        description="Seconds between MQTT pings on an idle connection.",
    )
    payload_bytes_max: int = Field(
        default=4_096,
        ge=64,
        le=1_048_576,
        strict=True,
        description="Bytes; a larger message is not parsed.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.password is not None and self.user is None:
            msg = "password needs user: MQTT 3.1.1 has no password without a user name"
            raise ValueError(msg)
        if self.tls_ca is not None and not self.tls:
            msg = "tls_ca needs tls = true"
            raise ValueError(msg)
        return self


_Decimal = Annotated[
    str, msgspec.Meta(pattern=r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$")
]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The payload of a price topic."""

    price: _Decimal | int | float
    ts: Annotated[int, msgspec.Meta(gt=0)]
    conf: _Decimal | int | float = 0
    epoch: _Count = 0
    seq: _Count = 0
    payload: str | None = None


class MqttSource:
    """Implements ``ports.PriceSource``; publishes outcomes over the same connection.

    ``feeds``: the feed of each last topic level. ``tls``: None for plain TCP.
    """

    def __init__(  # noqa: PLR0913 - the parts of a source, put together in ``build``
        self,
        name: str,
        settings: Settings,
        feeds: Mapping[str, FeedId],
        clock: Clock,
        telemetry: Telemetry,
        *,
        password: SecretStr | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect to nothing yet."""
        self.name = name
        self._settings = settings
        self._feeds = dict(feeds)
        self._clock = clock
        self._telemetry = telemetry
        self._password = password
        self._tls = tls
        self._broker = f"mqtt{'s' if tls else ''}://{settings.host}:{settings.port}"
        self._topic = f"{settings.prefix}/prices/"
        self._decoder = msgspec.json.Decoder(_Wire)
        self._outbox = Outbox(lambda: telemetry.count("keeper_outcomes_shed_total", stream=name))
        self._log = log.bind(source=name, broker=self._broker)

    async def ticks(self) -> AsyncGenerator[Tick | Rejected | None, None]:
        """Yield the newest tick of each feed, and what was refused; reconnect without end.

        A slow consumer misses superseded ticks, never the newest. One consumer at a time.
        """
        inbox = Inbox(self.name, self._telemetry)
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            opened_s = math.inf
            try:
                async with self._connection(inbox) as connection:
                    opened_s = loop.time()
                    with self._outbox.through(connection):
                        self._log.info("price source connected", feeds=len(self._feeds))
                        while True:
                            yield await self._next(connection, inbox)
            except aiomqtt.MqttError as error:
                # A broker that accepts and drops at once is failing too: only a connection that has
                # lasted starts the delays anew.
                if loop.time() - opened_s > self._settings.reconnect_ms_max / 1000:
                    failures = 0
                delay_s = self._settings.delay_s(failures, refused=_is_refusal(error))
                self._report(error, delay_s)
            failures += 1
            yield None
            await asyncio.sleep(delay_s)

    async def check(self) -> str:
        """Connect once and say which feeds have a retained price; raises TransientError."""
        inbox = Inbox(self.name, self._telemetry)
        priced: set[FeedId] = set()
        refused: dict[str, str] = {}
        try:
            async with self._connection(inbox):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETAINED_S_MAX):
                        while len(priced) < len(self._feeds):
                            await inbox.wait()
                            while (item := inbox.take()) is not None:
                                if isinstance(item, Tick):
                                    priced.add(item.feed)
                                elif item.reason is not Rejection.UNKNOWN_FEED:
                                    refused[item.feed] = f"{item.reason}: {item.detail}"
        except aiomqtt.MqttError as error:
            msg = f"{self.name}: {self._broker}: {error}"
            raise TransientError(msg) from error
        return told(self._broker, self._feeds.values(), priced, refused)

    def publish(self, topic_suffix: str, payload: bytes) -> None:
        """Publish to ``<prefix>/<topic_suffix>`` with QoS 1, not retained; never waits.

        Without a connection (``ticks`` keeps it) the newest 256 messages are kept for the next one.
        A message whose acknowledgement was lost is sent again: expect it twice.
        Raises ValueError for a topic that cannot be published to.
        """
        if not topic_suffix or any(sign in topic_suffix for sign in "+#\x00"):
            msg = f"not a topic to publish to: {topic_suffix!r}"
            raise ValueError(msg)
        self._outbox.put(f"{self._settings.prefix}/{topic_suffix}", payload)

    def _connection(self, inbox: Inbox) -> Connection:
        settings = self._settings
        return Connection(
            inbox,
            self._decode,
            f"{self._topic}+",
            hostname=settings.host,
            port=settings.port,
            identifier=settings.client_id,
            username=settings.user,
            password=self._password.get_secret_value() if self._password else None,
            keepalive=settings.keepalive_s,
            clean_session=True,
            tls_context=self._tls,
        )

    async def _next(self, connection: Connection, inbox: Inbox) -> Tick | Rejected | None:
        """Return what came in, or None after ``IDLE_S`` without anything."""
        self._outbox.flush()
        item = inbox.take()
        if item is not None:
            return item
        connection.raise_if_lost()
        silence_s_max = self._settings.silence_ms_max / 1000
        now_s = asyncio.get_running_loop().time()
        if now_s >= inbox.heard_s + silence_s_max:
            msg = f"no message on any feed for {self._settings.silence_ms_max} ms"
            raise aiomqtt.MqttError(msg)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(now_s + IDLE_S, inbox.heard_s + silence_s_max)):
                await inbox.wait()
        return inbox.take()

    def _decode(self, topic: str, payload: bytes) -> Tick | Rejected:
        received_ns = self._clock.monotonic_ns()
        label = topic.removeprefix(self._topic)
        feed = self._feeds.get(label)
        if feed is None:
            return self._rejected(Rejection.UNKNOWN_FEED, label, "not configured for this source")
        if len(payload) > self._settings.payload_bytes_max:
            detail = f"{len(payload)} bytes > {self._settings.payload_bytes_max}"
            return self._rejected(Rejection.OVERSIZED, feed, detail)
        try:
            wire = self._decoder.decode(payload)
            return Tick(
                feed=feed,
                source=self.name,
                price_wad=wad_from_decimal(str(wire.price)),
                published_ms=wire.ts,
                received_ms=self._clock.wall_ms(),
                received_ns=received_ns,
                conf_wad=_not_negative(wad_from_decimal(str(wire.conf))),
                epoch=wire.epoch,
                sequence=wire.seq,
                payload=None if wire.payload is None else _from_hex(wire.payload),
            )
        except UNREADABLE as error:
            return self._rejected(Rejection.MALFORMED, feed, str(error))

    def _rejected(self, reason: Rejection, feed: str, detail: str) -> Rejected:
        return rejected(self.name, reason, feed, detail)

    def _report(self, error: aiomqtt.MqttError, delay_s: float) -> None:
        self._telemetry.count("keeper_reconnects_total", stream=self.name)
        delay_ms = round(delay_s * 1000)
        if _is_refusal(error):
            self._log.error(
                "broker refuses the keeper: check user and password of this source",
                error=str(error),
                retry_ms=delay_ms,
            )
        else:
            self._log.warning("price source lost", error=str(error), retry_ms=delay_ms)


def _is_refusal(error: aiomqtt.MqttError) -> bool:
    if not isinstance(error, aiomqtt.MqttCodeError) or not isinstance(error.rc, ReasonCode):
        return False
    return error.rc.value in NOT_AUTHORISED


def _not_negative(conf_wad: int) -> int:
    if conf_wad < 0:
        msg = "conf is negative"
        raise ValueError(msg)
    return conf_wad


def _from_hex(text: str) -> bytes:
    if not text.startswith("0x"):
        msg = "payload is not 0x-hex"
        raise ValueError(msg)
    return bytes.fromhex(text[2:])


class _TlsSocket(ssl.SSLSocket):
    """A socket that is closed, not left to the garbage collector, when the handshake fails."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
        shaken = False
        try:
            super().do_handshake(block)
            shaken = True
        finally:
            if not shaken:
                self.close()


def _tls_context(name: str, ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # SSLError is one
        msg = f"{name}: tls_ca {ca}: {error}: name a readable PEM file of certificates"
        raise ConfigError([msg]) from error
    context.sslsocket_class = _TlsSocket
    return context


def _by_topic(name: str, feeds: Sequence[FeedId]) -> dict[str, FeedId]:
    by_topic: dict[str, FeedId] = {}
    problems: list[str] = []
    for feed in feeds:
        topic = feed.replace("/", "-")
        if not topic or any(sign in topic for sign in "+#\x00"):
            problems.append(f"{name}: feed {feed!r} cannot be an MQTT topic: no +, #")
        elif by_topic.setdefault(topic, feed) != feed:
            problems.append(f"{name}: feeds {by_topic[topic]} and {feed} share the topic {topic}")
    if problems:
        raise ConfigError(problems)
    return by_topic


def build(
    settings: Settings,
    name: str,
    feeds: Sequence[FeedId],
    clock: Clock,
    telemetry: Telemetry,
    rpc: Rpc,  # noqa: ARG001 - the loader's
) -> MqttSource:
    """Put a source together; raises ConfigError for an unusable secret, file or feed name."""
    return MqttSource(
        name,
        settings,
        _by_topic(name, feeds),
        clock,
        telemetry,
        password=settings.password.read() if settings.password else None,
        tls=_tls_context(name, settings.tls_ca) if settings.tls else None,
    )
