"""A key of a NATS JetStream bucket, kept by the majority of its replicas.

A key is written over the revision that was read; another revision refuses it.
"""

import asyncio
import contextlib
import json
import ssl
from dataclasses import asdict
from typing import Any

import structlog

from keeper.config import read_private
from keeper.config.lease import LeaseSettings
from keeper.errors import ConfigError, TransientError
from keeper.leading import Record

try:
    from nats.aio.client import Client
    from nats.errors import Error as NatsError
    from nats.js.api import KeyValueConfig
    from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError
    from nats.js.kv import KeyValue
except ImportError as error:
    msg = 'lease.kind = "nats" needs nats-py: install deploy/requirements-nats.txt'
    raise ConfigError([msg]) from error

logger = structlog.get_logger(__name__)

RECONNECT_S = 0.5  # between two tries of one server
TRIES = 1  # of each server, then all are dialled anew, and the log says why they refuse
CLOSE_S_MAX = 1.0


class NatsLease:
    """Reads and writes one key. Connects when first asked. Implements ``leading.Lease``."""

    def __init__(self, settings: LeaseSettings) -> None:
        """Read what logs in, or raise ConfigError; connect to nothing yet."""
        self._settings = settings
        self._name = settings.name
        self._login = login_of(settings)
        self._client: Client | None = None
        self._bucket: KeyValue | None = None

    async def read(self) -> Record | None:
        """Get the key."""
        try:
            bucket = await self._open(make=False)
            entry = await bucket.get(self._name)
        except (BucketNotFoundError, KeyNotFoundError):
            return None
        except (NatsError, OSError, TimeoutError) as error:
            raise self._trouble(error) from None
        try:
            return Record(**json.loads(entry.value or b""), version=str(entry.revision))
        except (ValueError, TypeError) as error:
            msg = f"lease {self._name}: what is in the bucket is no lease ({error}); delete the key"
            raise TransientError(msg) from None

    async def write(self, record: Record) -> Record | None:
        """Create the key, or write over that revision of it."""
        fields = asdict(record)
        last = int(fields.pop("version") or 0)
        try:
            bucket = await self._open(make=True)
            if last:
                revision = await bucket.update(self._name, json.dumps(fields).encode(), last)
            else:
                revision = await bucket.create(self._name, json.dumps(fields).encode())
        except KeyWrongLastSequenceError:
            return None
        except (NatsError, OSError, TimeoutError) as error:
            raise self._trouble(error) from None
        return Record(**fields, version=str(revision))

    async def close(self) -> None:
        """Leave the servers."""
        if self._client is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await self._client.close()

    async def _open(self, *, make: bool) -> KeyValue:
        settings = self._settings
        if self._client is None or self._client.is_closed:
            self._client, self._bucket = await self._connected(), None
        if self._bucket is None:
            stream = self._client.jetstream(timeout=settings.renew_s)
            try:
                self._bucket = await stream.key_value(settings.bucket)
            except BucketNotFoundError:
                if not make:
                    raise
                config = KeyValueConfig(settings.bucket, history=1, replicas=settings.replicas)
                self._bucket = await stream.create_key_value(config)
        return self._bucket

    async def _connected(self) -> Client:
        client, renew_s = Client(), self._settings.renew_s
        try:
            await client.connect(
                list(self._settings.servers),
                name=f"keeper lease {self._name}",
                connect_timeout=renew_s,
                reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # seconds of any sort
                max_reconnect_attempts=TRIES,
                ping_interval=renew_s,  # a server that falls silent is left for another
                max_outstanding_pings=1,
                error_cb=_note,
                **self._login,
            )
        except BaseException:
            await client.close()
            raise
        return client

    def _trouble(self, error: Exception) -> TransientError:
        said = f"{type(error).__name__} {error}".rstrip()
        return TransientError(f"lease {self._name}: NATS: {said}")


def login_of(settings: LeaseSettings) -> dict[str, Any]:
    """Return how a client logs in; raises ConfigError for what cannot be read."""
    login: dict[str, Any] = {}
    if settings.token is not None:
        login["token"] = settings.token.read().get_secret_value()
    if settings.credentials is not None:
        read_private(settings.credentials)
        login["user_credentials"] = str(settings.credentials)
    if settings.ca is not None:
        try:
            login["tls"] = ssl.create_default_context(cafile=settings.ca)
        except (OSError, ssl.SSLError) as error:
            msg = f"lease.ca: {settings.ca}: {error}; name a file of PEM certificates"
            raise ConfigError([msg]) from None
    return login


async def _note(error: Exception) -> None:
    logger.debug("nats", error=str(error) or type(error).__name__)
