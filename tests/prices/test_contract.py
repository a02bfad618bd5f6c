"""What every price source's file must be. A new file in keeper/prices is picked up here.

How a source behaves on the wire is tested with a server that speaks as its own does
(``test_template.py``, ``test_streams.py``, ``test_mqtt.py``).
"""

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest
from pydantic import BaseModel, ValidationError

import keeper.prices
from keeper.config import kinds

FOUND = sorted(module.name for module in pkgutil.iter_modules(keeper.prices.__path__))
KINDS = [*kinds("prices"), "_template"]  # what people copy must not rot


@pytest.fixture(params=KINDS)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"keeper.prices.{request.param}")


def test_every_public_file_but_the_board_is_a_source() -> None:
    assert {name for name in FOUND if not name.startswith("_")} - {"board"} == set(KINDS[:-1])


def test_it_tells_what_it_is(module: ModuleType) -> None:
    assert len((module.__doc__ or "").strip().splitlines()) > 1, "describe the server's messages"


def test_settings_are_frozen_strict_and_described(module: ModuleType) -> None:
    model = module.Settings
    assert issubclass(model, BaseModel)
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == "forbid"
    assert [name for name, one in model.model_fields.items() if not one.description] == []
    with pytest.raises(ValidationError, match="surplus"):
        model(surplus=1)


def test_build_takes_what_the_loader_gives(module: ModuleType) -> None:
    given = ["settings", "name", "feeds", "clock", "telemetry", "rpc"]
    assert list(inspect.signature(module.build).parameters) == given
