"""A Lease object over REST, and the client library's own reading, writing and election of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from kubernetes_asyncio import client
from kubernetes_asyncio.leaderelection.electionconfig import Config
from kubernetes_asyncio.leaderelection.leaderelection import LeaderElection
from kubernetes_asyncio.leaderelection.resourcelock.leaselock import LeaseLock

from keeper.config import HttpEndpoint, SecretRef
from keeper.config.lease import LeaseSettings
from keeper.errors import ConfigError, TransientError
from keeper.leading import Record
from keeper.lease import kubernetes
from keeper.lease.kubernetes import KubernetesLease, place_of
from tests.certificates import make_authority
from tests.lease.api import TOKEN, Api
from tests.lease.conftest import RENEW_S, TTL_S
from tests.lease.test_leadership import Made, advance

OURS = Record("one", 10, 1_700_000_000_123, 4)


@pytest.fixture
def lease(session: aiohttp.ClientSession, settings: LeaseSettings) -> KubernetesLease:
    return KubernetesLease(session, place_of(settings))


@pytest.fixture
async def library(api: Api) -> AsyncIterator[client.ApiClient]:
    configuration = client.Configuration(host=api.url)
    configuration.api_key = {"BearerToken": TOKEN}
    configuration.api_key_prefix = {"BearerToken": "Bearer"}
    async with client.ApiClient(configuration) as library:
        yield library


async def test_it_is_created_read_and_replaced_by_version(api: Api, lease: KubernetesLease) -> None:
    assert await lease.read() is None
    created = await lease.write(OURS)
    assert created is not None
    assert created == await lease.read()
    assert (created.holder, created.ttl_s, created.acquired_ms, created.changes) == (
        "one", 10, 1_700_000_000_123, 4,
    )  # fmt: skip
    assert await lease.write(created) is not None
    assert await lease.write(created) is None, "of a version that is no more"
    assert await lease.write(OURS) is None, "it is there already"
    assert api.writes == ["POST", "PUT"]
    api.objects.clear()
    assert await lease.write(created) is None


async def test_what_others_wrote_into_the_object_stays(api: Api, lease: KubernetesLease) -> None:
    await lease.write(OURS)
    api.lease()["metadata"]["labels"] = {"app": "keeper"}
    api.lease()["spec"]["strategy"] = "OldestEmulationVersion"
    found = await lease.read()
    assert found is not None
    assert await lease.write(found) is not None
    assert api.lease()["metadata"]["labels"] == {"app": "keeper"}
    assert api.lease()["spec"]["strategy"] == "OldestEmulationVersion"


async def test_the_client_library_reads_ours(
    lease: KubernetesLease, library: client.ApiClient
) -> None:
    await lease.write(OURS)
    theirs = await client.CoordinationV1Api(library).read_namespaced_lease("keeper", "keepers")
    assert isinstance(theirs, client.V1Lease)
    spec = theirs.spec
    assert (spec.holder_identity, spec.lease_duration_seconds) == ("one", 10)
    assert spec.lease_transitions == 4
    assert spec.acquire_time.timestamp() == pytest.approx(1_700_000_000.123)
    assert spec.renew_time.tzinfo is not None


async def test_ours_reads_what_the_client_library_wrote(
    lease: KubernetesLease, library: client.ApiClient
) -> None:
    body = client.V1Lease(
        metadata=client.V1ObjectMeta(name="keeper"),
        spec=client.V1LeaseSpec(holder_identity="theirs", lease_duration_seconds=7),
    )
    await client.CoordinationV1Api(library).create_namespaced_lease("keepers", body)
    found = await lease.read()
    assert found is not None
    assert (found.holder, found.ttl_s, found.changes) == ("theirs", 7, 0)


def election(library: client.ApiClient) -> LeaderElection:
    async def nothing() -> None:
        await asyncio.Event().wait()

    lock = LeaseLock("keeper", "keepers", "theirs", library)
    return LeaderElection(Config(lock, TTL_S, TTL_S - 2, RENEW_S, nothing, None))  # type: ignore[arg-type]


async def test_the_client_library_s_election_loses_to_ours_and_takes_over_from_it(
    api: Api, keeper: Made, library: client.ApiClient
) -> None:
    ours, theirs = keeper("ours"), election(library)
    await ours.step()
    for _ in range(3):
        assert not await theirs.try_acquire_or_renew()
        advance(RENEW_S, ours)
        assert await ours.step() == 1
    assert not await theirs.try_acquire_or_renew()
    theirs.observed_time_milliseconds -= TTL_S * 1000  # it has seen it unchanged for that long
    assert await theirs.try_acquire_or_renew()
    assert api.holder() == "theirs"
    advance(TTL_S, ours)
    assert await ours.step() is None
    assert ours.holder == "theirs"


async def test_ours_loses_to_the_client_library_s_election_and_takes_over_from_it(
    api: Api, keeper: Made, library: client.ApiClient
) -> None:
    theirs, ours = election(library), keeper("ours")
    assert await theirs.try_acquire_or_renew()
    assert await ours.step() is None
    for _ in range(3):
        advance(TTL_S - 1, ours)
        assert await theirs.try_acquire_or_renew()
        assert await ours.step() is None
    advance(TTL_S, ours)
    assert await ours.step() == 1
    assert not await theirs.try_acquire_or_renew()
    assert api.holder() == "ours"


async def test_what_ours_gave_up_the_client_library_s_election_takes(
    api: Api, keeper: Made, library: client.ApiClient
) -> None:
    ours, theirs = keeper("ours"), election(library)
    await ours.step()
    assert not await theirs.try_acquire_or_renew()
    await ours.give_up()
    assert await theirs.try_acquire_or_renew()
    assert api.holder() == "theirs"


async def test_a_token_is_read_again_for_every_request(
    lease: KubernetesLease, settings: LeaseSettings
) -> None:
    assert settings.token is not None
    assert settings.token.file is not None
    settings.token.file.write_text("expired")
    with pytest.raises(TransientError, match="HTTP 401") as refused:
        await lease.read()
    assert "expired" not in str(refused.value)
    settings.token.file.write_text(TOKEN)
    assert await lease.read() is None


@pytest.mark.parametrize("answer", [{"kind": "Status"}, {"metadata": {}}, {"spec": 3}])
async def test_what_is_no_lease_is_trouble(
    api: Api, lease: KubernetesLease, answer: dict[str, object]
) -> None:
    api.objects["keepers", "keeper"] = answer
    with pytest.raises(TransientError, match="answered no Lease"):
        await lease.read()


async def test_nobody_listens(session: aiohttp.ClientSession, settings: LeaseSettings) -> None:
    silent = HttpEndpoint.model_validate("http://127.0.0.1:1")
    lease = KubernetesLease(session, place_of(settings.model_copy(update={"url": silent})))
    with pytest.raises(TransientError, match="lease keeper: GET: ClientConnectorError"):
        await lease.read()


def test_a_pod_s_environment_and_account_say_what_the_config_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kubernetes, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"lease\.url is missing"):
        place_of(LeaseSettings(kind="kubernetes"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ConfigError, match=r"lease\.ca: "):
        place_of(LeaseSettings(kind="kubernetes"))
    (make_authority(tmp_path) / "ca.pem").rename(tmp_path / "ca.crt")
    with pytest.raises(ConfigError, match=r"lease\.namespace is missing"):
        place_of(LeaseSettings(kind="kubernetes"))
    (tmp_path / "namespace").write_text("keepers\n")
    place = place_of(LeaseSettings(kind="kubernetes", name="mainnet"))
    assert (place.url, place.namespace) == ("https://[fd00::1]:443", "keepers")
    assert place.name == "mainnet"
    with pytest.raises(ConfigError, match=r"lease\.token is missing"):
        place.bearer()
    (tmp_path / "token").write_text("rotated\n")
    assert place.bearer() == "rotated"


def test_the_config_goes_first(settings: LeaseSettings, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch(mode=0o600)
    other.write_text("mine")
    place = place_of(settings.model_copy(update={"token": SecretRef(file=other)}))
    assert place.bearer() == "mine"
    assert settings.url is not None
    assert place.url == settings.url.read().get_secret_value()
