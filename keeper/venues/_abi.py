"""The toolbox of venues that are EVM contracts; none of it knows a protocol.

A venue writes the part of the ABI that it uses as text (``Function``, ``Events``) and talks to the
chain through ``Contract``. Answers may be garbage: what cannot be decoded is a ProtocolError.
"""

import functools
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_abi.grammar import TupleType, parse
from eth_utils.crypto import keccak

from keeper.errors import KeeperError, ProtocolError, RpcError, RpcFault, TransientRpcError
from keeper.facts import Call, Head, Log, Probe, Refused
from keeper.margin.model import Tier
from keeper.ports import Rpc
from keeper.venues import _recent as recent
from keeper.venues._decoders import decoder, reader

CALLS_PER_BATCH_MAX = 100  # providers cap batches, and some count each call of one
OPEN_END = 2**256 - 1  # how contracts write "no upper end"

ERROR_STRING = keccak(text="Error(string)")[:4]
WORD_BYTES = 32

ItemT = TypeVar("ItemT")


class Function:
    """A contract's function, ``Function("name(types)", "types of what it returns")``.

    A struct is a type in parentheses, ``(uint256,bool)``. One returned value comes out as itself,
    several as a tuple; integers are int, addresses lower-case hex, structs and arrays tuples.
    """

    def __init__(self, signature: str, returns: str) -> None:
        """Parse; raises ParseError or ABITypeError for what is no list of ABI types."""
        self.signature = signature
        self._selector = keccak(text=signature)[:4]
        self._takes = _types(signature[signature.index("(") + 1 : -1])
        self._returns = _types(returns)
        self._read = reader(self._returns)

    def data(self, *arguments: object) -> bytes:
        """Return the call data; raises EncodingError for arguments that do not fit."""
        return self._selector + encode(self._takes, arguments)

    def decoded(self, answer: object) -> Any:  # noqa: ANN401 - the ABI decides
        """Decode what a call answered, 0x-hex or bytes; raises ProtocolError for what it is not."""
        try:
            data = answer if isinstance(answer, bytes) else bytes.fromhex(_hex(answer))
            if not data and self._returns:
                msg = f"{self.signature}: empty answer; no contract at the address, or another one"
                raise ProtocolError(msg)
            values = self._read(data)
        except (DecodingError, ValueError, OverflowError) as error:
            msg = f"{self.signature}: cannot decode the answer: {error}"
            raise ProtocolError(msg) from None
        return values[0] if len(values) == 1 else values


class Event:
    """A contract's event, as in Solidity: ``Event("Paid(address indexed to, uint256 amount)")``.

    A struct is a type in parentheses: ``Event("Filled((uint256,bool)[] orders)")``.
    """

    def __init__(self, declaration: str) -> None:
        """Parse; raises ValueError for what is no such declaration, else as ``Function`` does."""
        self.name, fields = _declared(declaration)
        kinds = _types(",".join(kind for kind, _, _ in fields))
        self.topic = "0x" + keccak(text=f"{self.name}({','.join(kinds)})").hex()
        plain = [(kind, name) for kind, is_indexed, name in fields if not is_indexed]
        indexed = [(kind, name) for kind, is_indexed, name in fields if is_indexed]
        self.decode = decoder(self.name, indexed, plain)

    def fields(self, log: Log) -> dict[str, Any] | None:
        """Return the fields by name; None: not this event, or not as it was declared.

        An indexed string, bytes, array or struct is on the chain as a hash, and comes out as that.
        """
        if log.topics[:1] != (self.topic,):
            return None
        try:
            return self.decode(log.topics, log.data)
        except ProtocolError:
            return None


class Events:
    """The events of a contract, told apart by their first topic."""

    def __init__(self, *declarations: str) -> None:
        """Parse; raises as ``Event`` does."""
        self.named = {event.name: event for event in map(Event, declarations)}
        self._by_topic = {event.topic: event for event in self.named.values()}

    def read(self, log: Log) -> tuple[str, dict[str, Any]]:
        """Return name and fields; ``("", {})`` for an event that is not understood."""
        event = self._by_topic.get(log.topics[0]) if log.topics else None
        if event is None:
            return "", {}
        try:
            return event.name, event.decode(log.topics, log.data)
        except ProtocolError:
            return "", {}


@dataclass(frozen=True, slots=True)
class DryRun:
    """A call that succeeded when the node ran it: what it used, returned (decoded) and logged.

    ``logs``: those of the contract only.
    """

    call: Call
    gas: int
    returned: Any
    logs: tuple[Log, ...]


class Contract:
    """One contract on one chain."""

    def __init__(self, rpc: Rpc, address: str) -> None:
        """Remember where it is; nothing is asked yet."""
        self.address = address.lower()
        self._rpc = rpc

    async def read(self, function: Function, *arguments: object, head: Head | None = None) -> Any:  # noqa: ANN401 - the ABI decides
        """Return what the function answers at the head's hash (EIP-1898), else at the newest block.

        Raises RpcError, and ProtocolError for an answer that cannot be decoded.
        """
        request = self._request(function, arguments, head)
        return function.decoded(await self._rpc.call(*request))

    async def read_each(
        self, function: Function, each: Sequence[Sequence[object]], head: Head
    ) -> list[Any]:
        """Return the answers for several lists of arguments, in order; one failure fails all.

        Goes out in batches of at most ``CALLS_PER_BATCH_MAX``; raises as ``read`` does.
        """
        requests = [self._request(function, arguments, head) for arguments in each]
        values: list[Any] = []
        for start in range(0, len(requests), CALLS_PER_BATCH_MAX):
            for answer in await self._rpc.batch(requests[start : start + CALLS_PER_BATCH_MAX]):
                if isinstance(answer, RpcError):
                    raise answer
                values.append(function.decoded(answer))
        return values

    async def probe(self, function: Function, *arguments: object) -> Any | Probe:  # noqa: ANN401 - the ABI decides
        """Return what the function answers now, or why this is not the contract it should be.

        Raises TransientRpcError.
        """
        try:
            return await self.read(function, *arguments)
        except TransientRpcError:
            raise
        except (RpcError, ProtocolError) as error:
            detail = f"not such a venue at {self.address}: {error}"
            return Probe(open=False, detail=detail, found=False)

    async def dry_run(
        self,
        function: Function,
        arguments: Sequence[object],
        wallet: str,
        reasons: Mapping[str, str],
        value_wei: int = 0,
    ) -> DryRun | Refused:
        """Run the function on top of the newest block as if ``wallet`` had sent it.

        ``reasons``: what the contract says when it reverts, or the signature of its error, as in
        ``Healthy(uint256)`` → ``Refused.reason``.
        """
        call = Call(self.address, function.data(*arguments), value_wei)
        return await self.run(function, call, wallet, reasons)

    async def run(
        self, function: Function, call: Call, wallet: str, reasons: Mapping[str, str]
    ) -> DryRun | Refused:
        """Do as ``dry_run`` with a call made elsewhere, which may lead here through another one.

        ``function``: how the answer is decoded.
        """
        try:
            done = await self._rpc.simulate(call, wallet)
            if not done.success:
                return reverted(done.output, reasons)
            logs = tuple(log for log in done.logs if log.address == self.address)
            return DryRun(call, done.gas_used, function.decoded(done.output), logs)
        except (RpcError, ProtocolError) as error:
            return refusal(error, reasons)

    async def liquidators(self, event: Event) -> str:
        """Say how many distinct liquidators there were lately, for a probe."""
        return await recent.liquidators(self._rpc, self.address, event)

    def _request(
        self, function: Function, arguments: Sequence[object], head: Head | None
    ) -> tuple[str, Sequence[object]]:
        data = "0x" + function.data(*arguments).hex()
        block = {"blockHash": head.hash} if head else "latest"
        return "eth_call", [{"to": self.address, "data": data}, block]


class Reads:
    """Readings of one block under names of the caller's choice, sent together."""

    def __init__(self, rpc: Rpc, head: Head) -> None:
        """Start empty; all is read at the head's hash (EIP-1898)."""
        self._rpc = rpc
        self._block = {"blockHash": head.hash}
        self._asked: dict[Hashable, tuple[str, list[object], Function | None, bool]] = {}

    def call(
        self,
        name: Hashable,
        address: str,
        function: Function,
        *arguments: object,
        sender: str | None = None,
        may_revert: bool = False,
    ) -> None:
        """Ask what a function answers, to ``sender`` if given; None if it may revert and does."""
        message = {"to": address, "data": "0x" + function.data(*arguments).hex()}
        message |= {"from": sender} if sender else {}
        self._asked[name] = "eth_call", [message, self._block], function, may_revert

    def word(self, name: Hashable, address: str, slot: int) -> None:
        """Ask for a word of storage, as an unsigned integer."""
        params: list[object] = [address, hex(slot), self._block]
        self._asked[name] = "eth_getStorageAt", params, None, False

    async def answers(self) -> dict[Any, Any]:
        """Return what was asked, by name; one failure fails all.

        Goes out in batches of at most ``CALLS_PER_BATCH_MAX``. Raises RpcError, and ProtocolError
        for an answer that cannot be decoded.
        """
        found: dict[Any, Any] = {}
        asked = list(self._asked.items())
        for start in range(0, len(asked), CALLS_PER_BATCH_MAX):
            part = asked[start : start + CALLS_PER_BATCH_MAX]
            answers = await self._rpc.batch([(method, ask) for _, (method, ask, *_) in part])
            for (name, (*_, function, may_revert)), answer in zip(part, answers, strict=True):
                if isinstance(answer, RpcError):
                    if not may_revert or answer.fault is not RpcFault.REVERTED:
                        raise answer
                    found[name] = None
                else:
                    found[name] = function.decoded(answer) if function else _word(answer)
        return found


def refusal(error: KeeperError, reasons: Mapping[str, str]) -> Refused:
    """Return what a failed request means for a simulation; ``reasons`` as in ``dry_run``."""
    if isinstance(error, TransientRpcError):
        return Refused("unreachable", str(error))
    if isinstance(error, RpcError) and error.fault is RpcFault.REVERTED:
        return reverted(error.data, reasons, str(error))
    return Refused("unknown", str(error))


def revert_reason(data: bytes) -> str:
    """Return the reason inside revert data, or "" when it holds none."""
    if data[: len(ERROR_STRING)] != ERROR_STRING:
        return ""
    try:
        return str(decode(["string"], data[len(ERROR_STRING) :])[0])
    except (DecodingError, ValueError, OverflowError):
        return ""


def tiers(brackets: Sequence[tuple[int, int]]) -> tuple[Tier, ...]:
    """Return decoded (upper end, rate) pairs as tiers."""
    return tuple(Tier(None if up_to == OPEN_END else up_to, rate) for up_to, rate in brackets)


def numbered(items: Iterable[ItemT]) -> dict[str, ItemT]:
    """Return an array's items by index, as text: names for the margin model."""
    return {str(number): item for number, item in enumerate(items)}


def integers(data: bytes) -> list[int]:
    """Return the words of the ABI as unsigned integers."""
    return [int.from_bytes(word, "big") for word in words(data)]


def words(data: bytes) -> list[bytes]:
    """Split into the words of the ABI; the last one may be short."""
    return [data[start : start + WORD_BYTES] for start in range(0, len(data), WORD_BYTES)]


def received(logs: Iterable[Log], wallet: str) -> int:
    """Return how much of tokens a wallet is sent according to these logs, of all of them."""
    transfers = (TRANSFER.fields(log) for log in logs)
    return sum(one["amount"] for one in transfers if one and one["receiver"] == wallet.lower())


def reverted(data: bytes, reasons: Mapping[str, str], otherwise: str = "") -> Refused:
    """Return what revert data means for a simulation; ``reasons`` as in ``dry_run``."""
    reason = revert_reason(data) or _named(data, reasons)
    detail = reason or otherwise or f"reverted with {data[:4].hex() or 'no reason'}"
    return Refused(reasons.get(reason, "unknown"), detail)


def _named(data: bytes, signatures: Iterable[str]) -> str:
    """Return the one of these errors that the revert data is, or ""."""
    return next((one for one in signatures if data and _selector(one) == data[:4]), "")


@functools.cache
def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


def _word(answer: object) -> int:
    try:
        return int(_hex(answer) or "0", 16)
    except ValueError as error:
        msg = f"eth_getStorageAt answered no word: {error}"
        raise ProtocolError(msg) from None


def _hex(answer: object) -> str:
    if isinstance(answer, str) and answer.startswith("0x"):
        return answer[2:]
    msg = f"expected hex, got {str(answer)[:80]!r}"
    raise ValueError(msg)


def _types(text: str) -> list[str]:
    """Split a list of types; refuses ``uint`` too, for signatures need ``uint256``."""
    parsed = parse(f"({text})") if text else None  # the grammar has no empty tuple
    if not isinstance(parsed, TupleType):
        return []
    parsed.validate()  # type: ignore[no-untyped-call] # the library's
    return [one.to_type_str() for one in parsed.components]


def _declared(declaration: str) -> tuple[str, list[tuple[str, bool, str]]]:
    """Return an event's name and its fields: type, is it indexed, name."""
    whole = re.fullmatch(r"(\w+)\((.*)\)", declaration)
    parts = _apart(whole[2]) if whole else []
    found = [re.fullmatch(r"\s*(\S+)\s+(indexed\s+)?(\w+)\s*", part) for part in parts]
    fields = [(one[1], bool(one[2]), one[3]) for one in found if one]
    if whole is None or len(fields) != len(parts):
        msg = f"expected Name(type [indexed] name, …), got {declaration!r}"
        raise ValueError(msg)
    return whole[1], fields


def _apart(text: str) -> list[str]:
    """Split at the commas outside parentheses; nothing has no parts."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts if text else []


# ERC-20
TRANSFER = Event("Transfer(address indexed sender, address indexed receiver, uint256 amount)")
