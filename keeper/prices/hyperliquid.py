"""Mark prices of Hyperliquid's perpetuals over WebSocket.

One connection with a subscription a coin (``activeAssetCtx``). The messages carry no time: a price
counts as published when it arrives, so that its age says nothing about what the server held back.
"""

import json
from collections.abc import Sequence
from typing import Annotated

import msgspec
from pydantic import Field

from keeper.config import WsEndpoint
from keeper.facts import FeedId, Rejected, Rejection, Tick
from keeper.ports import Clock, Rpc, Telemetry
from keeper.prices._client import TooLargeMessageError, web_socket
from keeper.prices._stream import UNREADABLE, Inbox, StreamSettings, StreamSource, by_symbol
from keeper.units import wad_from_decimal

CHANNEL = "activeAssetCtx"


class Settings(StreamSettings):
    """A server of asset contexts and the coins to ask it for."""

    url: WsEndpoint = Field(
        default="wss://api.hyperliquid.xyz/ws",
        validate_default=True,
        description="URL of the WebSocket.",
    )
    feeds: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9:_/@-]{1,40}$")], FeedId] = Field(
        min_length=1, max_length=200, description="Coin (ETH) → keeper feed."
    )
    message_bytes_max: int = Field(
        default=65_536,
        ge=256,
        le=16_777_216,
        strict=True,
        description="Bytes; a larger message ends the connection unread.",
    )


class _Envelope(msgspec.Struct, gc=False):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Context(msgspec.Struct, gc=False):
    mark: str | int | float = msgspec.field(name="markPx")


class _Asset(msgspec.Struct, gc=False):
    coin: str
    ctx: _Context


class HyperliquidSource(StreamSource):
    """One connection for all coins."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        feeds: dict[str, FeedId],
        clock: Clock,
        telemetry: Telemetry,
        url: str,
    ) -> None:
        """Connect to nothing yet. ``feeds``: by coin."""
        super().__init__(name, settings.url.label, settings, feeds, clock, telemetry)
        self._url = url
        self._bytes_max = settings.message_bytes_max
        self._greetings = [
            json.dumps({"method": "subscribe", "subscription": {"type": CHANNEL, "coin": coin}})
            for coin in feeds
        ]
        self._envelope = msgspec.json.Decoder(_Envelope)
        self._asset = msgspec.json.Decoder(_Asset)

    async def read(self, inbox: Inbox) -> None:
        """Read one connection until the server ends it; raises TransientError."""
        try:
            async with web_socket(self._url, self._greetings, self._bytes_max) as messages:
                async for message in messages:
                    item = self.decode(message)
                    if item is not None:
                        inbox.put(item)
        except TooLargeMessageError as error:
            inbox.put(self.rejected(Rejection.OVERSIZED, "", str(error)))
            raise

    def decode(self, message: str | bytes) -> Tick | Rejected | None:
        """Return the tick of a message, or why there is none; None for answers to ourselves."""
        received_ns = self._clock.monotonic_ns()
        try:
            envelope = self._envelope.decode(message)
            if envelope.channel in ("subscriptionResponse", "pong"):
                return None
            if envelope.channel != CHANNEL:
                said = f"{envelope.channel}: {bytes(envelope.data).decode(errors='replace')}"
                return self.rejected(Rejection.MALFORMED, "", said)
            asset = self._asset.decode(envelope.data)
            price_wad = wad_from_decimal(str(asset.ctx.mark))
        except UNREADABLE as error:
            return self.rejected(Rejection.MALFORMED, "", str(error))
        feed = self._feeds.get(asset.coin)
        if feed is None:
            detail = "not configured for this source"
            return self.rejected(Rejection.UNKNOWN_FEED, asset.coin, detail)
        now_ms = self._clock.wall_ms()
        return Tick(
            feed=feed,
            source=self.name,
            price_wad=price_wad,
            published_ms=now_ms,
            received_ms=now_ms,
            received_ns=received_ns,
        )


def build(
    settings: Settings,
    name: str,
    feeds: Sequence[FeedId],
    clock: Clock,
    telemetry: Telemetry,
    rpc: Rpc,  # noqa: ARG001 - the loader's
) -> HyperliquidSource:
    """Put a source together; raises ConfigError for feeds without a coin."""
    coins = by_symbol(name, settings.feeds, feeds, "coin")
    url = settings.url.read().get_secret_value()
    return HyperliquidSource(name, settings, coins, clock, telemetry, url)
