"""Private relays: how each protocol is handed a transaction, and who signs the request.

``raw``: a node whose pool is private, spoken to like any other. ``private_transaction``:
``eth_sendPrivateTransaction``, kept by the relay until a last block. ``bundle``:
``eth_sendBundle``, for one target block, so it is sent again for the next one at every head.
Relays that want to know who asks get ``X-Flashbots-Signature``: the address and an EIP-191
signature of the body's hash, by a key that holds no money.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from eth_utils.crypto import keccak

from keeper.chain.jsonrpc import Request
from keeper.config import SecretRef
from keeper.errors import ConfigError
from keeper.keystore import address_of, load_key

KEPT_BLOCKS = 25  # as long as relays keep a private transaction; then it is given again


class RelayProtocol(StrEnum):
    """How a relay is spoken to."""

    RAW = "raw"
    PRIVATE_TRANSACTION = "private_transaction"
    BUNDLE = "bundle"


class RelayKey:
    """Signs requests to relays. ``repr`` shows the address only."""

    def __init__(self, private_key: str) -> None:
        """Load the key; raises ValueError, without the key in it, when it is not one."""
        self._key = load_key(private_key)
        self.address = address_of(self._key)

    def __repr__(self) -> str:
        """Show the address, never the key."""
        return f"RelayKey({self.address})"

    def headers(self, body: bytes) -> Mapping[str, str]:
        """Return the header that says who sends this body."""
        text = b"0x" + keccak(body).hex().encode()
        digest = keccak(b"\x19Ethereum Signed Message:\n%d" % len(text) + text)
        signature = self._key.sign_recoverable(digest, hasher=None)
        signed = signature[:64] + bytes([27 + signature[64]])
        return {"X-Flashbots-Signature": f"{self.address}:0x{signed.hex()}"}


def load_relay_key(reference: SecretRef) -> RelayKey:
    """Read the key behind a reference; raises ConfigError without the key in it."""
    try:
        return RelayKey(reference.read().get_secret_value())
    except ValueError as error:
        msg = f"relays.signing_key: {reference.label}: {error}"
        raise ConfigError([msg]) from None


@dataclass(frozen=True, slots=True)
class Relay:
    """A private way to a builder."""

    url: str = field(repr=False)
    protocol: RelayProtocol
    key: RelayKey | None = None

    def request(self, raw: str, head: int) -> Request:
        """Return the request that hands a signed transaction over while ``head`` is the newest."""
        match self.protocol:
            case RelayProtocol.RAW:
                return "eth_sendRawTransaction", [raw]
            case RelayProtocol.PRIVATE_TRANSACTION:
                last = hex(head + KEPT_BLOCKS)
                return "eth_sendPrivateTransaction", [{"tx": raw, "maxBlockNumber": last}]
            case RelayProtocol.BUNDLE:
                return "eth_sendBundle", [{"txs": [raw], "blockNumber": hex(head + 1)}]

    @property
    def kept_blocks(self) -> int | None:
        """Return for how many blocks it keeps a transaction; None: until it is mined."""
        match self.protocol:
            case RelayProtocol.RAW:
                return None
            case RelayProtocol.PRIVATE_TRANSACTION:
                return KEPT_BLOCKS
            case RelayProtocol.BUNDLE:
                return 1
