"""Every fault that is injected, what must come of it, and the tests that show it.

``python -m tests.faults.table`` prints it as Markdown. ``test_table`` keeps it true.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """One fault. ``shown_by``: file under tests/, ``::``, function."""

    fault: str
    outcome: str
    shown_by: Sequence[str]


CRASH = (
    "faults/test_crash_points.py::test_each_account_once_each_nonce_once_and_the_money_to_the_wei"
)
BUDGET = "shell/test_budget.py::"
CROWDS = "faults/test_crowds.py::"
ENDPOINTS = "e2e/test_endpoint_faults.py::"
ONE_OF_THREE = ENDPOINTS + "test_one_of_three_fails_and_the_work_goes_on"
NONE_LEFT = ENDPOINTS + "test_none_is_left_nothing_is_sent_and_it_is_told"
ORPHANS = "chain/test_orphans.py::"
TROUBLE = "chain/test_journal_trouble.py::"

TABLE: Sequence[Case] = (
    # --- the process is killed
    Case(
        "SIGKILL before, amid and after each step of an attempt (`mortal_keeper.STEPS`)",
        "each account liquidated once, no nonce twice or never, all settled, money to the wei",
        [CRASH],
    ),
    Case(
        "SIGKILL with transactions in flight from several wallets",
        "the same",
        [
            "e2e/test_lanes.py::test_each_account_once_each_nonce_once_and_the_money_to_the_wei",
            "e2e/test_kill_keeper.py::test_exactly_one_liquidation_and_a_settled_journal",
        ],
    ),
    Case(
        "SIGKILL of broker, node and keeper in mid-crash",
        "nobody is missed, the books agree",
        [
            "e2e/test_outages.py::test_nobody_is_missed_and_the_books_agree",
            "storm/test_storms.py::test_broker_node_and_keeper_killed_amid_staged_liquidations",
        ],
    ),
    # --- a transaction does not get through
    Case(
        "base fee × 10 while it waits",
        "replaced until it is included; at the ceiling cancelled",
        [
            "e2e/test_base_fee.py::test_it_is_replaced_until_it_is_included",
            "e2e/test_base_fee.py::test_at_the_ceiling_it_is_cancelled",
        ],
    ),
    Case(
        "the node drops it",
        "sent again at the same nonce, won",
        [
            "e2e/test_contested.py::test_a_transaction_that_the_node_forgot_is_sent_again",
            "e2e/test_kill_keeper.py::test_exactly_one_liquidation_and_a_settled_journal",
        ],
    ),
    Case(
        "a competitor is included first",
        "lost: one revert is paid, nothing is sent again",
        ["e2e/test_contested.py::test_a_competitor_that_is_faster_costs_one_revert"],
    ),
    Case(
        "a competitor is included first while ours, bidding less, waits",
        "the next best account is liquidated with its nonce",
        ["faults/test_reuse.py::test_the_next_best_account_is_liquidated_with_the_same_nonce"],
    ),
    Case(
        "a reorg removes ours while it is not deep enough",
        "noticed by the parent hash, told as orphaned, liquidated once",
        ["faults/test_reorgs.py::test_attempts_in_flight_are_tried_again"],
    ),
    Case(
        "a reorg removes ours after it was settled, while the keeper runs or not",
        "in flight again, its money is taken back",
        [
            "faults/test_reorgs.py::test_what_was_settled_is_in_flight_again",
            ORPHANS + "test_a_transaction_that_comes_back_in_another_block_is_settled_anew",
            ORPHANS + "test_a_start_finds_what_was_orphaned_meanwhile",
        ],
    ),
    Case(
        "a transaction that was given up (expired, or refused everywhere) is included after all",
        "in flight again, settled by its receipt, its money accounted",
        [
            ORPHANS + "test_what_expired_and_is_included_after_all_is_settled_with_its_money",
            ORPHANS + "test_what_every_endpoint_refused_and_is_included_after_all_is_settled_too",
            "shell/test_reuse.py::test_what_was_given_up_and_is_included_after_all_is_accounted",
        ],
    ),
    Case(
        "a reorg removes what another did to an account",
        "it is read again, and liquidated as if that had never been",
        ["faults/test_reorgs.py::test_what_only_an_orphaned_block_said_is_forgotten"],
    ),
    Case(
        "a reorg deeper than `chain.reorg_depth_max`",
        "everything is read again, and it is said as an error",
        ["faults/test_reorgs.py::test_deeper_than_is_followed_back_everything_is_read_again"],
    ),
    # --- accounts
    Case(
        "one account whose transactions always revert among 49 good ones",
        "49 are liquidated, the one is tried again at growing intervals",
        [CROWDS + "test_one_that_always_reverts_backs_off_and_the_others_go_through"],
    ),
    Case(
        "thousands of accounts under water that do not pay",
        "neither assessed nor simulated again and again; one that pays is liquidated",
        [
            CROWDS + "test_dust_costs_nothing_once_it_is_known_not_to_pay",
            CROWDS + "test_ten_thousand_dust_accounts",
        ],
    ),
    Case(
        "an account that the venue's adapter cannot handle",
        "set aside and named, the others are served",
        ["e2e/test_poisoned_account.py::test_the_others_are_liquidated_and_it_is_named"],
    ),
    Case(
        "200 accounts become liquidatable at once, four wallets",
        "all are sent, the best first; printed: how long it took",
        ["faults/test_bursts.py::test_all_are_sent_the_best_first"],
    ),
    # --- money
    Case(
        "all of it at once by seed, with restarts: base fees, rivals, reverts, drops, reorgs, "
        "endpoints",
        "no budget is exceeded, by the wallets' balances at every step and by the journal",
        [
            "decide/test_budget.py::test_no_budget_is_exceeded_in_any_window",
            "faults/test_spending.py::test_no_budget_is_exceeded",
            "faults/test_spending.py::test_no_budget_is_exceeded_in_long",
        ],
    ),
    Case(
        "cancels that bid higher and higher, gaps in the nonces, replacements",
        "they stay within the budgets",
        [
            BUDGET + "test_cancel_after_cancel_stays_within_the_budget",
            BUDGET + "test_a_gap_in_the_nonces_is_filled_within_the_budget",
            BUDGET + "test_a_replacement_takes_over_the_reservation_of_what_it_replaces",
        ],
    ),
    # --- endpoints
    Case(
        "one endpoint of three: reset in mid-answer, hung, 429 with Retry-After, HTML, HTTP 500, "
        "stale head, lying nonce, wrong chain",
        "the work goes on through the others",
        [
            ONE_OF_THREE,
            ENDPOINTS + "test_an_endpoint_that_lies_about_nonces_from_the_start_is_outvoted",
        ],
    ),
    Case(
        "two endpoints of three refuse connections",
        "the work goes on through the third",
        [ENDPOINTS + "test_only_one_of_three_is_there_at_all"],
    ),
    Case(
        "all endpoints fail",
        "nothing is sent, it is told, and done when one is back",
        [
            NONE_LEFT,
            "e2e/test_rpc_faults.py::test_the_keeper_counts_it_names_it_and_recovers_by_itself",
            "e2e/test_rpc_faults.py::test_well_formed_nonsense_is_survived",
        ],
    ),
    Case(
        "the only endpoint serves another chain from the start",
        "nothing is sent to it",
        ["e2e/test_rpc_faults.py::test_nothing_is_sent_to_another_chain_from_the_start"],
    ),
    # --- the journal
    Case(
        "the journal is locked",
        "nothing is sent, it is told, watching goes on; sending resumes by itself",
        [
            "e2e/test_journal.py::test_nothing_is_sent_while_the_journal_is_locked",
            TROUBLE + "test_a_lock_held_by_another_connection_is_waited_for_and_named",
        ],
    ),
    Case(
        "the disk is full",
        "the same",
        [
            "faults/test_full_disk.py::test_nothing_is_sent_while_the_journal_cannot_grow",
            TROUBLE + "test_a_full_disk_refuses_what_must_be_on_it_and_keeps_the_rest",
            TROUBLE + "test_the_lane_sends_nothing_and_then_goes_on_with_the_same_nonces",
            TROUBLE + "test_a_replacement_that_cannot_be_journaled_is_not_sent",
            TROUBLE + "test_what_shares_a_commit_that_fails_is_refused_together",
        ],
    ),
)


def as_markdown() -> str:
    lines = ["| fault | what must come of it | shown by |", "|---|---|---|"]
    for case in TABLE:
        shown = "<br>".join(f"`{name}`" for name in case.shown_by)
        lines.append(f"| {case.fault} | {case.outcome} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(as_markdown() + "\n")
