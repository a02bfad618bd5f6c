"""Contracts on a node that mines as it likes: ABI by name, transactions, receipts, reverts.

    usd = Contract(chain, address, Interface(abi))
    usd.call("balanceOf", owner)
    receipt = usd.send("mint", owner, amount)

A transaction waits for its block. While ``Chain.prompt`` holds, a block is asked for when none
comes by itself; without it the node's own clock decides.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import collapse_if_tuple
from eth_utils.crypto import keccak

from tests.nodes import Anvil, NodeError

CALL_GAS = 2_000_000
MINED_S_MAX = 60.0
POLL_S = 0.01

Entry = Mapping[str, Any]
Abi = Iterable[Entry]
BUILT_IN: Sequence[Entry] = [  # errors that the language itself raises
    {"type": "error", "name": name, "inputs": [{"name": "", "type": kind}]}
    for name, kind in (("Error", "string"), ("Panic", "uint256"))
]

Block = str | int | Mapping[str, str]  # a tag, a number, or {"blockHash": …}


class RevertedError(Exception):
    """A call or a transaction was refused. ``name`` is the error's, ``data`` its 0x-hex."""

    def __init__(self, name: str, data: str, words: str = "") -> None:
        super().__init__(words or name)
        self.name = name
        self.data = data


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded log: its fields by name, and where it stands."""

    name: str
    fields: Mapping[str, Any]
    block: int
    log_index: int
    tx: str


def _named(value: Any, component: Entry) -> Any:  # noqa: ANN401 - any ABI value
    """Turn decoded tuples into dicts by the names in the ABI."""
    kind: str = component["type"]
    if not kind.startswith("tuple"):
        return value
    if kind != "tuple":
        inner = {**component, "type": kind.rpartition("[")[0]}
        return [_named(item, inner) for item in value]
    parts = component["components"]
    return {part["name"]: _named(v, part) for part, v in zip(parts, value, strict=True)}


class Interface:
    """Encoding and decoding by one or more ABIs, later ones adding to earlier ones."""

    def __init__(self, *abis: Iterable[Entry]) -> None:
        self.functions: dict[str, Entry] = {}
        self.events: dict[str, Entry] = {}  # by topic, 0x-hex
        self.errors: dict[bytes, Entry] = {}  # by selector
        self.constructor: Sequence[Entry] = ()
        for abi in (BUILT_IN, *abis):
            self.add(abi)

    def add(self, abi: Iterable[Entry]) -> None:
        """Take in another ABI; what is known already by its name stays."""
        for entry in abi:
            match entry["type"]:
                case "function":
                    self.functions.setdefault(entry["name"], entry)
                case "event":
                    topic = keccak(text=signature(entry)).hex()
                    self.events.setdefault("0x" + topic, entry)
                case "error":
                    self.errors.setdefault(keccak(text=signature(entry))[:4], entry)
                case "constructor":
                    self.constructor = entry["inputs"]

    def encode(self, name: str, *arguments: object) -> str:
        entry = self.functions[name]
        return "0x" + (selector(entry) + encode(_types(entry["inputs"]), arguments)).hex()

    def decode(self, name: str, answer: bytes) -> Any:  # noqa: ANN401 - any ABI value
        """Return what a function answered: one value, or a tuple; structs as dicts."""
        outputs = self.functions[name]["outputs"]
        values = decode(_types(outputs), answer)
        named = [_named(value, part) for value, part in zip(values, outputs, strict=True)]
        return named[0] if len(named) == 1 else tuple(named)

    def event(self, log: Mapping[str, Any]) -> Event | None:
        """Return the event behind a log, or None when the ABI does not have it."""
        entry = self.events.get(log["topics"][0]) if log["topics"] else None
        if entry is None:
            return None
        topics = iter(log["topics"][1:])
        plain = [part for part in entry["inputs"] if not part["indexed"]]
        values = iter(decode(_types(plain), bytes.fromhex(log["data"][2:])))
        found = {
            part["name"]: decode([part["type"]], bytes.fromhex(next(topics)[2:]))[0]
            if part["indexed"]
            else next(values)
            for part in entry["inputs"]
        }
        at = int(log["blockNumber"], 16), int(log["logIndex"], 16)
        return Event(entry["name"], found, *at, log["transactionHash"])

    def refusal(self, data: str) -> RevertedError:
        """Return the error behind revert data; its name is empty when there is no data."""
        raw = bytes.fromhex(data.removeprefix("0x"))
        entry = self.errors.get(raw[:4])
        if entry is None:
            return RevertedError("", data, f"unknown error {data[:10] or 'without data'}")
        try:
            values = decode(_types(entry["inputs"]), raw[4:])
        except DecodingError:
            values = ()
        return RevertedError(entry["name"], data, f"{entry['name']}{values}")


def signature(entry: Entry) -> str:
    return f"{entry['name']}({','.join(_types(entry['inputs']))})"


def selector(entry: Entry) -> bytes:
    return keccak(text=signature(entry))[:4]


def _types(parts: Sequence[Entry]) -> list[str]:
    return [collapse_if_tuple(dict(part)) for part in parts]


@dataclass
class Chain:
    """A node and its unlocked dev accounts."""

    node: Anvil
    prompt: bool = True
    dev: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.dev = [address.lower() for address in self.node.rpc("eth_accounts")]

    def head(self, block: str | int = "latest") -> Mapping[str, Any]:
        tag = hex(block) if isinstance(block, int) else block
        header: Mapping[str, Any] = self.node.rpc("eth_getBlockByNumber", tag, False)  # noqa: FBT003 - JSON-RPC
        return header

    def now_s(self) -> int:
        return int(self.head()["timestamp"], 16)

    def number(self) -> int:
        return int(self.node.rpc("eth_blockNumber"), 16)

    def broadcast(
        self,
        sender: str,
        to: str | None,
        data: str,
        *,
        value_wei: int = 0,
        gas: int = CALL_GAS,
    ) -> str:
        """Send a transaction and return its hash; the gas is given, so nothing is simulated."""
        message = {"from": sender, "data": data, "value": hex(value_wei), "gas": hex(gas)}
        sent: str = self.node.rpc("eth_sendTransaction", message | ({"to": to} if to else {}))
        return sent

    def receipts(self, hashes: Iterable[str]) -> list[dict[str, Any]]:
        """Wait until all are mined and return their receipts; reverted ones too."""
        deadline = time.monotonic() + MINED_S_MAX
        return [self._receipt(tx, deadline) for tx in hashes]

    def _receipt(self, tx: str, deadline: float) -> dict[str, Any]:
        while True:
            found: dict[str, Any] | None = self.node.rpc("eth_getTransactionReceipt", tx)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                msg = f"{tx} was not mined within {MINED_S_MAX:.0f} s"
                raise TimeoutError(msg)
            if self.prompt:
                self.node.rpc("evm_mine")
            else:
                time.sleep(POLL_S)

    def revert_data(self, tx: str) -> str:
        """Return what a mined transaction reverted with, 0x-hex."""
        trace = self.node.rpc("debug_traceTransaction", tx, {"tracer": "callTracer"})
        return str(trace.get("output") or "0x")

    def pass_time(self, seconds: int) -> None:
        """Move the chain's clock on and return when a block has the later time."""
        target = self.now_s() + seconds
        self.node.rpc("evm_increaseTime", seconds)
        deadline = time.monotonic() + MINED_S_MAX
        while self.now_s() < target:
            if time.monotonic() > deadline:
                msg = f"no block reached {target} within {MINED_S_MAX:.0f} s"
                raise TimeoutError(msg)
            if self.prompt:
                self.node.rpc("evm_mine")
            else:
                time.sleep(POLL_S)


@dataclass(frozen=True)
class Contract:
    """A contract at an address, spoken to by names."""

    chain: Chain
    address: str
    interface: Interface

    @classmethod
    def deploy(
        cls, chain: Chain, abi: Iterable[Entry], bytecode: str, *arguments: object
    ) -> "Contract":
        """Deploy as dev account 0."""
        interface = Interface(abi)
        data = bytecode + encode(_types(interface.constructor), arguments).hex()
        gas = 1_000_000 + 150 * len(data)  # 200 a byte of code, 16 a byte of data, hashing
        sent = chain.broadcast(chain.dev[0], None, data, gas=gas)
        receipt = chain.receipts([sent])[0]
        if receipt["status"] != "0x1":
            raise interface.refusal(chain.revert_data(sent))
        return cls(chain, receipt["contractAddress"].lower(), interface)

    def call(
        self,
        name: str,
        *arguments: object,
        sender: str | None = None,
        block: Block = "latest",
    ) -> Any:  # noqa: ANN401 - any ABI value
        """Return what a function answers; raises RevertedError when it refuses."""
        data = self.interface.encode(name, *arguments)
        message = {"from": sender or self.chain.dev[0], "to": self.address, "data": data}
        tag = hex(block) if isinstance(block, int) else block
        try:
            answer = self.chain.node.rpc("eth_call", message, tag)
        except NodeError as error:
            raise self.interface.refusal(error.data) from error
        return self.interface.decode(name, bytes.fromhex(answer[2:]))

    def send(
        self,
        name: str,
        *arguments: object,
        sender: str | None = None,
        value_wei: int = 0,
        gas: int = CALL_GAS,
    ) -> dict[str, Any]:
        """Send a transaction and return its receipt; raises RevertedError when it was refused."""
        sent = self.begin(name, *arguments, sender=sender, value_wei=value_wei, gas=gas)
        return self.finish(sent)

    def begin(
        self,
        name: str,
        *arguments: object,
        sender: str | None = None,
        value_wei: int = 0,
        gas: int = CALL_GAS,
    ) -> str:
        """Send a transaction without waiting for its block; return its hash."""
        data = self.interface.encode(name, *arguments)
        wallet = sender or self.chain.dev[0]
        return self.chain.broadcast(wallet, self.address, data, value_wei=value_wei, gas=gas)

    def finish(self, sent: str) -> dict[str, Any]:
        """Return the receipt of what was sent; raises RevertedError when it was refused."""
        receipt = self.chain.receipts([sent])[0]
        if receipt["status"] != "0x1":
            raise self.interface.refusal(self.chain.revert_data(sent))
        return receipt

    def events(self, receipt: Mapping[str, Any]) -> list[Event]:
        """Return this contract's own events of a receipt."""
        logs = [log for log in receipt["logs"] if log["address"].lower() == self.address]
        return [event for log in logs if (event := self.interface.event(log)) is not None]

    def logs(self, first: int, last: int) -> list[Event]:
        """Return this contract's events of a range of blocks, both ends included."""
        span = {"address": self.address, "fromBlock": hex(first), "toBlock": hex(last)}
        found = [self.interface.event(log) for log in self.chain.node.rpc("eth_getLogs", span)]
        return [event for event in found if event is not None]
