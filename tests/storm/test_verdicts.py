"""The bookkeeping says late, missed, idle, wrong and repeated where it is so, and only there."""

from collections.abc import Sequence

import pytest

from tests.storm.verdicts import DEADLINE, PACE, BlockFacts, Fault, Revert, Touch, Verdicts

WINDOW_S = 10
ETH = 100


def touch(account: int, **changes: object) -> Touch:
    plain: dict[str, object] = {
        "account": account,
        "tx_hash": "0x01",
        "reward": 7,
        "closed": {},
        "flagged": True,
        "full": True,
        "ours": True,
        "justified": True,
    }
    return Touch(**(plain | changes))  # type: ignore[arg-type]  # the names are the fields


def run(*blocks: BlockFacts) -> Verdicts:
    verdicts = Verdicts(WINDOW_S)
    for block in blocks:
        verdicts.block(block)
    verdicts.end(blocks[-1].number)
    return verdicts


def block(
    number: int,
    due: Sequence[int] = (),
    *,
    touches: Sequence[Touch] = (),
    flagged: Sequence[int] = (),
    room: bool = False,
    reverts: Sequence[Revert] = (),
) -> BlockFacts:
    return BlockFacts(
        number,
        number,
        frozenset(due),
        dict.fromkeys(flagged, frozenset({ETH})),
        frozenset({ETH} if room else ()),
        tuple(touches),
        tuple(reverts),
    )


def faults(verdicts: Verdicts) -> list[Fault]:
    return [finding.fault for finding in verdicts.findings]


@pytest.mark.parametrize(
    ("due_blocks", "late"),
    [(0, 0), (1, 1), (2, 2), (3, 3)],
    ids=["arrival", "next", "second", "third"],
)
def test_up_to_two_blocks_after_it_held_for_two_is_in_time(due_blocks: int, late: int) -> None:
    due = [block(number, [1]) for number in range(due_blocks)]
    verdicts = run(*due, block(due_blocks, touches=[touch(1)]))
    assert verdicts.late == {late: 1}
    assert faults(verdicts) == []
    assert verdicts.emptied == {1}


def test_a_block_more_is_late_once() -> None:
    verdicts = run(*(block(it, [1]) for it in range(4)), block(4, touches=[touch(1)]))
    assert faults(verdicts) == [Fault.LATE]
    assert verdicts.late == {4: 1}


def test_an_account_that_was_cured_is_nobodys_fault_and_begins_anew() -> None:
    verdicts = run(block(0, [1]), block(1, [1]), block(2), block(3, [1]), block(4, [1]), block(5))
    assert faults(verdicts) == []
    assert verdicts.escaped == 2


def test_due_for_two_blocks_when_the_run_ends_is_missed_and_for_one_is_not() -> None:
    assert faults(run(block(0), block(1, [1]))) == []
    assert faults(run(block(0, [1]), block(1, [1]))) == [Fault.MISSED]


def test_an_outage_excuses_until_it_is_over() -> None:
    verdicts = Verdicts(WINDOW_S)
    verdicts.gone(1)
    for number in range(6):
        verdicts.block(block(number, [1], flagged=[2], room=True))
    verdicts.back(5)
    for number in range(6, 6 + PACE):
        verdicts.block(block(number, [1], flagged=[2], room=True))
    assert [(it.fault, it.block) for it in verdicts.findings] == [
        (Fault.LATE, 5 + DEADLINE),
        (Fault.IDLE, 5 + PACE),
    ]


def test_room_in_a_window_must_be_used_by_every_account_that_is_flagged() -> None:
    waiting = [block(number, flagged=[1, 2], room=True) for number in range(PACE)]
    assert faults(run(*waiting)) == []
    assert faults(run(*waiting, block(PACE, flagged=[1, 2], room=True))) == [Fault.IDLE] * 2
    step = touch(1, flagged=False, full=False, closed={ETH: 5})
    after = run(*waiting, block(PACE, flagged=[1, 2], room=True, touches=[step]))
    assert [(it.fault, it.account) for it in after.findings] == [(Fault.IDLE, 2)]
    assert after.paced == {PACE: 1}
    assert faults(run(*(block(it, flagged=[1]) for it in range(9)))) == []  # no room


def test_touching_without_a_price_that_allows_it_is_wrong() -> None:
    assert faults(run(block(0, touches=[touch(1, justified=False)]))) == [Fault.WRONG]


def test_paying_twice_in_one_window_for_nothing_is_told_apart_from_once_a_window() -> None:
    nothing = touch(1, reward=0, flagged=False, full=False)
    again = run(block(0, touches=[nothing]), block(WINDOW_S - 1, touches=[nothing]))
    assert faults(again) == [Fault.REPEATED]
    later = run(block(0, touches=[nothing]), block(WINDOW_S, touches=[nothing]))
    assert (faults(later), later.unpaid) == ([], 2)


@pytest.mark.parametrize(
    ("error", "due_before", "fault"),
    [
        ("NotEligibleForLiquidation", True, []),
        ("NotEligibleForLiquidation", False, [Fault.REVERTED]),
        ("Errors", True, [Fault.STALE]),
        ("OracleDataRequired", True, [Fault.STALE]),
        ("", True, [Fault.REVERTED]),
    ],
)
def test_a_revert_is_excused_only_by_a_cure(
    error: str,
    due_before: bool,  # noqa: FBT001 - a case
    fault: list[Fault],
) -> None:
    verdicts = run(block(0, reverts=[Revert(1, "0x02", error, due_before)]))
    assert faults(verdicts) == fault
    assert verdicts.cured == (not fault)
