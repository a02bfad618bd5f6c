"""The decoding benchmark's own checks; what it measures is for people to read."""

import json

import pytest
from click.testing import CliRunner

from keeper.bench import decode
from keeper.cli import cli


def test_it_reads_decodes_and_folds_every_log_and_agrees_with_web3() -> None:
    said = CliRunner().invoke(cli, ["bench", "decode", "--logs", "40000", "--json"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.output)
    assert told["same"] is True
    assert told["logs"] == told["dirty_accounts"] == 40_000
    assert min(told["ratio_to_process_log"], told["logs_per_s"], told["ratio_to_reading"]) > 1


def test_a_log_that_is_read_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_number: int) -> str:
        return "0"

    monkeypatch.setattr(decode, "account_of", wrong)
    assert CliRunner().invoke(cli, ["bench", "decode", "--logs", "10000"]).exit_code == 1
