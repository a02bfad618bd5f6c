"""The keys of the lease: which of several keepers with the same wallets sends."""

from typing import Literal

from pydantic import Field

from keeper.config.keyref import ConfigPath, HttpEndpoint, SecretRef
from keeper.config.table import Table, whole

_DNS_LABEL = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"


class LeaseSettings(Table):
    """A lease that keepers with the same wallets share: who holds it sends, the others stand by."""

    kind: Literal["none", "kubernetes", "nats"] = Field(
        default="none",
        description="none: this keeper is the only one; kubernetes: a Lease object; nats: a key of "
        "a JetStream bucket.",
    )
    name: str = Field(
        default="keeper",
        pattern=_DNS_LABEL,
        description="Name of the Lease or key; one for each chain, the same for all its keepers.",
    )
    ttl_s: int = whole(15, 3, 3_600, "Seconds without a renewal after which a standby takes over.")
    renew_s: int = whole(
        3,
        1,
        1_800,
        "Seconds between two renewals or looks. A leader sends no more for the last renew_s of "
        "ttl_s; less than half of it.",
    )
    url: HttpEndpoint | None = Field(
        default=None,
        description="Kubernetes: where the API is; without it where the pod's environment says.",
    )
    namespace: str | None = Field(
        default=None,
        pattern=_DNS_LABEL,
        description="Kubernetes: namespace of the Lease; without it the pod's own.",
    )
    token: SecretRef | None = Field(
        default=None,
        description="Where the token is that logs in; without it the service account's "
        "(Kubernetes), or none (NATS).",
    )
    ca: ConfigPath | None = Field(
        default=None,
        description="PEM certificates that the API or servers are checked by; without it the "
        "service account's (Kubernetes), or the system's (NATS).",
    )
    servers: tuple[str, ...] = Field(
        default=(),
        max_length=16,
        description="NATS: the servers of the cluster, nats://host:port or tls://host:port.",
    )
    credentials: ConfigPath | None = Field(
        default=None, description="NATS: file of user credentials (.creds) that logs in."
    )
    bucket: str = Field(
        default="keeper",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="NATS: bucket of the key; made when there is none.",
    )
    replicas: int = whole(
        3, 1, 5, "NATS: servers that keep the bucket, when it is made; odd, a majority must live."
    )
