"""keeper keys: what is written, what is refused, and that no secret is ever printed."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from eth_account import Account

from keeper.cli import cli
from keeper.errors import ConfigError
from keeper.keystore import create

PASSWORD = "a password of some length"  # noqa: S105 - of a key made for the test
KEY = "0x" + "11" * 32
ADDRESS = Account.from_key(KEY).address


def private(path: Path, text: str) -> str:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def password(tmp_path: Path) -> str:
    return private(tmp_path / "password", PASSWORD)


def test_a_new_key_is_encrypted_in_a_file_of_ones_own(tmp_path: Path, password: str) -> None:
    path = tmp_path / "key.json"
    said = CliRunner().invoke(cli, ["keys", "new", str(path), "--password-file", password])
    assert said.exit_code == 0, said.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    stored = json.loads(path.read_text())
    assert stored["version"] == 3
    key = Account.decrypt(stored, PASSWORD)
    assert said.output.strip() == Account.from_key(key).address
    again = CliRunner().invoke(cli, ["keys", "check", str(path), "--password-file", password])
    assert again.output == said.output


def test_two_new_keys_differ(tmp_path: Path, password: str) -> None:
    said = [
        CliRunner().invoke(cli, ["keys", "new", str(tmp_path / name), "--password-file", password])
        for name in ("a", "b")
    ]
    assert said[0].output != said[1].output


def test_a_key_is_imported_by_prompt_and_never_echoed(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    asked = f"{KEY}\n{PASSWORD}\n{PASSWORD}\n"
    said = CliRunner().invoke(cli, ["keys", "import", str(path)], input=asked)
    assert said.exit_code == 0, said.output
    assert said.stdout.strip() == ADDRESS
    assert "1111" not in said.output
    assert PASSWORD not in said.output
    assert Account.decrypt(json.loads(path.read_text()), PASSWORD).hex() == "11" * 32


def test_a_key_is_imported_from_a_file(tmp_path: Path, password: str) -> None:
    key = private(tmp_path / "key.txt", KEY)
    path = str(tmp_path / "key.json")
    arguments = ["keys", "import", path, "--password-file", password, "--key-file", key]
    assert CliRunner().invoke(cli, arguments).output.strip() == ADDRESS


@pytest.mark.parametrize(
    ("key", "password", "said"),
    [
        (KEY, "short", "the password is too short"),
        ("0x1234", PASSWORD, "not a private key"),
        ("not hex at all", PASSWORD, "not a private key"),
    ],
)
def test_what_is_refused_leaves_no_file(tmp_path: Path, key: str, password: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        create(tmp_path / "key.json", key, password)
    assert key not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        create(path, KEY, PASSWORD)
    assert path.read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        create(tmp_path / "no" / "key.json", KEY, PASSWORD)


def test_check_refuses_what_others_can_read_a_wrong_password_and_garbage(
    tmp_path: Path, password: str
) -> None:
    path = tmp_path / "key.json"
    create(path, KEY, PASSWORD)

    def check(secret: str) -> str:
        arguments = ["keys", "check", str(path), "--password-file", secret]
        problem = CliRunner().invoke(cli, arguments).exception
        assert isinstance(problem, ConfigError)
        return str(problem)

    assert "wrong password" in check(private(tmp_path / "other", "another password"))
    path.chmod(0o644)
    assert "chmod 600" in check(password)
    private(path, "{}")
    assert "no keystore" in check(password)
    path.unlink()
    assert "No such file" in check(password)
