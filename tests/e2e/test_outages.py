"""Broker, node and keeper are killed in the middle of a crash, one at a time, and come back.

The judge of the demo, who shares no code with the keeper, says that nobody was missed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keeper.chain.journal_read import read_attempts
from keeper.demo.options import DemoOptions
from keeper.demo.report import Report
from keeper.demo.world import World, open_world
from tests.brokers import find_nats_server
from tests.nodes import find_anvil

OPTIONS = DemoOptions(accounts=60, seed=1, speed=5, seconds=7)
OUTAGE_BLOCKS = 6
OUTAGE_TICKS = 12
WAIT_S_MAX = 20.0
STOP_S_MAX = 5.0  # what the keeper promises
POLL_S = 0.01  # a transaction waits 0.2 s for its block

Fault = Callable[[World], Awaitable[int]]  # returns the liquidations judged when it was over


@asynccontextmanager
async def ready_world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Open a world whose keeper is ready."""
    monkeypatch.setenv("ANVIL", str(find_anvil()))
    monkeypatch.setenv("NATS_SERVER", str(find_nats_server()))
    async with open_world(OPTIONS, print) as world:
        try:
            await world.start_keeper()
            yield world
        finally:
            print(world.parts.keeper.tail())  # noqa: T201 - shown when the test fails


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Poll until the condition holds; raises TimeoutError."""
    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(POLL_S)


def liquidations(world: World) -> int:
    return len(world.parts.judge.findings.liquidations)


def judged(world: World) -> int:
    block = world.parts.judge.judged
    return block.number if block else 0


async def nonce(world: World, tag: str) -> int:
    answer = await world.parts.rpc.call("eth_getTransactionCount", world.parts.wallet, tag)
    return int(answer, 16)


async def metric(world: World, name: str, **labels: str) -> float:
    async with world.parts.rpc.session.get(f"{world.http_url}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def kill_broker(world: World) -> int:
    """No prices for six blocks."""
    await world.kill_broker()
    killed_at = judged(world)
    await until(lambda: judged(world) >= killed_at + OUTAGE_BLOCKS)
    before = liquidations(world)
    await world.restart_broker()
    taken = world.parts.record.ticks
    await until(lambda: world.parts.record.ticks > taken)
    assert await metric(world, "keeper_reconnects_total", stream="broker") >= 1
    return before


async def kill_node(world: World) -> int:
    """No chain for a dozen prices."""
    await world.kill_node()
    killed_at = world.parts.record.ticks
    await until(lambda: world.parts.record.ticks >= killed_at + OUTAGE_TICKS)
    before = liquidations(world)
    await world.restart_node()
    assert await metric(world, "keeper_rpc_requests_total", result="unreachable") >= 1
    return before


async def kill_keeper(world: World) -> int:
    """SIGKILL between broadcast and receipt; the transaction is mined while nobody watches."""

    async def in_flight() -> bool:
        return await nonce(world, "pending") > await nonce(world, "latest")

    await until(in_flight)
    await world.kill_keeper()
    killed_at = judged(world)
    await until(lambda: judged(world) >= killed_at + 2)
    before = liquidations(world)
    await world.start_keeper()
    return before


async def crash(world: World, fault: Fault) -> tuple[Report, int]:
    """Play the path, with the fault once the liquidations have begun.

    Return the report, and how many liquidations there were when the fault was over.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(world.play(), name="path")
        await until(lambda: liquidations(world) > 0)
        before = await fault(world)
    await world.settle()
    started = time.monotonic()
    assert await world.stop_keeper() == 0, world.parts.keeper.tail()
    assert time.monotonic() - started < STOP_S_MAX
    return await world.report(), before


@pytest.mark.parametrize("fault", [kill_broker, kill_node, kill_keeper])
async def test_nobody_is_missed_and_the_books_agree(
    monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    async with ready_world(monkeypatch) as world:
        report, before = await crash(world, fault)

        # what the prices cured while no keeper was there, nobody could have had
        assert report.missed == (report.cured if fault is kill_keeper else 0)
        assert [p for p in report.problems if not p.startswith("missed")] == []
        assert (report.standing, report.wrong) == (0, 0)
        assert report.liquidations > before > 0, "the fault was in mid-crash"
        rows = read_attempts(world.journal)
        assert [row for row in rows if row.outcome is None] == []
        assert (
            len({row.nonce for row in rows})
            == len({row.id for row in rows})
            == await nonce(world, "pending")
        )
        market, call = world.parts.deployment.market, world.parts.rpc.call
        data = market.data("balanceOf", world.parts.wallet)
        query = {"to": world.parts.deployment.address, "data": data}
        balance = market.result("balanceOf", await call("eth_call", query, "latest"))
        assert sum(row.reward_wad for row in rows) == balance > 0
