"""The effective config as one line a key, and what two configs differ in."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keeper.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose value differs; None: it is not there. Values as TOML writes them."""

    key: str
    before: str | None
    after: str | None


def flat(settings: Settings) -> dict[str, str]:
    """Return key path → value as TOML writes it, defaults included, secrets starred.

    A table of an array is named by its ``id`` or ``name``: ``venues.demo.objective``.
    """
    return dict(_flat(settings.show(), ""))


def difference(before: Settings, after: Settings) -> list[Change]:
    """Return what changes from one config to the other, in the order of the tables.

    Values are shown starred, and compared whole: a new API key in a URL is a change.
    """
    old, new = flat(before), flat(after)
    old_whole = dict(_flat(before.show(reveal_urls=True), ""))
    new_whole = dict(_flat(after.show(reveal_urls=True), ""))
    return [
        Change(key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old_whole.get(key) != new_whole.get(key)
    ]


def _flat(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}.{_name_of(item, index)}")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _name_of(table: Mapping[str, Any], index: int) -> str:
    return str(table.get("id") or table.get("name") or index)
