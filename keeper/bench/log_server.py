"""A JSON-RPC server of made-up logs, fast enough to measure a reader: answers are made beforehand.

Run as ``python -m keeper.bench.log_server ADDRESS``; it prints its port. A query of some
blocks is answered with the logs of the same blocks modulo ``DISTINCT_BLOCKS``: once each of these
was asked for, nothing is made any more while a reader is measured.
"""

import asyncio
import sys
from typing import Any

import msgspec
from aiohttp import web
from eth_utils.crypto import keccak

LOGS_PER_BLOCK = 1_000
DISTINCT_BLOCKS = 200
ACCOUNTS = 100_000  # all of them in the logs of the distinct blocks
TOPIC = "0x" + keccak(text="CashChanged(uint256,int256)").hex()


def account_of(number: int) -> str:
    """Return the account that the n-th log is about."""
    return str(number * 7919 % ACCOUNTS)


def block_hash(number: int) -> str:
    """Return the hash of a made-up block."""
    return f"0x{number + 1:064x}"


def raw_log(number: int, address: str) -> dict[str, Any]:
    """Return the n-th log as a node answers it."""
    block = number // LOGS_PER_BLOCK
    cash = (number - 500) * 10**18 % 2**256
    return {
        "address": address,
        "topics": [TOPIC, f"0x{int(account_of(number)):064x}"],
        "data": f"0x{cash:064x}",
        "blockHash": block_hash(block),
        "blockNumber": hex(block),
        "transactionHash": f"0x{number:064x}",
        "transactionIndex": "0x0",
        "logIndex": "0x0",
        "removed": False,
    }


class Answers:
    """What is answered: for each range of blocks its logs, encoded once."""

    def __init__(self, address: str) -> None:
        """Nothing is made before it is asked for the first time."""
        self._address = address
        self._made: dict[int, bytes] = {}

    def logs(self, first: int, last: int) -> bytes:
        """Return the encoded logs of a range."""
        start = first % DISTINCT_BLOCKS
        if start not in self._made:
            end = start + last - first + 1
            numbers = range(start * LOGS_PER_BLOCK, end * LOGS_PER_BLOCK)
            self._made[start] = msgspec.json.encode([raw_log(n, self._address) for n in numbers])
        return self._made[start]

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request or a batch."""
        calls = msgspec.json.decode(await request.read())
        some = calls if isinstance(calls, list) else [calls]
        parts = [b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (c["id"], self._one(c)) for c in some]
        whole = b"[%b]" % b",".join(parts) if isinstance(calls, list) else parts[0]
        return web.Response(body=whole, content_type="application/json")

    def _one(self, call: dict[str, Any]) -> bytes:
        match call["method"]:
            case "eth_getLogs":
                query = call["params"][0]
                return self.logs(int(query["fromBlock"], 16), int(query["toBlock"], 16))
            case "eth_getBlockByNumber" if call["params"][0] != "latest":
                number = int(call["params"][0], 16)
                return msgspec.json.encode({"number": hex(number), "hash": block_hash(number)})
            case "eth_chainId":
                return b'"0x7a69"'
            case _:
                return b'"0x0"'


async def serve(address: str) -> None:
    """Serve until the process is ended; prints the port."""
    app = web.Application()
    app.router.add_post("/", Answers(address).answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
