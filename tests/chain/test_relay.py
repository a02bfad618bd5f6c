"""Private relays: a real HTTP server that checks who asks and hands on to a real node."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak

from keeper.chain.broadcast import Broadcast, BroadcastRules
from keeper.chain.endpoints import Endpoints, Role
from keeper.chain.relay import KEPT_BLOCKS, Relay, RelayKey, RelayProtocol
from keeper.errors import EndpointState, RpcError, RpcFault
from keeper.facts import Attempt, Head
from tests.chain.conftest import endpoints_of
from tests.chain.test_broadcast import SIGNER, attempt_of, head_of, pooled
from tests.fakes import CountingTelemetry
from tests.nodes import Anvil, NodeError

RELAY_KEY = "0x" + "24" * 32
FORBIDDEN = 403


@dataclass
class RelayServer:
    """Serves ``url`` in front of a node; ``trusted``: the only address it listens to."""

    url: str
    node: Anvil
    trusted: str | None = None
    down: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, request: dict[str, Any]) -> dict[str, object]:
        self.asked.append(request)
        method, params = request["method"], request["params"]
        match method:
            case "eth_sendRawTransaction":
                return self._forwarded(params[0])
            case "eth_sendPrivateTransaction":
                return self._forwarded(params[0]["tx"])
            case "eth_sendBundle":
                if int(params[0]["blockNumber"], 16) == head_of(self.node).number + 1:
                    for raw in params[0]["txs"]:
                        self._forwarded(raw)
                return {"result": {"bundleHash": "0x" + "ab" * 32}}
        return {"error": {"code": -32601, "message": f"unknown method {method}"}}

    def _forwarded(self, raw: str) -> dict[str, object]:
        try:
            return {"result": self.node.rpc("eth_sendRawTransaction", raw)}
        except NodeError as refused:
            return {"error": {"code": -32000, "message": str(refused)}}

    def sends(self) -> list[str]:
        return [request["method"] for request in self.asked if "send" in request["method"]]


@pytest.fixture
async def relay(node: Anvil) -> AsyncIterator[RelayServer]:
    node.rpc("anvil_setBalance", SIGNER.address, hex(10**18))

    async def serve(request: web.Request) -> web.Response:
        if running.down:
            return web.Response(status=503)
        body = await request.read()
        if running.trusted and signer_of(request, body) != running.trusted:
            return web.Response(status=FORBIDDEN, text="<html>signer not authorized</html>")
        asked = json.loads(body)
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], **running.answer(asked)})

    app = web.Application()
    app.router.add_post("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running = RelayServer(f"http://127.0.0.1:{runner.addresses[0][1]}", node)
    yield running
    await runner.cleanup()


def signer_of(request: web.Request, body: bytes) -> str | None:
    """Recover the sender as relays do, with a library of its own."""
    address, _, signature = request.headers.get("X-Flashbots-Signature", "").partition(":")
    if not signature:
        return None
    message = encode_defunct(text="0x" + keccak(body).hex())
    found = str(Account.recover_message(message, signature=signature))
    return found if found == address else None


@dataclass
class Setup:
    """A broadcast through one relay, and a node that anybody may send to."""

    broadcast: Broadcast
    endpoints: Endpoints
    node: Anvil

    def head(self, number: int) -> Head:
        return replace(head_of(self.node), number=number)

    async def send(self, attempt: Attempt, number: int) -> RpcError | None:
        return await self.broadcast.send(attempt, self.head(number))


async def setup_of(
    session: aiohttp.ClientSession,
    server: RelayServer,
    protocol: RelayProtocol,
    *,
    public_after_blocks: int | None = None,
    key: str | None = None,
) -> Setup:
    telemetry = CountingTelemetry()
    endpoints = endpoints_of(session, telemetry, server.node.url)
    endpoints.add([server.url], Role.PRIVATE)
    relay = Relay(server.url, protocol, RelayKey(key) if key else None)
    rules = BroadcastRules(1, (relay,), public_after_blocks)
    return Setup(Broadcast(endpoints, rules, telemetry), endpoints, server.node)


@pytest.mark.parametrize(
    "protocol", [RelayProtocol.RAW, RelayProtocol.PRIVATE_TRANSACTION, RelayProtocol.BUNDLE]
)
async def test_a_transaction_reaches_the_node_through_the_relay_only(
    session: aiohttp.ClientSession, relay: RelayServer, protocol: RelayProtocol
) -> None:
    setup = await setup_of(session, relay, protocol)
    attempt = attempt_of()
    async with setup.broadcast as broadcast:
        assert broadcast.due(attempt, setup.head(0))
        assert await setup.send(attempt, 0) is None
        assert not broadcast.due(attempt, setup.head(0))
        assert len(relay.sends()) == 1
        assert pooled(setup.node) == 1
        relay.node.rpc("evm_mine")
        receipt = relay.node.rpc("eth_getTransactionReceipt", attempt.transactions[0].hash)
        assert receipt["status"] == "0x1"


async def test_a_relay_that_asks_who_it_is_gets_a_signature_it_can_recover(
    session: aiohttp.ClientSession, relay: RelayServer
) -> None:
    relay.trusted = RelayKey(RELAY_KEY).address
    signed = await setup_of(session, relay, RelayProtocol.PRIVATE_TRANSACTION, key=RELAY_KEY)
    async with signed.broadcast:
        assert await signed.send(attempt_of(), 0) is None
    unsigned = await setup_of(session, relay, RelayProtocol.PRIVATE_TRANSACTION)
    async with unsigned.broadcast:
        refusal = await unsigned.send(attempt_of(), 0)
    assert isinstance(refusal, RpcError)
    assert refusal.fault is RpcFault.GARBAGE
    assert not refusal.is_definite


async def test_a_bundle_is_sent_again_for_each_next_block(
    session: aiohttp.ClientSession, relay: RelayServer
) -> None:
    setup = await setup_of(session, relay, RelayProtocol.BUNDLE)
    attempt = attempt_of()
    async with setup.broadcast as broadcast:
        for number in range(3):
            assert broadcast.due(attempt, setup.head(number))
            assert await setup.send(attempt, number) is None
            assert not broadcast.due(attempt, setup.head(number))
    bundles = [request["params"][0] for request in relay.asked]
    assert [bundle["blockNumber"] for bundle in bundles] == ["0x1", "0x2", "0x3"]
    assert {tuple(bundle["txs"]) for bundle in bundles} == {
        ("0x" + attempt.transactions[0].raw.hex(),)
    }


async def test_a_private_transaction_is_given_again_when_the_relay_has_let_it_go(
    session: aiohttp.ClientSession, relay: RelayServer
) -> None:
    setup = await setup_of(session, relay, RelayProtocol.PRIVATE_TRANSACTION)
    attempt = attempt_of()
    async with setup.broadcast as broadcast:
        await setup.send(attempt, 0)
        assert relay.asked[0]["params"][0]["maxBlockNumber"] == hex(KEPT_BLOCKS)
        assert not broadcast.due(attempt, setup.head(KEPT_BLOCKS - 1))
        assert broadcast.due(attempt, setup.head(KEPT_BLOCKS))


@pytest.mark.parametrize("after", [2, None])
async def test_what_waits_too_long_goes_public_if_the_rules_say_so(
    session: aiohttp.ClientSession, relay: RelayServer, after: int | None
) -> None:
    relay.down = True
    setup = await setup_of(session, relay, RelayProtocol.RAW, public_after_blocks=after)
    attempt = attempt_of()
    async with setup.broadcast as broadcast:
        assert isinstance(await setup.send(attempt, 1), RpcError)
        assert pooled(setup.node) == 0, "private to the last"
        assert broadcast.due(attempt, setup.head(2)), "nobody has it"
        refusal = await setup.send(attempt, 2)
        assert (refusal is None) == (after == 2)
        assert pooled(setup.node) == (1 if after else 0)
        assert broadcast.due(attempt, setup.head(3)) == (after is None)


async def test_what_a_relay_has_goes_public_too_when_it_is_not_mined(
    session: aiohttp.ClientSession, relay: RelayServer
) -> None:
    setup = await setup_of(session, relay, RelayProtocol.RAW, public_after_blocks=3)
    attempt = attempt_of()
    async with setup.broadcast as broadcast:
        await setup.send(attempt, 0)
        assert not broadcast.due(attempt, setup.head(2))
        assert broadcast.due(attempt, setup.head(3))
        await setup.send(attempt, 3)
        if broadcast._on_their_way:
            await asyncio.wait(broadcast._on_their_way)
        assert not broadcast.due(attempt, setup.head(4))


async def test_without_a_relay_nothing_is_sent_unless_it_may_go_public_later(
    session: aiohttp.ClientSession, relay: RelayServer
) -> None:
    relay.down = True
    for after, said in ((None, "private0:127.0.0.1 down"), (5, "")):
        setup = await setup_of(session, relay, RelayProtocol.RAW, public_after_blocks=after)
        for _ in range(2):
            await setup.endpoints.probe_all()
        assert said in setup.broadcast.trouble
        assert bool(setup.broadcast.trouble) == bool(said)


async def test_a_relay_that_knows_only_its_own_methods_is_well(
    session: aiohttp.ClientSession, relay: RelayServer
) -> None:
    setup = await setup_of(session, relay, RelayProtocol.BUNDLE)
    await setup.endpoints.probe_all()
    states = [setup.endpoints.state(each) for each in setup.endpoints.all]
    assert states == [EndpointState.HEALTHY, EndpointState.HEALTHY]
    assert setup.endpoints.all[1].lag == 0


def test_a_relay_key_never_shows() -> None:
    assert "24" * 8 not in repr(Relay("http://relay", RelayProtocol.RAW, RelayKey(RELAY_KEY)))
    with pytest.raises(ValueError, match="not a private key") as raised:
        RelayKey("0x1234")
    assert "1234" not in str(raised.value)
