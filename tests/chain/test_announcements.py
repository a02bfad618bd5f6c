"""What a websocket announces: a real node's, and those of servers that do not behave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from keeper.chain.announcements import Ears, ListenRules, listen
from keeper.chain.backfill import LogReader
from keeper.chain.heads import ChainFollower, FollowSettings
from keeper.chain.rpc import HttpRpc
from keeper.clock import SystemClock
from keeper.errors import TransientError
from keeper.facts import Log
from tests.chain.conftest import CHAIN_ID
from tests.chain.test_heads import READING, deploy_logger, log_number, next_update
from tests.nodes import Anvil

ADDRESS = "0x" + "ab" * 20


@dataclass
class Heard:
    """Everything that was passed on."""

    heads: int = 0
    beats: int = 0
    logs: list[Log] = field(default_factory=list)

    @property
    def ears(self) -> Ears:
        return Ears(self.head, self.logs.append, self.beat)

    def head(self) -> None:
        self.heads += 1

    def beat(self) -> None:
        self.beats += 1


def rules(silence_ms: int = 5_000, **more: Any) -> ListenRules:  # noqa: ANN401 - fields
    return ListenRules(CHAIN_ID, silence_ms, **more)


async def heard(
    url: str,
    given: ListenRules,
    ears: Ears,
    until: Callable[[], bool],
    meanwhile: Callable[[], Any],
) -> None:
    """Listen until something is so, and do ``meanwhile`` again and again."""
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        listening = group.create_task(listen(url, given, ears), name="ws")
        while not until():
            meanwhile()
            await asyncio.sleep(0.02)
        listening.cancel()


async def test_a_head_wakes_the_follower_long_before_its_poll(rpc: HttpRpc, node: Anvil) -> None:
    follower = ChainFollower(
        rpc, LogReader(rpc, READING), [], FollowSettings(60_000, 8), SystemClock()
    )
    await follower.start()
    found = Heard()
    ears = Ears(follower.wake, found.logs.append, found.beat)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(next_update(follower), name="next")
        await heard(node.ws_url, rules(), ears, task.done, lambda: node.rpc("evm_mine"))
    assert task.result().head.number >= 1
    assert follower.announced
    assert found.beats


async def test_the_logs_of_the_contracts_are_announced_and_no_others(node: Anvil) -> None:
    ours, other = deploy_logger(node), deploy_logger(node)
    found, numbers = Heard(), iter(range(1_000))

    def act() -> None:
        log_number(node, other, 7)
        log_number(node, ours, next(numbers))
        node.rpc("evm_mine")

    given = rules(addresses=(ours,))
    await heard(node.ws_url, given, found.ears, lambda: len(found.logs) > 2, act)
    assert {log.address for log in found.logs} == {ours}
    values = [int.from_bytes(log.data, "big") for log in found.logs]
    assert values == sorted(values)
    assert all(log.block_number > 2 for log in found.logs)


async def test_silence_ends_it_and_heads_do_not(node: Anvil) -> None:
    with pytest.raises(TransientError, match="silent for 300 ms"):
        await listen(node.ws_url, rules(300), Heard().ears)
    found, loop = Heard(), asyncio.get_running_loop()
    started_s = loop.time()
    await heard(
        node.ws_url,
        rules(600),
        found.ears,
        lambda: loop.time() - started_s > 1.2,
        lambda: node.rpc("evm_mine"),
    )
    assert found.heads == found.beats > 1


async def test_a_websocket_that_is_not_there_is_a_transient_error() -> None:
    with pytest.raises(TransientError, match="lost"):
        await listen("ws://127.0.0.1:9", rules(), Heard().ears)


async def test_a_websocket_of_another_chain_is_not_listened_to(node: Anvil) -> None:
    with pytest.raises(TransientError, match=r"serves chain 31337, config says chain\.id = 10"):
        await listen(node.ws_url, ListenRules(10, 3_000), Heard().ears)


Script = Callable[[web.WebSocketResponse, dict[str, Any]], Any]


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[str]:
    """Serve websockets; every message that comes in is handed to the script."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await script(socket, json.loads(message.data))
        return socket

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Server:
    """Speaks as a node does, and pushes to each subscription what it was given."""

    def __init__(self, pushed: dict[str, list[object]], refused: tuple[str, ...] = ()) -> None:
        self.pushed = pushed
        self.refused = refused
        self.asked: list[Any] = []

    async def __call__(self, socket: web.WebSocketResponse, call: dict[str, Any]) -> None:
        if call["method"] == "eth_chainId":
            await socket.send_json({"id": call["id"], "result": hex(CHAIN_ID)})
            return
        kind, *query = call["params"]
        self.asked.append((kind, *query))
        if kind in self.refused:
            error = {"code": -32601, "message": f"{kind}: no such subscription"}
            await socket.send_json({"id": call["id"], "error": error})
            return
        await socket.send_json({"id": call["id"], "result": "0x" + kind})
        for result in self.pushed.get(kind, []):
            params = {"subscription": "0x" + kind, "result": result}
            await socket.send_json({"method": "eth_subscription", "params": params})


def raw_log(number: str | None) -> dict[str, object]:
    return {"address": ADDRESS, "topics": ["0xAA"], "data": "0x07", "blockNumber": number}


@pytest.mark.parametrize("pending_logs", [False, True])
async def test_pending_logs_are_asked_for_if_configured(*, pending_logs: bool) -> None:
    server = Server(
        {"newHeads": [{}], "logs": [raw_log("0x5")], "pendingLogs": [raw_log("0x6"), raw_log(None)]}
    )
    found = Heard()
    given = rules(addresses=(ADDRESS,), pending_logs=pending_logs)
    wanted = 3 if pending_logs else 1
    async with serving(server) as url:
        await heard(url, given, found.ears, lambda: len(found.logs) >= wanted, lambda: None)
    assert [log.block_number for log in found.logs] == [5, 6, 0][:wanted]
    assert found.logs[0] == Log(ADDRESS, ("0xaa",), b"\x07", 5, "", "")
    kinds = ["newHeads", "logs", "pendingLogs"]
    assert [kind for kind, *_ in server.asked] == kinds[: 3 if pending_logs else 2]
    assert server.asked[1][1] == {"address": [ADDRESS]}


async def test_a_node_without_logs_is_good_enough_and_one_without_heads_is_not() -> None:
    given, found = rules(addresses=(ADDRESS,), pending_logs=True), Heard()
    async with serving(Server({"newHeads": [{}]}, ("pendingLogs", "logs"))) as url:
        await heard(url, given, found.ears, lambda: found.heads > 0, lambda: None)
    async with serving(Server({}, ("newHeads",))) as url:
        with pytest.raises(TransientError, match=r"announces no heads: .*no such subscription"):
            await listen(url, given, found.ears)


GARBAGE = ["{", "7", '"latest"', '{"jsonrpc":"2.0"}', "", '{"id":77,"result":1}', "[" * 100_000]


@pytest.mark.parametrize("frame", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_a_transient_error(frame: str) -> None:
    async def talk(socket: web.WebSocketResponse, _: dict[str, Any]) -> None:
        await socket.send_str(frame)

    async with serving(talk) as url:
        with pytest.raises(TransientError, match="sent garbage"):
            await listen(url, rules(2_000), Heard().ears)


@pytest.mark.parametrize("log", [7, {}, raw_log("0xzz"), raw_log("0x1") | {"data": "0x0"}])
async def test_a_log_that_is_none_is_garbage(log: object) -> None:
    async with serving(Server({"logs": [log]})) as url:
        with pytest.raises(TransientError, match="sent garbage"):
            await listen(url, rules(2_000, addresses=(ADDRESS,)), Heard().ears)


@pytest.mark.parametrize("torn", [True, False])
async def test_a_connection_that_ends_is_a_transient_error(*, torn: bool) -> None:
    async def end(socket: web.WebSocketResponse, _: dict[str, Any]) -> None:
        if torn:
            transport = socket.get_extra_info("socket")
            assert transport is not None
            transport.shutdown(2)
        else:
            await socket.close()

    async with serving(end) as url:
        with pytest.raises(TransientError, match=r"websocket (closed|lost)"):
            await listen(url, rules(2_000), Heard().ears)
