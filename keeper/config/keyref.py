"""Secrets by reference: the config says where a secret is, never what it is."""

import base64
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SecretStr,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from keeper.errors import ConfigError

KEY_CHARS_MIN = 12  # of an API key in a URL; shorter parts are words as "mainnet" or "v3"
SECRET_BYTES_MAX = 64 * 1024  # a keystore has half a kilobyte
HIDDEN_FAULT = "keeper_hidden"  # error type whose offending value is never shown
_RAW_KEY = re.compile(r"(?<![0-9a-fA-F])(?:0[xX])?[0-9a-fA-F]{64}(?![0-9a-fA-F])")
_SEED_PHRASE = re.compile(r"(?:[a-z]{3,8} +){11,23}[a-z]{3,8}")
_NUMBER_MAX = 2**200  # beyond any amount in wei, block or chain id: a key without its quotes
_SECRET_NAME = re.compile(
    r"pass|secret|token|key|private|mnemonic|seed|auth|credential", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_raw_key(value: object) -> bool:
    """Return whether a private key is written out in this scalar, quoted or as a number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return False
    if isinstance(value, int):
        return abs(value) >= _NUMBER_MAX
    return _RAW_KEY.search(value) is not None or is_seed_phrase(value)


def is_secret_name(name: str) -> bool:
    """Return whether a key of this name may hold a secret, so that its value is never shown."""
    return _SECRET_NAME.search(name) is not None


def is_seed_phrase(value: str) -> bool:
    """Return whether the whole text is 12 to 24 words, as wallets print their seed."""
    return _SEED_PHRASE.fullmatch(value.strip()) is not None


def raw_key_lines(text: str) -> list[int]:
    """Return the 1-based lines on which a private key is written out, comments included."""
    lines = enumerate(text.split("\n"), start=1)
    return [number for number, line in lines if _RAW_KEY.search(line)]


def scrub(text: str) -> str:
    """Star whatever looks like a private key."""
    return _RAW_KEY.sub("***", text)


def _plain_text(value: object) -> object:
    """Refuse what no file can be called."""
    if isinstance(value, str) and (not value.strip() or _CONTROL.search(value)):
        fault = "keeper_path"
        raise PydanticCustomError(fault, "should be the path of a file")
    return value


def _resolve(path: Path, info: ValidationInfo) -> Path:
    """Make a path relative to the config file absolute."""
    base = (info.context or {}).get("base")
    return path if base is None else Path(base) / path


ConfigPath = Annotated[Path, BeforeValidator(_plain_text), AfterValidator(_resolve)]
"""A path in the config; a relative one starts at the folder of the config file."""


class SecretRef(BaseModel):
    """Where a secret is: an environment variable or a file. Never holds the secret."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"oneOf": [{"required": ["env"]}, {"required": ["file"]}]},
    )

    env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the secret.",
    )
    file: ConfigPath | None = Field(
        default=None,
        description="Path of the file that holds the secret, relative to the config file; "
        "readable by its owner only.",
    )

    @model_validator(mode="before")
    @classmethod
    def _tables_only(cls, value: object) -> object:
        if isinstance(value, dict | BaseModel):
            return value
        raise PydanticCustomError(
            HIDDEN_FAULT,
            'should say where the secret is: { file = "path" } or { env = "NAME" }',
        )

    @model_validator(mode="after")
    def _exactly_one(self) -> "SecretRef":
        if (self.env is None) == (self.file is None):
            raise PydanticCustomError(HIDDEN_FAULT, "should have exactly one of env and file")
        return self

    @property
    def label(self) -> str:
        """Say where the secret is; safe to print."""
        return f"env {self.env}" if self.env is not None else f"file {self.file}"

    def read(self) -> SecretStr:
        """Fetch the secret, stripped of surrounding white space.

        Raises ConfigError, with the mend, when there is none or others could read it as well.
        """
        text = (
            self._from_env(self.env)
            if self.env is not None
            else read_private(Path(self.file or ""))
        )
        if not text.strip():
            raise ConfigError([f"{self.label} is empty: put the secret in it"])
        return SecretStr(text.strip())

    @staticmethod
    def _from_env(name: str) -> str:
        value = os.environ.get(name)
        if value is None:
            raise ConfigError([f"env {name} is not set: export it, or name a file instead"])
        return value


def read_private(path: Path) -> str:
    """Return the text of a file that nobody else may read.

    Raises ConfigError, with the mend, when there is none or its mode is too open.
    """
    try:
        # Non-blocking, so that a named pipe is refused below instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        msg = f"file {path}: {error.strerror}: make it readable for the user the keeper runs as"
        raise ConfigError([msg]) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError([f"file {path} is not a regular file: name one that is"])
        _refuse_if_shared(path, status)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > SECRET_BYTES_MAX:
        raise ConfigError([f"file {path} has more than {SECRET_BYTES_MAX} bytes: not a secret"])
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError([f"file {path} is not UTF-8 text: store the secret as text"]) from None


def _refuse_if_shared(path: Path, status: os.stat_result) -> None:
    # A file that belongs to somebody else (root, in a Kubernetes volume) can reach us only through
    # its group, so there the group may read; a file of our own has no reason to let it.
    forbidden = 0o077 if status.st_uid == os.geteuid() else 0o037
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError([f"file {path} is open to others (mode {mode:04o}): chmod 600 {path}"])


class Endpoint(SecretRef):
    """A URL, or a reference to one, since API keys live in URLs. ``repr`` shows the host only."""

    schemes: ClassVar[tuple[str, ...]] = ()

    url: SecretStr | None = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _tables_only(cls, value: object) -> object:
        if isinstance(value, str):
            mistake = cls.mistake_in(value)
            if mistake:
                raise PydanticCustomError(HIDDEN_FAULT, "{mistake}", {"mistake": mistake})
            return {"url": SecretStr(value)}
        if isinstance(value, dict | BaseModel):
            return value
        raise PydanticCustomError(
            HIDDEN_FAULT,
            'should be a URL, or { file = "path" } or { env = "NAME" } holding one',
        )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Endpoint":
        if sum(given is not None for given in (self.env, self.file, self.url)) != 1:
            raise PydanticCustomError(HIDDEN_FAULT, "should have exactly one of env and file")
        return self

    @classmethod
    def mistake_in(cls, url: str) -> str | None:
        """Say what is wrong with a URL in a config, without repeating it; None: nothing."""
        schemes = " or ".join(f"{scheme}://" for scheme in cls.schemes)
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return f"should be a URL that starts with {schemes}"
        if parts.scheme not in cls.schemes or not host or re.search(r"[\s\x00-\x1f\x7f]", url):
            return f"should be a URL that starts with {schemes}"
        if "@" in parts.netloc:
            return 'should not hold a password; put the URL in a file and write { file = "path" }'
        return None

    @property
    def label(self) -> str:
        """Say which endpoint this is, without path and query; safe to print."""
        if self.url is None:
            return super().label
        parts = urlsplit(self.url.get_secret_value())
        hidden = "/***" if parts.path.strip("/") or parts.query else ""
        return f"{parts.scheme}://{parts.netloc}{hidden}"

    def read(self) -> SecretStr:
        """Return the URL. Raises ConfigError when a referenced one is missing or no such URL."""
        if self.url is not None:
            return self.url
        url = super().read()
        scheme = urlsplit(url.get_secret_value()).scheme
        if scheme not in self.schemes:
            wanted = " or ".join(f"{scheme}://" for scheme in self.schemes)
            raise ConfigError([f"{self.label} should hold a URL that starts with {wanted}"])
        return url

    def __repr__(self) -> str:
        """Show the host, or where the URL is."""
        return f"{type(self).__name__}({self.label})"

    __str__ = __repr__

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return: a URL, or the table that says where one is."""
        pattern = f"^(?:{'|'.join(cls.schemes)})://[^/@]+(?:/|$)"
        text = {"type": "string", "format": "uri", "pattern": pattern}
        return {"anyOf": [text, handler(SecretRef.__pydantic_core_schema__)]}


def credentials_in(url: str) -> Iterator[str]:
    """Yield what may be a secret in a URL: the password, the login as HTTP sends it, long parts."""
    parts = urlsplit(url)
    if parts.password is not None:
        login = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
        yield from (parts.password, unquote(parts.password))
        yield base64.b64encode(login.encode()).decode()
    for part in re.split(r"[/=&;,]", f"{parts.path}/{parts.query}"):
        if len(part) >= KEY_CHARS_MIN:
            yield from (part, unquote(part))


class HttpEndpoint(Endpoint):
    """A JSON-RPC endpoint over HTTP."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https")


class WsEndpoint(Endpoint):
    """A JSON-RPC endpoint over WebSocket."""

    schemes: ClassVar[tuple[str, ...]] = ("ws", "wss")
