from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from keeper.chain.endpoints import EndpointRules, Endpoints, Role
from keeper.chain.jsonrpc import JsonRpcClient
from keeper.chain.rpc import HttpRpc
from keeper.clock import SystemClock
from keeper.ports import Clock, Telemetry
from tests.fakes import CountingTelemetry
from tests.nodes import Anvil, running_anvil

DEV_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"  # anvil's first
DEV_ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
CHAIN_ID = 31337


@pytest.fixture
def node() -> Iterator[Anvil]:
    with running_anvil("--no-mining") as anvil:
        yield anvil


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def telemetry() -> CountingTelemetry:
    return CountingTelemetry()


def make_rpc(
    session: aiohttp.ClientSession,
    telemetry: CountingTelemetry,
    *urls: str,
    chain_id: int = CHAIN_ID,
) -> HttpRpc:
    return HttpRpc(endpoints_of(session, telemetry, *urls, chain_id=chain_id), 2)


def endpoints_of(
    session: aiohttp.ClientSession,
    telemetry: Telemetry,
    *urls: str,
    chain_id: int = CHAIN_ID,
    clock: Clock | None = None,
) -> Endpoints:
    """Return endpoints that are read from and sent to."""
    rules = EndpointRules(chain_id, probe_ms=100, head_lag_blocks_max=3, latency_ms_max=1_000)
    client = JsonRpcClient(session, timeout_ms=2_000)
    endpoints = Endpoints(client, rules, clock or SystemClock(), telemetry)
    endpoints.add(urls, Role.READ)
    endpoints.add(urls, Role.SEND)
    return endpoints


@pytest.fixture
def rpc(node: Anvil, session: aiohttp.ClientSession, telemetry: CountingTelemetry) -> HttpRpc:
    return make_rpc(session, telemetry, node.url)


@dataclass
class Script:
    """A web server that answers with what the test says: (status, body), the last one for ever."""

    url: str
    answers: list[tuple[int, str]]
    asked: int = 0


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async def answer(_request: web.Request) -> web.Response:
        status, body = scripted.answers[min(scripted.asked, len(scripted.answers) - 1)]
        scripted.asked += 1
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted = Script(f"http://127.0.0.1:{runner.addresses[0][1]}", [])
    yield scripted
    await runner.cleanup()
