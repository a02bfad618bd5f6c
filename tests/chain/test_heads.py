import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from keeper.chain.backfill import LogReader, ReadRules
from keeper.chain.heads import ChainFollower, FollowSettings, announce_heads
from keeper.chain.rpc import HttpRpc
from keeper.clock import SystemClock
from keeper.errors import TransientError
from keeper.facts import ChainUpdate
from tests.chain.conftest import CHAIN_ID, DEV_ADDRESS
from tests.nodes import Anvil

# init code of a contract that logs one word, the caller's data, under topic 0x…01
LOGGER = "0x600e600c600039600e6000f3" + "600035600052600160206000a100"
SETTINGS = FollowSettings(poll_ms=20, reorg_depth_max=8)
READING = ReadRules(log_range_max=4, log_queries_at_once_max=1, log_queries_per_s_max=1_000)


def deploy_logger(node: Anvil) -> str:
    sent = node.rpc("eth_sendTransaction", {"from": DEV_ADDRESS, "data": LOGGER})
    node.rpc("evm_mine")
    address: str = node.rpc("eth_getTransactionReceipt", sent)["contractAddress"]
    return address


def log_number(node: Anvil, address: str, number: int) -> None:
    data = "0x" + number.to_bytes(32, "big").hex()
    node.rpc("eth_sendTransaction", {"from": DEV_ADDRESS, "to": address, "data": data})


def follower_of(rpc: HttpRpc, address: str) -> ChainFollower:
    return ChainFollower(rpc, LogReader(rpc, READING), [address], SETTINGS, SystemClock())


class Recording(HttpRpc):
    """Notes the ranges of logs asked for."""

    ranges: list[tuple[int, int]]

    async def batch(self, requests):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        for method, params in requests:
            if method == "eth_getLogs" and "fromBlock" in params[0]:
                self.ranges.append((int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)))
        return await super().batch(requests)


async def next_update(follower: ChainFollower) -> ChainUpdate:
    async with asyncio.timeout(5):
        async for update in follower.updates():
            if update is not None:
                return update
    raise AssertionError


def numbers(update: ChainUpdate) -> list[int]:
    return [int.from_bytes(log.data, "big") for log in update.logs]


async def test_every_log_is_handed_out_once_across_a_gap(rpc: HttpRpc, node: Anvil) -> None:
    address = deploy_logger(node)
    follower = follower_of(rpc, address)
    assert (await follower.start()).number == 1
    log_number(node, address, 7)
    node.rpc("evm_mine")
    assert numbers(await next_update(follower)) == [7]
    for number in range(10):  # more blocks than one log range holds
        log_number(node, address, number)
        node.rpc("evm_mine")
    update = await next_update(follower)
    assert update.head.number == 12
    assert numbers(update) == list(range(10))
    assert update.reorged_from is None


async def test_a_gap_is_read_in_ranges_that_are_allowed(rpc: HttpRpc, node: Anvil) -> None:
    recording = Recording(rpc.endpoints, 2)
    recording.ranges = []
    follower = follower_of(recording, DEV_ADDRESS)
    await follower.start()
    node.rpc("anvil_mine", "0xa")
    assert (await next_update(follower)).head.number == 10
    assert recording.ranges == [(1, 4), (5, 8), (9, 10)]


async def test_without_a_websocket_the_head_is_asked_for_once_a_poll(rpc: HttpRpc) -> None:
    follower = ChainFollower(
        rpc, LogReader(rpc, READING), [], replace(SETTINGS, poll_ms=150), SystemClock()
    )
    await follower.start()
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with contextlib.aclosing(follower.updates()) as updates:
        assert await anext(updates) is None
    assert loop.time() - started_s >= 0.149, "sooner than its poll"


async def test_a_reorg_names_the_first_block_that_changed(rpc: HttpRpc, node: Anvil) -> None:
    address = deploy_logger(node)
    follower = follower_of(rpc, address)
    await follower.start()
    for number in range(4):
        log_number(node, address, number)
        node.rpc("evm_mine")
    assert (await next_update(follower)).head.number == 5
    node.rpc("anvil_reorg", 2, [])
    log_number(node, address, 99)
    node.rpc("evm_mine")
    update = await next_update(follower)
    assert update.reorged_from == 4
    assert update.head.number == 6
    assert numbers(update) == [99], "what the orphaned blocks logged is not there any more"
    assert not update.resync


async def test_a_reorg_deeper_than_remembered_asks_for_everything(
    rpc: HttpRpc, node: Anvil
) -> None:
    address = deploy_logger(node)
    follower = follower_of(rpc, address)
    for _ in range(12):
        node.rpc("evm_mine")
    await follower.start()
    node.rpc("evm_mine")
    await next_update(follower)
    node.rpc("anvil_reorg", 10, [])
    node.rpc("evm_mine")
    update = await next_update(follower)
    assert update.resync


async def test_a_websocket_wakes_the_follower_and_silence_ends_it(
    rpc: HttpRpc, node: Anvil
) -> None:
    follower = ChainFollower(
        rpc, LogReader(rpc, READING), [], FollowSettings(60_000, 8), SystemClock()
    )
    beats: list[int] = []
    await follower.start()

    async def mine() -> None:
        while not beats:
            node.rpc("evm_mine")
            await asyncio.sleep(0.05)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        listening = group.create_task(
            announce_heads(node.ws_url, CHAIN_ID, follower.wake, 5000, lambda: beats.append(1)),
            name="ws",
        )
        group.create_task(mine(), name="mine")
        assert (await next_update(follower)).head.number >= 1, "long before the next poll"
        listening.cancel()
    with pytest.raises(TransientError, match="silent for 300 ms"):
        await announce_heads(node.ws_url, CHAIN_ID, follower.wake, 300, lambda: None)


async def test_a_websocket_that_announces_heads_is_left_alone(rpc: HttpRpc, node: Anvil) -> None:
    follower = ChainFollower(rpc, LogReader(rpc, READING), [], SETTINGS, SystemClock())
    beats: list[float] = []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        listening = group.create_task(
            announce_heads(
                node.ws_url, CHAIN_ID, follower.wake, 600, lambda: beats.append(loop.time())
            ),
            name="ws",
        )
        while not beats or beats[-1] - beats[0] < 0.8:  # longer than a silence may be
            assert not listening.done()
            node.rpc("evm_mine")
            await asyncio.sleep(0.05)
        listening.cancel()


async def test_a_websocket_that_is_not_there_is_a_transient_error() -> None:
    with pytest.raises(TransientError):
        await announce_heads("ws://127.0.0.1:9", CHAIN_ID, lambda: None, 3000, lambda: None)


SUBSCRIBED = '{"jsonrpc":"2.0","id":0,"result":"0x1"}'


@pytest.mark.parametrize("first", [None, SUBSCRIBED], ids=["at once", "once subscribed"])
@pytest.mark.parametrize("then", ["{", "7", '"latest"', '{"jsonrpc":"2.0"}', "", None])
async def test_garbage_and_a_torn_connection_are_transient_errors(
    first: str | None, then: str | None
) -> None:
    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        for frame in (first, then):
            if frame is not None:
                await socket.send_str(frame)
        if then is None and request.transport is not None:
            request.transport.abort()
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    try:
        with pytest.raises(TransientError):
            await announce_heads(url, CHAIN_ID, lambda: None, 500, lambda: None)
    finally:
        await runner.cleanup()


async def test_a_websocket_of_another_chain_is_not_listened_to(node: Anvil) -> None:
    with pytest.raises(TransientError, match=r"serves chain 31337, config says chain\.id = 10"):
        await announce_heads(node.ws_url, 10, lambda: None, 3000, lambda: None)


class Lagging(HttpRpc):
    """Answers the newest block from an endpoint that is far behind the others."""

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        if params and params[0] == "latest":
            params = ["0x3", *params[1:]]
        return await super().call(method, params)


async def test_a_head_from_far_behind_is_no_news(rpc: HttpRpc, node: Anvil) -> None:
    node.rpc("anvil_mine", "0xa")
    follower = follower_of(rpc, DEV_ADDRESS)
    assert (await follower.start()).number == 10
    follower._rpc = Lagging(rpc.endpoints, 1)
    assert await anext(follower.updates()) is None
    follower._rpc = rpc
    node.rpc("evm_mine")
    assert (await next_update(follower)).head.number == 11
