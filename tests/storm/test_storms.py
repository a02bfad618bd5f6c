"""The whole keeper on the real contracts, through the fall of January 2022, judged block by block.

Each run prints its histogram of blocks late, and gas and reward of every kind of call.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.storm.faults import FAULTS
from tests.storm.form import Form
from tests.storm.report import Report
from tests.storm.rig import opened
from tests.synthetix.packages import artifacts

SILENCE = range(8, 18)  # steps of the path: more than twice as long as a price counts as fresh
DEALT_MIN = 15  # accounts: less is no storm
LONG_BLOCKS = 600
LONG_BLOCK_TIME_S = 0.5  # one at a time
FORMS: Mapping[str, tuple[Form, Sequence[str]]] = {  # the longest first
    "restarts": (Form(oracle="pull", window_part=2, together=4), ("broker", "node", "keeper")),
    "pull": (Form(oracle="pull"), ()),
    "push": (Form(oracle="push", silence=SILENCE), ()),
    "trades": (Form(oracle="push", trades=True, seed=2), ()),
}
LONG = {
    "push": Form(oracle="push", seed=2, silence=SILENCE),
    "pull": Form(oracle="pull", seed=3),
    "trades": Form(oracle="push", seed=4, trades=True),
}
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True)
class Run:
    """A storm that is over."""

    report: Report
    log: str  # of the keeper
    trades: int


Runs = Mapping[str, Future[Run]]


def weather(folder: Path, form: Form, faults: Sequence[str] = ()) -> Run:
    """Let a keeper go through it, and through these faults one after another."""
    folder.mkdir(exist_ok=True)
    with opened(folder, form) as storm:
        storm.start_keeper()
        storm.play()
        for name in faults:
            FAULTS[name](storm)
        report = storm.finish()
        trades = storm.traders.settled if storm.traders else 0
        return Run(report, storm.keeper.run.stderr, trades)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    home = tmp_path_factory.mktemp("storms")
    artifacts()  # compiled before two ask for it
    # all at once: they mostly wait for their chains' clocks
    with ThreadPoolExecutor(len(FORMS), "storm") as pool:
        yield {
            name: pool.submit(weather, home / name, form, faults)
            for name, (form, faults) in FORMS.items()
        }


def assert_right(run: Run) -> None:
    report = run.report
    print(report)  # noqa: T201 - the tables are part of what a run is for
    if report.problems:
        print(run.log[-20_000:])  # noqa: T201 - shown as the test fails
    assert report.problems == []
    assert len(report.verdicts.dealt) >= DEALT_MIN
    assert report.judge.unread == 0
    assert report.balance > 0


def test_pull_oracle_that_only_the_keeper_feeds(runs: Runs) -> None:
    run = runs["pull"].result()
    assert_right(run)
    kinds = {sent.kind for sent in run.report.judge.sent}
    assert {"updatePriceFeeds + liquidate", "updatePriceFeeds + liquidateFlaggedAccounts"} <= kinds


def test_push_oracle_with_a_feed_ahead_off_and_silent(runs: Runs) -> None:
    run = runs["push"].result()
    assert_right(run)
    kinds = {sent.kind for sent in run.report.judge.sent}
    assert kinds == {"liquidate", "liquidateFlaggedAccounts", "liquidateMarginOnly"}


def test_broker_node_and_keeper_killed_amid_staged_liquidations(runs: Runs) -> None:
    run = runs["restarts"].result()
    assert_right(run)
    attempts = {row.id: row.nonce for row in run.report.journal}
    assert len(set(attempts.values())) == len(attempts) < len(run.report.journal)
    outages = run.report.verdicts.outages  # the first: before it was ready for the first time
    assert len(outages) == 1 + len(FORMS["restarts"][1])


def test_accounts_trade_during_the_fall(runs: Runs) -> None:
    run = runs["trades"].result()
    assert_right(run)
    assert run.trades > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LONG)
def test_ten_hours(tmp_path: Path, name: str) -> None:
    form = replace(LONG[name], blocks=LONG_BLOCKS, block_time_s=LONG_BLOCK_TIME_S)
    assert_right(weather(tmp_path, form))
