"""The shipped config.toml against the code: every key, its default, its description."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keeper.config import json_schema, load
from keeper.config.settings import Settings, SourceCommon, VenueCommon
from keeper.config.table import LIVE

if TYPE_CHECKING:
    from keeper.config.table import Table

EXAMPLE = Path(__file__).parents[2] / "config.toml"
TABLES = ("keeper", "log", "http", "chain", "lease", "treasury", "fees", "gate", "reconcile")
ARRAYS = ("relays", "wallets", "sources", "feeds", "venues")
_OFF = re.compile(r"^# (\[+\w+\]+|\w+ = .+)$", re.MULTILINE)  # a key or table written as a comment


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """Return the example with the commented keys switched on."""
    return tomllib.loads(_OFF.sub(r"\1", EXAMPLE.read_text()))


def resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    target: dict[str, Any] = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return target


def tables_of(
    schema: dict[str, Any], example: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (name, its schema, the first such table of the example)."""
    for name in TABLES:
        yield name, resolved(schema, schema["properties"][name]), example[name]
    for name in ARRAYS:
        first = example[name][0]
        items = schema["properties"][name]["items"]
        arms = [resolved(schema, arm) for arm in items.get("oneOf", [items])]
        kinds = [arm["properties"].get("kind", {}).get("const") for arm in arms]
        yield name, arms[kinds.index(first.get("kind"))], first


def test_the_example_is_valid_and_a_dry_run() -> None:
    found = load(EXAMPLE)
    assert found.dry_run
    assert found.secrets() == {}
    assert (found.sources[0].kind, found.venues[0].kind) == ("mqtt", "demo_market")


def test_the_example_holds_every_key_with_its_default(
    schema: dict[str, Any], example: dict[str, Any]
) -> None:
    assert set(schema["properties"]) == {*TABLES, *ARRAYS} == set(example)
    for name, table, written in tables_of(schema, example):
        assert set(table["properties"]) == set(written), name
        for key, declared in table["properties"].items():
            if "default" in declared:
                assert written[key] == declared["default"], f"{name}.{key}"


def test_keys_without_a_default_are_off_in_the_example(schema: dict[str, Any]) -> None:
    written = tomllib.loads(EXAMPLE.read_text())
    assert {"wallets", "relays"}.isdisjoint(written)
    for name in TABLES:
        table = resolved(schema, schema["properties"][name])
        optional = {key for key, node in table["properties"].items() if "default" in node}
        assert set(written[name]) <= optional | set(table.get("required", ())), name


def test_each_key_of_the_example_is_described_as_in_the_code(
    schema: dict[str, Any], example: dict[str, Any]
) -> None:
    common: dict[str, type[Table]] = {"sources": SourceCommon, "venues": VenueCommon}
    sections = re.split(r"^(?:# )?\[+(\w+)\]+\n", EXAMPLE.read_text(), flags=re.MULTILINE)
    texts: dict[str, str] = {}
    for name, text in zip(sections[1::2], sections[2::2], strict=True):
        texts.setdefault(name, text)  # of an array of tables the first is the documented one
    for name, table, _ in tables_of(schema, example):
        for key, declared in table["properties"].items():
            above = re.search(rf"((?:^# .*\n)+?)^(?:# )?{key} = ", texts[name], re.MULTILINE)
            assert above is not None, f"{name}.{key} has no comment"
            comment = " ".join(line[2:] for line in above[1].splitlines())
            if name in common and key not in common[name].model_fields:
                continue  # the words of a kind are its author's
            assert declared["description"].removesuffix(LIVE).strip() in comment, f"{name}.{key}"
            live = declared["description"].endswith(LIVE)
            assert comment.endswith(LIVE) is live, f"{name}.{key}"


def test_the_schema_is_whole(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == list(Settings.model_fields)
    text = json.dumps(schema)
    assert "null" not in text
    targets = set(re.findall(r'"#/\$defs/([^"]+)"', text))
    assert targets == set(schema["$defs"])
    for room, kind in (("sources", "mqtt"), ("venues", "demo_market")):
        arms = [resolved(schema, arm) for arm in schema["properties"][room]["items"]["oneOf"]]
        (arm,) = [arm for arm in arms if arm["properties"]["kind"]["const"] == kind]
        assert arm["additionalProperties"] is False
        assert {"kind"} < set(arm["required"])
        assert all("description" in node for node in arm["properties"].values())
    chain = resolved(schema, schema["properties"]["chain"])
    assert chain["required"] == ["id", "http", "native_feed"]
    assert chain["properties"]["poll_ms"] | {"title": ""} == {
        "default": 500,
        "description": "Milliseconds between two polls for the head.",
        "maximum": 60_000,
        "minimum": 10,
        "title": "",
        "type": "integer",
    }


def test_the_shipped_schema_is_this_one_and_the_example_names_it(schema: dict[str, Any]) -> None:
    first = EXAMPLE.read_text().splitlines()[0]
    named = EXAMPLE.parent / first.removeprefix("#:schema ")
    mend = f"keeper config schema > {named.relative_to(EXAMPLE.parent)}"
    assert json.loads(named.read_text()) == schema, mend
