"""Streams over HTTP and WebSocket, with every way they fail told apart once; no kind of its own."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp

from keeper.errors import TransientError
from keeper.prices._stream import RefusedError

CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 10.0  # for a WebSocket to be closed in good order
RATE_LIMITED_S = 60.0  # when a server does not say how long to stay away
_REFUSALS = frozenset({400, 401, 403, 404, 410, 418, 429, 451})


class TooLargeMessageError(TransientError):
    """The server sent more than is read in one message; the connection is lost with it."""


@asynccontextmanager
async def event_stream(
    url: str, params: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Open a stream of server-sent events and give its bytes as they come.

    Raises TransientError; RefusedError when the server answers that it will not serve us.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX)
    accept = {"Accept": "text/event-stream", **headers}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # a redirection could carry the key elsewhere
            session.get(url, params=params, headers=accept, allow_redirects=False) as answer,
        ):
            _refuse(answer.status, answer.headers)
            if answer.content_type != "text/event-stream":
                msg = f"answers {answer.content_type}, not a stream of events"
                raise TransientError(msg)
            yield answer.content.iter_any()
    except (aiohttp.ClientError, OSError) as error:
        raise TransientError(_said(error)) from error


@asynccontextmanager
async def web_socket(
    url: str, greetings: Sequence[str], bytes_max: int
) -> AsyncIterator[AsyncIterator[str | bytes]]:
    """Open a WebSocket, send the greetings, and give the messages until the server closes it.

    Raises TransientError; TooLargeMessageError for a message of more than ``bytes_max``.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX)
    closing = aiohttp.ClientWSTimeout(ws_close=ANSWER_S_MAX)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.ws_connect(url, max_msg_size=bytes_max, timeout=closing) as socket,
        ):
            for greeting in greetings:
                await socket.send_str(greeting)
            yield _messages(socket)
    except aiohttp.WSServerHandshakeError as error:
        _refuse(error.status, error.headers or {})
        raise TransientError(_said(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise TransientError(_said(error)) from error


async def _messages(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[str | bytes]:
    while True:
        message = await socket.receive()
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            yield message.data
        elif message.type is aiohttp.WSMsgType.ERROR:
            error = message.data
            if getattr(error, "code", None) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                raise TooLargeMessageError(str(error))
            raise TransientError(_said(error))
        elif message.type not in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG):
            return


def _refuse(status: int, headers: Mapping[str, str]) -> None:
    """Raise what a status that is no success means."""
    if status in (HTTPStatus.OK, HTTPStatus.SWITCHING_PROTOCOLS):
        return
    try:
        said = f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        said = f"HTTP {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        asked = headers.get("Retry-After", "")
        raise RefusedError(said, float(asked) if asked.isdecimal() else RATE_LIMITED_S)
    if status in _REFUSALS or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise RefusedError(said)
    raise TransientError(said)


def _said(error: BaseException) -> str:
    """Return an error's text without what it quotes of headers and addresses with keys."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"HTTP {error.status} {error.message}".strip()
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or error.os_error}"
    return f"{type(error).__name__} {error}".strip()
