"""JSON-RPC to the demo's own node, apart from the keeper's: the judge shares no code with it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from keeper.errors import KeeperError, TransientError

CALL_LIMIT_S = 30.0
RECEIPT_LIMIT_S = 60.0
_POLL_S = 0.05


class NodeError(KeeperError):
    """The node answered with an error."""

    def __init__(self, message: str, data: str = "") -> None:
        """Keep the revert data apart."""
        super().__init__(message)
        self.data = data


class NodeUnreachableError(TransientError):
    """The node does not answer: it is being restarted."""


class NodeRpc:
    """A client of one node on loopback; ``close`` it in the end."""

    def __init__(self, url: str) -> None:
        """Connect lazily, inside the running loop."""
        self.url = url
        self._session: aiohttp.ClientSession | None = None
        self._id = 0

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session, made on first use."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=CALL_LIMIT_S)
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, *params: object) -> Any:  # noqa: ANN401 - JSON
        """Return the result; raises NodeError, NodeUnreachableError."""
        return _result(await self._post(self._request(method, params)))

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        """Return the results in order, the failed ones as NodeError in their place."""
        bodies = [self._request(method, params) for method, params in requests]
        replies = await self._post(bodies)
        if not isinstance(replies, list):
            return [_result(replies)]  # an error for the batch as a whole: raises
        by_id = {reply["id"]: reply for reply in replies}
        results: list[Any] = []
        for body in bodies:
            try:
                results.append(_result(by_id[body["id"]]))
            except NodeError as error:
                results.append(error)
        return results

    async def receipt(self, tx_hash: str) -> dict[str, Any]:
        """Wait until a transaction is included; raises NodeError when it failed or never came."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RECEIPT_LIMIT_S
        while loop.time() < deadline:
            found: dict[str, Any] | None = await self.call("eth_getTransactionReceipt", tx_hash)
            if found is not None:
                if int(found["status"], 16) != 1:
                    msg = f"transaction {tx_hash} failed"
                    raise NodeError(msg)
                return found
            await asyncio.sleep(_POLL_S)
        msg = f"transaction {tx_hash} was not included within {RECEIPT_LIMIT_S:.0f} s"
        raise NodeError(msg)

    def _request(self, method: str, params: Sequence[object]) -> dict[str, Any]:
        self._id += 1
        return {"jsonrpc": "2.0", "id": self._id, "method": method, "params": list(params)}

    async def _post(self, body: object) -> Any:  # noqa: ANN401 - JSON
        try:
            return await self._post_once(body)
        except aiohttp.ServerDisconnectedError:
            # a kept-alive connection of a node that has been restarted: the next one is fresh
            try:
                return await self._post_once(body)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise NodeUnreachableError(repr(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NodeUnreachableError(repr(error)) from error

    async def _post_once(self, body: object) -> Any:  # noqa: ANN401 - JSON
        async with self.session.post(self.url, json=body) as response:
            return await response.json()


def _result(reply: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    if error := reply.get("error"):
        raise NodeError(str(error.get("message")), str(error.get("data") or ""))
    return reply["result"]
