"""Generated decoders against eth_abi: the same values, and the same refusals."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_abi.grammar import parse
from hypothesis import given
from hypothesis import strategies as st

from keeper.errors import ProtocolError
from keeper.venues._decoders import decoder, reader

SIZES = range(8, 257, 8)
WORDS = [
    *(f"{family}{bits}" for family in ("uint", "int") for bits in SIZES),
    *(f"bytes{size}" for size in range(1, 33)),
    *["address", "bool"] * 8,
]
words = st.sampled_from(WORDS)
lengths = st.sampled_from(["[1]", "[2]", "[3]", "[2][2]"])
endings = st.sampled_from(["[]", "[2][]", "[][2]", "[][]"])


def structs(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(parts, min_size=1, max_size=3).map(lambda kinds: f"({','.join(kinds)})")


items = words | structs(words) | structs(words | structs(words))
statics = items | st.builds(str.__add__, items, lengths)
dynamics = st.sampled_from(["string", "bytes", "string[2]", "bytes[]", "(string,uint8[])[]"])
dynamics |= st.builds(str.__add__, items, endings)
dynamics |= structs(statics | dynamics)
TOPIC = "0x" + "ee" * 32


@functools.cache
def values(kind: str) -> st.SearchStrategy[Any]:
    """Return values of a type as eth_abi decodes them."""
    if kind.endswith("]"):
        item, _, size = kind[:-1].rpartition("[")
        least, most = (int(size), int(size)) if size else (0, 3)
        return st.lists(values(item), min_size=least, max_size=most).map(tuple)
    if kind.startswith("("):
        parts = parse(kind).components
        return st.tuples(*(values(part.to_type_str()) for part in parts))
    family = kind.rstrip("0123456789")
    bits = int(kind[len(family) :] or 0)
    plain = {
        "uint": st.integers(0, 2**bits - 1),
        "int": st.integers(-(2**bits) // 2, 2**bits // 2 - 1 if bits else 0),
        "address": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
        "bool": st.booleans(),
        "bytes": st.binary(min_size=bits, max_size=bits or 70),
        "string": st.text(st.characters(max_codepoint=1000), max_size=20),
    }
    return plain[family]


def named(kinds: Sequence[str], start: int = 0) -> list[tuple[str, str]]:
    return [(kind, f"f{number}") for number, kind in enumerate(kinds, start)]


def hexed(raw: Sequence[bytes]) -> list[str]:
    return [TOPIC, *("0x" + one.hex() for one in raw)]


@given(st.data(), st.lists(words, max_size=3), st.lists(statics | dynamics, max_size=4))
def test_every_type_is_read_as_eth_abi_wrote_it(
    data: st.DataObject, indexed: list[str], plain: list[str]
) -> None:
    drawn = [data.draw(values(kind)) for kind in (*indexed, *plain)]
    fixed, rest = drawn[: len(indexed)], drawn[len(indexed) :]
    topics = [encode([kind], [one]) for kind, one in zip(indexed, fixed, strict=True)]
    read = decoder("E", named(indexed), named(plain, len(indexed)))
    assert list(read(hexed(topics), encode(plain, rest)).values()) == drawn


def by_eth_abi(kinds: Sequence[str], data: bytes) -> tuple[Any, ...] | None:
    try:
        return decode(kinds, data)
    except (DecodingError, ValueError, OverflowError):
        return None


@st.composite
def spoilt(draw: st.DrawFn, kinds: Sequence[str]) -> bytes:
    """Return what eth_abi encodes with some bytes changed, most often those of the padding."""
    body = bytearray(encode(kinds, [draw(values(kind)) for kind in kinds]))
    for _ in range(draw(st.integers(0, 2)) if body else 0):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    return bytes(body)


@given(st.data(), st.lists(words, max_size=3), st.lists(statics | dynamics, max_size=3))
def test_what_eth_abi_refuses_is_refused_and_nothing_else(
    data: st.DataObject, indexed: list[str], plain: list[str]
) -> None:
    topics = [data.draw(spoilt([kind])) for kind in indexed]
    body = data.draw(spoilt(plain))
    parts = [by_eth_abi([kind], topic) for kind, topic in zip(indexed, topics, strict=True)]
    theirs = [*parts, by_eth_abi(plain, body)]
    read = decoder("E", named(indexed), named(plain, len(indexed)))
    if None in theirs:
        with pytest.raises(ProtocolError, match=r"^E: "):
            read(hexed(topics), body)
    else:
        known = [one for part in theirs if part is not None for one in part]
        assert list(read(hexed(topics), body).values()) == known


@given(st.data(), st.lists(statics | dynamics, max_size=3))
def test_answers_are_read_as_eth_abi_reads_them(data: st.DataObject, kinds: list[str]) -> None:
    body = data.draw(spoilt(kinds)) + data.draw(st.binary(max_size=40))  # a proxy may answer more
    body = body[: data.draw(st.integers(len(body) - 40, len(body)))]
    assert by_reader(kinds, body) == by_eth_abi(kinds, body)


@given(st.data(), items)
def test_arrays_are_read_as_eth_abi_reads_them(data: st.DataObject, item: str) -> None:
    body = data.draw(spoilt([f"{item}[]"]))
    assert by_reader([f"{item}[]"], body) == by_eth_abi([f"{item}[]"], body)


def by_reader(kinds: Sequence[str], data: bytes) -> tuple[Any, ...] | None:
    try:
        return reader(kinds)(data)
    except (DecodingError, ValueError, OverflowError):
        return None


def test_what_lies_as_usual_is_read_without_eth_abi(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["(uint8,(bool,int256[2])[2])[]"]
    array = [[(n, [(True, (n, -n)), (False, (0, 1))]) for n in range(5)]]
    plain = ["address", "(bytes4,uint256)"], ["0x" + "ab" * 20, (b"abcd", 7)]
    bodies = encode(kinds, array), encode(*plain)
    expected = decode(kinds, bodies[0]), decode(plain[0], bodies[1])
    monkeypatch.setattr("keeper.venues._decoders.decode", None)
    assert (reader(kinds)(bodies[0]), reader(plain[0])(bodies[1])) == expected


junk_topics = st.lists(st.text(max_size=70) | st.just("0x" + "0" * 64), max_size=4)


@given(
    st.lists(words, max_size=3),
    st.lists(statics | dynamics, max_size=3),
    junk_topics,
    st.binary(max_size=200),
)
def test_junk_is_refused_with_our_own_error(
    indexed: list[str], plain: list[str], topics: list[str], body: bytes
) -> None:
    read = decoder("E", named(indexed), named(plain, len(indexed)))
    with contextlib.suppress(ProtocolError):
        assert len(read(topics, body)) == len(indexed) + len(plain)
        assert len(topics) == len(indexed) + 1


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("0x" + "00" * 31, bytes(33)),  # of the right length together
        ("0x" + "00" * 30 + "    ", bytes(32)),  # blanks, which bytes.fromhex would skip
        ("0x" + "_0" * 32, bytes(32)),
        ("0x" + "00" * 32, bytes(31)),
        ("0x" + "00" * 32, bytes(33)),
        ("0x" + "00" * 32, bytes(64)),
    ],
)
def test_words_at_the_wrong_place_are_refused(topic: str, body: bytes) -> None:
    read = decoder("E", [("uint256", "a")], [("uint256", "b")])
    assert read([TOPIC, "0x" + "00" * 32], bytes(32)) == {"a": 0, "b": 0}
    with pytest.raises(ProtocolError):
        read([TOPIC, topic], body)


def test_what_is_indexed_by_its_hash_comes_out_as_the_hash() -> None:
    indexed = [("string", "name"), ("uint8[2]", "pair"), ("(bool,bool)", "flags")]
    read = decoder("E", indexed, [("bool", "on")])
    hashes = [bytes([number]) * 32 for number in (0xAA, 0xBB, 0xCC)]
    found = read(hexed(hashes), encode(["bool"], [True]))
    assert found == {"name": hashes[0], "pair": hashes[1], "flags": hashes[2], "on": True}
