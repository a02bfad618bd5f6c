"""The smallest complete price source, to be copied: README, "Add a venue or a price source".

It speaks to a WebSocket server that sends one JSON object a price:

    {"symbol": "ETH", "price": "2000.5", "ts": 1767225600123}        # ts: ms, the publisher's clock

``_stream.py`` does the rest: reconnect, silence, a slow consumer, ``check``.
"""

from collections.abc import Sequence

import msgspec
from pydantic import Field

from keeper.config import WsEndpoint
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.ports import Clock, Rpc, Telemetry
from keeper.prices._client import TooLargeMessageError, web_socket
from keeper.prices._stream import Inbox, StreamSettings, StreamSource, by_symbol
from keeper.units import wad_from_decimal

MESSAGE_BYTES_MAX = 65_536  # a larger message ends the connection unread


class Settings(StreamSettings):
    """The source's table in config.toml. Every key is used, every key is described."""

    url: WsEndpoint = Field(description="URL of the WebSocket.")
    feeds: dict[str, FeedId] = Field(min_length=1, description="Symbol (ETH) → keeper feed.")


class Message(msgspec.Struct):
    """What the server sends; other keys are let pass."""

    symbol: str
    price: str
    ts: int


class TemplateSource(StreamSource):
    """One connection for all symbols."""

    url = ""

    async def read(self, inbox: Inbox) -> None:
        """Read one connection until the server ends it; raises TransientError."""
        try:
            async with web_socket(self.url, [], MESSAGE_BYTES_MAX) as messages:
                async for message in messages:
                    inbox.put(self.decode(message))
        except TooLargeMessageError as error:
            inbox.put(self.rejected(Rejection.OVERSIZED, "", str(error)))
            raise

    def decode(self, message: str | bytes) -> Tick | Rejected:
        """Return the tick of a message, or why there is none; it never raises."""
        received_ns = self._clock.monotonic_ns()
        try:
            said = msgspec.json.decode(message, type=Message)
            price_wad = wad_from_decimal(said.price)
        except (msgspec.MsgspecError, ValueError) as error:
            return self.rejected(Rejection.MALFORMED, "", str(error))
        feed = self._feeds.get(said.symbol)
        if feed is None:
            return self.rejected(Rejection.UNKNOWN_FEED, said.symbol, "not in the config")
        received_ms = self._clock.wall_ms()
        return Tick(feed, self.name, price_wad, said.ts, received_ms, received_ns)


def build(
    settings: Settings,
    name: str,
    feeds: Sequence[FeedId],
    clock: Clock,
    telemetry: Telemetry,
    rpc: Rpc,  # noqa: ARG001 - for sources that read a chain
) -> TemplateSource:
    """Put a source together; raises ConfigError for feeds without a symbol."""
    symbols = by_symbol(name, settings.feeds, feeds, "symbol")
    source = TemplateSource(name, settings.url.label, settings, symbols, clock, telemetry)
    source.url = settings.url.read().get_secret_value()
    return source
