"""Every mistake in a config, one line each: file, line, key, value, and what would be right."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from annotated_types import Ge, Le
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from keeper.config.keyref import HIDDEN_FAULT, is_raw_key, is_secret_name, scrub
from keeper.config.lines import KeyPath
from keeper.errors import ConfigError

_HIDDEN_TABLES = (
    ("wallets",),
    ("chain", "http"),
    ("chain", "send"),
    ("relays",),
    ("chain", "ws"),
)  # URLs may hold API keys
_HIDDEN_LEAVES = (["env"], ["file"])  # of a secret reference: perhaps the secret by mistake
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_SHOWN_CHARS_MAX = 60
_SHOWN_BITS_MAX = 256
_NOTHING = object()


def path_text(path: KeyPath) -> str:
    """Write a key path as in TOML, with indices in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = _BARE_KEY.fullmatch(part) is not None
            text += "." + (part if bare else json.dumps(part[:_SHOWN_CHARS_MAX]))
    return text.removeprefix(".")


def suggestion(word: str, known: Collection[str]) -> str:
    """Return a "did you mean", or nothing when no known word is close."""
    close = get_close_matches(word[:_SHOWN_CHARS_MAX], list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}? " if close else ""


def listing(known: Collection[str]) -> str:
    """Return the known words, to choose from."""
    return ", ".join(known) or "none"


class Problems:
    """Collects mistakes; ``raise_if_any`` ends with a ConfigError that holds all of them."""

    def __init__(self, file: str, lines: Mapping[KeyPath, int]) -> None:
        """Name lines of this file by these key lines."""
        self._file = file
        self._lines = lines
        self._found: dict[str, int] = {}  # text → line; a mistake found twice is told once
        self._leaked: set[KeyPath] = set()
        self._unknown: set[KeyPath] = set()

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._found)

    def line(self, path: KeyPath) -> int:
        """Return the line of a key, or of the nearest table around it that is written down."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return 1

    def add(self, path: KeyPath, text: str, *, value: object = _NOTHING) -> None:
        """Tell a mistake at a key; ``value`` is shown unless it may be a secret."""
        if any(path[:length] in self._leaked for length in range(len(path) + 1)):
            return
        shown = "" if value is _NOTHING else f" = {_show(path, value)}"
        self._tell(self.line(path), f"{path_text(path)}{shown}: {text}")

    def add_leak(self, path: KeyPath, line: int, text: str) -> None:
        """Tell of a written-out secret and keep silent about whatever else is wrong with it."""
        self._leaked |= {path} if path else set()
        self._tell(line, f"{path_text(path) or 'this line'}: {text}")

    def add_line(self, line: int, text: str) -> None:
        """Tell a mistake of the text itself."""
        self._tell(line, text)

    def add_unknown(self, path: KeyPath, known: Collection[str]) -> None:
        """Tell of a key that does not exist."""
        self._unknown.add(path)
        word = str(path[-1])
        self.add(path, f"unknown key; {suggestion(word, known)}known keys: {listing(known)}")

    def add_validation(
        self,
        error: ValidationError,
        model: type[BaseModel],
        raw: object,
        at: KeyPath,
        told: Collection[str] = (),
    ) -> None:
        """Tell what pydantic found in the table ``raw`` at ``at``, but for the ``told`` keys."""
        for found in error.errors(include_url=False, include_context=True):
            if (found["loc"] and found["loc"][0] in told) or _is_consequence(found):
                continue
            inner = _document_path(found["loc"], raw, missing=found["type"] == "missing")
            path = (*at, *inner)
            field = field_at(model, inner)
            if found["type"] == "missing":
                self.add(path, f"is missing; add it{_about(field)}")
                continue
            if found["type"] == "extra_forbidden":
                if path not in self._unknown:
                    self.add(path, "unknown key")
                continue
            hidden = found["type"] == HIDDEN_FAULT or (
                field is not None and _holds_secret(field.annotation)
            )
            value = _Hidden() if hidden else found["input"]
            self.add(path, f"{_wish(found, field)}{_about(field)}", value=value)

    def raise_if_any(self) -> None:
        """Raise ConfigError with all mistakes in the order of the file, if there are any."""
        if self._found:
            raise ConfigError(sorted(self._found, key=lambda text: self._found[text]))

    def _tell(self, line: int, text: str) -> None:
        one_line = _CONTROL.sub(" ", scrub(text))
        self._found.setdefault(f"{self._file}:{line}: {one_line}", line)


class _Hidden:
    """Stands for a value that must not be shown."""


def _show(path: KeyPath, value: object) -> str:
    match value:
        case dict():
            return "a table"
        case list():
            return f"an array of {len(value)}"
        case bool():
            return str(value).lower()
        case _ if _may_be_secret(path, value):
            return "(hidden)"
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS_MAX:
        return "a huge number"
    text = str(value)
    cut = text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
    return json.dumps(cut, ensure_ascii=False) if isinstance(value, str) else cut


def _may_be_secret(path: KeyPath, value: object) -> bool:
    names = [part for part in path if isinstance(part, str)]
    if isinstance(value, _Hidden) or is_raw_key(value):
        return True
    if isinstance(value, str) and ("://" in value or "@" in value):
        return True  # a URL may hold a password or an API key
    if any(path[: len(table)] == table for table in _HIDDEN_TABLES):
        return True
    return any(is_secret_name(name) for name in names) or names[-1:] in _HIDDEN_LEAVES


def _holds_secret(annotation: object) -> bool:
    secret = isinstance(annotation, type) and issubclass(annotation, SecretStr | SecretBytes)
    return secret or any(_holds_secret(inner) for inner in get_args(annotation))


def _document_path(loc: Sequence[int | str], raw: object, *, missing: bool) -> KeyPath:
    """Reduce pydantic's location to what is written in the document (it also names union arms)."""
    path: list[str | int] = []
    here = raw
    for part in loc:
        is_key = isinstance(here, dict) and part in here
        is_index = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if isinstance(here, dict | list) and (is_key or is_index):
            here = here[part]  # type: ignore[index]  # the two lines above tell which it is
            path.append(part)
    if missing and loc:
        path.append(loc[-1])  # what is missing is not in the document
    return tuple(path)


def _is_consequence(found: Any) -> bool:  # noqa: ANN401 - pydantic's TypedDict, or a subset
    """Tell whether an array is only too short because its items are refused one by one."""
    limits = found.get("ctx", {})
    if found["type"] != "too_short" or not isinstance(found["input"], list):
        return False
    return bool(len(found["input"]) >= limits["min_length"])


def _wish(found: Any, field: FieldInfo | None) -> str:  # noqa: ANN401 - pydantic's TypedDict, or a subset
    """Say what would be right."""
    bounds = _bounds(field)
    if bounds is not None:
        return f"should be a whole number from {bounds[0]} to {bounds[1]}"
    if found["type"] == "string_pattern_mismatch":
        return f"should match {found['ctx']['pattern']}"
    if found["type"] == "too_short":
        return f"should have at least {found['ctx']['min_length']}"
    text: str = found["msg"]
    for prefix in ("Value error, ", "Assertion failed, "):
        text = text.removeprefix(prefix)
    return re.sub(r"^(?:Input|String|Tuple|List|Value) ", "", text)


def _bounds(field: FieldInfo | None) -> tuple[object, object] | None:
    if field is None or field.annotation is not int:
        return None
    low = [mark.ge for mark in field.metadata if isinstance(mark, Ge)]
    high = [mark.le for mark in field.metadata if isinstance(mark, Le)]
    return (low[0], high[0]) if low and high else None


def _about(field: FieldInfo | None) -> str:
    """Say what the key means, so that nobody has to look it up."""
    if field is None or not field.description:
        return ""
    default = field.default
    if default in ("", None) or not isinstance(default, int | str):
        return f" ({field.description})"
    # As TOML writes it: true, 500, "info".
    return f" ({field.description} Default: {json.dumps(default)}.)"


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys that a table of this model may have."""
    return [name for name, field in model.model_fields.items() if not field.exclude]


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models that a type refers to, through unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def field_at(model: type[BaseModel], path: KeyPath) -> FieldInfo | None:
    """Return the declaration of the key at a path below a model; None when there is none."""
    here: list[type[BaseModel]] = [model]
    field: FieldInfo | None = None
    for part in path:
        if isinstance(part, int):
            continue
        declared = [found.model_fields[part] for found in here if part in found.model_fields]
        if not declared:
            return None
        field = declared[0]
        here = list(models_in(field.annotation))
    return field


def report_unknown_keys(
    problems: Problems, model: type[BaseModel], raw: Mapping[str, Any], at: KeyPath
) -> None:
    """Tell of every key below ``raw`` that its model does not declare."""
    for name, value in raw.items():
        field = model.model_fields.get(name)
        if field is None or field.exclude:
            problems.add_unknown((*at, name), keys_of(model))
            continue
        inner = list(models_in(field.annotation))
        if len(inner) != 1:
            continue  # no table, or one of several: pydantic names what does not belong
        for path, table in _tables(value, (*at, name)):
            report_unknown_keys(problems, inner[0], table, path)


def _tables(value: object, at: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    if isinstance(value, dict):
        yield at, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _tables(item, (*at, index))
