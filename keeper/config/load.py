"""config.toml → settings, or every mistake in it at once."""

import re
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from annotated_types import MaxLen, MinLen
from pydantic import BaseModel, ValidationError

from keeper.config.checks import check_option_feeds, cross_check, feed_ids, report_leaks
from keeper.config.feeds import FeedSettings
from keeper.config.kinds import Room, settings_of
from keeper.config.lines import KeyPath, key_lines
from keeper.config.problems import (
    Problems,
    keys_of,
    models_in,
    report_unknown_keys,
)
from keeper.config.relays import RelaySettings
from keeper.config.sending import WalletSettings
from keeper.config.settings import (
    Settings,
    SourceCommon,
    SourceSettings,
    VenueCommon,
    VenueSettings,
)
from keeper.errors import ConfigError

CONFIG_BYTES_MAX = 1_000_000  # a thousand feeds take a tenth of that
NESTING_MAX = 32  # the deepest key that means anything is at 4
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_LONG_NUMBER = re.compile(r"[0-9_]{4300}")

ModelT = TypeVar("ModelT", bound=BaseModel)


def load(path: Path | str, base: Path | None = None) -> Settings:
    """Read the config file; nothing else is touched, secrets are not read.

    ``base``: the folder that relative paths start at; None: the file's. Raises ConfigError with
    every mistake as one line: file, line, key, value, what would be right.
    """
    text = _read(Path(path))
    document = _parse(str(path), text)
    problems = Problems(str(path), key_lines(text))
    report_leaks(problems, document, text)
    folder = (base or Path(path).parent).absolute()
    parts = _Reader(problems, document, folder).parts()
    cross_check(problems, document)
    problems.raise_if_any()
    return Settings(**parts)


def load_chains(paths: Sequence[Path]) -> list[Settings]:
    """Read the config files of several chains, one each.

    Raises ConfigError with every mistake in every file, and with what two files cannot share.
    """
    chains: dict[Path, Settings] = {}
    mistakes: list[str] = []
    for path in paths:
        try:
            chains[path] = load(path)
        except ConfigError as error:
            mistakes += error.problems
    owners: dict[tuple[str, object], Path] = {}
    for path, settings in chains.items():
        http = settings.http
        shared: dict[str, object] = {
            "chain.id": settings.chain.id,
            "keeper.state_dir": settings.keeper.state_dir.resolve(),
            "http.port": f"{http.host}:{http.port}" if http.port else path,
        }
        for key, value in shared.items():
            other = owners.setdefault((key, value), path)
            if other is not path:
                said = f"is that of {other} as well; every file needs its own ({value})"
                mistakes.append(f"{path}: {key} {said}")
    if mistakes:
        raise ConfigError(mistakes)
    return list(chains.values())


def _read(path: Path) -> str:
    """Return the text with plain line ends; raises ConfigError when there is none to be had."""
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        msg = f"{path}: there is no such file; start from the config.toml of the distribution"
        raise ConfigError([msg]) from None
    except OSError as error:
        msg = f"{path}: {error.strerror}; name a file the keeper may read"
        raise ConfigError([msg]) from None
    except ValueError:  # a zero byte in the name
        raise ConfigError([f"{str(path)!r}: is no file name"]) from None
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigError(
            [f"{path}: has more than {CONFIG_BYTES_MAX} bytes; this is no config file"]
        )
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8; save the file as UTF-8"]) from None


def _parse(file: str, text: str) -> dict[str, Any]:
    """Return the document; raises ConfigError, with the line, when it is not TOML."""
    problems = Problems(file, {})
    document: dict[str, Any] = {}
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = int(found[1]) if found else text.rstrip().count("\n") + 1
        column = f" column {found[2]}:" if found else ""
        what = _AT_LINE.sub("", str(error)).removesuffix(" (at end of document)")
        problems.add_line(line, f"not valid TOML:{column} {what}; nothing below it was checked")
    except RecursionError:
        problems.add_line(1, f"tables are nested deeper than {NESTING_MAX}; flatten them")
    except ValueError:  # Python refuses to convert integers of more than 4300 digits
        number = _LONG_NUMBER.search(text)
        line = text.count("\n", 0, number.start()) + 1 if number else 1
        problems.add_line(line, "an integer is far too long; write a sane number")
    if _depth(document) > NESTING_MAX:
        problems.add_line(1, f"tables are nested deeper than {NESTING_MAX}; flatten them")
    if problems:
        report_leaks(problems, {}, text)
    problems.raise_if_any()
    return document


def _depth(document: dict[str, Any]) -> int:
    """Return how deep tables and arrays are nested, without recursion."""
    depth = 0
    level: list[dict[str, Any] | list[Any]] = [document]
    while level:
        depth += 1
        below: list[Any] = []
        for container in level:
            below += container.values() if isinstance(container, dict) else container
        level = [item for item in below if isinstance(item, dict | list)]
    return depth


class _Reader:
    """Validates a document table by table, so that one mistake does not hide the others."""

    def __init__(self, problems: Problems, document: dict[str, Any], base: Path) -> None:
        self._problems = problems
        self._document = document
        self._context = {"base": base}

    def parts(self) -> dict[str, Any]:
        """Return the tables as settings; incomplete when problems were told."""
        for name in self._document.keys() - Settings.model_fields.keys():
            self._problems.add_unknown((name,), keys_of(Settings))
        parts: dict[str, Any] = {
            "sources": self._array("sources", "prices", SourceCommon, SourceSettings),
            "feeds": self._tables("feeds", FeedSettings),
            "relays": self._tables("relays", RelaySettings),
            "venues": self._array("venues", "venues", VenueCommon, VenueSettings),
            "wallets": self._tables("wallets", WalletSettings),
        }
        for name, field in Settings.model_fields.items():
            if name not in parts:  # an absent table may still have required keys
                (model,) = models_in(field.annotation)
                parts[name] = self._table(model, self._document.get(name, {}), (name,))
        return parts

    def _tables(self, name: str, model: type[ModelT]) -> list[ModelT | None]:
        return [
            self._table(model, raw, (name, index)) for index, raw in enumerate(self._elements(name))
        ]

    def _array(
        self,
        name: str,
        room: Room,
        common: type[BaseModel],
        whole: type[BaseModel],
    ) -> list[BaseModel | None]:
        return [
            self._of_kind(room, common, whole, raw, (name, index))
            for index, raw in enumerate(self._elements(name))
        ]

    def _elements(self, name: str) -> list[Any]:
        """Return the tables of an array of tables."""
        raw = self._document.get(name)
        marks = Settings.model_fields[name].metadata
        limit = next(mark.max_length for mark in marks if isinstance(mark, MaxLen))
        if raw is None or raw == []:
            if any(isinstance(mark, MinLen) for mark in marks):
                self._problems.add((name,), f"is missing; add at least one [[{name}]] table")
            return []
        if not isinstance(raw, list):
            text = f"should be an array of tables; write [[{name}]] instead of [{name}]"
            self._problems.add((name,), text, value=raw)
            return []
        if len(raw) > limit:
            self._problems.add((name,), f"should have at most {limit} tables", value=raw)
        return raw[:limit]

    def _of_kind(
        self,
        room: Room,
        common: type[BaseModel],
        whole: type[BaseModel],
        raw: object,
        at: KeyPath,
    ) -> BaseModel | None:
        """Read a table that holds the common keys and those of its kind."""
        if not isinstance(raw, dict):
            return self._table(common, raw, at)
        shared = {name: value for name, value in raw.items() if name in common.model_fields}
        head = self._validate(common, shared, at)
        kind = raw.get("kind")
        if not isinstance(kind, str):
            return None
        try:
            model = settings_of(room, kind)
        except ConfigError as error:
            self._problems.add((*at, "kind"), str(error), value=kind)
            return None
        own = {name: raw[name] for name in raw if name not in shared}
        known = keys_of(common) + [
            name for name in keys_of(model) if name not in common.model_fields
        ]
        for name in own.keys() - set(known):
            self._problems.add_unknown((*at, name), known)
            del own[name]
        report_unknown_keys(self._problems, model, own, at)
        # A kind may declare common keys, to know its own id for instance: it gets them as well.
        given = shared if head is None else dict(head)
        own |= {name: given[name] for name in model.model_fields if name in given}
        options = self._validate(model, own, at, told=common.model_fields if head is None else ())
        if head is None or options is None:
            return None
        check_option_feeds(self._problems, options, at, feed_ids(self._document))
        return whole(**dict(head), options=options)

    def _table(self, model: type[ModelT], raw: object, at: KeyPath) -> ModelT | None:
        if not isinstance(raw, dict):
            self._problems.add(at, "should be a table", value=raw)
            return None
        report_unknown_keys(self._problems, model, raw, at)
        return self._validate(model, raw, at)

    def _validate(
        self,
        model: type[ModelT],
        raw: dict[str, Any],
        at: KeyPath,
        told: Collection[str] = (),
    ) -> ModelT | None:
        try:
            return model.model_validate(raw, context=self._context)
        except ValidationError as error:
            self._problems.add_validation(error, model, raw, at, told)
            return None
