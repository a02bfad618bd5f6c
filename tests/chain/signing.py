"""A remote signer as Web3Signer serves it: JSON-RPC over HTTP, keys on its side."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from eth_account import Account
from eth_utils.address import to_checksum_address

NUMBERS = ("gas", "value", "nonce", "chainId", "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas")


@dataclass
class RemoteKeys:
    """The server. ``lie``: what it changes before it signs; ``hang``: it never answers."""

    key: str
    url: str = ""
    lie: dict[str, object] = field(default_factory=dict)
    answer: str | None = None  # said instead of JSON-RPC
    wrapped: bool = False  # as clef does: {"raw": …, "tx": …}
    hang: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    signed: int = 0

    async def serve(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())
        if self.hang:
            await self.closing.wait()
        if self.answer is not None:
            return web.Response(status=500, text=self.answer)
        if asked["method"] == "eth_accounts":
            result: object = [str(Account.from_key(self.key).address).lower()]
        else:
            result = self._signed(asked["params"][0])
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    def _signed(self, wanted: dict[str, Any]) -> object:
        self.signed += 1
        wanted = {name: value for name, value in wanted.items() if name != "from"} | self.lie
        wanted |= {name: int(wanted[name], 16) for name in NUMBERS if name in wanted}
        wanted["to"] = to_checksum_address(wanted["to"])
        raw = Account.sign_transaction(wanted, self.key).raw_transaction.to_0x_hex()
        return {"raw": raw, "tx": {}} if self.wrapped else raw


@asynccontextmanager
async def remote_keys(key: str) -> AsyncIterator[RemoteKeys]:
    keys = RemoteKeys(key)
    app = web.Application()
    app.router.add_post("/", keys.serve)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    keys.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield keys
    keys.closing.set()
    await runner.cleanup()
