"""Which endpoint is asked, which is left alone, and how one comes back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from keeper.chain.endpoints import Endpoints, Role
from keeper.chain.rpc import HttpRpc
from keeper.errors import EndpointState, RpcFault, TransientRpcError
from tests.chain.conftest import CHAIN_ID, Script, endpoints_of
from tests.fakes import CountingTelemetry, ManualClock
from tests.nodes import Anvil, running_anvil


@dataclass
class Limiter:
    """Answers 429 with a Retry-After until told otherwise."""

    url: str
    retry_after: str = "30"
    asked: list[str] = field(default_factory=list)


@pytest.fixture
async def limiter() -> AsyncIterator[Limiter]:
    async def answer(request: web.Request) -> web.Response:
        running.asked.append(await request.text())
        return web.Response(status=429, headers={"Retry-After": running.retry_after})

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running = Limiter(f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield running
    await runner.cleanup()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def states(endpoints: Endpoints) -> list[EndpointState]:
    return [endpoints.state(each) for each in endpoints.all]


async def test_probes_show_each_endpoint_as_it_is(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, node: Anvil
) -> None:
    with running_anvil("--chain-id", "10") as other:
        endpoints = endpoints_of(session, telemetry, node.url, "http://127.0.0.1:9", other.url)
        for _ in range(2):
            await endpoints.probe_all()
        assert states(endpoints) == [
            EndpointState.HEALTHY,
            EndpointState.DOWN,
            EndpointState.WRONG_CHAIN,
        ]
        assert [each.label for each in endpoints.usable(Role.SEND)] == [endpoints.all[0].label]
        assert "serves chain 10" in endpoints.all[2].trouble
        endpoints.set_gauges()
    label = endpoints.all[1].label
    assert telemetry.gauges["keeper_endpoint_state", label, "down"] == 1
    assert telemetry.gauges["keeper_endpoint_state", label, "healthy"] == 0
    assert telemetry.gauges["keeper_endpoint_latency_seconds", endpoints.all[0].label] > 0
    assert telemetry.gauges["keeper_endpoint_lag_blocks", endpoints.all[0].label] == 0


async def test_one_lost_request_rotates_and_does_not_condemn(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, script: Script, node: Anvil
) -> None:
    script.answers = [(503, "")]
    endpoints = endpoints_of(session, telemetry, script.url, node.url)
    await HttpRpc(endpoints, 2).call("eth_blockNumber")
    assert states(endpoints) == [EndpointState.HEALTHY, EndpointState.HEALTHY]
    assert endpoints.ranked(Role.READ)[0].url == node.url


async def test_an_endpoint_that_is_well_again_is_preferred_again(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry
) -> None:
    with running_anvil("--no-mining") as first, running_anvil("--no-mining") as second:
        endpoints = endpoints_of(session, telemetry, first.url, second.url)
        first.pause()
        endpoints.client.timeout = aiohttp.ClientTimeout(total=0.2)
        for _ in range(2):
            await endpoints.probe_all()
        assert endpoints.ranked(Role.READ)[0].url == second.url
        assert states(endpoints)[0] is EndpointState.DOWN
        first.resume()
        await endpoints.probe_all()
        assert endpoints.ranked(Role.READ)[0].url == first.url


async def test_one_that_answers_late_is_asked_last_until_it_is_quick_again(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, clock: ManualClock
) -> None:
    pace = {"late_s": 1.5}

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        clock.advance(pace["late_s"])  # the time it takes, as the prober's clock has it
        results = {"eth_chainId": hex(CHAIN_ID), "eth_blockNumber": hex(7)}
        told = [
            {"jsonrpc": "2.0", "id": each["id"], "result": results[each["method"]]}
            for each in (asked if isinstance(asked, list) else [asked])
        ]
        return web.json_response(told if isinstance(asked, list) else told[0])

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    late = f"http://127.0.0.1:{runner.addresses[0][1]}"
    with running_anvil("--no-mining", "--chain-id", str(CHAIN_ID)) as quick:
        endpoints = endpoints_of(session, telemetry, late, quick.url, clock=clock)
        await endpoints.probe(endpoints.all[0])
        await endpoints.probe(endpoints.all[1])
        assert states(endpoints) == [EndpointState.SLOW, EndpointState.HEALTHY]
        for role in (Role.READ, Role.SEND):
            assert endpoints.ranked(role)[0].url == quick.url
        assert [each.url for each in endpoints.usable(Role.SEND)] == [quick.url, late], "no less"
        pace["late_s"] = 0.0
        for _ in range(5):
            await endpoints.probe(endpoints.all[0])
        assert states(endpoints) == [EndpointState.HEALTHY, EndpointState.HEALTHY]
        assert endpoints.ranked(Role.READ)[0].url == late
    await runner.cleanup()


async def test_a_head_behind_the_others_is_asked_last(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, node: Anvil
) -> None:
    with running_anvil("--no-mining") as ahead:
        ahead.rpc("anvil_mine", hex(4))
        endpoints = endpoints_of(session, telemetry, node.url, ahead.url)
        await endpoints.probe_all()
        assert states(endpoints) == [EndpointState.STALE, EndpointState.HEALTHY]
        assert endpoints.all[0].lag == 4
        assert int(await HttpRpc(endpoints, 2).call("eth_blockNumber"), 16) == 4
        node.rpc("anvil_mine", hex(3))
        await endpoints.probe_all()
        assert states(endpoints) == [EndpointState.HEALTHY, EndpointState.HEALTHY]


async def test_a_pause_that_was_asked_for_is_kept(
    session: aiohttp.ClientSession,
    telemetry: CountingTelemetry,
    limiter: Limiter,
    clock: ManualClock,
) -> None:
    endpoints = endpoints_of(session, telemetry, limiter.url, clock=clock)
    for _ in range(3):
        with pytest.raises(TransientRpcError) as raised:
            await HttpRpc(endpoints, 2).call("eth_blockNumber")
        assert raised.value.fault is RpcFault.RATE_LIMITED
    assert len(limiter.asked) == 1, "and not bothered until then"
    assert states(endpoints) == [EndpointState.LIMITED]
    assert endpoints.trouble(Role.SEND).endswith("HTTP 429")
    clock.advance(31)
    await endpoints.probe_all()
    assert len(limiter.asked) == 2


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [("2", 2), ("86400", 60), ("", 0), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
async def test_pauses_are_bounded_and_nonsense_is_none(
    session: aiohttp.ClientSession,
    telemetry: CountingTelemetry,
    limiter: Limiter,
    clock: ManualClock,
    header: str,
    pause_s: int,
) -> None:
    limiter.retry_after = header
    endpoints = endpoints_of(session, telemetry, limiter.url, clock=clock)
    await endpoints.probe_all()
    paused_ns = endpoints.all[0].limited_until_ns - clock.now_ns
    assert paused_ns == pause_s * 10**9


async def test_one_that_fails_as_often_as_it_answers_is_flaky(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, script: Script, node: Anvil
) -> None:
    endpoints = endpoints_of(session, telemetry, script.url, node.url)
    flaky = endpoints.all[0]
    flaky.verified = True
    for number in range(8):
        script.asked, script.answers = 0, [(503, "")]
        with pytest.raises(TransientRpcError):
            await endpoints.ask(flaky, [("eth_blockNumber", [])])
        flaky.verified = True
        body = f'{{"jsonrpc":"2.0","id":{2 * number + 2},"result":"0x1"}}'
        script.asked, script.answers = 0, [(200, body)]
        if number % 2:
            await endpoints.ask(flaky, [("eth_blockNumber", [])])
        else:
            next(endpoints.client._ids)
    assert states(endpoints)[0] is EndpointState.FLAKY
    assert endpoints.ranked(Role.READ)[0].url == node.url


async def test_a_url_has_one_health_whatever_it_is_used_for(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry
) -> None:
    endpoints = endpoints_of(session, telemetry, "http://one/key-1", "http://two/key-2")
    assert [each.label for each in endpoints.all] == ["http0:one", "http1:two"]
    assert all(each.roles == {Role.READ, Role.SEND} for each in endpoints.all)
    shown = repr(endpoints.all) + str(endpoints.report())
    assert "key-1" not in shown


async def test_a_change_is_told_once(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, node: Anvil
) -> None:
    endpoints = endpoints_of(session, telemetry, "http://127.0.0.1:9", node.url)
    beats: list[None] = []
    enough = asyncio.Event()

    def beat() -> None:
        beats.append(None)
        if len(beats) == 4:
            enough.set()

    with capture_logs() as logged:
        watching = asyncio.create_task(endpoints.watch(beat))
        await enough.wait()
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
    told = [(line["endpoint"], line["state"]) for line in logged if line["event"] == "endpoint"]
    assert told == [("http0:127.0.0.1", "down")]
    assert CHAIN_ID == 31337
