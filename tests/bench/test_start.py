"""The start benchmark on a small world; what it measures is for people to read."""

import json

from click.testing import CliRunner

from keeper.bench.start import CHANGED, Measured, Start
from keeper.cli import cli


def test_a_start_with_a_snapshot_has_all_accounts_and_reads_less() -> None:
    said = CliRunner().invoke(cli, ["bench", "start", "--accounts", "300", "--json"])
    assert said.exit_code == 0, said.output
    (told,) = json.loads(said.stdout)
    assert (told["accounts"], told["changed"]) == (300, CHANGED)
    assert told["cold"]["accounts"] == told["warm"]["accounts"] == 300
    assert told["cold"]["read"] >= 300
    assert told["warm"]["read"] == CHANGED
    assert told["cold"]["cpu_s"] > 0
    assert told["snapshot_bytes"] > 0


def test_what_is_missing_or_read_all_the_same_is_told() -> None:
    full = Start(1.0, 0.5, 100, 500)
    assert Measured(500, CHANGED, full, Start(1.0, 0.5, 20, 500), 0.1, 1).complete
    assert not Measured(500, CHANGED, full, Start(1.0, 0.5, 20, 499), 0.1, 1).complete
    assert not Measured(500, CHANGED, full, full, 0.1, 1).complete
