"""What ``keeper check`` says of a lease, of which it changes nothing."""

import sys
import time

import pytest

from keeper.check import _lease
from keeper.clock import SinceBootClock
from keeper.config import HttpEndpoint
from keeper.config.lease import LeaseSettings
from keeper.leading import Record
from keeper.lease.kubernetes import KubernetesLease
from keeper.lease_parts import open_lease
from tests.lease.api import Api


async def test_without_a_lease_nothing_is_asked() -> None:
    assert await _lease(LeaseSettings()) == []


async def test_who_holds_it_is_said_and_nothing_is_written(
    api: Api, settings: LeaseSettings
) -> None:
    (finding,) = await _lease(settings)
    assert (finding.verdict, finding.detail.split(";")[0]) == (
        "ok",
        "none yet, who starts first makes it",
    )
    async with open_lease(settings) as store:
        assert isinstance(store, KubernetesLease)
        written = await store.write(Record("keeper-0", 10, 1_700_000_000_000, 0))
    assert written is not None
    (finding,) = await _lease(settings)
    assert (finding.verdict, finding.detail.split(";")[0]) == ("ok", "last held by keeper-0")
    assert api.writes == ["POST"]
    api.lease()["spec"]["holderIdentity"] = None
    (finding,) = await _lease(settings)
    assert finding.detail.startswith("given up, and free")


async def test_what_forbids_or_hides_it_is_said(api: Api, settings: LeaseSettings) -> None:
    api.refuse = 403
    (finding,) = await _lease(settings)
    assert (finding.what, finding.verdict) == ("lease keeper", "failed")
    assert "HTTP 403" in finding.detail
    gone = settings.model_copy(update={"url": HttpEndpoint.model_validate("http://127.0.0.1:1")})
    (finding,) = await _lease(gone)
    assert (finding.verdict, "[lease]" in finding.mend) == ("failed", True)
    (finding,) = await _lease(settings.model_copy(update={"url": None}))
    assert finding.detail.startswith("lease.url is missing: this is no pod")


async def test_nats_that_does_not_answer_is_said() -> None:
    nats = LeaseSettings(kind="nats", servers=("nats://127.0.0.1:1",), renew_s=1)
    (finding,) = await _lease(nats)
    assert (finding.what, finding.verdict) == ("lease keeper", "failed")


async def test_a_lookup_without_nats_py_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keeper.lease.nats", raising=False)
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    (finding,) = await _lease(LeaseSettings(kind="nats", servers=("nats://127.0.0.1:1",)))
    assert (finding.verdict, "requirements-nats.txt" in finding.detail) == ("failed", True)


def test_a_machine_that_was_suspended_has_aged(monkeypatch: pytest.MonkeyPatch) -> None:
    before_ns, real = SinceBootClock().monotonic_ns(), time.clock_gettime_ns
    suspended_ns = {time.CLOCK_BOOTTIME: 60 * 10**9}  # the other clocks stand still
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda clock: real(clock) + suspended_ns.get(clock, 0)
    )
    assert SinceBootClock().monotonic_ns() >= before_ns + suspended_ns[time.CLOCK_BOOTTIME]
