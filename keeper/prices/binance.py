"""Mark prices of Binance's USD-margined futures over WebSocket.

One connection with a stream a symbol, ``<symbol>@markPrice@1s``. The server pings, and ends every
connection after 24 hours.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from pydantic import Field

from keeper.config import WsEndpoint
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.ports import Clock, Rpc, Telemetry
from keeper.prices._client import TooLargeMessageError, web_socket
from keeper.prices._stream import UNREADABLE, Inbox, StreamSettings, StreamSource, by_symbol
from keeper.units import wad_from_decimal

MS_MAX = 10**14  # the year 5138


class Settings(StreamSettings):
    """A server of mark prices and the symbols to ask it for."""

    url: WsEndpoint = Field(
        default="wss://fstream.binance.com/market",
        validate_default=True,
        description="Base URL of the market streams.",
    )
    feeds: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,40}$")], FeedId] = Field(
        min_length=1, max_length=200, description="Symbol (ETHUSDT) → keeper feed."
    )
    message_bytes_max: int = Field(
        default=65_536,
        ge=256,
        le=16_777_216,
        strict=True,
        description="Bytes; a larger message ends the connection unread.",
    )


class _Mark(msgspec.Struct, gc=False):
    e: Literal["markPriceUpdate"]
    at_ms: Annotated[int, msgspec.Meta(gt=0, lt=MS_MAX)] = msgspec.field(name="E")
    s: str
    p: str


class _Message(msgspec.Struct, gc=False):
    data: _Mark


class BinanceSource(StreamSource):
    """One connection for all symbols."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        feeds: dict[str, FeedId],
        clock: Clock,
        telemetry: Telemetry,
        url: str,
    ) -> None:
        """Connect to nothing yet. ``feeds``: by symbol, upper case."""
        super().__init__(name, settings.url.label, settings, feeds, clock, telemetry)
        streams = "/".join(f"{symbol.lower()}@markPrice@1s" for symbol in feeds)
        self._url = f"{url.rstrip('/')}/stream?streams={streams}"
        self._bytes_max = settings.message_bytes_max
        self._decoder = msgspec.json.Decoder(_Message)

    async def read(self, inbox: Inbox) -> None:
        """Read one connection until the server ends it; raises TransientError."""
        try:
            async with web_socket(self._url, [], self._bytes_max) as messages:
                async for message in messages:
                    inbox.put(self.decode(message))
        except TooLargeMessageError as error:
            inbox.put(self.rejected(Rejection.OVERSIZED, "", str(error)))
            raise

    def decode(self, message: str | bytes) -> Tick | Rejected:
        """Return the tick of a message, or why there is none."""
        received_ns = self._clock.monotonic_ns()
        try:
            mark = self._decoder.decode(message).data
            price_wad = wad_from_decimal(mark.p)
        except UNREADABLE as error:
            return self.rejected(Rejection.MALFORMED, "", str(error))
        feed = self._feeds.get(mark.s)
        if feed is None:
            return self.rejected(Rejection.UNKNOWN_FEED, mark.s, "not configured for this source")
        return Tick(
            feed=feed,
            source=self.name,
            price_wad=price_wad,
            published_ms=mark.at_ms,
            received_ms=self._clock.wall_ms(),
            received_ns=received_ns,
        )


def build(
    settings: Settings,
    name: str,
    feeds: Sequence[FeedId],
    clock: Clock,
    telemetry: Telemetry,
    rpc: Rpc,  # noqa: ARG001 - the loader's
) -> BinanceSource:
    """Put a source together; raises ConfigError for feeds without a symbol."""
    given = {symbol.upper(): feed for symbol, feed in settings.feeds.items()}
    symbols = by_symbol(name, given, feeds, "symbol")
    url = settings.url.read().get_secret_value()
    return BinanceSource(name, settings, symbols, clock, telemetry, url)
