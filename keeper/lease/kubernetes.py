"""A Lease object of Kubernetes (coordination.k8s.io/v1), over its REST API.

Three calls, by hand: a client library would be larger than the keeper. The token is read again for
every request, since a cluster exchanges it every hour. ``resourceVersion`` makes a write fail (409)
when somebody else was faster.
"""

import copy
import json
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from keeper.config import SecretRef
from keeper.config.lease import LeaseSettings
from keeper.errors import ConfigError, TransientError
from keeper.leading import Record

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API, KIND = "coordination.k8s.io/v1", "Lease"
MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # six digits and Z: what the API server itself writes
_NOT_FOUND, _CONFLICT = 404, 409


@dataclass(frozen=True, slots=True)
class Place:
    """Where the API is and how it is asked. ``token`` None: the file of the service account."""

    url: str
    namespace: str
    name: str
    token: SecretRef | None
    tls: ssl.SSLContext | None

    def bearer(self) -> str:
        """Read the token; raises ConfigError, with the mend."""
        if self.token is not None:
            return self.token.read().get_secret_value()
        return _file_of_the_pod("token", "lease.token")


def place_of(settings: LeaseSettings) -> Place:
    """Return what ``[lease]`` names, and what the pod's own account says beside it.

    Raises ConfigError where neither says it.
    """
    ca = settings.ca
    if settings.url is not None:
        url = settings.url.read().get_secret_value()
    else:
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        if not host or not port:
            raise ConfigError(
                ["lease.url is missing: this is no pod of a cluster; say where it is"]
            )
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        ca = ca or SERVICE_ACCOUNT / "ca.crt"
    try:
        tls = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"lease.ca: {ca}: {error}; name a file of PEM certificates"]) from None
    namespace = settings.namespace or _file_of_the_pod("namespace", "lease.namespace")
    return Place(url.rstrip("/"), namespace, settings.name, settings.token, tls)


def _file_of_the_pod(name: str, key: str) -> str:
    try:
        return (SERVICE_ACCOUNT / name).read_text().strip()
    except OSError as error:
        where = SERVICE_ACCOUNT / name
        raise ConfigError([f"{key} is missing, and {where}: {error.strerror}; set it"]) from None


class KubernetesLease:
    """Reads and writes one Lease object. Implements ``leading.Lease``."""

    def __init__(self, session: aiohttp.ClientSession, place: Place) -> None:
        """Ask nothing yet."""
        self._session = session
        self._place = place
        self._object: dict[str, Any] = {}  # as last read: labels and the like stay in it

    async def read(self) -> Record | None:
        """Get the object."""
        status, found = await self._ask("GET", self._path(named=True), None)
        if status == _NOT_FOUND:
            return None
        return self._kept(found)

    async def write(self, record: Record) -> Record | None:
        """Create the object, or replace that version of it."""
        body = self._body(record)
        method = "PUT" if record.version else "POST"
        status, found = await self._ask(method, self._path(named=bool(record.version)), body)
        if status in {_NOT_FOUND, _CONFLICT}:
            return None
        return self._kept(found)

    def _path(self, *, named: bool) -> str:
        place = self._place
        path = f"{place.url}/apis/{API}/namespaces/{place.namespace}/leases"
        return f"{path}/{place.name}" if named else path

    def _body(self, record: Record) -> dict[str, Any]:
        place = self._place
        body = copy.deepcopy(self._object) if record.version else {}
        body |= {"apiVersion": API, "kind": KIND}
        own = {"name": place.name, "namespace": place.namespace}
        body["metadata"] = {**body.get("metadata", {}), **own}
        if record.version:
            body["metadata"]["resourceVersion"] = record.version
        acquired = datetime.fromtimestamp(record.acquired_ms / 1000, UTC)
        body["spec"] = {
            **body.get("spec", {}),
            "holderIdentity": record.holder or None,  # an empty one is refused
            "leaseDurationSeconds": record.ttl_s,
            "acquireTime": acquired.strftime(MICRO_TIME),
            "renewTime": datetime.now(UTC).strftime(MICRO_TIME),
            "leaseTransitions": record.changes,
        }
        return body

    def _kept(self, found: dict[str, Any]) -> Record:
        try:
            record = _record_of(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = f"lease {self._place.name}: the API answered no {KIND} ({error!r})"
            raise TransientError(msg) from None
        self._object = found
        return record

    async def _ask(
        self, method: str, url: str, body: dict[str, Any] | None
    ) -> tuple[int, dict[str, Any]]:
        try:
            headers = {"Authorization": f"Bearer {self._place.bearer()}"}
            async with self._session.request(
                method, url, json=body, headers=headers, ssl=self._place.tls or True
            ) as response:
                status, text = response.status, await response.text()
        except ConfigError as error:  # the token is being exchanged, or was taken away
            raise TransientError(str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            msg = f"lease {self._place.name}: {method}: {type(error).__name__}: {error}"
            raise TransientError(msg) from None
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if status in {_NOT_FOUND, _CONFLICT}:
            return status, {}
        if status >= 300 or not isinstance(found, dict):  # noqa: PLR2004 - HTTP
            said = found.get("message", "") if isinstance(found, dict) else ""
            msg = f"lease {self._place.name}: {method}: HTTP {status} {str(said)[:200]}".rstrip()
            raise TransientError(msg)
        return status, found


def _record_of(found: dict[str, Any]) -> Record:
    """Read a Lease, ours or that of another program: every field of its spec may be absent."""
    spec = found.get("spec") or {}
    acquired = spec.get("acquireTime")
    acquired_at = datetime.fromisoformat(acquired).timestamp() if acquired else 0.0
    return Record(
        holder=spec.get("holderIdentity") or "",
        ttl_s=int(spec.get("leaseDurationSeconds") or 0),
        acquired_ms=int(acquired_at * 1000),
        changes=int(spec.get("leaseTransitions") or 0),
        version=str(found["metadata"]["resourceVersion"]),
    )
