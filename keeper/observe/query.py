"""What a query of the API may say: as it is checked, and as the OpenAPI document tells it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multidict import MultiMapping

WORD_CHARS_MAX = 200
WORDS_CHARS_MAX = 64  # each


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number. Without a default it may be left out."""

    name: str
    text: str
    low: int
    high: int
    default: int | None = None

    def read(self, given: Sequence[str]) -> int | None:
        """Return the value; raises ValueError with the mend."""
        if not given:
            return self.default
        text = _once(self.name, given)
        plain = text.isascii() and text.isdigit() and len(text) <= len(str(self.high))
        if not plain or not self.low <= int(text) <= self.high:
            msg = (
                f"{self.name} should be a whole number from {self.low} to {self.high}, "
                f"got {text[:40]!r}"
            )
            raise ValueError(msg)
        return int(text)

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        limits = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return limits if self.default is None else limits | {"default": self.default}


@dataclass(frozen=True, slots=True)
class Word:
    """A text, perhaps one of a closed set. It may be left out.

    ``pattern``: what its reader takes, for the document; it is the reader who refuses the others.
    """

    name: str
    text: str
    one_of: tuple[str, ...] = ()
    pattern: str = ""

    def read(self, given: Sequence[str]) -> str | None:
        """Return the value; raises ValueError with the mend."""
        if not given:
            return None
        text = _once(self.name, given)
        if self.one_of and text not in self.one_of:
            msg = f"{self.name} should be one of {', '.join(self.one_of)}, got {text[:40]!r}"
            raise ValueError(msg)
        if len(text) > WORD_CHARS_MAX:
            msg = f"{self.name} should have at most {WORD_CHARS_MAX} characters"
            raise ValueError(msg)
        return text

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        if self.one_of:
            return {"type": "string", "enum": list(self.one_of)}
        shape = {"pattern": self.pattern} if self.pattern else {}
        return {"type": "string", "maxLength": WORD_CHARS_MAX, **shape}


@dataclass(frozen=True, slots=True)
class Words:
    """Texts, one each time the name is given; ``pattern`` as of a word."""

    name: str
    text: str
    count_max: int
    pattern: str

    def read(self, given: Sequence[str]) -> list[str]:
        """Return the values; raises ValueError with the mend."""
        if len(given) > self.count_max:
            msg = f"at most {self.count_max} {self.name}s, got {len(given)}"
            raise ValueError(msg)
        if any(len(text) > WORDS_CHARS_MAX for text in given):
            msg = f"each {self.name} should have at most {WORDS_CHARS_MAX} characters"
            raise ValueError(msg)
        return list(given)

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        items = {"type": "string", "pattern": self.pattern, "maxLength": WORDS_CHARS_MAX}
        return {"type": "array", "items": items, "maxItems": self.count_max}


Parameter = Whole | Word | Words


def read_query(query: MultiMapping[str], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return every parameter's value by name; raises ValueError with what is wrong and the mend."""
    names = [parameter.name for parameter in parameters]
    for name in query:
        if name not in names:
            msg = f"unknown parameter {name[:40]!r}; there are {', '.join(names) or 'none'}"
            raise ValueError(msg)
    return {each.name: each.read(query.getall(each.name, [])) for each in parameters}


def _once(name: str, given: Sequence[str]) -> str:
    if len(given) > 1:
        msg = f"{name} should be given once, got it {len(given)} times"
        raise ValueError(msg)
    return given[0]
