"""Pyth prices from a Hermes server: server-sent events with the signed update in them.

Each event holds the prices of some of the ids asked for and one signed update for all of them; it
stays with every tick as ``payload``, which is what a venue with pull prices carries along. The
server ends a stream after 24 hours and keeps it alive with comments. Times are whole seconds.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from pydantic import Field, SecretStr

from keeper.config import HttpEndpoint, SecretRef
from keeper.errors import TransientError
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.ports import Clock, Rpc, Telemetry
from keeper.prices._client import event_stream
from keeper.prices._sse import Event, EventParser, TooLargeError
from keeper.prices._stream import UNREADABLE, Inbox, StreamSettings, StreamSource, by_symbol
from keeper.units import wad_from_decimal

PATH = "/v2/updates/price/stream"
SECONDS_MAX = 10**11  # the year 5138


class Settings(StreamSettings):
    """A Hermes server and the price ids to ask it for."""

    url: HttpEndpoint = Field(description="Base URL of the server, or where one is written.")
    api_key: SecretRef | None = Field(
        default=None, description="Where the API key is; sent as a bearer token."
    )
    feeds: dict[
        Annotated[str, Field(pattern=r"^(0x)?[0-9a-fA-F]{64}$")],
        FeedId,
    ] = Field(min_length=1, max_length=1_024, description="Pyth price id → keeper feed.")
    event_bytes_max: int = Field(
        default=1_048_576,
        ge=1_024,
        le=16_777_216,
        strict=True,
        description="Bytes; a larger event is not read.",
    )


_Digits = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,20}$")]


class _Price(msgspec.Struct, gc=False):
    price: _Digits
    conf: _Digits
    expo: Annotated[int, msgspec.Meta(ge=-18, le=18)]
    publish_time: Annotated[int, msgspec.Meta(gt=0, lt=SECONDS_MAX)]


class _Parsed(msgspec.Struct, gc=False):
    id: str
    price: _Price


class _Binary(msgspec.Struct, gc=False):
    encoding: Literal["hex"]
    data: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]


class _Update(msgspec.Struct, gc=False):
    binary: _Binary
    parsed: list[_Parsed]


class HermesSource(StreamSource):
    """One stream for all ids."""

    def __init__(  # noqa: PLR0913 - the parts of a source, put together in ``build``
        self,
        name: str,
        settings: Settings,
        feeds: dict[str, FeedId],
        clock: Clock,
        telemetry: Telemetry,
        *,
        url: str,
        key: SecretStr | None = None,
    ) -> None:
        """Connect to nothing yet. ``feeds``: by price id, lower case, without 0x."""
        super().__init__(name, settings.url.label, settings, feeds, clock, telemetry)
        self._url = url.rstrip("/") + PATH
        self._key = key
        self._event_bytes_max = settings.event_bytes_max
        self._decoder = msgspec.json.Decoder(_Update)

    async def read(self, inbox: Inbox) -> None:
        """Read one stream until the server ends it; raises TransientError."""
        ids = [("ids[]", f"0x{each}") for each in self._feeds]
        params = [*ids, ("encoding", "hex"), ("parsed", "true")]
        headers = {}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        parser = EventParser(self._event_bytes_max)
        async with event_stream(self._url, params, headers) as pieces:
            async for piece in pieces:
                try:
                    for event in parser.feed(piece):
                        for item in self.decode(event):
                            inbox.put(item)
                except TooLargeError as error:
                    inbox.put(self.rejected(Rejection.OVERSIZED, "", str(error)))
                    raise TransientError(str(error)) from error

    def decode(self, event: Event) -> Iterator[Tick | Rejected]:
        """Yield the ticks of an event, or why there are none."""
        received_ns, received_ms = self._clock.monotonic_ns(), self._clock.wall_ms()
        if event.kind != "message":
            said = event.data.decode(errors="replace")
            yield self.rejected(Rejection.MALFORMED, "", f"{event.kind} event: {said}")
            return
        try:
            update = self._decoder.decode(event.data)
            payload = bytes.fromhex(update.binary.data[0].removeprefix("0x"))
        except UNREADABLE as error:
            yield self.rejected(Rejection.MALFORMED, "", str(error))
            return
        for parsed in update.parsed:
            feed = self._feeds.get(parsed.id.removeprefix("0x").lower())
            if feed is None:
                detail = "not configured for this source"
                yield self.rejected(Rejection.UNKNOWN_FEED, parsed.id, detail)
                continue
            price = parsed.price
            yield Tick(
                feed=feed,
                source=self.name,
                price_wad=_wad(price.price, price.expo),
                published_ms=price.publish_time * 1000,
                received_ms=received_ms,
                received_ns=received_ns,
                conf_wad=_wad(price.conf, price.expo),
                payload=payload or None,
            )


def _wad(digits: str, exponent: int) -> int:
    return wad_from_decimal(f"{digits}e{exponent}")


def build(
    settings: Settings,
    name: str,
    feeds: Sequence[FeedId],
    clock: Clock,
    telemetry: Telemetry,
    rpc: Rpc,  # noqa: ARG001 - the loader's
) -> HermesSource:
    """Put a source together; raises ConfigError for an unusable secret or missing ids."""
    given = {symbol.removeprefix("0x").lower(): feed for symbol, feed in settings.feeds.items()}
    return HermesSource(
        name,
        settings,
        by_symbol(name, given, feeds, "price id"),
        clock,
        telemetry,
        url=settings.url.read().get_secret_value(),
        key=settings.api_key.read() if settings.api_key else None,
    )
