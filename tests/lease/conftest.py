"""A Kubernetes API, and keepers' parts in its lease on clocks that a test moves."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from keeper.config import HttpEndpoint, SecretRef
from keeper.config.lease import LeaseSettings
from keeper.lease.kubernetes import KubernetesLease, place_of
from keeper.lease.leadership import Leadership, LeaseRules
from tests.fakes import CountingTelemetry, ManualClock
from tests.lease.api import TOKEN, Api, running_api

TTL_S, RENEW_S = 10, 3


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def settings(api: Api, tmp_path: Path) -> LeaseSettings:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN + "\n")
    return LeaseSettings(
        kind="kubernetes",
        url=HttpEndpoint.model_validate(api.url),
        namespace="keepers",
        token=SecretRef(file=token),
        ttl_s=TTL_S,
        renew_s=RENEW_S,
    )


class Keeper(Leadership):
    """One keeper's part, stepped by hand, with a clock of its own that nobody else has."""

    def __init__(self, name: str, lease: KubernetesLease, start_ns: int) -> None:
        self.clock = ManualClock()
        self.clock.now_ns += start_ns
        self.telemetry = CountingTelemetry()
        super().__init__(lease, LeaseRules(name, TTL_S, RENEW_S), self.clock, self.telemetry)

    async def step(self) -> int | None:
        await self._step()
        self._tell()
        return self.term


@pytest.fixture
def keeper(session: aiohttp.ClientSession, settings: LeaseSettings) -> Callable[..., Keeper]:
    def made(name: str, *, start_s: int = 0) -> Keeper:
        lease = KubernetesLease(session, place_of(settings))
        return Keeper(name, lease, start_s * 10**9)

    return made
