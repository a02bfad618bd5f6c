"""The venues' toolbox against eth_abi, and against answers that are no answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from keeper.errors import ProtocolError, RpcError, RpcFault, TransientRpcError
from keeper.facts import Call, Execution, Head, Log
from keeper.venues._abi import Event, Events, Function, Reads, refusal

WORDS: dict[str, st.SearchStrategy[Any]] = {
    "uint256": st.integers(0, 2**256 - 1),
    "uint8": st.integers(0, 255),
    "int256": st.integers(-(2**255), 2**255 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "address": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    "bool": st.booleans(),
    "bytes4": st.binary(min_size=4, max_size=4),
    "bytes32": st.binary(min_size=32, max_size=32),
}
LONGER: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=40),
    "uint256[]": st.lists(st.integers(0, 2**256 - 1), max_size=3).map(tuple),
    "int8[2]": st.tuples(st.integers(-128, 127), st.integers(-128, 127)),
    "(bool,(int256,bytes4))": st.tuples(
        st.booleans(),
        st.tuples(st.integers(-(2**255), 2**255 - 1), st.binary(min_size=4, max_size=4)),
    ),
    "(uint8,string)[]": st.lists(
        st.tuples(st.integers(0, 255), st.text(max_size=40)), max_size=3
    ).map(tuple),
}


@st.composite
def emitted(draw: st.DrawFn) -> tuple[Event, Log, dict[str, Any]]:
    """Return an event of any shape, a log of it as eth_abi encodes it, and its fields."""
    indexed = draw(st.lists(st.sampled_from(list(WORDS)), max_size=3))
    plain = draw(st.lists(st.sampled_from([*WORDS, *LONGER]), max_size=4))
    order = draw(st.permutations([(kind, True) for kind in indexed] + [(k, False) for k in plain]))
    fields = [(kind, is_indexed, f"f{i}") for i, (kind, is_indexed) in enumerate(order)]
    texts = [
        f"{kind} {'indexed ' if is_indexed else ''}{name}" for kind, is_indexed, name in fields
    ]
    values = {name: draw((WORDS | LONGER)[kind]) for kind, _, name in fields}
    topic = keccak(text=f"Happened({','.join(kind for kind, _, _ in fields)})")
    topics = [topic] + [encode([kind], [values[name]]) for kind, found, name in fields if found]
    kinds = [kind for kind, found, _ in fields if not found]
    data = encode(kinds, [values[name] for _, found, name in fields if not found])
    log = Log("0xa", tuple("0x" + one.hex() for one in topics), data, 1, "0xb", "0xc")
    return Event(f"Happened({', '.join(texts)})"), log, values


@given(emitted())
def test_events_are_read_as_eth_abi_wrote_them(case: tuple[Event, Log, dict[str, Any]]) -> None:
    event, log, values = case
    assert event.fields(log) == values


def changed(log: Log, topics: tuple[str, ...] | None = None, data: bytes | None = None) -> Log:
    body = log.data if data is None else data
    return Log("0xa", log.topics if topics is None else topics, body, 1, "0xb", "0xc")


@given(emitted())
def test_what_was_not_declared_is_not_read(case: tuple[Event, Log, dict[str, Any]]) -> None:
    event, log, _ = case
    strangers = [(), log.topics[:-1], (*log.topics, "0x" + "00" * 32), ("0x" + "5a" * 32,)]
    assert [event.fields(changed(log, topics)) for topics in strangers] == [None] * 4
    if log.data:
        assert event.fields(changed(log, data=log.data[:-1])) is None
        assert event.fields(changed(log, data=b"")) is None


def test_events_are_told_apart() -> None:
    events = Events("Paid(address indexed to, uint256 amount)", "Stopped()")
    stopped = Log("0xa", (events.named["Stopped"].topic,), b"", 1, "0xb", "0xc")
    assert events.read(stopped) == ("Stopped", {})
    assert events.read(changed(stopped, data=b"\0")) == ("", {})
    assert events.read(changed(stopped, topics=())) == ("", {})
    assert events.read(changed(stopped, topics=("0x" + "5a" * 32,))) == ("", {})


def test_the_topic_is_the_one_everybody_knows() -> None:
    transfer = Event("Transfer(address indexed from, address indexed to, uint256 value)")
    assert transfer.topic == "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


def test_the_topic_of_structs_is_that_of_their_types() -> None:
    filled = Event("Filled(address indexed who, (uint256,(bool,string)[2])[] orders, int8 side)")
    assert (
        filled.topic
        == "0x" + keccak(text="Filled(address,(uint256,(bool,string)[2])[],int8)").hex()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "Paid",
        "Paid(uint256)",
        "Paid(uint amount)",
        "Paid((uint256,bool))",
        "Paid(uint7 a)",
    ],
)
def test_declarations_that_are_none(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected Name|integer"):
        Event(wrong)


def test_functions_encode_and_decode() -> None:
    one = Function("views(uint256[],(address,bool))", "(uint256,string)[]")
    taken, owner = (1, 2), "0x" + "ab" * 20
    data = one.data(taken, (owner, True))
    assert data[:4] == keccak(text="views(uint256[],(address,bool))")[:4]
    assert decode(["uint256[]", "(address,bool)"], data[4:]) == (taken, (owner, True))
    answer = encode(["(uint256,string)[]"], [[(7, "seven")]])
    assert one.decoded("0x" + answer.hex()) == one.decoded(answer) == ((7, "seven"),)
    two = Function("terms()", "uint256,bool")
    assert two.data() == keccak(text="terms()")[:4]
    assert two.decoded(encode(["uint256", "bool"], [5, True])) == (5, True)


@pytest.mark.parametrize("garbage", ["0x", None, 7, "0xzz", "ab", "0x00", {"a": 1}, b""])
def test_answers_that_are_none(garbage: object) -> None:
    with pytest.raises(ProtocolError, match=r"^count\(\): "):
        Function("count()", "uint256").decoded(garbage)


def test_refusals_tell_what_failed() -> None:
    said = bytes.fromhex("08c379a0") + encode(["string"], ["healthy"])
    reasons = {"healthy": "not_liquidatable"}
    answers = [
        refusal(TransientRpcError(RpcFault.UNREACHABLE, "gone"), reasons),
        refusal(RpcError(RpcFault.REVERTED, "reverted", said), reasons),
        refusal(RpcError(RpcFault.REVERTED, "reverted", b"\x01\x02"), reasons),
        refusal(RpcError(RpcFault.UNSUPPORTED, "no such method"), reasons),
        refusal(ProtocolError("garbage"), reasons),
    ]
    expected = ["unreachable", "not_liquidatable", "unknown", "unknown", "unknown"]
    assert [answer.reason for answer in answers] == expected
    assert answers[1].detail == "healthy"
    assert all(answer.detail for answer in answers)


def test_refusals_by_the_signature_of_an_error() -> None:
    reasons = {"Healthy(uint256)": "not_liquidatable", "closed": "unknown"}
    data = keccak(text="Healthy(uint256)")[:4] + encode(["uint256"], [7])
    answer = refusal(RpcError(RpcFault.REVERTED, "reverted", data), reasons)
    assert (answer.reason, answer.detail) == ("not_liquidatable", "Healthy(uint256)")
    other = refusal(RpcError(RpcFault.REVERTED, "custom error", b"\x01\x02\x03\x04"), reasons)
    assert (other.reason, other.detail) == ("unknown", "reverted: custom error")


# --- many readings of one block -------------------------------------------------------------------

HEAD = Head(7, "0x" + "07" * 32, "0x" + "06" * 32, 1_767_225_600, 1, 0)
COUNT = Function("count(uint256)", "uint256")


class EchoingRpc:
    """Answers a call with its argument and a word of storage with its slot."""

    def __init__(self, faults: Mapping[int, object]) -> None:
        self.faults = faults
        self.sizes: list[int] = []

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        return (await self.batch([(method, params)]))[0]

    async def batch(self, requests: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.sizes.append(len(requests))
        assert all(params[-1] == {"blockHash": HEAD.hash} for _, params in requests)
        asked = [
            int(params[1], 16) if method == "eth_getStorageAt" else int(params[0]["data"][10:], 16)
            for method, params in requests
        ]
        return [self.faults.get(number, "0x" + f"{number:064x}") for number in asked]

    async def simulate(self, call: Call, sender: str) -> Execution:
        raise AssertionError((call, sender))

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        raise AssertionError((calls, sender))


async def test_readings_come_back_under_their_names_however_many() -> None:
    rpc = EchoingRpc({})
    reads = Reads(rpc, HEAD)
    for number in range(130):
        reads.call(("call", number), "0xaa", COUNT, number)
        reads.word(("word", number), "0xaa", number)
    found = await reads.answers()
    assert len(found) == 260
    assert all(number == value for (_, number), value in found.items())
    assert rpc.sizes == [100, 100, 60]
    assert await Reads(rpc, HEAD).answers() == {}


async def test_a_reading_that_may_revert_is_none_and_any_other_failure_fails_all() -> None:
    reverted = RpcError(RpcFault.REVERTED, "reverted")
    reads = Reads(EchoingRpc({3: reverted}), HEAD)
    reads.call("other", "0xaa", COUNT, 2)
    reads.call("may", "0xaa", COUNT, 3, may_revert=True)
    assert await reads.answers() == {"other": 2, "may": None}
    reads.call("must", "0xaa", COUNT, 3)
    with pytest.raises(RpcError) as failed:
        await reads.answers()
    assert failed.value is reverted
    gone = Reads(EchoingRpc({3: TransientRpcError(RpcFault.RATE_LIMITED, "later")}), HEAD)
    gone.call("may", "0xaa", COUNT, 3, may_revert=True)
    with pytest.raises(TransientRpcError):
        await gone.answers()


@pytest.mark.parametrize("garbage", [None, 7, "0xzz", {"a": 1}])
async def test_a_word_that_is_none_is_no_answer(garbage: Any) -> None:  # noqa: ANN401 - JSON
    reads = Reads(EchoingRpc({5: garbage}), HEAD)
    reads.word("slot", "0xaa", 5)
    with pytest.raises(ProtocolError):
        await reads.answers()
