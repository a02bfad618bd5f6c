"""Decoders of event logs and of answers, generated from their types when these are declared.

A static type takes words at a place that is known beforehand, so an event of such fields becomes
one function that reads them all from the topics and the data joined, and an array of such items one
that reads item by item. Other types are left to eth_abi. Both refuse padding that is not the
type's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_abi.grammar import ABIType, BasicType, TupleType, parse

from keeper.errors import ProtocolError

WORD_BYTES = 32
WORD_BITS = 256
TOPIC_CHARS = 66  # 0x and a word
_FAMILIES = frozenset({"int", "uint", "bool", "address"})

Field = tuple[str, str]  # type, name
Decoder = Callable[[Sequence[str], bytes], dict[str, Any]]
Reader = Callable[[bytes], tuple[Any, ...]]


def decoder(event: str, indexed: Sequence[Field], plain: Sequence[Field]) -> Decoder:
    """Return what reads a log's topics (0x-hex, that of the event first) and data by name.

    An indexed value of a dynamic type, an array or a struct is on the chain as a hash, and comes
    out as that. Integers are int, addresses lower-case hex, arrays and structs tuples. The decoder
    raises ProtocolError for what is no log of the event, and for nothing else.
    """
    words = [(kind if _is_word(kind) else "bytes32", name) for kind, name in indexed]
    if all(_is_static(kind) for kind, _ in plain):
        return _generated(event, words, plain)
    topics, kinds = _generated(event, words, []), [kind for kind, _ in plain]
    names = [name for _, name in plain]

    def read(found: Sequence[str], data: bytes) -> dict[str, Any]:
        try:
            values = decode(kinds, data)
        except (DecodingError, ValueError, OverflowError) as error:
            msg = f"{event}: cannot decode the data: {error}"
            raise ProtocolError(msg) from None
        return topics(found, b"") | dict(zip(names, values, strict=True))

    return read


def reader(kinds: Sequence[str]) -> Reader:
    """Return what reads a call's answer: the values that eth_abi's ``decode`` gives, or its errors.

    Structs of static types, and one array of these, are read some 30 times as fast.
    """
    if not kinds:
        return partial(decode, kinds)
    whole = parse(kinds[0])
    if len(kinds) == 1 and whole.arrlist and not whole.arrlist[-1] and _static(whole.item_type):
        quick = _array_reader(whole.item_type)
    elif all(map(_is_static, kinds)):
        quick = _plain_reader(kinds)
    else:
        return partial(decode, kinds)

    def read(data: bytes) -> tuple[Any, ...]:
        try:
            return quick(data)
        except ValueError:  # it is wrong, or laid out as no compiler does it: eth_abi knows which
            return decode(kinds, data)

    return read


def _plain_reader(kinds: Sequence[str]) -> Reader:
    words = _Words()
    values = [words.take(kind) for kind in kinds]
    source = f"""
def read(body):
    {"; ".join(words.reads)}
    if {" or ".join([f"len(body) < {words.bytes_read}", *words.wrong])}:
        raise ValueError
    return ({", ".join(values)},)
"""
    read: Reader = _function(source)
    return read


def _array_reader(item: ABIType) -> Reader:
    words = _Words()
    value, start = words.take(_text(item)), 2 * WORD_BYTES  # after where, and how many
    source = f"""
def read(data):
    end = {start} + word(data[{WORD_BYTES}:{start}], 'big') * {words.bytes_read}
    if word(data[:{WORD_BYTES}], 'big') != {WORD_BYTES} or len(data) < end:
        raise ValueError
    found = []
    for at in range({start}, end, {words.bytes_read}):
        body = data[at:at + {words.bytes_read}]
        {"; ".join(words.reads)}
        if {" or ".join(words.wrong) or "False"}:
            raise ValueError
        found.append({value})
    return (tuple(found),)
"""
    read: Reader = _function(source)
    return read


def _function(source: str) -> Any:  # noqa: ANN401 - its caller says
    """Return the function that the source defines."""
    found: dict[str, Any] = {"word": int.from_bytes, "unhex": bytes.fromhex}
    found["ProtocolError"] = ProtocolError
    exec(source, found)  # noqa: S102 - of this module's own expressions and quoted names only
    return found["read"]


def _generated(event: str, indexed: Sequence[Field], plain: Sequence[Field]) -> Decoder:
    """Write the function of one event."""
    words = _Words()
    in_topics = [f"{name!r}: {words.take(kind)}" for kind, name in indexed]
    topics, topic_bytes = [f"topics[{n + 1}]" for n in range(len(indexed))], words.bytes_read
    in_data = [f"{name!r}: {words.take(kind)}" for kind, name in plain]
    lengths = [
        f"len(topics) != {len(topics) + 1}",
        f"len(data) != {words.bytes_read - topic_bytes}",
        *(f"len({topic}) != {TOPIC_CHARS}" for topic in topics),
    ]
    joined = f"unhex({' + '.join(f'{topic}[2:]' for topic in topics)}) + " if topics else ""
    source = f"""
def read(topics, data):
    try:
        if {" or ".join(lengths)}:
            raise ValueError
        body = {joined}data
        {"; ".join(words.reads) or "pass"}
        if {" or ".join([f"len(body) != {words.bytes_read}", *words.wrong])}:
            raise ValueError
    except ValueError:
        raise ProtocolError({f"{event}: not as it was declared"!r}) from None
    return {{{", ".join(in_topics + in_data)}}}
"""
    read: Decoder = _function(source)
    return read


class _Words:
    """The words of a log's body, as they are taken: source that reads them, and what is wrong."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.reads: list[str] = []  # statements
        self.wrong: list[str] = []  # true for a word that is not of its type

    def take(self, kind: str) -> str:
        """Return the expression of the next value, of a static type."""
        one = parse(kind)
        if isinstance(one, BasicType) and not one.arrlist:
            return self._word(one)
        parts = [one.item_type] * one.arrlist[-1][0] if one.arrlist else one.components
        items = [self.take(_text(part)) for part in parts]
        return f"({''.join(f'{item}, ' for item in items)})"

    def _word(self, kind: BasicType) -> str:
        start = self.bytes_read
        self.bytes_read += WORD_BYTES
        name, signed = f"at_{start}", ", signed=True" if kind.base == "int" else ""
        self.reads.append(f"{name} = word(body[{start}:{self.bytes_read}], 'big'{signed})")
        match kind.base:
            case "int" if kind.sub < WORD_BITS:
                self.wrong.append(f"{name} + {1 << kind.sub - 1} >> {kind.sub}")
            case "uint" if kind.sub < WORD_BITS:
                self.wrong.append(f"{name} >> {kind.sub}")
            case "bool":
                self.wrong.append(f"{name} > 1")
                return f"{name} == 1"
            case "address":
                self.wrong.append(f"{name} >> 160")
                return f"f'0x{{{name}:040x}}'"
            case "bytes":
                if kind.sub < WORD_BYTES:
                    self.wrong.append(f"{name} << {8 * kind.sub} & {(1 << WORD_BITS) - 1}")
                return f"body[{start}:{start + kind.sub}]"
        return name


def _is_word(kind: str) -> bool:
    return _is_static(kind) and isinstance(parse(kind), BasicType) and not parse(kind).arrlist


def _is_static(kind: str) -> bool:
    """Say whether this module reads a type itself; the others are eth_abi's."""
    return _static(parse(kind))


def _static(kind: ABIType) -> bool:
    known = isinstance(kind, TupleType) and all(map(_static, kind.components))
    if isinstance(kind, BasicType):
        known = kind.base in _FAMILIES or (kind.base == "bytes" and bool(kind.sub))
    return known and all(kind.arrlist or ())


def _text(kind: ABIType) -> str:
    return str(kind.to_type_str())  # type: ignore[no-untyped-call] # the library's
