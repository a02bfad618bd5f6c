"""Transactions go to every endpoint at once, and the first that accepts is enough."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from keeper.chain.broadcast import Broadcast, BroadcastRules
from keeper.chain.heads import head_from_json
from keeper.chain.signer import KeySigner, Unsigned
from keeper.decide.economics import Economics, Fee
from keeper.errors import RpcError, RpcFault
from keeper.facts import AccountId, Attempt, Call, Head, Plan, SignedTx, TxKind, VenueId
from keeper.units import GWEI
from tests.chain.conftest import CHAIN_ID, Script, endpoints_of
from tests.fakes import CountingTelemetry
from tests.nodes import Anvil, running_anvil

KEY = "0x" + "42" * 32
SIGNER = KeySigner(KEY)


def attempt_of(nonce: int = 0, *, max_fee_wei: int = 2 * GWEI, value_wei: int = 7) -> Attempt:
    """Return an attempt with one signed transaction."""
    call = Call("0x" + "77" * 20, b"", value_wei)
    fee = Fee(max_fee_wei, min(GWEI, max_fee_wei))
    tx_hash, raw = SIGNER.signed(Unsigned(call, nonce, 21_000, fee, CHAIN_ID))
    signed = SignedTx(tx_hash, raw, TxKind.FIRST, fee.max_fee_wei, fee.priority_fee_wei, 1, 0)
    expected = Economics(10**16, 10**14, 0, 0, 900_000)
    plan = Plan(VenueId("v"), AccountId("1"), call, 21_000, 10**15, expected, 1, 2, 1)
    return Attempt("a", plan, SIGNER.address, nonce, (signed,), 1)


def head_of(node: Anvil) -> Head:
    return head_from_json(node.rpc("eth_getBlockByNumber", "latest", False), 0)  # noqa: FBT003


def pooled(node: Anvil) -> int:
    return int(node.rpc("txpool_status")["pending"], 16)


@pytest.fixture
def funded(node: Anvil) -> Anvil:
    node.rpc("anvil_setBalance", SIGNER.address, hex(10**18))
    return node


@asynccontextmanager
async def broadcast_to(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, *urls: str, attempts_max: int = 1
) -> AsyncIterator[Broadcast]:
    endpoints = endpoints_of(session, telemetry, *urls)
    async with Broadcast(endpoints, BroadcastRules(attempts_max), telemetry) as broadcast:
        yield broadcast


async def test_the_first_acceptance_is_enough_and_the_others_get_it_too(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, funded: Anvil
) -> None:
    with running_anvil("--no-mining") as second:
        second.rpc("anvil_setBalance", SIGNER.address, hex(10**18))
        urls = ("http://127.0.0.1:9", second.url, funded.url)
        async with broadcast_to(session, telemetry, *urls) as broadcast:
            attempt = attempt_of()
            assert broadcast.due(attempt, head_of(funded))
            assert await broadcast.send(attempt, head_of(funded)) is None
            assert not broadcast.due(attempt, head_of(funded))
            await asyncio.wait(broadcast._on_their_way)
        assert pooled(funded) == pooled(second) == 1
    assert telemetry.counts["keeper_broadcasts_total", "http2:127.0.0.1", "ok"] == 1
    assert telemetry.counts["keeper_broadcasts_total", "http0:127.0.0.1", "unreachable"] == 1


async def test_what_is_being_sent_is_not_due_until_it_is_answered(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, funded: Anvil
) -> None:
    async with broadcast_to(session, telemetry, funded.url) as broadcast:
        attempt, head = attempt_of(), head_of(funded)
        funded.pause()
        sending = asyncio.create_task(broadcast.send(attempt, head))
        await asyncio.sleep(0)
        assert not broadcast.due(attempt, head)
        sending.cancel()
        await asyncio.wait([sending])
        assert broadcast.due(attempt, head), "nobody is known to have it"
        funded.resume()


async def test_a_hung_endpoint_holds_nothing_up(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, funded: Anvil
) -> None:
    with running_anvil("--no-mining") as hung:
        hung.pause()
        async with broadcast_to(session, telemetry, hung.url, funded.url) as broadcast:
            assert await broadcast.send(attempt_of(), head_of(funded)) is None
            assert broadcast._on_their_way, "the answer of the hung one is still waited for"
        assert not broadcast._on_their_way, "and given up when the keeper ends"
        hung.resume()


async def test_a_duplicate_counts_as_accepted(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, funded: Anvil
) -> None:
    async with broadcast_to(session, telemetry, funded.url) as broadcast:
        assert await broadcast.send(attempt_of(), head_of(funded)) is None
    async with broadcast_to(session, telemetry, funded.url) as broadcast:
        assert broadcast.due(attempt_of(), head_of(funded)), "after a restart it is sent again"
        assert await broadcast.send(attempt_of(), head_of(funded)) is None
    label = "http0:127.0.0.1"
    assert telemetry.counts["keeper_broadcasts_total", label, "already_known"] == 1
    assert pooled(funded) == 1


async def test_a_refusal_by_all_is_told_and_definite(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, node: Anvil
) -> None:
    async with broadcast_to(session, telemetry, node.url) as broadcast:
        refusal = await broadcast.send(attempt_of(), head_of(node))
    assert isinstance(refusal, RpcError)
    assert refusal.fault is RpcFault.INSUFFICIENT_FUNDS
    assert refusal.is_definite


async def test_a_refusal_beside_a_silence_is_not_definite(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, node: Anvil
) -> None:
    async with broadcast_to(session, telemetry, node.url, "http://127.0.0.1:9") as broadcast:
        refusal = await broadcast.send(attempt_of(), head_of(node))
    assert isinstance(refusal, RpcError)
    assert refusal.fault is RpcFault.UNREACHABLE
    assert not refusal.is_definite, "the one that gave no answer may hold it"


async def test_an_endpoint_that_answers_nonsense_has_not_accepted(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, script: Script
) -> None:
    chain = f'{{"jsonrpc":"2.0","id":1,"result":"{hex(CHAIN_ID)}"}}'
    script.answers = [(200, chain), (200, '{"jsonrpc":"2.0","id":2,"result":"0x00"}')]
    async with broadcast_to(session, telemetry, script.url) as broadcast:
        refusal = await broadcast.send(attempt_of(), Head(1, "0x", "0x", 0, 0, 0))
        assert broadcast.due(attempt_of(), Head(2, "0x", "0x", 0, 0, 0))
    assert isinstance(refusal, RpcError)
    assert refusal.fault is RpcFault.GARBAGE


async def test_nothing_is_sent_to_another_chain_and_it_says_so(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, funded: Anvil
) -> None:
    with running_anvil("--no-mining", "--chain-id", "10") as other:
        async with broadcast_to(session, telemetry, other.url, funded.url) as broadcast:
            assert await broadcast.send(attempt_of(), head_of(funded)) is None
            await asyncio.wait(broadcast._on_their_way)
            assert broadcast.trouble == ""
            funded.pause()
            broadcast._endpoints.client.timeout = aiohttp.ClientTimeout(total=0.1)
            for _ in range(2):
                await broadcast._endpoints.probe_all()
            assert "wrong_chain" in broadcast.trouble
            assert "down" in broadcast.trouble
            funded.resume()
            await broadcast._endpoints.probe_all()
            assert broadcast.trouble == ""
        assert pooled(other) == 0


async def test_what_ends_the_block_passes_through_as_it_is(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry
) -> None:
    with pytest.raises(KeyError):
        async with broadcast_to(session, telemetry, "http://127.0.0.1:9"):
            raise KeyError
