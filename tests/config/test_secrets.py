import base64
import json
import os
from pathlib import Path

import pytest

from keeper.config import SecretRef, json_schema
from keeper.config.keyref import _refuse_if_shared, credentials_in
from keeper.errors import ConfigError
from tests.config.support import GOOD, add, mistakes, read

RAW_KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
SEED = "legal winner thank year wave sausage worth useful legal winner thank yellow"

pytestmark = pytest.mark.usefixtures("rooms")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (add("[[wallets]]", f'key = "0x{RAW_KEY}"'), 22),
        (add("[[wallets]]", f'key = "{RAW_KEY.upper()}"'), 22),
        (add("[[wallets]]", f"key = 0x{RAW_KEY}"), 22),
        (add("[[wallets]]", f"key = {int(RAW_KEY, 16)}"), 22),
        (add("[[wallets]]", f"key = 0x{RAW_KEY[:32]}_{RAW_KEY[32:]}"), 22),
        (add("[[wallets]]", f'key = {{ file = "{RAW_KEY}" }}'), 22),
        (add("[[wallets]]", f'key = {{ env = "{RAW_KEY}" }}'), 22),
        (add("[[wallets]]", f'key = "{SEED}"'), 22),
        (add("[[wallets]]", f'"{RAW_KEY}" = 1'), 22),
        (
            add(
                "[[wallets]]",
                f'key = "\\u0030x{RAW_KEY[:10]}\\u00{ord(RAW_KEY[10]):x}{RAW_KEY[11:]}"',
            ),
            22,
        ),
        (add("[chain]", f'ws = ["wss://node/{RAW_KEY}"]'), 3),
        (add("[log]", f'level = ["info", {{ x = "0x{RAW_KEY}" }}]'), 22),
        (add("[chain]", f"# key = {RAW_KEY}"), 3),
        (add("[chain]", f"= {RAW_KEY}"), 3),
    ],
)
def test_a_raw_key_is_refused_without_showing_it(file: Path, text: str, line: int) -> None:
    found = mistakes(file, text)
    told = [problem for problem in found if "looks like a private key" in problem]
    assert [problem.split(":")[0] for problem in told] == [str(line)]
    assert "put it in a file with mode 600" in told[0]
    shown = "".join(found).lower()
    assert RAW_KEY[:10] not in shown
    assert RAW_KEY[-10:] not in shown
    assert str(int(RAW_KEY, 16)) not in shown
    assert "winner" not in shown


def test_a_price_id_is_no_key_where_a_source_lists_its_feeds(file: Path) -> None:
    listed = add("[[sources]]", f'feeds = {{ "0x{RAW_KEY}" = "ETH/USD" }}')
    assert not any("private key" in told for told in mistakes(file, listed))
    for text in (
        add("[[sources]]", f'feeds = {{ x = "0x{RAW_KEY}" }}'),
        add("[[sources]]", f'feeds = {{ "{RAW_KEY[:-1]}5" = "ETH/USD" }} # {RAW_KEY}'),
        add("[[sources]]", f'feeds = {{ "4" = "ETH/USD" }} # {RAW_KEY}'),
        add("[[sources]]", f'feed = {{ "{RAW_KEY}" = "ETH/USD" }}'),
        add("[[venues]]", f'feeds = {{ "{RAW_KEY}" = "ETH/USD" }}'),
    ):
        assert any("private key" in told for told in mistakes(file, text)), text


WITH_SECRETS = (
    GOOD.replace(
        '["http://127.0.0.1:8545"]', '["https://node.example/v2/apikey123", { env = "NODE" }]'
    )
    .replace('host = "localhost"', 'host = "h"\napi_token = "tok456"\ncookie = "cook789"')
    .replace("[[feeds]]", '[sources.login]\npassword = { file = "mqtt.pw" }\n[[feeds]]')
    + '[[wallets]]\nkeystore = "key.json"\npassword = { env = "PW" }\n'
)


def test_secrets_are_listed_and_never_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE", "https://other.example/envkey000")
    monkeypatch.setenv("PW", " envpass111\n")
    found = read(file, WITH_SECRETS)
    assert not found.dry_run
    assert {path: ref.label for path, ref in found.secrets().items()} == {
        "chain.http[1]": "env NODE",
        "sources[0].login.password": f"file {file.parent / 'mqtt.pw'}",
        "wallets[0].password": "env PW",
    }
    shown = found.show()
    assert shown["chain"]["http"] == ["https://node.example/***", "*** from env NODE"]
    assert shown["wallets"][0] == {
        "name": "main",
        "signer_timeout_ms": 2_000,
        "balance_wei_min": 0,
        "keystore": str(file.parent / "key.json"),
        "password": "*** from env PW",
    }
    assert {shown["sources"][0][key] for key in ("api_token", "cookie")} == {"***"}
    assert shown["venues"][0]["feeds"] == {"eth": "ETH/USD"}
    assert "NODE" in repr(found.chain.http[1])
    read_here = [ref.read() for path, ref in found.secrets().items() if "sources" not in path]
    texts = [json.dumps(shown), repr(found.chain), str(found.wallets), repr(read_here)]
    texts += [found.model_dump_json(), json.dumps(json_schema()), found.digest]
    for secret in ("apikey123", "envkey000", "envpass111", "cook789"):
        assert secret not in "".join(texts)
    assert "tok456" not in json.dumps(shown)
    values = {secret.get_secret_value() for secret in read_here}
    assert values == {"https://other.example/envkey000", "envpass111"}


def test_secrets_never_stand_in_an_error(file: Path) -> None:
    text = WITH_SECRETS.replace("[[wallets]]", 'sorces = "tok456"\n[[wallets]]\nkey = "hunter2"')
    text = text.replace('"https://node.example/v2/apikey123"', '"ftp://node.example/apikey123"')
    text = text.replace('cookie = "cook789"', "cookie = 789123")
    text = text.replace('host = "h"', 'host = ["h"]').replace('{ file = "mqtt.pw" }', '"plainpw"')
    text = text.replace('env = "PW"', 'env = "not a name"')
    shown = "".join(mistakes(file, text))
    for secret in ("apikey123", "tok456", "hunter2", "789123", "plainpw", "not a name"):
        assert secret not in shown
    for key in ("chain.http[0]", "sorces", "wallets[0].key", "sources[0].cookie", "login.password"):
        assert key in shown


def secret_at(file: Path, text: str = 'key = { file = "key" }') -> SecretRef:
    return read(file, add("[[wallets]]", text)).secrets()["wallets[0].key"]


def test_a_secret_file_must_be_ours_alone(file: Path) -> None:
    ref = secret_at(file)
    key = file.parent / "key"
    with pytest.raises(ConfigError, match=r"No such file or directory: make it readable"):
        ref.read()
    key.write_text("  0xsecret\n")
    key.chmod(0o600)
    assert ref.read().get_secret_value() == "0xsecret"
    for mode in (0o640, 0o604, 0o620, 0o601):
        key.chmod(mode)
        with pytest.raises(ConfigError, match=rf"\(mode {mode:04o}\): chmod 600 {key}"):
            ref.read()
    key.chmod(0o400)
    assert "secret" not in repr(ref.read())


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (b" \n", "is empty"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * 70_000, "has more than 65536 bytes"),
    ],
)
def test_a_secret_file_must_hold_a_secret(file: Path, content: bytes, mend: str) -> None:
    key = file.parent / "key"
    key.write_bytes(content)
    key.chmod(0o600)
    with pytest.raises(ConfigError, match=mend):
        secret_at(file).read()


def test_the_group_may_read_what_belongs_to_somebody_else(file: Path) -> None:
    """As in a Kubernetes volume: owned by root, read through the group."""

    def status(mode: int, owner: int) -> os.stat_result:
        return os.stat_result((0o100_000 | mode, 0, 0, 1, owner, 0, 9, 0, 0, 0))

    other = os.geteuid() + 1
    _refuse_if_shared(file, status(0o440, other))
    for mode, owner in ((0o440, os.geteuid()), (0o444, other), (0o460, other), (0o402, other)):
        with pytest.raises(ConfigError, match="is open to others"):
            _refuse_if_shared(file, status(mode, owner))


def test_a_named_pipe_is_refused_and_not_waited_for(file: Path) -> None:
    os.mkfifo(file.parent / "key", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        secret_at(file).read()


def test_a_folder_is_no_secret(file: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        secret_at(file, 'key = { file = "." }').read()


def test_a_secret_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = secret_at(file, 'key = { env = "KEEPER_TEST_KEY" }')
    monkeypatch.delenv("KEEPER_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="env KEEPER_TEST_KEY is not set: export it"):
        ref.read()
    monkeypatch.setenv("KEEPER_TEST_KEY", "")
    with pytest.raises(ConfigError, match="is empty"):
        ref.read()
    monkeypatch.setenv("KEEPER_TEST_KEY", "s3")
    assert ref.read().get_secret_value() == "s3"


def test_a_referenced_url_must_be_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(file, add("[chain]", 'ws = [{ env = "KEEPER_TEST_URL" }]'))
    monkeypatch.setenv("KEEPER_TEST_URL", "https://node.example/apikey123")
    with pytest.raises(ConfigError, match="should hold a URL that starts with ws:// or") as caught:
        found.chain.ws[0].read()
    assert "apikey123" not in str(caught.value)
    monkeypatch.setenv("KEEPER_TEST_URL", "wss://node.example/apikey123")
    assert found.chain.ws[0].read().get_secret_value().startswith("wss://")


def test_what_may_be_a_secret_in_a_url_is_known() -> None:
    url = "https://me:pa%2Fss@node.example/v3/mainnet/0123456789abcdef?key=fedcba9876543210&a=b"
    login = base64.b64encode(b"me:pa/ss").decode()
    known = {"pa%2Fss", "pa/ss", login, "0123456789abcdef", "fedcba9876543210"}
    assert set(credentials_in(url)) == known
    assert set(credentials_in("http://127.0.0.1:8545")) == set()
