"""The composition root's part about the lease."""

import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from keeper.clock import SinceBootClock
from keeper.config import Settings
from keeper.config.lease import LeaseSettings
from keeper.leading import Lease
from keeper.lease.kubernetes import KubernetesLease, place_of
from keeper.lease.leadership import Leadership, LeaseRules
from keeper.observe.metrics import Metrics


@asynccontextmanager
async def open_lease(settings: LeaseSettings) -> AsyncIterator[Lease | None]:
    """Make the store that ``[lease]`` names; None: there is no lease.

    Raises ConfigError for what cannot be read, or is not installed.
    """
    match settings.kind:
        case "none":
            yield None
        case "kubernetes":
            place = place_of(settings)
            async with aiohttp.ClientSession() as session:  # its own: it waits for nothing else
                yield KubernetesLease(session, place)
        case "nats":
            from keeper.lease.nats import NatsLease  # noqa: PLC0415 - an extra

            store = NatsLease(settings)
            try:
                yield store
            finally:
                await store.close()


@asynccontextmanager
async def open_leadership(settings: Settings, metrics: Metrics) -> AsyncIterator[Leadership | None]:
    """Make this keeper's part in the lease of ``[lease]``; None: it is the only keeper.

    Raises ConfigError as ``open_lease`` does.
    """
    lease = settings.lease
    # a restarted process is another holder: what it was may have been replaced meanwhile
    holder = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    rules = LeaseRules(holder, lease.ttl_s, lease.renew_s)
    async with open_lease(lease) as store:
        yield Leadership(store, rules, SinceBootClock(), metrics) if store is not None else None
