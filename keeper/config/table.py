"""What every table of config.toml has in common."""

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # also an MQTT topic level and a metric label
MS_MAX = 3_600_000  # an hour: nothing in a keeper waits longer
WEI_MAX = 10**24  # a million native tokens


def whole(default: int, low: int, high: int, text: str) -> int:
    """Declare a key for a whole number; floats, strings and booleans are refused."""
    field: int = Field(default=default, ge=low, le=high, strict=True, description=text)
    return field


class Table(BaseModel):
    """A table of config.toml: frozen, unknown keys refused, values never in error texts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )
