"""config.schema.json as an editor applies it, by a validator that is not ours."""

import tomllib
from typing import Any

from jsonschema import Draft202012Validator

from tests.config.test_example import ARRAYS, EXAMPLE, example, schema, tables_of

__all__ = ["example", "schema"]  # fixtures


def test_an_editor_finds_the_example_valid(schema: dict[str, Any], example: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert list(validator.iter_errors(tomllib.loads(EXAMPLE.read_text()))) == []
    # all keys at once cannot be meant, but each of them is known and of its type
    assert list(validator.iter_errors(example)) == []


def test_an_editor_finds_every_misspelt_key(
    schema: dict[str, Any], example: dict[str, Any]
) -> None:
    validator = Draft202012Validator(schema)
    assert not validator.is_valid(example | {"gates": {}})
    for name, table, written in tables_of(schema, example):
        for key in written:
            misspelt = {f"{key}x" if each == key else each: written[each] for each in written}
            tables = [misspelt, *example[name][1:]] if name in ARRAYS else misspelt
            assert not validator.is_valid(example | {name: tables}), f"{name}.{key}"
        assert all("description" in each for each in table["properties"].values()), name


def test_an_editor_finds_values_out_of_range(
    schema: dict[str, Any], example: dict[str, Any]
) -> None:
    validator = Draft202012Validator(schema)
    for key, value in (("hold_ms", 0), ("hold_ms", "2s"), ("hold_ms", 1.5), ("paused", "yes")):
        assert not validator.is_valid(example | {"gate": example["gate"] | {key: value}}), key
