"""The shipped artifact is what the source compiles to."""

import pytest

from keeper.demo import artifact
from keeper.demo.contract import Market

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


def test_structs_given_as_words_are_encoded_as_the_abi_says() -> None:
    market = Market(artifact.load().abi)
    owner, cash, held, sizes = 0xAB, -5 * 10**18, (1, 2, 0, 0), (-7, 8, 9, 10, *[0] * 12)
    positions = list(zip(sizes[::2], sizes[1::2], strict=True))
    nested = [(f"0x{owner:040x}", cash, held, positions)] * 3
    expected = market.data("seed_accounts", nested)
    words = [[owner, cash, *held, *sizes]] * 3
    assert market.data_of_structs("seed_accounts", words) == expected
