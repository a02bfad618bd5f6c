"""The settings as plain values, secrets starred, and where secrets are referenced."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from keeper.config.keyref import Endpoint, SecretRef, is_secret_name


def _has_kind(value: BaseModel) -> bool:
    """Say whether ``options`` holds the keys of its kind, which stand in the same table."""
    return "kind" in type(value).model_fields


def references(
    value: object, path: str, *, inline: bool = False
) -> Iterator[tuple[str, SecretRef]]:
    """Yield every reference to a secret below a value, with its key path.

    ``inline``: endpoints whose URL stands in the config as well.
    """
    match value:
        case Endpoint() if value.url is not None:
            if inline:
                yield path, value
        case SecretRef():
            yield path, value
        case BaseModel():
            for name, inner in value:
                # The keys of a kind stand in the same table as the common ones.
                is_kind = name == "options" and _has_kind(value)
                below = path if is_kind else f"{path}.{name}".removeprefix(".")
                yield from references(inner, below, inline=inline)
        case tuple() | list():
            for index, inner in enumerate(value):
                yield from references(inner, f"{path}[{index}]", inline=inline)
        case Mapping():
            for name, inner in value.items():
                yield from references(inner, f"{path}.{name}", inline=inline)


def plain(value: object, *, reveal_urls: bool) -> Any:  # noqa: ANN401 - JSON
    """Return a value as JSON has it; secrets are starred, URLs shown only if asked for."""
    shown: object
    match value:
        case SecretRef():
            shown = _plain_reference(value, reveal_urls=reveal_urls)
        case SecretStr():
            shown = "***"
        case BaseModel():
            shown = _plain_fields(value, reveal_urls=reveal_urls)
        case tuple() | list() | set() | frozenset():
            items = sorted(value) if isinstance(value, set | frozenset) else value
            shown = [plain(item, reveal_urls=reveal_urls) for item in items]
        case Mapping():
            shown = {str(key): plain(item, reveal_urls=reveal_urls) for key, item in value.items()}
        case None | bool() | int() | float():
            shown = value
        case _:
            shown = str(value)
    return shown


def _plain_reference(value: SecretRef, *, reveal_urls: bool) -> str:
    if not isinstance(value, Endpoint) or value.url is None:
        return f"*** from {value.label}"
    return value.url.get_secret_value() if reveal_urls else value.label


def _plain_fields(model: BaseModel, *, reveal_urls: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in model:
        if name == "options" and _has_kind(model):
            fields |= plain(value, reveal_urls=reveal_urls)
        elif value is not None:
            hidden = isinstance(value, str) and is_secret_name(name)
            fields[name] = "***" if hidden else plain(value, reveal_urls=reveal_urls)
    return fields
