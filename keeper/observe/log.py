"""Structured logs: readable lines on a terminal, one JSON object a line everywhere else.

Secrets must never reach a log call; what is here is the second line of defence. No renderer prints
local variables: a traceback that does would print a private key sooner or later.
"""

import json
import logging
import re
import sys
from collections.abc import Collection, Mapping, MutableMapping
from functools import lru_cache
from traceback import format_exception
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["auto", "console", "json"]

MASK = "***"
_ALWAYS_SECRET = re.compile(
    r"(?:^|_)(?:private_?key|secret_?key|api_?key|mnemonic|passwords?|passphrase|secrets?|"
    r"authorization|credentials?)$",
    re.IGNORECASE,
)
# "key" may be that of a dict and "token" an ERC-20: hidden only when the value looks like a secret
_MAYBE_SECRET = re.compile(r"(?:^|_)(?:key|token)$", re.IGNORECASE)
_PRIVATE_KEY = re.compile(r"(?:0x)?[0-9a-f]{64}", re.IGNORECASE)
_URL_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_PRIVATE_KEY_BYTES = 32
_NEVER, _MAYBE, _ALWAYS = range(3)
_NOT_DATA = frozenset({"exc_info", "_record", "_from_structlog"})  # read by later processors
_DEPTH_MAX = 4  # nested mappings looked into; deeper ones are masked whole
_SECRET_CHARS_MIN = 6  # shorter ones would blank out ordinary words
_LIBRARY_LEVEL = logging.WARNING  # what aiohttp, web3 and the MQTT client say below it is noise


def configure(
    level: Level = "info",
    style: Style = "auto",
    *,
    stream: TextIO | None = None,
    secrets: Collection[str] = (),
) -> None:
    """Set up logging for the process; call once, before the first line is logged.

    ``style``: ``auto`` takes ``console`` on a terminal and ``json`` elsewhere. ``stream``: standard
    error unless given. ``secrets``: values (passwords, API keys, endpoint URLs that carry one)
    blanked out wherever they turn up in a finished line, tracebacks of libraries included.
    Libraries that use ``logging`` come out in the same form, from warning upwards.
    """
    out = sys.stderr if stream is None else stream
    console = style == "console" or (style == "auto" and out.isatty())
    number: int = getattr(logging, level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    _blanks[:] = [_Blank(secrets)]
    finish: list[Processor] = [*_renderers(console=console, colors=out.isatty()), *_blanks]
    structlog.configure(
        processors=[*shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        # a cached logger could not be configured again; what it saves is a microsecond a line
        cache_logger_on_first_use=False,
    )
    _route_logging(out, max(number, _LIBRARY_LEVEL), shared, finish)


def blank(text: str) -> str:
    """Return a text that goes anywhere else than into the log without the secrets known to it."""
    return _blanks[-1].out_of(text)


def last_words(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Say what ends the process, without secrets; an ``excepthook``."""
    sys.stderr.write(blank("".join(format_exception(kind, error, traceback))))


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what looks like a secret by ``***``: by the name it is logged under, or in a URL.

    A structlog processor.
    """
    for name, value in event.items():
        if name not in _NOT_DATA:
            event[name] = _redacted(name, value, _DEPTH_MAX)
    return event


def _redacted(name: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    secrecy = _secrecy(name)
    if secrecy == _ALWAYS or (secrecy == _MAYBE and _looks_secret(value)):
        return MASK
    if isinstance(value, str):
        return _URL_USERINFO.sub(MASK, value) if "://" in value and "@" in value else value
    return _redacted_inside(name, value, depth)


def _redacted_inside(name: str, value: object, depth: int) -> object:
    if not isinstance(value, Mapping | list | tuple):
        return value
    if depth == 0:
        return MASK
    if isinstance(value, Mapping):
        return {str(key): _redacted(str(key), item, depth - 1) for key, item in value.items()}
    return [_redacted(name, item, depth - 1) for item in value]


@lru_cache(maxsize=1024)
def _secrecy(name: str) -> int:
    if _ALWAYS_SECRET.search(name):
        return _ALWAYS
    return _MAYBE if _MAYBE_SECRET.search(name) else _NEVER


def _looks_secret(value: object) -> bool:
    if isinstance(value, bytes | bytearray):
        return len(value) == _PRIVATE_KEY_BYTES
    return isinstance(value, str) and _PRIVATE_KEY.fullmatch(value.strip()) is not None


def _renderers(*, console: bool, colors: bool) -> list[Processor]:
    if console:
        plain = structlog.dev.plain_traceback  # the pretty one prints local variables
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=json.dumps, default=repr),
    ]


class _Blank:
    """The last processor: blanks known secrets out of the finished line."""

    def __init__(self, secrets: Collection[str]) -> None:
        kept = {secret for secret in secrets if len(secret) >= _SECRET_CHARS_MIN}
        kept |= {json.dumps(secret)[1:-1] for secret in kept}  # as it looks inside a JSON string
        # longest first: a secret may be a part of another one (a key inside a URL)
        self._secrets = sorted(kept, key=len, reverse=True)

    def __call__(
        self,
        _logger: WrappedLogger,
        _method: str,
        line: str | bytes | bytearray | MutableMapping[str, Any] | tuple[Any, ...],
    ) -> str:
        return self.out_of(str(line))

    def out_of(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text


_blanks = [_Blank(())]  # that of the last ``configure``, as structlog's own configuration is


def _route_logging(
    out: TextIO, level: int, shared: list[Processor], finish: list[Processor]
) -> None:
    """Send what libraries log, and Python warnings, through the same processors."""
    handler = logging.StreamHandler(out)
    handler.setLevel(level)  # some libraries give their loggers a level of their own
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)
