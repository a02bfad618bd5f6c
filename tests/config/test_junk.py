"""Whatever stands in the file, what comes out is settings or a ConfigError that names lines."""

import math
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keeper.config import Settings, load
from keeper.config.table import Table
from keeper.errors import ConfigError
from tests.config.support import GOOD

pytestmark = pytest.mark.usefixtures("rooms")

WORDS = st.sampled_from(
    [
        *Settings.model_fields,
        *("id", "kind", "name", "acme", "tape", "main", "ETH/USD", "env", "file", "http", "ws"),
        *("key", "host", "login", "options", "url", "http://x", "http://[", "a\0", "é", ""),
    ]
)
SCALARS = st.one_of(
    st.integers(),
    st.integers(min_value=-(2**300), max_value=2**300),
    st.booleans(),
    st.floats(),
    st.text(max_size=8),
    WORDS,
    st.dates(),
    st.datetimes(),
    st.times(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
ROOT = {
    name: st.dictionaries(
        st.sampled_from([*field.annotation.model_fields, "zzz"])
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table)
        else st.sampled_from(["id", "kind", "name", "sources", "feeds", "address", "reward_feed"]),
        VALUES,
        max_size=4,
    )
    for name, field in Settings.model_fields.items()
}


def toml(value: Any) -> str:  # noqa: ANN401 - TOML
    """Write a value inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        safe = string.ascii_letters + string.digits + "/:[. "
        return '"' + "".join(c if c in safe else f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    return str(value)


def check_told(file: Path, text: str) -> None:
    """Load; whatever is wrong must come as lines of a ConfigError that name a line of the file."""
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(file)
    except ConfigError as error:
        for problem in error.problems:
            told = re.fullmatch(rf"{re.escape(str(file))}:(\d+): \S.*", problem)
            assert told is not None, problem
            assert 1 <= int(told[1]) <= text.count("\n") + 1


many = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@many
@given(tables=st.fixed_dictionaries({}, optional=ROOT), array=st.booleans())
def test_junk_values_only_raise_config_errors(
    file: Path, tables: dict[str, dict[str, Any]], *, array: bool
) -> None:
    text = ""
    for name, table in tables.items():
        text += (
            f"[[{name}]]\n" if array and name in {"sources", "feeds", "venues"} else f"[{name}]\n"
        )
        text += "".join(f"{toml(key)} = {toml(value)}\n" for key, value in table.items())
    check_told(file, text)


@many
@given(row=st.integers(0, GOOD.count("\n")), value=VALUES)
def test_junk_in_a_good_config_only_raises_config_errors(
    file: Path, row: int, value: object
) -> None:
    rows = GOOD.split("\n")
    rows[row] = rows[row].split("=")[0] + "= " + toml(value) if "=" in rows[row] else rows[row]
    check_told(file, "\n".join(rows))


@many
@given(st.text(alphabet=st.sampled_from("[]{}=.,\"'#\n\\ a1é-_"), max_size=60))
def test_junk_text_only_raises_config_errors(file: Path, text: str) -> None:
    check_told(file, text)
