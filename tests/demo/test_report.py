from collections.abc import Iterable

import pytest
from rich.console import Console

from keeper.chain.journal_read import AttemptRow
from keeper.demo.judge import Findings
from keeper.demo.path import Prices
from keeper.demo.report import Evidence, Report, make_report
from keeper.demo.verdicts import Liquidation, Verdicts
from keeper.demo.view import Scene, render, summary
from keeper.units import WAD

US, THEM = "0x" + 40 * "a", "0x" + 40 * "b"
REWARD = 20 * WAD


def event(account: int, block: int, liquidator: str = US) -> Liquidation:
    return Liquidation(
        account, liquidator, block, f"0x{account:02}{block:02}", REWARD, 0, full=True
    )


def row(account: int, block: int, outcome: str | None = "won", reward: int = REWARD) -> AttemptRow:
    return AttemptRow(
        id=f"{account}-{block}",
        venue="demo",
        account=str(account),
        nonce=block,
        opened_ms=0,
        outcome=outcome,
        detail="",
        tick_to_sent_ms=float(account),
        included_block=block,
        tx_hash=f"0x{account:02}{block:02}",
        reward_wad=reward,
        reward_wei=5_000,
        cost_wei=1_000,
        replacements=1,
        job="liquidate",
        gains={},
    )


def reported(
    history: Iterable[tuple[set[int], list[Liquidation]]],
    journal: list[AttemptRow],
    *,
    wrong: list[Liquidation] | None = None,
    keeper_exit: int | None = 0,
    spent_wei: int | None = None,
) -> Report:
    verdicts, findings = Verdicts(), Findings(wrong=wrong or [])
    for number, (liquidatable, events) in enumerate(history):
        verdicts.block(number, liquidatable, [one.account for one in events])
        findings.liquidations += events
    spent = sum(row.cost_wei for row in journal) if spent_wei is None else spent_wei
    return make_report(Evidence(7, 10, 99, US, verdicts, findings, journal, keeper_exit, spent))


def test_a_wallet_that_spent_something_else_than_the_journal_says_is_told() -> None:
    report = reported([({1}, []), (set(), [event(1, 1)])], [row(1, 1)], spent_wei=1_001)
    assert report.problems == ("the journal says 1000 wei spent, the wallet 1001",)


def test_a_run_in_which_all_agrees_holds() -> None:
    history = [({1}, []), ({1, 2}, []), (set(), [event(1, 2), event(2, 2)])]
    report = reported(history, [row(1, 2), row(2, 2), row(3, 2, "lost")])
    assert report.problems == ()
    assert report.holds
    shown = report.as_json()
    assert {name: shown[name] for name in ("accounts", "liquidatable", "liquidated", "missed")} == {
        "accounts": 10,
        "liquidatable": 1,
        "liquidated": 2,
        "missed": 0,
    }
    assert {name: shown[name] for name in ("wrong", "attempts", "reverted", "profit_wei")} == {
        "wrong": 0,
        "attempts": 3,
        "reverted": 0,
        "profit_wei": 12_000,
    }
    assert shown["ticks"] == 99
    assert shown["tick_to_sent_ms"] == {"p50": 2.0, "p99": 3.0}
    assert shown["blocks_late"] == {"max": 2, "histogram": {"1": 1, "2": 1}}
    assert shown["outcomes"] == {"won": 2, "lost": 1}
    assert (shown["in_time"], shown["due"]) == (1, 2)


def test_a_calm_run_without_work_holds() -> None:
    report = reported([(set(), []), (set(), [])], [])
    assert report.holds
    assert report.as_json()["tick_to_sent_ms"] == {"p50": None, "p99": None}
    assert report.as_json()["blocks_late"] == {"max": 0, "histogram": {}}


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (reported([({4}, []), ({4}, [])], []), "missed: 1 accounts (4)"),
        (reported([({4}, []), (set(), [])], []), "nothing was liquidated"),
        (reported([(set(), [event(1, 0)])], [row(1, 0)], wrong=[event(1, 0)]), "no published"),
        (reported([], [], keeper_exit=1), "exit code 1, not 0"),
        (reported([], [], keeper_exit=None), "exit code None"),
        (reported([(set(), [event(1, 0)])], []), "1 liquidations on chain, but not won"),
        (
            reported([(set(), [event(1, 0, THEM)])], [row(1, 0)]),
            "1 liquidations won in the journal",
        ),
        (reported([(set(), [event(1, 0)])], [row(2, 0)]), "account 1 in 0x0100"),
        (reported([(set(), [event(1, 0)])], [row(1, 0, reward=1)]), "on chain, but not won"),
        (reported([], [row(1, 0, None)]), "1 attempts are open in the journal"),
    ],
)
def test_every_disagreement_is_a_problem(report: Report, problem: str) -> None:
    assert not report.holds
    assert any(problem in line for line in report.problems)


def text_of(scene: Scene, status: dict[str, object]) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(render(scene, status))
    return captured.get()


def test_the_view_shows_what_the_keeper_says_and_what_the_judge_counts() -> None:
    verdicts, findings = Verdicts(), Findings(liquidations=[event(1, 2)], reverted=3)
    verdicts.block(1, {8}, [])
    scene = Scene("http://127.0.0.1:1", Prices(50_000 * WAD, 3_000 * WAD), verdicts, findings)
    status = {
        "ready": False,
        "unready": ["feed BTC/USD: no price yet"],
        "head": {"block": 123},
        "prices": {"BTC/USD": {"price": 45_000.0, "age_ms": 80}},
        "accounts": [{"account": "17", "distance_pct": 1.25, "why": None}],
        "attempts": [
            {"account": "4", "state": "won", "reward_wei": "3000000000000000", "cost_wei": "0"}
        ],
        "totals": {"profit_wei": {"demo": "2000000000000000"}},
        "latency_ms": {"p50": 4.5, "p99": 9.0},
    }
    text = text_of(scene, status)
    for shown in ("block 123", "not ready", "no price yet", "45,000.00", "-10.00 %", "80 ms"):
        assert shown in text
    for shown in ("1.25 %", "0.00300", "1 liquidations, 1 liquidatable now", "p50 4.5 ms"):
        assert shown in text
    for shown in ("profit 0.0020 ETH", "3 reverted", "http://127.0.0.1:1"):
        assert shown in text


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"prices": None, "accounts": {}, "attempts": "x", "totals": [], "latency_ms": 3},
        {"accounts": [None, {}], "attempts": [{"reward_wei": "?"}], "prices": {"X": {"price": []}}},
    ],
)
def test_the_view_stands_a_status_with_holes(status: dict[str, object]) -> None:
    scene = Scene("http://h", Prices(WAD, WAD), Verdicts(), Findings())
    assert "0 liquidations" in text_of(scene, status)


def test_the_summary_names_the_problems() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(summary(reported([({4}, []), ({4}, [])], [])))
        console.print(summary(reported([], [])))
    assert "missed: 1 accounts (4)" in captured.get()
    assert "The contract agrees" in captured.get()
