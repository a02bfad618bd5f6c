"""``keeper bench decode``: how fast logs are decoded, and folded into dirty accounts.

Decoding is compared with web3's ``process_log`` on the same logs, in values and in time; reading
from a server and folding with reading the same answers and doing nothing with them. The two take
turns, so that what else runs on the machine slows both.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import click
from hexbytes import HexBytes
from rich.console import Console
from web3 import Web3
from web3.datastructures import AttributeDict

from keeper.bench.log_server import DISTINCT_BLOCKS, LOGS_PER_BLOCK, account_of, block_hash, raw_log
from keeper.chain.backfill import LogReader, ReadRules
from keeper.chain.decode import log_from_json
from keeper.chain.endpoints import EndpointRules, Endpoints, Role
from keeper.chain.jsonrpc import JsonRpcClient
from keeper.chain.rpc import HttpRpc
from keeper.clock import SystemClock
from keeper.facts import ChainUpdate, Head
from keeper.observe.metrics import Metrics
from keeper.venues import demo_market
from keeper.watch.intake import Intake

ADDRESS = "0x" + "ab" * 20
CHAIN_ID = 31337
BY_WEB3 = 1_000  # logs: process_log takes a third of a millisecond each
BY_US = 200_000
BLOCKS_PER_QUERY = 10  # 10,000 logs: as many as providers answer at once
QUERIES_AT_ONCE = 2
BLOCKS_PER_TURN = 40
REORG_DEPTH = 64
TARGET_PROCESS_LOG, TARGET_READING = 80, 10
CASH_CHANGED = {
    "type": "event",
    "name": "CashChanged",
    "anonymous": False,
    "inputs": [
        {"name": "account", "type": "uint256", "indexed": True},
        {"name": "cash", "type": "int256", "indexed": False},
    ],
}


@dataclass(frozen=True)
class Report:
    """What was measured; ``same``: everything decoded was what it should be."""

    ratio_to_process_log: float
    logs_per_s: float  # decoded, from a log at hand to its fields
    process_log_per_s: float
    logs: int  # read from the server
    reading_s: float  # their bytes alone
    folding_s: float  # read, decoded and folded
    ratio_to_reading: float
    folded_logs_per_s: float
    dirty_accounts: int
    same: bool


def run(logs: int) -> Report:
    """Measure with so many logs from the server, a multiple of those of one query."""
    theirs_s, ours_s, same = _decoding()
    reading_s, folding_s, dirty, complete = asyncio.run(_folding(logs))
    return Report(
        ratio_to_process_log=theirs_s / ours_s,
        logs_per_s=1 / ours_s,
        process_log_per_s=1 / theirs_s,
        logs=logs,
        reading_s=reading_s,
        folding_s=folding_s,
        ratio_to_reading=folding_s / reading_s,
        folded_logs_per_s=logs / folding_s,
        dirty_accounts=dirty,
        same=same and complete,
    )


def _decoding() -> tuple[float, float, bool]:
    """Return seconds a log by web3 and by the generated decoder, and whether they agree."""
    raws = [raw_log(number, ADDRESS) for number in range(BY_WEB3)]
    event = Web3().eth.contract(abi=[CASH_CHANGED]).events.CashChanged()
    for_web3 = [_as_web3(raw) for raw in raws]
    logs = [log_from_json(raw) for raw in raws]
    read = demo_market.EVENTS.read
    started = time.perf_counter()
    theirs = [dict(event.process_log(one)["args"]) for one in for_web3]
    theirs_s = (time.perf_counter() - started) / BY_WEB3
    ours = [read(log)[1] for log in logs]
    started = time.perf_counter()
    for _ in range(BY_US // BY_WEB3):
        for log in logs:
            read(log)
    ours_s = (time.perf_counter() - started) / BY_US
    return theirs_s, ours_s, theirs == ours


def _as_web3(raw: dict[str, Any]) -> Any:  # noqa: ANN401 - web3's type of a log
    words = {name: HexBytes(raw[name]) for name in ("data", "blockHash", "transactionHash")}
    numbers = {"blockNumber": int(raw["blockNumber"], 16), "logIndex": 0, "transactionIndex": 0}
    topics = {"topics": [HexBytes(topic) for topic in raw["topics"]]}
    return AttributeDict(raw | words | numbers | topics)


async def _folding(logs: int) -> tuple[float, float, int, bool]:
    """Return seconds of reading alone and of all, dirty accounts, and whether they are complete."""
    reading_s = folding_s = 0.0
    blocks = logs // LOGS_PER_BLOCK
    async with _server() as url, aiohttp.ClientSession() as session:
        await _read_bytes(session, url, range(DISTINCT_BLOCKS))  # now all answers are made
        fold = Fold(session, url)
        for first in range(0, blocks, BLOCKS_PER_TURN):
            some = range(first, min(first + BLOCKS_PER_TURN, blocks))
            started = time.perf_counter()
            await _read_bytes(session, url, some)
            between = time.perf_counter()
            await fold.read(some)
            reading_s += between - started
            folding_s += time.perf_counter() - between
    dirty = set(fold.intake.take())
    expected = {account_of(number) for number in range(min(logs, DISTINCT_BLOCKS * LOGS_PER_BLOCK))}
    return reading_s, folding_s, len(dirty), fold.logs == logs and dirty == expected


async def _read_bytes(session: aiohttp.ClientSession, url: str, blocks: range) -> None:
    """Read the same answers, as many at once, and throw them away."""
    starts = range(0, len(blocks), BLOCKS_PER_QUERY)
    ranges = [blocks[start : start + BLOCKS_PER_QUERY] for start in starts]
    while ranges:
        some, ranges = ranges[:QUERIES_AT_ONCE], ranges[QUERIES_AT_ONCE:]
        async with asyncio.TaskGroup() as group:
            for one in some:
                group.create_task(_post(session, url, one), name="read")


async def _post(session: aiohttp.ClientSession, url: str, blocks: range) -> None:
    query = {"address": [ADDRESS], "fromBlock": hex(blocks[0]), "toBlock": hex(blocks[-1])}
    header: dict[str, Any] = {
        "method": "eth_getBlockByNumber",
        "params": [hex(blocks[-1]), False],
    }
    calls = [header, {"method": "eth_getLogs", "params": [query]}, header]
    body = [{"jsonrpc": "2.0", "id": n, **call} for n, call in enumerate(calls)]
    async with session.post(url, json=body) as response:
        async for _ in response.content.iter_any():
            pass


class Fold:
    """Reads and folds as the keeper does."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Wire the keeper's own parts to the server."""
        rules = EndpointRules(CHAIN_ID, 60_000, head_lag_blocks_max=3, latency_ms_max=60_000)
        client, metrics = JsonRpcClient(session, timeout_ms=60_000), Metrics("bench")
        endpoints = Endpoints(client, rules, SystemClock(), metrics)
        endpoints.add([url], Role.READ)
        metrics.know("endpoint", [one.label for one in endpoints.all])
        rpc = HttpRpc(endpoints, attempts_max=1)
        settings = demo_market.Settings(id="bench", address=ADDRESS)
        self._reader = LogReader(rpc, ReadRules(BLOCKS_PER_QUERY, QUERIES_AT_ONCE, 1_000_000))
        self.intake = Intake(demo_market.build(settings, rpc, CHAIN_ID), REORG_DEPTH)
        self.logs = 0

    async def read(self, blocks: range) -> None:
        """Have what these blocks touched among the dirty accounts."""
        async for done in self._reader.read([ADDRESS], [blocks]):
            for covered, logs in done:
                self.logs += len(logs)
                head = Head(covered.last, block_hash(covered.last), "", 0, 1, 0)
                self.intake.post(ChainUpdate(head, tuple(logs), covers_from=covered.first))
                self.intake.fold()


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    """Run the server as a process of its own; yields its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keeper.bench.log_server", ADDRESS),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def main(logs: int, *, as_json: bool) -> int:
    """Measure and print; return 1 if anything decoded or folded was not what it should be."""
    report = run(logs - logs % (BLOCKS_PER_QUERY * LOGS_PER_BLOCK))
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        Console().print(
            f"decoding: {report.logs_per_s:,.0f} logs/s, {report.ratio_to_process_log:.0f} × web3's"
            f" process_log with {report.process_log_per_s:,.0f} (goal: ≥ {TARGET_PROCESS_LOG} ×)\n"
            f"{report.logs:,} logs from a server, folded into {report.dirty_accounts:,} accounts:"
            f" {report.folding_s:.1f} s, {report.ratio_to_reading:.1f} × reading their bytes alone"
            f" (goal: ≤ {TARGET_READING} ×)\n"
            f"as it should be: {'yes' if report.same else 'NO'}"
        )
    return 0 if report.same else 1
