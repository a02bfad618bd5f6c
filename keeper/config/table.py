"""What every table of config.toml has in common."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

T = TypeVar("T")

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # also an MQTT topic level and a metric label
MS_MAX = 3_600_000  # an hour: nothing in a keeper waits longer
WEI_MAX = 10**24  # a million native tokens


def whole(default: int, low: int, high: int, text: str) -> int:
    """Declare a key for a whole number; floats, strings and booleans are refused."""
    field: int = Field(default=default, ge=low, le=high, strict=True, description=text)
    return field


@dataclass(frozen=True, slots=True)
class _LiveMark:
    """On a key that is taken over while the keeper runs; see ``Live``."""


Live = Annotated[T, _LiveMark()]
"""The type of a key that a reload takes over: ``hold_ms: Live[int] = …``.

Who goes by it has to be told so in ``reload.adopt``. All other keys need a restart.
"""
LIVE = "[live]"  # ends the description of such a key


def is_live(field: FieldInfo) -> bool:
    """Say whether a key is declared ``Live``."""
    return any(isinstance(mark, _LiveMark) for mark in field.metadata)


def _tell_live(schema: dict[str, Any], model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        if is_live(field):
            schema["properties"][name]["description"] += f" {LIVE}"


class Table(BaseModel):
    """A table of config.toml: frozen, unknown keys refused, values never in error texts."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
        json_schema_extra=_tell_live,
    )
