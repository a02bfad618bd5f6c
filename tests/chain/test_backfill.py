"""Reading logs by range from a server with a provider's limits; a reading that is killed."""

import asyncio
import io
import sys
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from keeper.chain.backfill import LogReader, ReadRules
from keeper.chain.endpoints import EndpointRules, Endpoints, Role
from keeper.chain.jsonrpc import JsonRpcClient
from keeper.chain.ledger import Ledger
from keeper.chain.rpc import HttpRpc
from keeper.clock import SystemClock
from keeper.coverage import Covered
from keeper.errors import RpcError
from keeper.observe.progress import LogProgress
from tests.chain.log_server import CHAIN_ID, LogServer, block_hash, served
from tests.fakes import CountingTelemetry
from tests.shell.rig import scripted_rig

REFUSALS = [
    {"code": -32005, "message": "query returned more than 10000 results"},
    {"code": -32602, "message": "Log response size exceeded. You can make eth_getLogs requests"},
    {"code": -32000, "message": "block range is too wide"},
    {"code": -32005, "message": "limit exceeded"},
    {"code": -32701, "message": "Please specify an address in your request or limit range"},
    {"code": -32047, "message": "Invalid eth_getLogs request. 'fromBlock'-'toBlock' range"},
]


def reader_of(
    session: aiohttp.ClientSession,
    server: LogServer,
    *,
    range_max: int = 64,
    at_once_max: int = 3,
    per_s_max: int = 1_000,
    timeout_ms: int = 30_000,
) -> LogReader:
    rules = EndpointRules(CHAIN_ID, probe_ms=100, head_lag_blocks_max=3, latency_ms_max=1_000)
    client = JsonRpcClient(session, timeout_ms)
    endpoints = Endpoints(client, rules, SystemClock(), CountingTelemetry())
    endpoints.add([server.url], Role.READ)
    rpc = HttpRpc(endpoints, attempts_max=1)
    return LogReader(rpc, ReadRules(range_max, at_once_max, per_s_max))


async def read_all(reader: LogReader, last: int) -> tuple[list[Covered], list[int]]:
    """Return the ranges in the order of their blocks, and every log's block."""
    ranges, blocks = list[Covered](), list[int]()
    async for done in reader.read(["0xa"], [range(last + 1)]):
        for covered, logs in done:
            ranges.append(covered)
            blocks += [log.block_number for log in logs]
    return sorted(ranges, key=lambda one: one.first), sorted(blocks)


@pytest.mark.parametrize("refusal", [*REFUSALS, None], ids=lambda one: one and one["message"][:20])
async def test_a_refused_range_is_halved_whatever_the_words_and_grows_again(
    session: aiohttp.ClientSession, refusal: dict[str, object] | None
) -> None:
    async with served(LogServer(399, blocks_max=10, refusal=refusal)) as server:
        reader = reader_of(session, server, timeout_ms=30_000 if refusal else 300)
        with capture_logs():
            ranges, blocks = await read_all(reader, 399)
        assert blocks == list(range(400)), "each block once"
        assert [one.first for one in ranges] == [0, *(one.last + 1 for one in ranges[:-1])]
        assert all(one.hash == block_hash(one.last) for one in ranges)
        widths = [last - first + 1 for first, last in server.asked]
        assert max(widths) == 64
        assert sum(width > 10 for width in widths) < len(widths) / 2, "it has learned"
        server.blocks_max, server.last, server.asked = 1_000, 999, []
        await read_all(reader, 999)
        assert max(last - first + 1 for first, last in server.asked) == 64, "and learns again"


async def test_a_single_block_that_is_refused_is_an_error(session: aiohttp.ClientSession) -> None:
    async with served(LogServer(20, blocks_max=0, refusal=REFUSALS[0])) as server:
        with capture_logs(), pytest.raises(RpcError, match="10000"):
            await read_all(reader_of(session, server), 20)


async def test_several_queries_at_once_and_no_more_than_allowed(
    session: aiohttp.ClientSession,
) -> None:
    async with served(LogServer(999, delay_s=0.02)) as server:
        await read_all(reader_of(session, server, range_max=20, at_once_max=3), 999)
        assert server.running_max == 3


async def test_no_more_queries_a_second_than_allowed(session: aiohttp.ClientSession) -> None:
    async with served(LogServer(99)) as server:
        reader = reader_of(session, server, range_max=5, at_once_max=4, per_s_max=50)
        began_s = asyncio.get_running_loop().time()  # the first query may arrive late
        await read_all(reader, 99)
        assert server.served() == 20
        assert server.asked_at_s[-1] - began_s >= 18 / 50, "one is let go at once"


async def test_a_block_that_changes_while_it_is_read_is_read_again(
    session: aiohttp.ClientSession,
) -> None:
    class Reorganised(LogServer):
        headers = 0

        async def _one(self, call: dict[str, object]) -> dict[str, object]:
            answer = await super()._one(call)
            if call["method"] == "eth_getBlockByNumber":
                self.headers += 1
                if self.headers == 1:
                    answer["result"]["hash"] = "0xgone"
            return answer

    async with served(Reorganised(7)) as server:
        with capture_logs():
            ranges, blocks = await read_all(reader_of(session, server), 7)
    assert blocks == list(range(8))
    assert server.asked[0] == (0, 7)
    assert (0, 7) not in {(one.first, one.last) for one in ranges}, "that counts for nothing"
    assert "0xgone" not in {one.hash for one in ranges}


async def test_a_reading_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    last, path, scope = 9_999, tmp_path / "ledger.sqlite", scripted_rig()[0].desk.scope
    command = [sys.executable, "-m", "tests.chain.fill"]
    async with served(LogServer(last, delay_s=0.01)) as server:
        arguments = [server.url, str(path), str(last)]
        process = await asyncio.create_subprocess_exec(*command, *arguments)
        async with asyncio.timeout(60):
            while server.served() < 60:  # noqa: ASYNC110 - the process is another one
                await asyncio.sleep(0.01)
        process.kill()
        assert await process.wait() == -9
        async with Ledger(path, 64) as ledger:
            gaps = await ledger.gaps(scope, 0, last)
        unread = {block for gap in gaps for block in gap}
        assert 0 < len(unread) < last + 1
        server.asked.clear()
        process = await asyncio.create_subprocess_exec(*command, *arguments)
        assert await process.wait() == 0
        asked = [block for first, end in server.asked for block in range(first, end + 1)]
        assert sorted(asked) == sorted(unread), "what was missing, once, and nothing else"
        async with Ledger(path, 64) as ledger:
            assert await ledger.gaps(scope, 0, last) == []
            assert len(await ledger.known(scope)) == 500


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    screen, pipe = Terminal(), io.StringIO()
    with capture_logs() as lines:
        for stream in (screen, pipe):
            show = LogProgress(stream)
            for done in (10, 50, 100):
                show("demo", done, 100)
    assert "reading logs of demo" in screen.getvalue()
    assert pipe.getvalue() == ""
    (line,) = lines
    assert line == {
        "event": "logs read",
        "log_level": "info",
        "venue": "demo",
        "blocks": 100,
        "of": 100,
    }
