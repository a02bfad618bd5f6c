"""The composition: valid, confined, complete; its broker and its configuration tried for real."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyOptions
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from keeper.config import load
from tests.brokers import find_nats_server
from tests.deploy.image import instructions
from tests.deploy.tools import DEPLOY, run, tool
from tests.e2e.runs import until
from tests.nodes import free_port

FILE = DEPLOY / "compose.yaml"
SECRETS = DEPLOY / "compose" / "secrets"
STARTED_S_MAX = 20.0
USERS = 'authorization { users: [{ user: keeper, password: "a-password" }] }\n'


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """Return the composition as a tool reads it, anchors and merges resolved."""
    found = PyOptions(apply_merge=True).from_yaml(FILE.read_text())
    found.validate()
    return found.to_dict()


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("read_only: true", "read_onyl: true"),
        ("pids_limit: 256", "pids_limit: many"),
        ("      - rpc.url\n", "      - rpc.uri\n"),
    ],
)
def test_a_mistake_would_be_found(line: str, mistake: str) -> None:
    text = FILE.read_text()
    assert line in text
    with pytest.raises(ValueError, match=r"read_onyl|many|rpc\.uri"):
        PyOptions(apply_merge=True).from_yaml(text.replace(line, mistake, 1)).validate()


def test_every_service_is_confined_and_published_on_loopback_only(composed: dict[str, Any]) -> None:
    for service in composed["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "network_mode" not in service
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(-[\w.]+)?", service["image"])
        assert service["mem_limit"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_everything_that_is_mounted_is_there(composed: dict[str, Any]) -> None:
    for service in composed["services"].values():
        for volume in service.get("volumes", ()):
            source, _, mode = (*volume.split(":"), "")[:3]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert mode == "ro"
            else:
                assert source in composed["volumes"]
    for secret in composed["secrets"].values():
        assert (DEPLOY / secret["file"]).resolve().parent == SECRETS.resolve()
    build = composed["services"]["keeper"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_keepers_configuration_fits_what_it_is_given(composed: dict[str, Any]) -> None:
    settings = load(DEPLOY / "compose" / "config.toml")
    text = (DEPLOY / "compose" / "config.toml").read_text()
    keeper = composed["services"]["keeper"]
    named = {Path(found) for found in re.findall(r'file = "([^"]+)"', text)}
    assert {path.name for path in named} == set(keeper["secrets"])
    assert {str(path.parent) for path in named} == {"/run/secrets"}
    assert f"state:{settings.keeper.state_dir}" in keeper["volumes"]
    assert keeper["ports"] == [f"127.0.0.1:{settings.http.port}:{settings.http.port}"]
    said = dict(instructions())
    (config,) = (one for one in keeper["volumes"] if "config.toml" in one)
    assert config.split(":")[1] in said["CMD"]
    assert getattr(settings.sources[0].options, "host", None) in composed["services"]


def test_the_broker_lets_in_who_has_a_login(tmp_path: Path) -> None:
    port = free_port()
    text = (DEPLOY / "compose" / "nats.conf").read_text()
    for there, here in (
        ("listen: 127.0.0.1:4222", "listen: 127.0.0.1:-1"),
        ("port: 1883", f"host: 127.0.0.1, port: {port}"),
        ("store_dir: /data", f"store_dir: {tmp_path}"),
    ):
        assert there in text
        text = text.replace(there, here)
    (tmp_path / "nats.conf").write_text(text)
    (tmp_path / "users.conf").write_text(USERS)
    log = (tmp_path / "log").open("w")
    command = (find_nats_server(), "--config", str(tmp_path / "nats.conf"))
    with log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as broker:
        try:
            assert answer(port, "keeper", "a-password", tmp_path / "log") == "Success"
            assert answer(port, "keeper", "another", tmp_path / "log") == "Not authorized"
            assert answer(port, None, None, tmp_path / "log") == "Not authorized"
        finally:
            broker.kill()


def answer(port: int, user: str | None, password: str | None, log: Path) -> str:
    """Return what the broker says to a client that comes with this login."""
    said: list[str] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set(user, password)
    client.on_connect = lambda _client, _data, _flags, reason, _more: said.append(str(reason))
    until(lambda: reached(client, port), STARTED_S_MAX, log.read_text)
    client.loop_start()
    until(lambda: bool(said), STARTED_S_MAX, log.read_text)
    client.disconnect()
    client.loop_stop()
    return said[0]


def reached(client: Client, port: int) -> bool:
    """Return whether somebody listens."""
    try:
        client.connect("127.0.0.1", port)
    except OSError:
        return False
    return True


def test_prometheus_is_told_the_same_as_elsewhere_but_for_names(tmp_path: Path) -> None:
    here, there = (DEPLOY / folder / "prometheus.yaml" for folder in ("compose", "prometheus"))
    names = re.compile(r'targets: \["[\w.]+:')
    settings = [
        yaml.safe_load(names.sub('targets: ["', each.read_text())) for each in (here, there)
    ]
    assert settings[0] == settings[1]
    for file in (here, DEPLOY / "prometheus" / "rules.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    assert "SUCCESS" in run(tool("promtool"), "check", "config", tmp_path / here.name)


def test_every_target_is_a_service(composed: dict[str, Any]) -> None:
    text = (DEPLOY / "compose" / "prometheus.yaml").read_text()
    targets = re.findall(r'targets: \["(\w+):(\d+)"\]', text)
    assert len(targets) == 2
    for name, port in targets:
        assert f"127.0.0.1:{port}:{port}" in composed["services"][name]["ports"]
