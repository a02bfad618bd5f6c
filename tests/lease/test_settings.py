"""What ``[lease]`` does, key by key; what needs a server is beside this file."""

from pathlib import Path

import pytest

from keeper.app import _loops, build
from keeper.clock import SinceBootClock
from keeper.config import ConfigPath, HttpEndpoint, Settings, load
from keeper.config.lease import LeaseSettings
from keeper.errors import ConfigError
from keeper.lease.kubernetes import KubernetesLease, place_of
from keeper.lease.nats import NatsLease, login_of
from tests.certificates import make_authority
from tests.config.looks import BASE
from tests.config.support import read

KUBERNETES = """
[lease]
kind = "kubernetes"
url = "http://127.0.0.1:1"
namespace = "keepers"
ttl_s = 20
renew_s = 4
"""
NATS = '[lease]\nkind = "nats"\nservers = ["nats://127.0.0.1:1"]\n'


def settings(folder: Path, lease: str) -> Settings:
    return read(folder / "config.toml", BASE + lease)


@pytest.mark.parametrize(
    ("lease", "kind"),
    [("", type(None)), (KUBERNETES, KubernetesLease), (NATS, NatsLease)],
    ids=["none", "kubernetes", "nats"],
)
async def test_a_kind_makes_a_lease(tmp_path: Path, lease: str, kind: type) -> None:
    async with build(settings(tmp_path, lease)) as parts:
        leadership = parts.status.leadership
        assert isinstance(leadership and leadership._lease, kind)
        assert ("lease" in _loops(parts)) is (leadership is not None)
        assert parts.lanes._parts.leading.term == (None if leadership else 1)
        assert parts.pipeline.execution.brakes.leading is parts.lanes._parts.leading


async def test_rules_are_those_of_the_config(tmp_path: Path) -> None:
    holders = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        async with build(settings(folder, KUBERNETES)) as parts:
            assert parts.status.leadership is not None
            rules = parts.status.leadership._rules
            assert (rules.ttl_s, rules.renew_s) == (20, 4)
            assert isinstance(parts.status.leadership._clock, SinceBootClock)
            holders.add(rules.holder)
    assert len(holders) == 2, "two processes of one machine are two holders"


def test_where_the_object_is() -> None:
    url = HttpEndpoint.model_validate("http://127.0.0.1:7/")
    place = place_of(LeaseSettings(kind="kubernetes", url=url, namespace="a", name="mainnet"))
    assert (place.url, place.namespace, place.name) == ("http://127.0.0.1:7", "a", "mainnet")


def test_authorities_and_logins_are_read(tmp_path: Path) -> None:
    make_authority(tmp_path)
    ca: ConfigPath = tmp_path / "ca.pem"
    url = HttpEndpoint.model_validate("https://127.0.0.1:7")
    place = place_of(LeaseSettings(kind="kubernetes", url=url, namespace="a", ca=ca))
    assert place.tls is not None
    assert len(place.tls.get_ca_certs()) == 1
    assert len(login_of(LeaseSettings(kind="nats", ca=ca))["tls"].get_ca_certs()) == 1
    credentials = tmp_path / "keeper.creds"
    with pytest.raises(ConfigError, match=r"keeper\.creds: No such file"):
        login_of(LeaseSettings(kind="nats", credentials=credentials))
    credentials.touch(mode=0o600)
    login = login_of(LeaseSettings(kind="nats", credentials=credentials))
    assert login == {"user_credentials": str(credentials)}
    ca.write_text("none")
    with pytest.raises(ConfigError, match=r"lease\.ca: "):
        login_of(LeaseSettings(kind="nats", ca=ca))


@pytest.mark.parametrize(
    ("lease", "said"),
    [
        ("ttl_s = 6", "renew_s should be less than half of ttl_s (3, 6)"),
        ("renew_s = 8", "renew_s should be less than half of ttl_s (8, 15)"),
        ('kind = "nats"', "name the servers of the NATS cluster"),
        ('kind = "etcd"', "lease.kind"),
        ('token = "abc"', "lease.token"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, lease: str, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"{BASE}\n[lease]\n{lease}\n")
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert said in str(refused.value)
