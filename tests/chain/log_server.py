"""A JSON-RPC server with a log in every block, and a provider's limits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.shell.market import ADDRESS

CHAIN_ID = 31337


def block_hash(number: int) -> str:
    return f"0x{number + 1:064x}"


@dataclass
class LogServer:
    """``refusal``: how a range beyond ``blocks_max`` is refused; None: it is answered too late."""

    last: int
    blocks_max: int = 1_000_000
    refusal: dict[str, Any] | None = None
    delay_s: float = 0.0
    url: str = ""
    asked: list[tuple[int, int]] = field(default_factory=list)
    asked_at_s: list[float] = field(default_factory=list)
    running: int = 0
    running_max: int = 0

    def served(self) -> int:
        return len(self.asked)

    async def answer(self, request: web.Request) -> web.Response:
        calls = await request.json()
        some = calls if isinstance(calls, list) else [calls]
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            answers = [{"jsonrpc": "2.0", "id": one["id"], **await self._one(one)} for one in some]
        finally:
            self.running -= 1
        return web.json_response(answers if isinstance(calls, list) else answers[0])

    async def _one(self, call: dict[str, Any]) -> dict[str, Any]:
        match call["method"]:
            case "eth_chainId":
                return {"result": hex(CHAIN_ID)}
            case "eth_getBlockByNumber":
                number = int(call["params"][0], 16)
                header = {"number": hex(number), "hash": block_hash(number)}
                return {"result": header if number <= self.last else None}
        query = call["params"][0]
        first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        self.asked.append((first, last))
        self.asked_at_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.delay_s)
        if last - first + 1 > self.blocks_max:
            if self.refusal is not None:
                return {"error": self.refusal}
            await asyncio.sleep(30)
        return {"result": [self._log(number) for number in range(first, last + 1)]}

    def _log(self, number: int) -> dict[str, Any]:
        return {
            "address": ADDRESS,
            "topics": ["touched", f"account{number % 500}"],
            "data": "0x" + b"{}".hex(),
            "blockNumber": hex(number),
            "blockHash": block_hash(number),
            "transactionHash": block_hash(number),
        }


@contextlib.asynccontextmanager
async def served(server: LogServer) -> AsyncIterator[LogServer]:
    app = web.Application()
    app.router.add_post("/", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
