"""What a running keeper takes over from a changed config file, and the file itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from keeper.config.load import load
from keeper.config.settings import Settings
from keeper.config.table import Table, is_live

TableT = TypeVar("TableT", bound=Table)


def with_live(running: TableT, wanted: TableT) -> TableT:
    """Return the running settings with the live keys of the wanted ones.

    A table of an array is found by its ``id`` or ``name``. One in which another key differs as well
    stays as it is: a quorum of two is of no use before the second source is there.
    """
    update: dict[str, object] = {}
    for name, field in type(running).model_fields.items():
        mine, theirs = getattr(running, name), getattr(wanted, name)
        if is_live(field):
            update[name] = theirs
        elif isinstance(mine, Table):
            update[name] = with_live(mine, theirs)
        elif _is_array(mine):
            update[name] = tuple(_of_array(table, theirs) for table in mine)
    return running.model_copy(update=update)


def _is_array(value: object) -> bool:
    return isinstance(value, tuple) and any(isinstance(each, Table) for each in value)


def _of_array(mine: Table, wanted: tuple[Table, ...]) -> Table:
    theirs = next((each for each in wanted if _name(each) == _name(mine)), None)
    if theirs is None:
        return mine
    taken = with_live(mine, theirs)
    return taken if taken == theirs else mine


def _name(table: BaseModel) -> object:
    return getattr(table, "id", None) or getattr(table, "name", None)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A config file as the command line named it. ``dry_run``: its wallets do not count."""

    path: Path
    dry_run: bool = False

    def read(self) -> Settings:
        """Read it again; raises ConfigError with every mistake."""
        settings = load(self.path)
        return settings.model_copy(update={"wallets": ()}) if self.dry_run else settings

    def stamp(self) -> tuple[int, int, int] | None:
        """Return what differs when the file was written or replaced; None: it is not there."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
