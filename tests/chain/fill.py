"""Read all logs of a server into a ledger, as a process that can be killed: URL, file, last block.

Run as ``python -m tests.chain.fill``.
"""

import asyncio
import sys
from pathlib import Path

import aiohttp

from keeper.chain.backfill import Finder, LogReader, ReadRules
from keeper.chain.ledger import Ledger
from keeper.facts import Head
from tests.chain.conftest import make_rpc
from tests.chain.log_server import block_hash
from tests.fakes import CountingTelemetry
from tests.shell.rig import scripted_rig
from tests.shell.venue import VENUE


async def fill(url: str, path: Path, last: int) -> None:
    head = Head(last, block_hash(last), block_hash(last - 1), 0, 1, 0)
    rig, _ = scripted_rig()
    async with aiohttp.ClientSession() as session, Ledger(path, 64) as ledger:
        rpc = make_rpc(session, CountingTelemetry(), url)
        reader = LogReader(rpc, ReadRules(50, 4, 1_000))
        finder = Finder(rpc, reader, ledger, {VENUE: 0}, CountingTelemetry(), lambda *_: None)
        async for _ in finder.find(rig.desk, head):
            pass


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
