"""What a websocket announces: heads, which wake the follower, and logs, which are hints.

Nothing that is announced is believed: what woke the follower is read over HTTP, and an account that
a log names is only read again. So a socket may be lost, lie or lag without anything being missed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import structlog

from keeper.chain.decode import error_from, hint_from_json
from keeper.chain.rpc import quantity
from keeper.errors import TransientError
from keeper.facts import Log

logger = structlog.get_logger(__name__)

MESSAGE_BYTES_MAX = 4 * 1024 * 1024  # a header, or a log with its data
CHAIN, HEADS, LOGS, PENDING_LOGS = "eth_chainId", "newHeads", "logs", "pendingLogs"


@dataclass(frozen=True, slots=True)
class ListenRules:
    """``addresses``: whose logs are hints. ``pending_logs``: those of blocks not yet made, too."""

    chain_id: int
    silence_ms_max: int
    addresses: Sequence[str] = ()
    pending_logs: bool = False


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears what: ``head`` that there is a new one, ``log`` each log, ``beat`` either."""

    head: Callable[[], None]
    log: Callable[[Log], None]
    beat: Callable[[], None]


class _Pushed(msgspec.Struct):
    subscription: str
    result: msgspec.Raw


class _Message(msgspec.Struct):
    """An answer to a request, or (with ``params``) something pushed."""

    id: int | None = None
    result: Any = None
    error: Any = None
    params: _Pushed | None = None


MESSAGE = msgspec.json.Decoder(_Message)


async def listen(url: str, rules: ListenRules, ears: Ears) -> None:
    """Pass on what a websocket announces; ends with TransientError.

    A socket of another chain is not listened to; one without a head for ``silence_ms_max`` counts
    as lost even when it looks alive. One that announces no logs is good enough.
    """
    lost = "closed"
    try:
        async with (
            asyncio.timeout(rules.silence_ms_max / 1000) as watchdog,
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=MESSAGE_BYTES_MAX) as socket,
        ):
            listener = _Listener(socket, rules, ears)
            await listener.ask(CHAIN)
            async for frame in socket:
                if await listener.take(frame):
                    now_s = asyncio.get_running_loop().time()
                    watchdog.reschedule(now_s + rules.silence_ms_max / 1000)
    except TimeoutError:
        lost = f"silent for {rules.silence_ms_max} ms"
    except (aiohttp.ClientError, OSError) as error:
        lost = f"lost: {type(error).__name__}"
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        lost = f"sent garbage: {type(error).__name__}"
    msg = f"websocket {lost}"
    raise TransientError(msg)


class _Listener:
    """One connection: what was asked of it, and which subscription is of what."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, rules: ListenRules, ears: Ears
    ) -> None:
        self._socket = socket
        self._rules = rules
        self._ears = ears
        self._asked: list[str] = []  # the id of a request is its place
        self._kinds: dict[str, str] = {}

    async def ask(self, kind: str, *params: object) -> None:
        method = CHAIN if kind == CHAIN else "eth_subscribe"
        named = [] if kind == CHAIN else [kind, *params]
        body = {"jsonrpc": "2.0", "id": len(self._asked), "method": method, "params": named}
        self._asked.append(kind)
        await self._socket.send_str(msgspec.json.encode(body).decode())

    async def take(self, frame: aiohttp.WSMessage) -> bool:
        """Work through one frame; True: it was a head."""
        if frame.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
            msg = f"a frame of type {frame.type}"
            raise ValueError(msg)
        message = MESSAGE.decode(frame.data)
        if message.params is None:
            await self._answered(message)
            return False
        kind = self._kinds.get(message.params.subscription)
        if kind == HEADS:
            self._ears.head()
            self._ears.beat()
        elif kind is not None:
            self._ears.log(hint_from_json(message.params.result))
        return kind == HEADS

    async def _answered(self, message: _Message) -> None:
        if message.id is None or not 0 <= message.id < len(self._asked):
            msg = "an answer to nothing that was asked"
            raise ValueError(msg)
        kind = self._asked[message.id]
        if kind == CHAIN:
            self._check_chain(message)
            await self._subscribe()
        elif message.error is None:
            self._kinds[str(message.result)] = kind
        elif kind == HEADS:
            msg = f"websocket announces no heads: {error_from(message.error)}"
            raise TransientError(msg)
        else:
            logger.warning("no hints", of=kind, reason=str(error_from(message.error)))

    def _check_chain(self, message: _Message) -> None:
        if message.error is not None:
            raise TransientError(str(error_from(message.error)))
        found, wanted = quantity(message.result), self._rules.chain_id
        if found != wanted:
            msg = f"websocket serves chain {found}, config says chain.id = {wanted}"
            raise TransientError(msg)

    async def _subscribe(self) -> None:
        await self.ask(HEADS)
        if self._rules.addresses:
            query = {"address": list(self._rules.addresses)}
            await self.ask(LOGS, query)
            if self._rules.pending_logs:
                await self.ask(PENDING_LOGS, query)
