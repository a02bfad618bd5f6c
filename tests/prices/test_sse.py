"""Server-sent events, in whatever pieces they come."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.prices._sse import Event, EventParser, TooLargeError

STREAM = (
    b":keep-alive\n\n"
    b'data:{"a":1}\n\n'
    b"event: error\ndata: gone\n\n"
    b"id: 7\nretry: 10\ndata: one\ndata: two\n\n"
    b"event: empty\n\n"
    b"data: last\n\n"
    b"data: unfinished"
)
EVENTS = [
    Event("message", b'{"a":1}'),
    Event("error", b"gone"),
    Event("message", b"one\ntwo"),
    Event("message", b"last"),
]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_pieces_and_line_ends_change_nothing(ending: bytes, cuts: list[int]) -> None:
    stream = STREAM.replace(b"\n", ending)
    parser = EventParser(100)
    places = [0, *sorted(cuts), len(stream)]
    found = [
        event
        for start, end in itertools.pairwise(places)
        for event in parser.feed(stream[start:end])
    ]
    assert found == EVENTS


@given(st.binary(max_size=400))
def test_junk_yields_events_within_the_limit_or_is_too_large(junk: bytes) -> None:
    parser = EventParser(64)
    try:
        for event in parser.feed(junk):
            assert len(event.data) <= 64 + event.data.count(b"\n")
    except TooLargeError:
        assert len(junk) > 64


@pytest.mark.parametrize("text", [b"x" * 101, b"data:" + b"x" * 101 + b"\n", b"data:x\n" * 101])
def test_an_event_without_end_is_not_kept(text: bytes) -> None:
    with pytest.raises(TooLargeError, match="more than 100 bytes"):
        list(EventParser(100).feed(text))
