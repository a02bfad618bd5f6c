"""A venue and a source as an integrator writes them, and a config that uses them."""

from pathlib import Path

import pytest

from keeper.config import Settings, load
from keeper.errors import ConfigError

VENUE = '''
"""A venue."""
from pydantic import BaseModel, ConfigDict, Field
from keeper.facts import FeedId

class Settings(BaseModel):
    """A venue for tests."""
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    address: str = Field(pattern="^0x[0-9a-f]{40}$", description="The contract.")
    feeds: dict[str, FeedId] = Field(default={}, description="Feed of each market.")
    window_s: int = Field(default=30, ge=1, le=600, description="Seconds of a window.")

def build():
    """Build nothing."""
'''
SOURCE = '''
"""A price source."""
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from keeper.config import ConfigPath, SecretRef

class Login(BaseModel):
    """Nested keys."""
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    user: str = Field(default="", description="Who.")
    password: SecretRef | None = Field(default=None, description="Where the password is.")

class Settings(BaseModel):
    """A source for tests."""
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    host: str = Field(description="Host.")
    ca: ConfigPath | None = Field(default=None, description="A path.")
    api_token: str | None = Field(default=None, description="Plain, by a careless author.")
    cookie: SecretStr | None = Field(default=None, description="Likewise.")
    login: Login = Field(default=Login(), description="Nested.")

def build():
    """Build nothing."""
'''


GOOD = """
[chain]
id = 10
http = ["http://127.0.0.1:8545"]
native_feed = "ETH/USD"

[[sources]]
kind = "tape"
name = "main"
host = "localhost"

[[feeds]]
id = "ETH/USD"
sources = ["main"]

[[venues]]
kind = "acme"
id = "acme"
address = "0x00000000000000000000000000000000000000aa"
feeds = { eth = "ETH/USD" }
"""


def read(file: Path, text: str) -> Settings:
    file.write_text(text)
    return load(file)


def mistakes(file: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(file, text)
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def add(table: str, lines: str, *, text: str = GOOD) -> str:
    """Put lines right below a table's header, or a new table at the end."""
    header = f"{table}\n"
    return text.replace(header, header + lines + "\n") if header in text else text + header + lines
