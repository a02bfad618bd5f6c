"""The market contract as the demo talks to it: calls, events, signed prices."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from coincurve import PrivateKey
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

_UPDATE_TYPE = "(uint256,uint256,uint256,uint256,uint256,uint256)"


@dataclass(frozen=True, slots=True)
class SignedPrice:
    """A price update the contract accepts, in the order of its struct; ``price`` in USD wads."""

    feed: int
    price: int
    published_ms: int
    v: int
    r: int
    s: int

    @property
    def payload(self) -> bytes:
        """The ABI encoding that travels over MQTT: six words."""
        return encode([_UPDATE_TYPE], [astuple(self)])


@dataclass(frozen=True, slots=True)
class PriceSigner:
    """The oracle: signs prices for one market on one chain."""

    key: PrivateKey
    chain_id: int
    market: str

    @property
    def address(self) -> str:
        """The address the market knows the oracle by."""
        return address_of(self.key)

    def sign(self, feed: int, price: int, published_ms: int) -> SignedPrice:
        """Sign keccak256(abi_encode(chain id, market, feed, price, published_ms))."""
        types = ["uint256", "address", "uint256", "uint256", "uint256"]
        message = encode(types, [self.chain_id, self.market, feed, price, published_ms])
        signature = self.key.sign_recoverable(keccak(message), hasher=None)
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
        return SignedPrice(feed, price, published_ms, 27 + signature[64], r, s)


def address_of(key: PrivateKey) -> str:
    """Return the Ethereum address of a key, lower case."""
    return "0x" + keccak(key.public_key.format(compressed=False)[1:])[-20:].hex()


def _type(entry: dict[str, Any]) -> str:
    """Return the canonical ABI type; structs are written out."""
    kind: str = entry["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_type(part) for part in entry['components'])}){kind[5:]}"


class Market:
    """Encoding and decoding by the contract's ABI."""

    def __init__(self, abi: Iterable[dict[str, Any]]) -> None:
        """Index functions by name, and events by name and topic."""
        self._inputs: dict[str, list[str]] = {"": []}
        self._outputs: dict[str, list[str]] = {}
        self._topics: dict[str, str] = {}
        for entry in abi:
            types = [_type(part) for part in entry.get("inputs", [])]
            if entry["type"] == "constructor":
                self._inputs[""] = types
            elif entry["type"] == "function":
                self._inputs[entry["name"]] = types
                self._outputs[entry["name"]] = [_type(part) for part in entry["outputs"]]
            elif entry["type"] == "event":
                signature = f"{entry['name']}({','.join(types)})"
                self._topics[entry["name"]] = "0x" + keccak(text=signature).hex()

    def creation(self, bytecode: str, *arguments: object) -> str:
        """Return the data of the deploying transaction."""
        return bytecode + encode(self._inputs[""], arguments).hex()

    def data(self, function: str, *arguments: object) -> str:
        """Return the data of a call, 0x-hex."""
        body = encode(self._inputs[function], arguments)
        return "0x" + (self._selector(function) + body).hex()

    def data_of_structs(self, function: str, structs: Sequence[Sequence[int]]) -> str:
        """Return the data of a call with one array of static structs, each given as its words.

        The same as ``data``, in a twentieth of the time: a hundred thousand accounts are many.
        """
        words = [32, len(structs), *(word for struct in structs for word in struct)]
        body = b"".join((word % 2**256).to_bytes(32) for word in words)
        return "0x" + (self._selector(function) + body).hex()

    def result(self, function: str, output: str) -> Any:  # noqa: ANN401 - whatever the ABI says
        """Decode what a call returned: the value, or a tuple of several."""
        values = decode(self._outputs[function], bytes.fromhex(output.removeprefix("0x")))
        return values[0] if len(values) == 1 else values

    def topic(self, event: str) -> str:
        """Return the first topic of an event, 0x-hex."""
        return self._topics[event]

    def _selector(self, function: str) -> bytes:
        return keccak(text=f"{function}({','.join(self._inputs[function])})")[:4]

    def preview(self, ids: Sequence[int], updates: Sequence[SignedPrice]) -> str:
        """Return the data that asks which of the accounts are liquidatable after the updates."""
        return self.data("preview_liquidatable", ids, [astuple(update) for update in updates])
