"""The container: judged by hadolint, and built and tried step by step without an engine."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.deploy.image import instructions, sent
from tests.deploy.test_supply import pins
from tests.deploy.tools import DEPLOY, run, tool, tracked

SENT_MAX = 400


def test_hadolint_finds_nothing_to_say_of_it() -> None:
    assert run(tool("hadolint"), DEPLOY / "Dockerfile") == ""


def test_what_is_copied_is_sent_and_little_else() -> None:
    names = [name for name in tracked() if sent(name)]
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert any(name == source or name.startswith(f"{source}/") for name in names)
    assert {name.split("/")[0] for name in names} == {
        *("keeper", "deploy", "pyproject.toml", "README.md", "LICENSE")
    }
    locks = {f"deploy/requirements{kind}.txt" for kind in ("", "-nats", "-build")}
    assert {name for name in names if name.startswith("deploy/")} == locks


def test_every_base_is_a_release_and_the_last_user_is_nobody_special() -> None:
    found = list(instructions())
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:\w{64})?", one) for one in bases)
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_it_makes_is_a_keeper_that_lives_and_can_do_little(tmp_path: Path) -> None:
    """Every step is carried out, in a chroot; what its network brings comes over the network."""
    if os.geteuid() != 0:
        if os.environ.get("KEEPER_REQUIRE_ALL"):
            pytest.fail("a chroot needs root")
        pytest.skip("a chroot needs root")
    told = run("unshare", "--mount", sys.executable, "-m", "tests.deploy.image", tmp_path)
    tried = json.loads(told.splitlines()[-1])
    assert tried["id"] == [0, "10001\n"]
    assert tried["version"][0] == 0
    found = dict(one.split("==") for one in tried["packages"][1].split())
    locked = {name: str(pin.specifier)[2:] for name, pin in pins("requirements.txt").items()}
    own = {"liquidation-keeper": found.get("liquidation-keeper")}
    assert {canonicalize_name(name): version for name, version in found.items()} == locked | own
    assert tried["pip"][0] == tried["base pip"][0] == 1
    assert tried["write"][0] == 1
    assert tried["state"][0] == 0
    life = tried["life"]
    assert re.search(r"^Uid:(\t10001){4}$", life["user"], re.MULTILINE)
    assert life["healthy"] == 0
    assert life["not yet"] == life["stopped"] == 1
    assert life["code"] == 0, life["log"]
