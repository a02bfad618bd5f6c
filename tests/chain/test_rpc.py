import contextlib
import gc

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.chain.decode import Answer, answers_from, log_from_json, result_of
from keeper.chain.rpc import WATCHER, HttpRpc, quantity, receipt_from_json, unhex
from keeper.errors import RpcError, RpcFault, TransientRpcError
from keeper.facts import Call, Log
from tests.chain.conftest import CHAIN_ID, DEV_ADDRESS, Script, make_rpc
from tests.fakes import CountingTelemetry
from tests.nodes import Anvil

# init code of a contract whose every call reverts with the four bytes 0xdeadbeef
COUNTER = "0x600e8060095f395ff35f54600101805f555f5260205ff3"  # answers how often it was called
REVERTER = "0x6010600c60003960106000f3" + "63deadbeef60e01b60005260046000fd"


@given(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers())))
def test_garbage_never_gets_past_the_decoders(value: object) -> None:
    for decode in (quantity, unhex):
        with contextlib.suppress(TransientRpcError):
            assert isinstance(decode(value), int | bytes)


async def test_batch_answers_in_order_with_errors_in_place(rpc: HttpRpc) -> None:
    chain, wrong, block = await rpc.batch(
        [("eth_chainId", []), ("no_such_method", []), ("eth_blockNumber", [])]
    )
    assert quantity(chain) == CHAIN_ID
    assert isinstance(wrong, RpcError)
    assert wrong.fault is RpcFault.UNSUPPORTED
    assert quantity(block) == 0


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (200, "<html>hello</html>", RpcFault.GARBAGE),
        (200, '{"jsonrpc":"2.0","id":', RpcFault.GARBAGE),
        (200, "[1, 2]", RpcFault.GARBAGE),
        (200, "null", RpcFault.GARBAGE),
        (200, '{"jsonrpc":"2.0","id":999999,"result":"0x1"}', RpcFault.GARBAGE),
        (200, '{"jsonrpc":"2.0","id":null,"error":"oops"}', RpcFault.GARBAGE),
        (429, "slow down", RpcFault.RATE_LIMITED),
        (503, "", RpcFault.UNREACHABLE),
    ],
)
async def test_whatever_an_endpoint_answers_has_a_name(
    session: aiohttp.ClientSession,
    telemetry: CountingTelemetry,
    script: Script,
    status: int,
    body: str,
    fault: RpcFault,
) -> None:
    script.answers = [(status, body)]
    with pytest.raises(TransientRpcError) as raised:
        await make_rpc(session, telemetry, script.url).call("eth_blockNumber")
    assert raised.value.fault is fault
    assert script.asked == 2, "tried again, and no more often than configured"


async def test_the_next_endpoint_is_asked_when_one_fails(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, script: Script, node: Anvil
) -> None:
    script.answers = [(503, "")]
    rpc = make_rpc(session, telemetry, script.url, node.url)
    for _ in range(3):
        assert quantity(await rpc.call("eth_blockNumber")) == 0
    assert script.asked == 1, "and is preferred from then on"


async def test_an_endpoint_of_another_chain_is_never_used(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, node: Anvil
) -> None:
    rpc = make_rpc(session, telemetry, node.url, chain_id=10)
    with pytest.raises(TransientRpcError, match=r"serves chain 31337.*chain\.id = 10"):
        await rpc.call("eth_sendRawTransaction", ["0x00"])
    assert "serves chain 31337" in next(iter((await rpc.endpoints.probe_all()).values()))


async def test_an_endpoint_is_asked_for_its_chain_again_after_it_was_lost(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, script: Script
) -> None:
    ours, theirs = hex(CHAIN_ID), "0xa"
    one = '{"jsonrpc":"2.0","id":%d,"result":"%s"}'
    script.answers = [
        (200, one % (1, ours)),
        (200, one % (2, "0x5")),
        (503, ""),
        (200, one % (4, theirs)),
        (200, one % (5, theirs)),
    ]
    rpc = make_rpc(session, telemetry, script.url)
    assert await rpc.call("eth_blockNumber") == "0x5"
    with pytest.raises(TransientRpcError) as raised:
        await rpc.call("eth_blockNumber")
    assert raised.value.fault is RpcFault.WRONG_CHAIN


async def test_an_unreachable_endpoint_says_so_without_its_url(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry
) -> None:
    rpc = make_rpc(session, telemetry, "http://127.0.0.1:9/v3/my-api-key")
    with pytest.raises(TransientRpcError) as raised:
        await rpc.call("eth_blockNumber")
    assert raised.value.fault is RpcFault.UNREACHABLE
    assert "my-api-key" not in str(raised.value)
    assert "Connection refused" in str(raised.value)


async def test_a_node_that_hangs_times_out(rpc: HttpRpc, node: Anvil) -> None:
    await rpc.call("eth_blockNumber")
    node.pause()
    try:
        with pytest.raises(TransientRpcError) as raised:
            await rpc.call("eth_blockNumber")
    finally:
        node.resume()
    assert raised.value.fault is RpcFault.UNREACHABLE
    assert quantity(await rpc.call("eth_blockNumber")) == 0


@pytest.mark.parametrize("can_simulate", [True, False])
async def test_simulation_and_its_fallback_agree(
    rpc: HttpRpc, node: Anvil, *, can_simulate: bool
) -> None:
    rpc._can_simulate = can_simulate
    sent = node.rpc("eth_sendTransaction", {"from": DEV_ADDRESS, "data": REVERTER})
    node.rpc("evm_mine")
    reverter = node.rpc("eth_getTransactionReceipt", sent)["contractAddress"]
    done = await rpc.simulate(Call(reverter, b"", 0), DEV_ADDRESS)
    assert not done.success
    assert done.output == bytes.fromhex("deadbeef")
    paid = await rpc.simulate(Call("0x" + "11" * 20, b"", 5), WATCHER)
    assert paid.success, "a watcher needs no funds"
    assert paid.gas_used == 21_000


async def test_calls_are_simulated_each_on_what_the_former_left(rpc: HttpRpc, node: Anvil) -> None:
    sent = node.rpc("eth_sendTransaction", {"from": DEV_ADDRESS, "data": COUNTER})
    node.rpc("evm_mine")
    count = Call(node.rpc("eth_getTransactionReceipt", sent)["contractAddress"], b"")
    first, second = await rpc.simulate_each([count, count], DEV_ADDRESS)
    assert [int.from_bytes(done.output, "big") for done in (first, second)] == [1, 2]
    again = await rpc.simulate(count, DEV_ADDRESS)
    assert again.output == first.output, "nothing was left behind"


def test_a_receipt_costs_its_gas_and_on_a_rollup_its_data_too() -> None:
    raw: dict[str, object] = {
        "transactionHash": "0x1",
        "blockNumber": "0x10",
        "blockHash": "0x2",
        "status": "0x1",
        "gasUsed": "0x5208",
        "effectiveGasPrice": "0x3",
        "logs": [],
    }
    assert receipt_from_json(raw).cost_wei == 63_000
    assert receipt_from_json(raw | {"l1Fee": "0x7"}).cost_wei == 63_007
    assert receipt_from_json(raw | {"l1Fee": None}).cost_wei == 63_000


LOG = {
    "address": "0xAB",
    "topics": ["0xFF", "0x0a"],
    "data": "0x0102",
    "blockNumber": "0x10",
    "blockHash": "0xb",
    "transactionHash": "0xc",
    "logIndex": "0x0",
    "removed": False,
}


def test_logs_are_decoded_at_the_edge_and_the_collector_goes_on() -> None:
    expected = Log("0xab", ("0xff", "0x0a"), b"\x01\x02", 16, "0xb", "0xc")
    body = b'[{"id":1,"result":%b},{"id":2,"result":[1]}]' % msgspec.json.encode([LOG, LOG])
    logs, other = answers_from(body)
    assert result_of("eth_getLogs", logs) == [expected, expected]
    assert result_of("eth_call", other) == [1]
    assert log_from_json(LOG) == expected
    assert gc.isenabled()


@given(
    st.sampled_from(list(LOG)),
    st.none() | st.text() | st.integers() | st.lists(st.integers()) | st.just("0x0g"),
)
def test_what_is_no_log_is_garbage(field: str, value: object) -> None:
    raw = LOG | {field: value}
    answer = Answer(result=msgspec.Raw(msgspec.json.encode([raw])))
    for decode in (lambda: result_of("eth_getLogs", answer)[0], lambda: log_from_json(raw)):
        with contextlib.suppress(TransientRpcError):
            found = decode()
            assert isinstance(found.data, bytes)
            assert isinstance(found.block_number, int)
            assert isinstance(found.topics, tuple)
    assert gc.isenabled()


@pytest.mark.parametrize("result", [b"null", b"{}", b'"0x"', b"[null]", b"[{}]", b'["\xff"]'])
def test_what_is_no_list_of_logs_is_garbage(result: bytes) -> None:
    with pytest.raises(TransientRpcError) as raised:
        result_of("eth_getLogs", Answer(result=msgspec.Raw(result)))
    assert raised.value.fault is RpcFault.GARBAGE


@pytest.mark.parametrize("body", [b'{"id":[]}', b'[{"id":{}}]', b'{"id":1,"result":"\xff"}'])
def test_what_is_no_answer_is_garbage(body: bytes) -> None:
    with pytest.raises(TransientRpcError) as raised:
        result_of("eth_call", answers_from(body)[0])
    assert raised.value.fault is RpcFault.GARBAGE
