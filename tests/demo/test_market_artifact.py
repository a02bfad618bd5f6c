"""The shipped artifact is what the source compiles to."""

import pytest

from keeper.demo import artifact

MEND = "market.json is not what market.vy compiles to; run: python -m keeper.demo.artifact"
RUNTIME_BYTES_MAX = 24 * 1024  # EIP-170


@pytest.fixture(scope="module")
def compiled() -> artifact.Artifact:
    return artifact.compile_source()


def test_artifact_matches_the_source(compiled: artifact.Artifact) -> None:
    shipped = artifact.load()
    assert shipped.source_sha256 == compiled.source_sha256, MEND
    assert shipped.vyper == compiled.vyper, MEND
    assert shipped.abi == compiled.abi, MEND
    assert shipped.bytecode == compiled.bytecode, MEND


def test_code_fits_the_size_limit_of_the_chain(compiled: artifact.Artifact) -> None:
    # creation code is runtime code plus a constructor, so this is the stricter bound
    assert len(bytes.fromhex(compiled.bytecode[2:])) < RUNTIME_BYTES_MAX


def test_writing_and_loading_give_the_same(
    compiled: artifact.Artifact,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artifact, "TARGET", tmp_path_factory.mktemp("artifact") / "market.json")
    artifact.write(compiled)
    assert artifact.load() == compiled
