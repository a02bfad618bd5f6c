"""Where each key of a TOML document stands. Only for text that ``tomllib`` has accepted."""

import re
import tomllib
from bisect import bisect_right
from collections import defaultdict

KeyPath = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")  # also comments and line ends
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")  # numbers, booleans, dates (with a space inside)
_STRINGS = (  # the longest delimiters first
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\])*"'),
    re.compile(r"'[^']*'"),
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the 1-based line of every table, key and array element by its path.

    Array elements are numbered from 0: ``("feeds", 0, "id")``. ``text`` must be valid TOML.
    """
    return _Scanner(text).scan()


class _Scanner:
    """Walks over the text once; values are skipped, not decoded."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        self._elements: dict[KeyPath, int] = defaultdict(int)  # of arrays of tables

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._key_value(table)
            self._skip(_BLANK)
        return self._lines

    def _header(self) -> KeyPath:
        start = self._at
        is_element = self._text.startswith("[[", start)
        self._at += 2 if is_element else 1
        parts = self._key()
        self._at += 2 if is_element else 1
        path: KeyPath = ()
        for part in parts[:-1]:
            path = self._newest((*path, part))
        path = (*path, parts[-1])
        if is_element:
            self._mark(path, start)
            self._elements[path] += 1
        path = self._newest(path)
        self._mark_all(path, start)
        return path

    def _newest(self, path: KeyPath) -> KeyPath:
        """Step into the last element when the path names an array of tables."""
        count = self._elements.get(path, 0)
        return (*path, count - 1) if count else path

    def _key_value(self, table: KeyPath) -> None:
        start = self._at
        path = (*table, *self._key())
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._mark_all(path, start)
        self._value(path)

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                quoted = self._string()
                parts.append(tomllib.loads(f"key = {quoted}")["key"])
            else:
                parts.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._at]
        if opening in "\"'":
            self._string()
        elif opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        index = 0
        while self._text[self._at] != "]":
            self._mark((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._next_item()
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        while self._text[self._at] != "}":
            self._key_value(path)
            self._next_item()
        self._at += 1

    def _next_item(self) -> None:
        self._skip(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_BLANK)

    def _string(self) -> str:
        for pattern in _STRINGS:
            found = pattern.match(self._text, self._at)
            # The pattern of one quote also takes the first two of three: those came before it.
            if found is not None:
                self._at = found.end()
                return found.group()
        msg = f"no string at offset {self._at}: the text is not valid TOML"
        raise ValueError(msg)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            msg = f"unexpected text at offset {self._at}: the text is not valid TOML"
            raise ValueError(msg)
        self._at = found.end()
        return found.group()

    def _mark(self, path: KeyPath, offset: int) -> None:
        self._lines.setdefault(path, bisect_right(self._starts, offset))

    def _mark_all(self, path: KeyPath, offset: int) -> None:
        """Mark the path and the tables above it that it brings about."""
        for length in range(1, len(path) + 1):
            self._mark(path[:length], offset)
