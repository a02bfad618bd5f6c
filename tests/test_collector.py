"""The garbage collector is kept off what lives as long as the keeper, and comes back."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.app import build
from keeper.collector import at_rest, leave_alone
from keeper.config import load
from tests.shell.test_status import CONFIG


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_it_rests_inside_and_comes_back_after_an_error_too() -> None:
    with at_rest():
        assert not gc.isenabled()
        with at_rest():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer one still wants it at rest"
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), at_rest():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_it_never_looks_again_at_what_it_is_to_leave_alone() -> None:
    old: list[list[int]] = [[]]
    leave_alone()
    new: list[list[int]] = [[]]
    looked_at = {id(one) for one in gc.get_objects()}
    assert id(old) not in looked_at
    assert id(new) in looked_at


async def test_a_keeper_leaves_its_accounts_alone_once_they_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "0x" + "42" * 32)
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    async with build(load(tmp_path / "config.toml")) as parts:
        before = gc.get_freeze_count()
        parts.pipeline.reading.loaded()
        assert gc.get_freeze_count() > before
