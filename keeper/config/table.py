"""What every table of config.toml has in common."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of config.toml: frozen, unknown keys refused, values never in error texts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )
