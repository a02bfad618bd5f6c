import random
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.config.lines import KeyPath, key_lines

NOISE = [
    "# a comment with [brackets], { braces } and = signs",
    "",
    "   \t",
    "#",
]
STRINGS = [
    '"a # b = [c] \\" \\\\"',
    "'C:\\raw # \"]'",
    '"""\n[not.a.table]\nkey = 1 # "" \\""" \n"""',
    "'''\n[[nor.this]]\n''quoted'' '''",
    '""""quoted""""',
    '""',
    "''",
    "1979-05-27 07:32:00",
    "-0.5e3",
    "true",
    "0xdead_beef",
]


class Writer:
    """Writes a random document whose integers are unique, so that each can be found in the text."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - cases, not secrets
        self.serial = 100_000
        self.text: list[str] = []

    def name(self) -> str:
        self.serial += 1
        forms = (
            f"k{self.serial}",
            f'"q {self.serial}"',
            f"'l.{self.serial}'",
            f'"\\u00e9{self.serial}"',
        )
        return self.random.choice(forms)

    def leaf(self) -> str:
        self.serial += 1
        return str(self.serial)

    def value(self, depth: int = 0) -> str:
        form = self.random.randrange(5 if depth < 3 else 2)
        if form == 0:
            return self.leaf()
        if form == 1:
            return self.random.choice(STRINGS)
        items = [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if form == 2:
            return "{ " + ", ".join(f"{self.name()} = {item}" for item in items) + " }"
        if form == 3:
            return "[" + ", ".join(items) + "]"
        lines = "".join(f"\n  {self.random.choice(NOISE)}\n  {item}," for item in items)
        return f"[{lines}\n]"

    def body(self) -> None:
        for _ in range(self.random.randrange(4)):
            self.text.append(self.random.choice(NOISE))
            dots = self.random.choice((".", " . ")).join(
                self.name() for _ in range(self.random.randrange(1, 4))
            )
            self.text.append(f"{dots} = {self.value()}  # {self.random.choice(NOISE)}")

    def document(self) -> str:
        self.body()
        for _ in range(self.random.randrange(4)):
            name, inner = self.name(), self.name()
            self.text.append(f"[{name}.{inner}]")
            self.body()
            array = self.name()
            for _ in range(self.random.randrange(3)):
                self.text.append(f"[[ {array} ]]  # again")
                self.body()
                self.text.append(f"[{array}.{self.name()}]")
                self.body()
                nested = self.name()
                for _ in range(self.random.randrange(3)):
                    self.text.append(f"[[{array}.{nested}]]")
                    self.body()
        return "\n".join(self.text) + "\n"


def every_path(value: Any, at: KeyPath = ()) -> list[tuple[KeyPath, Any]]:  # noqa: ANN401 - TOML
    found = [(at, value)] if at else []
    if isinstance(value, dict):
        for name, inner in value.items():
            found += every_path(inner, (*at, name))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            found += every_path(inner, (*at, index))
    return found


@given(st.integers(0, 2**32))
def test_every_key_is_found_on_the_line_where_its_value_stands(seed: int) -> None:
    text = Writer(seed).document()
    rows = text.split("\n")
    lines = key_lines(text)
    paths = every_path(tomllib.loads(text))
    assert {path for path, _ in paths} == set(lines)
    for path, value in paths:
        if isinstance(value, int) and 100_000 < value < 200_000:
            assert str(value) in rows[lines[path] - 1], (seed, path)
        elif isinstance(path[-1], str) and len(path[-1]) > 6:
            assert path[-1][-6:] in rows[lines[path] - 1], (seed, path)


def test_lines_of_tables_and_arrays_of_tables() -> None:
    text = 'a = 1\n[t]\nb = [\n  1,\n  { c = 2 },\n]\n[[x]]\n\n[[x]]\nid = "i"\n[x.y]\nz = 1\n'
    assert key_lines(text) == {
        ("a",): 1,
        ("t",): 2,
        ("t", "b"): 3,
        ("t", "b", 0): 4,
        ("t", "b", 1): 5,
        ("t", "b", 1, "c"): 5,
        ("x",): 7,
        ("x", 0): 7,
        ("x", 1): 9,
        ("x", 1, "id"): 10,
        ("x", 1, "y"): 11,
        ("x", 1, "y", "z"): 12,
    }


@pytest.mark.parametrize("text", ["= 1", "a = ", "[", "a", "a = [1", 'a = "', "[a]]\nb=1\n}"])
def test_text_that_is_no_toml_ends_with_an_error(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        key_lines(text)
