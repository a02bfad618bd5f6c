"""A key in a real JetStream bucket of three servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from keeper.config import SecretRef
from keeper.config.lease import LeaseSettings
from keeper.errors import TransientError
from keeper.leading import Record
from keeper.lease.nats import NatsLease
from tests.lease.cluster import TOKEN, Cluster, running_cluster

OURS = Record("one", 10, 1_700_000_000_123, 4)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("nats")) as cluster:
        asyncio.run(places(cluster))
        yield cluster


async def places(cluster: Cluster) -> None:
    """Wait until the servers have found each other: before that there is no place for three."""
    client = Client()
    await client.connect(cluster.urls, token=TOKEN)
    for _ in range(50):
        with contextlib.suppress(nats.errors.Error):
            await client.jetstream().create_key_value(bucket="first", replicas=3)
            break
        await asyncio.sleep(0.2)
    await client.close()


@pytest.fixture
def settings(cluster: Cluster, tmp_path: Path) -> LeaseSettings:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    return LeaseSettings(
        kind="nats", servers=tuple(cluster.urls), token=SecretRef(file=token), bucket=tmp_path.name
    )


@pytest.fixture
async def lease(settings: LeaseSettings) -> AsyncIterator[NatsLease]:
    lease = NatsLease(settings)
    yield lease
    await lease.close()


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(cluster.urls, token=TOKEN)
    yield client
    await client.close()


async def test_it_is_created_read_and_replaced_by_revision(
    lease: NatsLease, settings: LeaseSettings, client: Client
) -> None:
    assert await lease.read() is None
    with pytest.raises(NotFoundError):  # a look makes no bucket
        await client.jetstream().stream_info(f"KV_{settings.bucket}")
    created = await lease.write(OURS)
    assert created is not None
    assert created == await lease.read()
    assert (created.holder, created.ttl_s, created.changes) == ("one", 10, 4)
    assert await lease.write(created) is not None
    assert await lease.write(created) is None, "of a revision that is no more"
    assert await lease.write(OURS) is None, "it is there already"


async def test_the_bucket_is_made_as_the_config_says(
    lease: NatsLease, settings: LeaseSettings, client: Client
) -> None:
    await lease.write(OURS)
    made = (await client.jetstream().stream_info(f"KV_{settings.bucket}")).config
    assert (made.num_replicas, made.max_msgs_per_subject) == (3, 1)
    one = NatsLease(settings.model_copy(update={"bucket": "single", "replicas": 1}))
    await one.write(OURS)
    await one.close()
    assert (await client.jetstream().stream_info("KV_single")).config.num_replicas == 1


async def test_what_somebody_else_put_there_is_trouble(
    lease: NatsLease, settings: LeaseSettings, client: Client
) -> None:
    await lease.write(OURS)
    bucket = await client.jetstream().key_value(settings.bucket)
    await bucket.put(settings.name, b"[]")
    with pytest.raises(TransientError, match="what is in the bucket is no lease"):
        await lease.read()


async def test_without_the_token_nothing_is_read(settings: LeaseSettings) -> None:
    lease = NatsLease(settings.model_copy(update={"token": None}))
    with pytest.raises(TransientError, match="lease keeper: NATS: "):
        await lease.read()
    await lease.close()
