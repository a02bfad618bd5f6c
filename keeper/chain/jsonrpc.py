"""JSON-RPC over HTTP, one exchange at a time: no choice of endpoint, no retries."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec

from keeper.chain.decode import answers_from, error_from, result_of
from keeper.chain.wordings import rpc_error
from keeper.errors import RpcFault

BODY_BYTES_MAX = 64 * 1024 * 1024  # a getLogs answer of some 100,000 logs

TOO_MANY_REQUESTS = 429

Request = tuple[str, Sequence[object]]
Headers = Callable[[bytes], Mapping[str, str]]


class JsonRpcClient:
    """Posts requests to a URL and tells every failure apart. Errors never repeat the URL."""

    def __init__(self, session: aiohttp.ClientSession, timeout_ms: int) -> None:
        """Share the session's connections; ``timeout_ms`` is for a whole exchange."""
        self._session = session
        self.timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        self._ids = itertools.count(1)

    async def post(
        self, url: str, label: str, requests: Sequence[Request], headers: Headers | None = None
    ) -> list[Any]:
        """Return the results in order; an item that failed alone is an RpcError in its place.

        ``headers``: more of them, made from the body (a signature of it, say).
        """
        ids = [next(self._ids) for _ in requests]
        calls = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            for number, (method, params) in zip(ids, requests, strict=True)
        ]
        body = msgspec.json.encode(calls if len(calls) > 1 else calls[0])
        more = headers(body) if headers else {}
        answers = answers_from(await self._exchange(url, label, body, more))
        by_id = {answer.id: answer for answer in answers}
        missing = [number for number in ids if number not in by_id]
        if missing:
            lone = next((one.error for one in answers if one.error is not None), None)
            raise error_from(lone) if lone else rpc_error(RpcFault.GARBAGE, "ids do not match")
        return [
            result_of(method, by_id[number])
            for number, (method, _) in zip(ids, requests, strict=True)
        ]

    async def _exchange(
        self, url: str, label: str, body: bytes, headers: Mapping[str, str]
    ) -> bytes:
        try:
            async with self._session.post(
                url,
                data=body,
                headers={"Content-Type": "application/json", **headers},
                timeout=self.timeout,
            ) as response:
                chunks, left = [], BODY_BYTES_MAX
                async for chunk in response.content.iter_any():
                    chunks.append(chunk)
                    left -= len(chunk)
                    if left < 0:
                        raise rpc_error(RpcFault.GARBAGE, f"answer over {BODY_BYTES_MAX} bytes")
                status, wait = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise rpc_error(RpcFault.UNREACHABLE, f"{label}: {_told(error)}") from None
        if status == TOO_MANY_REQUESTS:
            limited = rpc_error(RpcFault.RATE_LIMITED, f"{label}: HTTP 429")
            limited.retry_after_s = _seconds(wait)
            raise limited
        if status >= 500:  # noqa: PLR2004 - the HTTP class of server errors
            raise rpc_error(RpcFault.UNREACHABLE, f"{label}: HTTP {status}")
        return b"".join(chunks)


def _seconds(retry_after: str) -> float:
    """Read a Retry-After header, seconds or a date; 0 when there is none or it is nonsense."""
    if retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _told(error: Exception) -> str:
    """Say what happened to a connection without the error's own text, which may hold the URL."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else type(error).__name__
