"""The books are compared to the last wei: chain, journal and metric."""

from dataclasses import replace

import pytest

from keeper.chain.journal_read import AttemptRow
from keeper.units import WAD
from tests.storm.judge import Judge, Sent
from tests.storm.report import Report
from tests.storm.verdicts import Verdicts
from tests.synthetix.world import World

REWARDS = (105 * WAD + 1, 7 * WAD)


def sent(number: int, reward: int, *, success: bool = True) -> Sent:
    return Sent("liquidate", f"0x{number:02x}", number, success, 800_000, reward)


def row(number: int, reward: int, outcome: str = "won") -> AttemptRow:
    return AttemptRow(
        id=f"attempt {number}",
        venue="perps",
        account="11",
        nonce=number,
        opened_ms=0,
        outcome=outcome,
        detail="",
        tick_to_sent_ms=None,
        included_block=number,
        tx_hash=f"0x{number:02x}",
        reward_wad=reward,
        reward_wei=reward * 10,
        cost_wei=1,
        replacements=0,
        job="liquidate",
        gains={},
    )


@pytest.fixture
def report() -> Report:
    made = [sent(number, reward) for number, reward in enumerate(REWARDS)]
    judge = Judge(World.__new__(World), [], "0x", Verdicts(window_s=10), sent=made)
    rows = [row(number, reward) for number, reward in enumerate(REWARDS)]
    metric_wei = float(sum(one.reward_wei for one in rows))
    return Report("", judge.verdicts, judge, rows, sum(REWARDS), metric_wei, [])


def test_books_that_agree(report: Report) -> None:
    assert report.problems == []
    assert "PROBLEM" not in str(report)


def test_a_wei_that_the_wallet_did_not_get(report: Report) -> None:
    assert "rewards in USD wads" in replace(report, balance=sum(REWARDS) - 1).problems[0]


def test_a_metric_that_counts_something_twice(report: Report) -> None:
    assert report.metric_wei is not None
    assert "rewards in wei" in replace(report, metric_wei=report.metric_wei * 1.001).problems[0]
    assert replace(report, metric_wei=None).problems == []  # the keeper was restarted


def test_a_transaction_that_the_journal_does_not_know(report: Report) -> None:
    report.judge.sent.append(sent(2, 0))
    assert "is not in the journal" in report.problems[0]


def test_an_attempt_without_an_end_and_one_with_the_wrong_one(report: Report) -> None:
    report.judge.sent.append(sent(2, 0, success=False))
    lost, wrong = row(2, 0, "lost"), row(2, 0, "reverted")
    assert replace(report, journal=[*report.journal, lost]).problems == []
    assert "reverted and is" in replace(report, journal=[*report.journal, wrong]).problems[0]
    endless = replace(lost, outcome=None)
    assert "has no outcome" in replace(report, journal=[*report.journal, endless]).problems[0]


def test_an_error_in_the_log(report: Report) -> None:
    assert replace(report, errors=["quarantined"]).problems == ["logged as an error: quarantined"]
