"""The keys of a private relay."""

from typing import Literal

from pydantic import Field

from keeper.config.keyref import HttpEndpoint, SecretRef
from keeper.config.table import Table


class RelaySettings(Table):
    """A private way to the builders. With any of them nothing is sent to the public endpoints."""

    url: HttpEndpoint = Field(description="Where the relay is.")
    protocol: Literal["raw", "private_transaction", "bundle"] = Field(
        default="raw",
        description="raw: eth_sendRawTransaction to a node with a private pool; "
        "private_transaction: eth_sendPrivateTransaction; bundle: eth_sendBundle, for each next "
        "block again.",
    )
    signing_key: SecretRef | None = Field(
        default=None,
        description="Where the key is that signs requests (X-Flashbots-Signature); never the "
        "wallet's.",
    )
