"""No secret comes out of a keeper that everything goes wrong with: not in its log, not over HTTP.

The provider behind the endpoint even says the credentials back in its errors, as some do.
"""

import base64
import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from click.testing import CliRunner
from coincurve import PrivateKey
from eth_account import Account

from keeper.cli import cli
from keeper.observe.openapi import READS
from tests.e2e.proxy import Fault, Proxy, _answer
from tests.e2e.rig import ETHER, KeeperProcess, Options, Rig
from tests.e2e.runs import KEEPER, Run

DONE_S_MAX = 30.0
USER = "operator"
SECRETS = {
    "password": "keystore-pass-41d0",
    "http.token": "http-token-7be1",
    "mqtt.password": "mqtt-pass-9c52",
    "url password": "url-pass-5a63",
    "api key": "0d6bfe03a7814c",
}
EVENTS = "/api/v1/events"  # what /api/v1/status says
OPEN = """\
[gate]
gas_usd_per_day_max = 100
"""


class Gossip(Proxy):
    """A provider that quotes what it was sent. ``how``: as JSON-RPC errors, or as a web page."""

    how = ""

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        said = f"no access to {handler.path} with {handler.headers['Authorization']}"
        said += f" ({SECRETS['api key']}, {SECRETS['url password']})"
        match self.how:
            case "error":
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                error = {"code": -32000, "message": said, "data": {"url": handler.path}}
                answers = [
                    {"jsonrpc": "2.0", "id": one["id"], "error": error}
                    for one in (body if isinstance(body, list) else [body])
                ]
                whole = answers if isinstance(body, list) else answers[0]
                _answer(handler, 200, json.dumps(whole).encode())
            case "page":
                handler.rfile.read(int(handler.headers["Content-Length"]))
                _answer(handler, 403, said.encode())
            case _:
                super()._handle(handler)


@pytest.fixture
def gossip(rig: Rig) -> Iterator[Gossip]:
    proxy = Gossip(rig.node.port)
    try:
        yield proxy
    finally:
        proxy.close()


def private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def configured(rig: Rig, gossip: Gossip, folder: Path) -> tuple[KeeperProcess, str]:
    """Write a config with a secret wherever there can be one; return the keeper and the key."""
    key = PrivateKey()
    wallet = Account.from_key(key.secret).address
    rig.node.rpc("anvil_setBalance", wallet, hex(10 * ETHER))
    lock = 'keystore = "keystore.json"\npassword = { file = "password" }'
    config, port, _ = rig.configure(
        folder, Options(http=gossip.url, key=lock, venue=OPEN, head_age_ms_max=2_000)
    )
    locked = Account.encrypt(key.secret, SECRETS["password"], kdf="pbkdf2", iterations=1)
    private(folder / "keystore.json", json.dumps(locked))
    for name in ("password", "http.token", "mqtt.password"):
        private(folder / name, SECRETS[name])
    login, path = f"{USER}:{SECRETS['url password']}@", f"/v3/{SECRETS['api key']}"
    private(folder / "rpc.url", gossip.url.replace("//", f"//{login}") + path)
    private(folder / "ws.url", f"ws://{login}127.0.0.1:1{path}")
    text = config.read_text()
    for old, new in (
        (f'["{gossip.url}"]', '[{ file = "rpc.url" }]'),
        ("ws = []", 'ws = [{ file = "ws.url" }]'),
        ('level = "info"', 'level = "debug"'),
        ("[http]\n", '[http]\ntoken = { file = "http.token" }\n'),
        (
            'name = "broker"\n',
            f'name = "broker"\nuser = "{USER}"\npassword = {{ file = "mqtt.password" }}\n',
        ),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    config.write_text(text)
    run = Run(folder, (*KEEPER, "run", "--config", str(config)))
    return KeeperProcess(run, config, port, wallet), key.secret.hex()


def asked(keeper: KeeperProcess, account: int) -> list[str]:
    """Return every answer there is to a read, and to writes with and without the token."""
    base = f"http://127.0.0.1:{keeper.http_port}"
    reads = [*(path for path in READS if path != EVENTS), "/", "/metrics", "/nothing"]
    found = [keeper.get(path.format(venue="demo", account=account))[1] for path in reads]
    for token in (SECRETS["http.token"], "wrong"):
        for order in ("pause", "resume"):
            request = urllib.request.Request(f"{base}/api/v1/{order}", b"")  # noqa: S310
            request.add_header("Authorization", f"Bearer {token}")
            with contextlib.suppress(urllib.error.HTTPError):
                found.append(urllib.request.urlopen(request).read().decode())  # noqa: S310
    return found


def commands(keeper: KeeperProcess, *names: str) -> list[str]:
    """Return what these commands print, and the errors they end with."""
    found = []
    for name in names:
        said = CliRunner(env=os.environ).invoke(
            cli, [*name.split(), "--config", str(keeper.config)]
        )
        found += [said.output, str(said.exception)]
    return found


def test_no_secret_comes_out_of_a_chaotic_run(rig: Rig, gossip: Gossip, tmp_path: Path) -> None:
    keeper, key = configured(rig, gossip, tmp_path)
    keeper.start()
    said: list[str] = []
    try:
        keeper.until_ready()
        account = rig.open_under()
        keeper.until(lambda: rig.liquidated(account), DONE_S_MAX)
        rig.oracle.send("prices/ETH-USD", b'{"price": "' + SECRETS["mqtt.password"].encode())
        for how in ("error", "page"):
            gossip.how = how
            keeper.until(lambda: keeper.unready() != [], DONE_S_MAX)
            said += [*asked(keeper, account), *commands(keeper, "status", "check")]
            gossip.how = ""
            keeper.until_ready()
        for fault in (Fault.GARBAGE, Fault.RESET, Fault.NONSENSE):
            gossip.break_with(fault)
            keeper.until(lambda: keeper.unready() != [], DONE_S_MAX)
            said += asked(keeper, account)
            gossip.mend()
            keeper.until_ready()

        text = keeper.config.read_text()  # now the operator writes secrets where they do not belong
        wrong = text.replace('{ file = "password" }', f'"{SECRETS["password"]}"')
        wrong = wrong.replace('{ file = "http.token" }', f'"{SECRETS["http.token"]}"')
        wrong = wrong.replace('{ file = "rpc.url" }', f'"{(tmp_path / "rpc.url").read_text()}"')
        keeper.config.write_text(f"{wrong}# {key}\n")
        keeper.run.signal(signal.SIGHUP)
        keeper.until(
            lambda: keeper.metric("keeper_config_reloads_total", result="invalid") == 1, DONE_S_MAX
        )
        said += commands(keeper, "config check", "config show", "run", "check")
        keeper.config.write_text(text)
        said += commands(keeper, "config check", "config show", "pause", "status", "journal list")
        said += asked(keeper, account)
        keeper.stop()
    finally:
        keeper.kill()

    said += [keeper.run.stderr, keeper.run.stdout]
    whole = "\n".join(said)
    # what could have said a secret was said
    for words in ("no access to", "connection lost", "paused by hand", "config not taken over"):
        assert words in whole, words
    login = f"{USER}:{SECRETS['url password']}".encode()
    for name, secret in {**SECRETS, "key": key, "login": base64.b64encode(login).decode()}.items():
        lines = [line for line in whole.splitlines() if secret.lower() in line.lower()]
        assert lines == [], f"the {name} came out"
