"""A contract on a real node, driven through its ABI as JSON, for tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from eth_abi.abi import decode, encode
from eth_utils.abi import collapse_if_tuple
from eth_utils.crypto import keccak

from tests.nodes import Anvil, NodeError

ERROR_STRING = keccak(text="Error(string)")[:4]
NOBODY = "0x" + "00" * 20

Events = list[tuple[str, dict[str, Any]]]  # name, fields


def fields(events: Events, name: str) -> list[dict[str, Any]]:
    """Return the fields of each event of that name."""
    return [values for found, values in events if found == name]


def revert_reason(error: NodeError) -> str:
    data = bytes.fromhex(error.data.removeprefix("0x"))
    if data[:4] != ERROR_STRING:
        return f"no reason: {error}"
    return str(decode(["string"], data[4:])[0])


def _named(value: Any, component: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any ABI value
    """Turn decoded tuples into dicts by the names in the ABI."""
    if not component["type"].startswith("tuple"):
        return value
    if component["type"] != "tuple":
        inner = {**component, "type": component["type"].rpartition("[")[0]}
        return [_named(item, inner) for item in value]
    parts = component["components"]
    return {part["name"]: _named(v, part) for part, v in zip(parts, value, strict=True)}


class Contract:
    """A contract deployed by dev account 0; senders are unlocked dev accounts."""

    def __init__(
        self,
        node: Anvil,
        abi: Sequence[Mapping[str, Any]],
        bytecode: str,
        *arguments: object,
    ) -> None:
        self.node = node
        self._entries = {entry["name"]: entry for entry in abi if "name" in entry}
        self.dev: list[str] = [address.lower() for address in node.rpc("eth_accounts")]
        self.chain_id = int(node.rpc("eth_chainId"), 16)
        types = [
            collapse_if_tuple(part)
            for entry in abi
            if entry["type"] == "constructor"
            for part in entry["inputs"]
        ]
        data = bytecode + encode(types, arguments).hex()
        receipt = self._transact({"from": self.dev[0], "data": data})
        self.address: str = receipt["contractAddress"].lower()

    def encode(self, name: str, *arguments: object) -> str:
        types = [collapse_if_tuple(part) for part in self._entries[name]["inputs"]]
        selector = keccak(text=f"{name}({','.join(types)})")[:4]
        return "0x" + (selector + encode(types, arguments)).hex()

    def call(
        self, name: str, *arguments: object, sender: str = NOBODY, block: object = "latest"
    ) -> Any:  # noqa: ANN401 - any ABI value
        message = {"from": sender, "to": self.address, "data": self.encode(name, *arguments)}
        outputs = self._entries[name]["outputs"]
        raw = bytes.fromhex(self.node.rpc("eth_call", message, block)[2:])
        values = decode([collapse_if_tuple(part) for part in outputs], raw)
        named = [_named(value, part) for value, part in zip(values, outputs, strict=True)]
        return named[0] if len(named) == 1 else tuple(named)

    def send(
        self, name: str, *arguments: object, sender: str | None = None, value_wei: int = 0
    ) -> Events:
        """Send a transaction and return its events: (name, fields). A revert is a NodeError."""
        receipt = self.send_raw(self.encode(name, *arguments), sender, value_wei)
        return [self.event(log) for log in receipt["logs"]]

    def refusal(
        self, name: str, *arguments: object, sender: str | None = None, value_wei: int = 0
    ) -> str:
        """Send a transaction that the contract refuses, and return its reason."""
        try:
            events = self.send(name, *arguments, sender=sender, value_wei=value_wei)
        except NodeError as error:
            return revert_reason(error)
        return f"accepted: {events}"

    def send_raw(self, data: str, sender: str | None = None, value_wei: int = 0) -> dict[str, Any]:
        return self._transact(
            {
                "from": sender or self.dev[0],
                "to": self.address,
                "data": data,
                "value": hex(value_wei),
            }
        )

    def event(self, log: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        for entry in self._entries.values():
            types = [collapse_if_tuple(part) for part in entry["inputs"]]
            signature = f"{entry['name']}({','.join(types)})"
            if entry["type"] != "event" or "0x" + keccak(text=signature).hex() != log["topics"][0]:
                continue
            topics = iter(log["topics"][1:])
            plain = [part for part in entry["inputs"] if not part["indexed"]]
            data = bytes.fromhex(log["data"][2:])
            values = iter(decode([part["type"] for part in plain], data))
            return entry["name"], {
                part["name"]: decode([part["type"]], bytes.fromhex(next(topics)[2:]))[0]
                if part["indexed"]
                else next(values)
                for part in entry["inputs"]
            }
        msg = f"unknown event {log}"
        raise AssertionError(msg)

    def _transact(self, transaction: Mapping[str, str]) -> dict[str, Any]:
        limited = {**transaction, "gas": hex(25_000_000)}
        receipt: dict[str, Any] = self.node.rpc("eth_sendTransactionSync", limited)
        if int(receipt["status"], 16) != 1:
            # run it again where it stood, for the reason
            self.node.rpc("eth_call", transaction, hex(int(receipt["blockNumber"], 16)))
            msg = f"reverted, but not when called again: {receipt}"
            raise AssertionError(msg)
        return receipt

    def now_s(self) -> int:
        full = False  # transaction hashes will do
        return int(self.node.rpc("eth_getBlockByNumber", "latest", full)["timestamp"], 16)

    def wait(self, seconds: int) -> None:
        """Mine a block that many seconds after the last one."""
        self.node.rpc("evm_setNextBlockTimestamp", hex(self.now_s() + seconds))
        self.node.rpc("evm_mine")
