"""Finding a venue or a price source by the name of its file."""

import importlib
import importlib.util
import pkgutil
import re
from types import ModuleType
from typing import Literal

from pydantic import BaseModel

from keeper.config.problems import listing, suggestion
from keeper.errors import ConfigError

Room = Literal["venues", "prices"]

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


def kinds(room: Room) -> tuple[str, ...]:
    """Return the kinds of a room: its modules that define ``Settings`` and ``build``."""
    package = importlib.import_module(f"keeper.{room}")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    return tuple(name for name in names if _import(room, name) is not None)


def find_module(room: Room, kind: str) -> ModuleType:
    """Return the module ``keeper.<room>.<kind>``.

    Raises ConfigError, naming the kinds that exist, when it is none.
    """
    module = _import(room, kind)
    if module is None:
        known = kinds(room)
        msg = f"unknown kind; {suggestion(kind, known)}kinds in keeper/{room}: {listing(known)}"
        raise ConfigError([msg])
    return module


def settings_of(room: Room, kind: str) -> type[BaseModel]:
    """Return the ``Settings`` of a kind; raises ConfigError when there is no such kind."""
    model: type[BaseModel] = find_module(room, kind).Settings
    return model


def _import(room: Room, kind: str) -> ModuleType | None:
    """Import a kind; None when there is no such module or it does not define one."""
    name = f"keeper.{room}.{kind}"
    if _KIND.fullmatch(kind) is None or importlib.util.find_spec(name) is None:
        return None
    module = importlib.import_module(name)
    model: object = getattr(module, "Settings", None)
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        return None
    if not callable(getattr(module, "build", None)):
        return None
    return module
