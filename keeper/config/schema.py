"""The JSON schema of config.toml, with the keys of every kind."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from keeper.config.kinds import Room, kinds, settings_of
from keeper.config.settings import Settings, SourceCommon, VenueCommon

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/"


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of the whole file, descriptions and defaults included.

    A ``[[sources]]`` or ``[[venues]]`` table is one of the kinds that exist, told by ``kind``.
    """
    arms = {
        "sources": [_of_kind("prices", kind, SourceCommon) for kind in kinds("prices")],
        "venues": [_of_kind("venues", kind, VenueCommon) for kind in kinds("venues")],
    }
    models: list[type[BaseModel]] = [Settings, *arms["sources"], *arms["venues"]]
    references, generated = models_json_schema([(model, "validation") for model in models])
    definitions = _without_null(generated["$defs"])
    root = definitions[references[Settings, "validation"]["$ref"].removeprefix(_REFERENCE)]
    for name, kinds_of_table in arms.items():
        items = [references[model, "validation"] for model in kinds_of_table]
        root["properties"][name]["items"] = {"oneOf": items}
    used = _used(root, definitions)
    kept = {name: definitions[name] for name in definitions if name in used}
    about = {"title": "config.toml", "description": "The config of a liquidation keeper."}
    return {"$schema": DRAFT, **root, **about, "$defs": kept}


def _of_kind(room: Room, kind: str, common: type[BaseModel]) -> type[BaseModel]:
    """Join the keys of a kind and the common ones, as they stand in one table."""
    options = settings_of(room, kind)
    fields: dict[str, Any] = {
        name: (field.annotation, field)  # declared by both: the common key is what is written
        for name, field in common.model_fields.items()
        if name in options.model_fields
    }
    described = common.model_fields["kind"].description
    fields["kind"] = (str, Field(description=described, json_schema_extra={"const": kind}))
    model: type[BaseModel] = create_model(
        f"{room}_{kind}", __base__=(options, common), __doc__=options.__doc__, **fields
    )
    return model


def _used(root: object, definitions: dict[str, Any]) -> set[str]:
    """Return the definitions that are reached from the root."""
    used: set[str] = set()
    waiting = list(_references(root))
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting += _references(definitions[name])
    return used


def _references(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, dict):
        target = node.get("$ref")
        if isinstance(target, str):
            yield target.removeprefix(_REFERENCE)
        for value in node.values():
            yield from _references(value)


def _without_null(node: Any) -> Any:  # noqa: ANN401 - JSON
    """Drop what TOML cannot write: null, as a type and as a default."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        name: _without_null(value)
        for name, value in node.items()
        if not (name == "default" and value is None)
    }
    arms = [arm for arm in kept.pop("anyOf", []) if arm != {"type": "null"}]
    if len(arms) == 1:
        return arms[0] | kept
    return kept | ({"anyOf": arms} if arms else {})
