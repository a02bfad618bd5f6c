"""What is said to systemd, over a real socket: by loops of a test, and by ``keeper run``."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.clock import SystemClock
from keeper.observe.log import configure
from keeper.observe.notify import REASONS_MAX, STATUS_CHARS_MAX, ChainState, Service
from keeper.supervise import Heartbeats, run
from tests.deploy.confined import values
from tests.deploy.manager import Manager, listening
from tests.deploy.test_systemd import UNIT
from tests.e2e.proxy import Fault, running_proxy
from tests.e2e.rig import Options, Rig
from tests.nodes import Anvil

WITH_KINDS = (sys.executable, "-m", "tests.e2e.keeper_with_kinds")
HEARD_S_MAX = 30.0
STUCK_S_MAX = 60.0  # a loop may be silent for some 17 s before it counts as stuck
PINGS = 22  # one a second: longer than any loop may be silent
SILENCE_S = 3.0  # three pings' worth


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with listening(tmp_path / "notify") as found:
        yield found


def state(
    hearts: Heartbeats | None = None, unready: tuple[str, ...] = (), chain_id: int = 1
) -> ChainState:
    hearts = hearts or Heartbeats(SystemClock())
    return ChainState(chain_id, hearts.late, lambda: unready, lambda: "head 7")


@contextlib.asynccontextmanager
async def told(service: Service) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(service.keep(0.01))
        try:
            yield
        finally:
            task.cancel()


async def hear(manager: Manager, name: str, value: str = "") -> dict[str, str]:
    return await asyncio.to_thread(manager.until, name, HEARD_S_MAX, value)


async def test_one_stuck_loop_among_others_ends_the_pings_and_is_named(manager: Manager) -> None:
    hearts = Heartbeats(SystemClock())
    service = Service(str(manager.path), [state(hearts)], lambda: False)
    sticking = asyncio.Event()

    async def beating() -> None:
        while True:
            hearts.beat("decide")
            await asyncio.sleep(0.01)

    async def stuck() -> None:
        while not sticking.is_set():
            hearts.beat("attempt")
            await asyncio.sleep(0.01)
        await asyncio.Event().wait()

    async def judging() -> None:
        await hear(manager, "WATCHDOG")
        sticking.set()
        await hear(manager, "STATUS", "chain 1: stuck: loop attempt silent for ")
        after = [await hear(manager, "STATUS") for _ in range(20)]
        assert all("WATCHDOG" not in message for message in after)
        assert all("decide" not in message["STATUS"] for message in after)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    for loop in ("decide", "attempt"):
        hearts.register(loop, 0.5)
    loops = {
        "decide": beating,
        "attempt": stuck,
        "judging": judging,
        "systemd": lambda: service.keep(0.01),
    }
    with capture_logs():
        assert await run(loops) == 0
    assert (await hear(manager, "STOPPING"))["STOPPING"] == "1"


async def test_ready_is_said_once_and_again_when_a_reload_is_done(manager: Manager) -> None:
    reading = False
    service = Service(str(manager.path), [state()], lambda: reading)
    async with told(service):
        await hear(manager, "READY", "1")
        began_usec = time.monotonic_ns() // 1000
        reading = True
        service.hang_up()
        reload = await hear(manager, "RELOADING", "1")
        assert began_usec <= int(reload["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        for _ in range(5):
            assert "READY" not in await hear(manager, "WATCHDOG")
        reading = False
        await hear(manager, "READY", "1")
    assert sum("READY" in message for message in manager.heard) == 2


async def test_the_status_is_one_short_line_without_secrets(manager: Manager) -> None:
    configure("error", secrets=["hunter22hunter22"])
    reasons = ("feed ETH/USD: no price\nyet", "at hunter22hunter22", "x" * 5000, "four", "five")
    chains = [state(unready=reasons[:2], chain_id=10), state(unready=reasons, chain_id=20)]
    service = Service(str(manager.path), chains, lambda: False)
    async with told(service):
        said = (await hear(manager, "STATUS"))["STATUS"]
    assert said.startswith("chain 10: not ready: feed ETH/USD: no price yet; at *** | chain 20: ")
    assert len(said) == STATUS_CHARS_MAX
    assert state(unready=reasons).line().endswith(f"; and {len(reasons) - REASONS_MAX} more")
    assert state().line() == "chain 1: ready: head 7"


async def test_what_was_not_taken_is_said_again(tmp_path: Path) -> None:
    path = tmp_path / "later"
    with capture_logs() as lines:
        async with told(Service(str(path), [state()], lambda: False)):
            await asyncio.sleep(0)  # nobody heard the first
            with listening(path) as manager:
                await hear(manager, "READY", "1")
    assert lines[0]["event"] == "systemd does not listen"


async def test_an_abstract_socket_is_one_too() -> None:
    name = f"keeper-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(HEARD_S_MAX)
        async with told(Service(f"@{name}", [state()], lambda: False)):
            assert b"READY=1" in await asyncio.to_thread(listener.recv, 4096)


# --- the keeper as it is run ----------------------------------------------------------------------


def test_a_keeper_says_ready_reloads_and_stops(
    rig: Rig, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    with rig.keeper() as keeper:
        manager.until("READY", HEARD_S_MAX)
        ready = manager.until("STATUS", HEARD_S_MAX, f"chain {rig.chain.chain_id}: ready: head ")
        assert ready["WATCHDOG"] == "1"
        assert not keeper.unready()
        keeper.run.signal(signal.SIGHUP)
        manager.until("RELOADING", HEARD_S_MAX)
        manager.until("READY", HEARD_S_MAX)
        assert keeper.metric("keeper_config_reloads_total", result="unchanged") == 1
        keeper.stop()
    assert manager.until("STOPPING", HEARD_S_MAX)["STATUS"] == "stopping"


def test_a_silent_endpoint_leaves_the_watchdog_fed_and_a_stuck_loop_does_not(
    rig: Rig, manager: Manager, tmp_path: Path, node: Anvil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both at once, since both take longer than a loop may be silent."""
    rig.open_safe()
    stuck = Options(kind="stuck_market", venue='stuck = "loop"')
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(listening(tmp_path / "other"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(other.path))
        sticking = stack.enter_context(rig.keeper(stuck, command=WITH_KINDS))
        other.until("READY", HEARD_S_MAX)

        proxy = stack.enter_context(running_proxy(node.port))
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        keeper = stack.enter_context(rig.keeper(Options(http=proxy.url)))
        manager.until("STATUS", HEARD_S_MAX, f"chain {rig.chain.chain_id}: ready: ")
        proxy.break_with(Fault.SILENT)
        manager.until("STATUS", HEARD_S_MAX, f"chain {rig.chain.chain_id}: not ready: chain: ")
        for _ in range(PINGS):
            assert "WATCHDOG" in manager.next(HEARD_S_MAX)
        assert keeper.healthy

        other.until("STATUS", STUCK_S_MAX, f"chain {rig.chain.chain_id}: stuck: loop accounts/demo")
        other.until_silent(0.0, HEARD_S_MAX)
        assert all("WATCHDOG" not in other.next(HEARD_S_MAX) for _ in range(3))
        assert not sticking.healthy


def test_a_process_that_is_stuck_as_a_whole_says_nothing(
    rig: Rig, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.open_safe()
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    for line in values(UNIT.read_text(), "Environment"):
        monkeypatch.setenv(*line.split("="))
    stuck = Options(kind="stuck_market", venue='stuck = "process"')
    with rig.keeper(stuck, command=WITH_KINDS) as keeper:
        manager.until("READY", HEARD_S_MAX)
        keeper.run.said('"stuck"', HEARD_S_MAX)
        manager.until_silent(SILENCE_S, HEARD_S_MAX)
        assert keeper.run.running
        keeper.run.signal(signal.SIGABRT)  # as systemd does then
        assert keeper.run.wait(HEARD_S_MAX) == -signal.SIGABRT
    assert "in read_accounts" in keeper.run.stderr, "where it is stuck is told"
