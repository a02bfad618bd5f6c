"""The certificate of the HTTP server."""

import shutil
from pathlib import Path

import pytest

from keeper.config import HttpSettings
from keeper.errors import ConfigError
from keeper.observe.tls import server_tls
from tests.certificates import make_authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("tls"))


def of(cert: Path, key: Path) -> HttpSettings:
    return HttpSettings(tls_cert=cert, tls_key=key)


def test_without_a_certificate_it_is_plain_http() -> None:
    assert server_tls(HttpSettings()) is None


def test_a_certificate_with_its_key_is_taken(authority: Path) -> None:
    assert server_tls(of(authority / "server.pem", authority / "server.key")) is not None


def test_what_cannot_be_used_is_told_with_the_mend(authority: Path, tmp_path: Path) -> None:
    cert, key = authority / "server.pem", authority / "server.key"
    for other in (authority / "ca.key", cert):
        with pytest.raises(ConfigError, match=r"name a certificate .* and its own key"):
            server_tls(of(cert, other) if other != cert else of(key, key))
    shared = tmp_path / "shared.key"
    shutil.copy(key, shared)
    shared.chmod(0o644)
    with pytest.raises(ConfigError, match="600"):
        server_tls(of(cert, shared))
    with pytest.raises(ConfigError, match="No such file"):
        server_tls(of(tmp_path / "none.pem", key))
