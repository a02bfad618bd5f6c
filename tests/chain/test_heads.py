import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keeper.chain.backfill import LogReader, ReadRules
from keeper.chain.heads import ChainFollower, FollowSettings
from keeper.chain.rpc import HttpRpc
from keeper.clock import SystemClock
from keeper.facts import ChainUpdate
from tests.chain.conftest import DEV_ADDRESS
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
