"""What is set aside, what goes further, and what a batch with poisoned accounts still gives."""

import asyncio
from collections.abc import Collection, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from keeper.errors import ConfigError, RpcError, RpcFault, TransientError, TransientRpcError
from keeper.facts import AccountId, VenueId
from keeper.quarantine import Quarantine
from tests.fakes import CountingTelemetry, ManualClock

VENUE = VenueId("perps")
LOST = TransientRpcError(RpcFault.UNREACHABLE, "connection refused")
ALICE, BOB, CAROL = AccountId("alice"), AccountId("bob"), AccountId("carol")
BUG = ZeroDivisionError("poisoned")


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


@pytest.fixture
def quarantine(clock: ManualClock, telemetry: CountingTelemetry) -> Quarantine:
    return Quarantine(clock, telemetry)


def test_a_bug_sets_the_account_aside(
    clock: ManualClock, telemetry: CountingTelemetry, quarantine: Quarantine
) -> None:
    with capture_logs() as logs, quarantine.account(VENUE, ALICE):
        raise BUG
    assert quarantine.is_quarantined(VENUE, ALICE)
    assert not quarantine.is_quarantined(VENUE, BOB)
    assert not quarantine.is_quarantined(VenueId("other"), ALICE)
    assert not quarantine.is_quarantined(VENUE)
    (entry,) = quarantine.entries()
    assert (entry.venue, entry.account, entry.error) == (
        VENUE,
        ALICE,
        "ZeroDivisionError: poisoned",
    )
    assert (entry.since_ms, entry.times) == (clock.now_ms, 1)
    assert telemetry.counts == {("keeper_quarantined_total", VENUE, "account"): 1}
    (line,) = logs
    assert line["log_level"] == "error"
    assert line["exc_info"]
    assert (line["venue"], line["account"]) == (VENUE, ALICE)


def test_nothing_is_set_aside_when_all_is_well(
    telemetry: CountingTelemetry, quarantine: Quarantine
) -> None:
    with quarantine.account(VENUE, ALICE):
        pass
    assert quarantine.entries() == []
    assert telemetry.counts == {}


def test_a_second_bug_keeps_the_time_of_the_first(
    clock: ManualClock, quarantine: Quarantine
) -> None:
    since_ms = clock.now_ms
    for error in ("first", "second"):
        with quarantine.account(VENUE, ALICE):
            raise ValueError(error)
        clock.advance(60)
    (entry,) = quarantine.entries()
    assert (entry.since_ms, entry.times, entry.error) == (since_ms, 2, "ValueError: second")


def test_the_same_bug_again_is_not_logged_whole_again(quarantine: Quarantine) -> None:
    with capture_logs() as logs:
        for error in (ValueError("one"), ValueError("one"), ValueError("two"), ValueError("two")):
            with quarantine.account(VENUE, ALICE):
                raise error
        quarantine.release(VENUE, ALICE)
        with quarantine.account(VENUE, ALICE):
            raise ValueError("two")  # noqa: EM101 - the same text as above
    assert ["exc_info" in line for line in logs] == [True, False, True, False, True]
    assert [line.get("times") for line in logs] == [None, 2, None, 4, None]


def _group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("tasks", list(errors))


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(1),
        GeneratorExit(),
        MemoryError(),
        TransientError("lost"),
        LOST,
        RpcError(RpcFault.OTHER, "internal error"),
        ConfigError(["wrong"]),
        _group(LOST, _group(TransientError("lost"), RpcError(RpcFault.REVERTED, "reverted"))),
        _group(ValueError("a bug too"), ConfigError(["wrong"])),
    ],
    ids=repr,
)
def test_what_no_account_is_to_blame_for_goes_further(
    telemetry: CountingTelemetry, quarantine: Quarantine, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, quarantine.account(VENUE, ALICE):
        raise error
    assert caught.value is error
    assert quarantine.entries() == []
    assert telemetry.counts == {}


def test_a_bug_beside_a_lost_connection_is_a_bug(quarantine: Quarantine) -> None:
    with quarantine.account(VENUE, ALICE):
        raise _group(LOST, ValueError("bug"))
    assert quarantine.is_quarantined(VENUE, ALICE)


def test_an_answer_that_nobody_in_a_venues_loop_expected_is_a_bug(quarantine: Quarantine) -> None:
    with quarantine.venue(VENUE):
        raise RpcError(RpcFault.OTHER, "internal error")
    assert quarantine.is_quarantined(VENUE)
    with pytest.raises(TransientRpcError), quarantine.venue(VENUE):
        raise LOST


class Chain:
    """Reads accounts; a batch with a poisoned one fails as a whole."""

    def __init__(self, poisoned: Collection[str], error: Exception = BUG) -> None:
        self.poisoned = poisoned
        self.error = error
        self.reads = 0

    async def read(self, accounts: Sequence[AccountId]) -> list[str]:
        self.reads += 1
        if set(accounts) & set(self.poisoned):
            raise self.error
        return [f"state of {account}" for account in accounts]


@given(
    st.lists(st.integers(0, 40).map(str), unique=True, max_size=40),
    st.sets(st.integers(0, 40).map(str), max_size=15),
    st.sampled_from([BUG, RpcError(RpcFault.REVERTED, "reverted"), _group(LOST, BUG)]),
)
async def test_poisoned_accounts_do_not_keep_the_others_from_being_read(
    names: list[str], poisoned: set[str], error: Exception
) -> None:
    quarantine = Quarantine(ManualClock(), CountingTelemetry())
    accounts = [AccountId(name) for name in names]
    states = await quarantine.each_alone(VENUE, accounts, Chain(poisoned, error).read)
    assert states == [f"state of {name}" for name in names if name not in poisoned]
    assert {entry.account for entry in quarantine.entries()} == poisoned & set(names)


async def test_a_good_batch_is_read_once_and_one_bad_account_is_found_by_halving(
    quarantine: Quarantine,
) -> None:
    accounts = [AccountId(str(n)) for n in range(256)]
    good, bad = Chain([]), Chain(["77"])
    assert len(await quarantine.each_alone(VENUE, accounts, good.read)) == 256
    assert len(await quarantine.each_alone(VENUE, accounts, bad.read)) == 255
    assert await quarantine.each_alone(VENUE, [], good.read) == []
    assert (good.reads, bad.reads) == (1, 1 + 2 * 8)


async def test_when_every_account_fails_none_is_to_blame(quarantine: Quarantine) -> None:
    accounts = [AccountId(str(n)) for n in range(256)]
    chain = Chain(accounts)
    with pytest.raises(ZeroDivisionError):
        await quarantine.each_alone(VENUE, accounts, chain.read)
    assert quarantine.entries() == []
    assert chain.reads < 50


@pytest.mark.parametrize("error", [LOST, ConfigError(["wrong"]), MemoryError()], ids=repr)
async def test_a_lost_connection_is_no_reason_to_halve(
    quarantine: Quarantine, error: Exception
) -> None:
    chain = Chain(["3"], error)
    with pytest.raises(type(error)):
        await quarantine.each_alone(VENUE, [AccountId(str(n)) for n in range(8)], chain.read)
    assert chain.reads == 1
    assert quarantine.entries() == []


def test_release_takes_it_back(quarantine: Quarantine) -> None:
    with quarantine.account(VENUE, ALICE):
        raise BUG
    assert quarantine.release(VENUE, ALICE)
    assert not quarantine.is_quarantined(VENUE, ALICE)
    assert not quarantine.release(VENUE, ALICE)
    assert not quarantine.release(VENUE)


def test_memory_is_bounded_and_the_oldest_makes_room(
    clock: ManualClock, telemetry: CountingTelemetry
) -> None:
    quarantine = Quarantine(clock, telemetry, entries_max=2)
    for account in (ALICE, BOB, ALICE, CAROL):
        with quarantine.account(VENUE, account):
            raise ValueError("x" * 10_000)
    assert [entry.account for entry in quarantine.entries()] == [BOB, CAROL]
    assert all(len(entry.error) <= 500 for entry in quarantine.entries())
    with pytest.raises(ValueError, match="at least 1"):
        Quarantine(clock, telemetry, entries_max=0)


def test_the_gauge_returns_to_zero(quarantine: Quarantine, telemetry: CountingTelemetry) -> None:
    with quarantine.account(VENUE, ALICE):
        raise BUG
    with quarantine.venue(VENUE):
        raise BUG
    quarantine.publish(telemetry, [VenueId("quiet")])
    name = "keeper_quarantine_entries"
    assert telemetry.gauges == {(name, VENUE): 2, (name, "quiet"): 0}
    quarantine.release(VENUE, ALICE)
    quarantine.release(VENUE)
    quarantine.publish(telemetry)
    assert telemetry.gauges == {(name, VENUE): 0, (name, "quiet"): 0}
