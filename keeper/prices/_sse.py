"""Server-sent events: bytes in, events out, whatever the pieces they come in."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type (``message`` unless named) and its data lines, joined."""

    kind: str
    data: bytes


class TooLargeError(ValueError):
    """An event, or a line, is larger than it may be."""


class EventParser:
    """Splits a stream into events; comments (keep-alives) and unknown fields are passed over.

    Lines end with CR LF, LF or CR. An event without data is none.
    """

    def __init__(self, bytes_max: int) -> None:
        """Start at the beginning of a stream; no event may have more than ``bytes_max`` bytes."""
        self._bytes_max = bytes_max
        self._rest = b""
        self._kind = "message"
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Take the next bytes and yield the events that they complete; raises TooLargeError."""
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]  # the second half of a CR LF that was cut in two
        if piece:
            self._after_cr = piece.endswith(b"\r")
        *lines, self._rest = (
            (self._rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        )
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                yield Event(self._kind, b"\n".join(self._data))
                self._reset()
            else:
                self._reset()
        self._limit(self._size + len(self._rest))

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value)
            self._limit(self._size)
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode(errors="replace")

    def _reset(self) -> None:
        self._kind, self._data, self._size = "message", [], 0

    def _limit(self, size: int) -> None:
        if size > self._bytes_max:
            msg = f"more than {self._bytes_max} bytes in one event"
            raise TooLargeError(msg)
