"""Heartbeats, and the loops that run again."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from keeper.errors import ConfigError, RpcFault, TransientError, TransientRpcError
from keeper.facts import VenueId
from keeper.supervise import Backoff, Heartbeats, Quarantine, Supervisor
from tests.fakes import CountingTelemetry, ManualClock

VENUE = VenueId("perps")
LOST = TransientRpcError(RpcFault.UNREACHABLE, "connection refused")
PATIENCE_S = 20  # of a test that waits for a timer of some milliseconds


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def telemetry() -> CountingTelemetry:
    return CountingTelemetry()


# --- heartbeats -----------------------------------------------------------------------------------


def test_a_loop_is_late_only_beyond_its_limit(clock: ManualClock) -> None:
    hearts = Heartbeats(clock)
    hearts.register("prices", 5.0)
    hearts.register("decide", 60.0)
    clock.advance(5.0)
    assert hearts.late() == {}
    clock.advance(0.5)
    assert hearts.late() == {"prices": 5.5}
    assert hearts.ages() == {"prices": 5.5, "decide": 5.5}
    assert hearts.limits() == {"prices": 5.0, "decide": 60.0}
    hearts.beat("prices")
    assert hearts.late() == {}
    assert hearts.ages() == {"prices": 0.0, "decide": 5.5}


def test_a_loop_that_waits_on_purpose_is_never_late_and_starts_fresh(clock: ManualClock) -> None:
    hearts = Heartbeats(clock)
    hearts.register("perps", 5.0)
    clock.advance(4.0)
    with hearts.waiting("perps"):
        clock.advance(100.0)
        assert hearts.late() == {}
        assert hearts.ages() == {"perps": 0.0}
    assert hearts.late() == {}
    clock.advance(5.1)
    assert hearts.late() == {"perps": pytest.approx(5.1)}


def test_registering_again_changes_the_limit(clock: ManualClock) -> None:
    hearts = Heartbeats(clock)
    hearts.register("prices", 5.0)
    hearts.register("prices", 50.0)
    clock.advance(40.0)
    assert hearts.late() == {}


@pytest.mark.parametrize("limit_s", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_not_positive_is_refused(clock: ManualClock, limit_s: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Heartbeats(clock).register("prices", limit_s)


def test_a_stranger_cannot_beat(clock: ManualClock) -> None:
    hearts = Heartbeats(clock)
    with pytest.raises(KeyError, match="prices"):
        hearts.beat("prices")
    assert hearts.ages() == {}


def test_heartbeats_are_published(clock: ManualClock, telemetry: CountingTelemetry) -> None:
    hearts = Heartbeats(clock)
    hearts.register("prices", 5.0)
    clock.advance(2.0)
    hearts.publish(telemetry)
    assert telemetry.gauges == {
        ("keeper_loop_heartbeat_age_seconds", "prices"): 2.0,
        ("keeper_loop_heartbeat_limit_seconds", "prices"): 5.0,
    }


def _group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("tasks", list(errors))


# --- one venue's loop -----------------------------------------------------------------------------


class Script:
    """A loop's body that follows a script of exceptions (None: ends by itself), then waits."""

    def __init__(self, *steps: BaseException | None) -> None:
        self.steps = list(steps)
        self.calm = asyncio.Event()

    async def __call__(self) -> None:
        if not self.steps:
            self.calm.set()
            await asyncio.Event().wait()
        step = self.steps.pop(0)
        if step is not None:
            raise step


class Rig:
    """A supervisor whose pauses are noted instead of slept through."""

    def __init__(
        self, clock: ManualClock, telemetry: CountingTelemetry, healthy_s: float = 3600.0
    ) -> None:
        self.pauses_s: list[float] = []
        self.late_in_pause: list[dict[str, float]] = []
        self.clock = clock
        self.telemetry = telemetry
        self.quarantine = Quarantine(clock, telemetry)
        self.hearts = Heartbeats(clock)
        self.hearts.register("perps-heads", 5.0)
        self.supervisor = Supervisor(
            telemetry,
            self.quarantine,
            self.hearts,
            Backoff(first_s=1.0, ceiling_s=8.0, healthy_s=healthy_s),
            sleep=self._sleep,
            jitter=lambda: 0.5,
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self.clock.advance(100)
        self.late_in_pause.append(self.hearts.late())

    async def run_until(self, reached: Callable[[], bool], body: Script) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                self.supervisor.run_venue_loop("perps-heads", VENUE, body), name="venue"
            )
            await _until(reached)
            task.cancel()


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not reached():  # noqa: ASYNC110 - a bounded poll; what is awaited sets no event
            await asyncio.sleep(0)


async def test_a_lost_connection_is_retried_and_is_no_bug(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    rig = Rig(clock, telemetry)
    body = Script(TransientError("lost"), _group(LOST))
    await rig.run_until(body.calm.is_set, body)
    assert telemetry.counts == {("keeper_reconnects_total", "perps-heads"): 2}
    assert rig.quarantine.entries() == []
    assert rig.pauses_s == [0.75, 1.5]


async def test_a_bug_restarts_the_loop_and_sets_the_venue_aside(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    rig = Rig(clock, telemetry)
    body = Script(ValueError("bug"), None, TransientError("lost"))
    await rig.run_until(body.calm.is_set, body)
    (entry,) = rig.quarantine.entries()
    assert (entry.venue, entry.account, entry.times) == (VENUE, None, 2)
    assert "ended by itself" in entry.error
    assert rig.quarantine.is_quarantined(VENUE)
    assert telemetry.counts == {
        ("keeper_quarantined_total", VENUE, "venue"): 2,
        ("keeper_reconnects_total", "perps-heads"): 1,
    }


async def test_pauses_double_up_to_the_ceiling_and_excuse_the_loop(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    rig = Rig(clock, telemetry)
    body = Script(*[TransientError("lost")] * 6)
    await rig.run_until(body.calm.is_set, body)
    assert rig.pauses_s == [0.75, 1.5, 3.0, 6.0, 6.0, 6.0]
    assert rig.late_in_pause == [{}] * 6


async def test_a_loop_that_runs_well_again_releases_the_venue_and_starts_over(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    rig = Rig(clock, telemetry, healthy_s=0.01)
    relapse = asyncio.Event()

    class Relapsing(Script):
        async def __call__(self) -> None:
            if len(self.steps) == 1:
                await relapse.wait()
            await super().__call__()

    body = Relapsing(ValueError("one"), ValueError("two"), ValueError("three"))

    def well() -> bool:
        if len(body.steps) == 1 and not rig.quarantine.is_quarantined(VENUE):
            relapse.set()
        return body.calm.is_set() and not rig.quarantine.is_quarantined(VENUE)

    await rig.run_until(well, body)
    assert rig.pauses_s == [0.75, 1.5, 0.75]
    assert telemetry.counts["keeper_quarantined_total", VENUE, "venue"] == 3


async def test_a_run_that_crashed_does_not_count_as_well_during_the_pause(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    rig = Rig(clock, telemetry, healthy_s=0.005)
    body = Script(ValueError("one"), ValueError("two"))

    async def longer_than_healthy(seconds: float) -> None:
        rig.pauses_s.append(seconds)
        await asyncio.sleep(0.02)  # the passing of time itself is what is tested
        assert rig.quarantine.is_quarantined(VENUE)

    rig.supervisor = replace(rig.supervisor, sleep=longer_than_healthy)
    await rig.run_until(body.calm.is_set, body)
    assert rig.pauses_s == [0.75, 1.5]


async def test_a_stream_is_retried_but_its_bugs_are_not(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    rig = Rig(clock, telemetry)
    body = Script(LOST, _group(LOST, TransientError("lost")), ValueError("bug"))
    with pytest.raises(ValueError, match="bug"):
        await rig.supervisor.run_stream_loop("perps-heads", body)
    assert rig.pauses_s == [0.75, 1.5]
    assert telemetry.counts == {("keeper_reconnects_total", "perps-heads"): 2}
    with pytest.raises(RuntimeError, match="ended by itself"):
        await rig.supervisor.run_stream_loop("perps-heads", Script(None))
    assert rig.quarantine.entries() == []


async def test_what_no_restart_can_mend_goes_further(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    rig = Rig(clock, telemetry)
    with pytest.raises(ConfigError):
        await rig.supervisor.run_venue_loop("perps-heads", VENUE, Script(ConfigError(["wrong"])))
    assert rig.pauses_s == []


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_longer_than_the_ceiling_nor_shorter_than_half_the_first(
    failures: int, jitter: float
) -> None:
    backoff = Backoff(first_s=0.5, ceiling_s=15.0)
    delay_s = backoff.delay_s(failures, jitter)
    assert 0.25 <= delay_s <= 15.0
    assert delay_s <= backoff.delay_s(failures + 1, jitter)
