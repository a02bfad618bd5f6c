"""The keeper's own JSON-RPC client to a test node, and heads and logs as its loops pass them on."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp

from keeper.chain.endpoints import EndpointRules, Endpoints, Role
from keeper.chain.jsonrpc import JsonRpcClient
from keeper.chain.rpc import HttpRpc, log_from_json
from keeper.clock import SystemClock
from keeper.facts import FeedId, Head, Log, Price
from keeper.units import WAD
from tests.contracts import Contract
from tests.fakes import CountingTelemetry
from tests.market_chain import Update, payload_of
from tests.nodes import Anvil


def rpc_to(session: aiohttp.ClientSession, url: str, chain_id: int) -> HttpRpc:
    """Return the keeper's client of one endpoint that may take its time."""
    rules = EndpointRules(chain_id, probe_ms=1_000, head_lag_blocks_max=3, latency_ms_max=1_000)
    client = JsonRpcClient(session, timeout_ms=20_000)
    endpoints = Endpoints(client, rules, SystemClock(), CountingTelemetry())
    endpoints.add([url], Role.READ)
    return HttpRpc(endpoints, 2)


@contextlib.asynccontextmanager
async def connected(node: Anvil) -> AsyncIterator[HttpRpc]:
    async with aiohttp.ClientSession() as session:
        yield rpc_to(session, node.url, 31_337)


def head_of(node: Anvil) -> Head:
    full = False  # transaction hashes will do
    block = node.rpc("eth_getBlockByNumber", "latest", full)
    timestamp_s = int(block["timestamp"], 16)
    return Head(
        number=int(block["number"], 16),
        hash=block["hash"],
        parent_hash=block["parentHash"],
        timestamp_s=timestamp_s,
        base_fee_wei=int(block["baseFeePerGas"], 16),
        seen_ms=timestamp_s * 1_000,
    )


def logs_since(chain: Contract, block: int) -> list[Log]:
    """Return the contract's logs after a block."""
    span = {"address": chain.address, "fromBlock": hex(block + 1), "toBlock": "latest"}
    return [log_from_json(raw) for raw in chain.node.rpc("eth_getLogs", span)]


def tick(feed: str, update: Update | None, payload: bytes | None = None) -> Price:
    """Return a tick whose own price is a lie: only its payload counts."""
    body = payload_of(update) if update is not None else payload
    return Price(FeedId(feed), "test", 7 * WAD, 1, 1, 1, payload=body)
