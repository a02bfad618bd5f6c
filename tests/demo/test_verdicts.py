from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from keeper.demo.verdicts import Verdicts

ACCOUNTS = (1, 2)
account_sets = st.frozensets(st.sampled_from(ACCOUNTS))
History = list[tuple[frozenset[int], frozenset[int]]]  # (liquidatable after, liquidated in) a block


def judged(history: History) -> Verdicts:
    verdicts = Verdicts()
    for number, (liquidatable, liquidated) in enumerate(history):
        verdicts.block(number, liquidatable, liquidated)
    return verdicts


def streak_start(history: History, account: int, number: int) -> int:
    """Return the first of the true blocks in a row up to ``number``, none of them liquidated in
    but the first."""
    while number > 0 and account in history[number - 1][0] and account not in history[number][1]:
        number -= 1
    return number


@given(st.lists(st.tuples(account_sets, account_sets), max_size=25))
def test_counts_are_those_of_the_definitions(history: History) -> None:
    liquidatable, missed, late = set(), set(), Counter[int]()
    for account in ACCOUNTS:
        hits = [at for at, (_, liquidated) in enumerate(history) if account in liquidated]
        for at in hits:
            was = at > 0 and account in history[at - 1][0]
            late[at - streak_start(history, account, at - 1) if was else 0] += 1
        for second, (now, _) in enumerate(history):
            if account in now and streak_start(history, account, second) == second - 1:
                liquidatable.add(account)
                if not any(hit > second for hit in hits):
                    missed.add(account)
    verdicts = judged(history)
    assert verdicts.liquidatable == liquidatable
    assert verdicts.missed == missed
    assert verdicts.late == late
    assert verdicts.pending == (set(history[-1][0]) if history else set())
    assert verdicts.cured == missed - verdicts.standing


def test_one_true_block_makes_nobody_liquidatable() -> None:
    none: frozenset[int] = frozenset()
    one = frozenset({1})
    verdicts = judged([(one, none), (none, none), (one, none), (none, one)])
    assert (verdicts.liquidatable, verdicts.missed, verdicts.late) == (set(), set(), {1: 1})


def test_a_partial_liquidation_starts_the_count_again() -> None:
    none: frozenset[int] = frozenset()
    one = frozenset({1})
    verdicts = judged([(one, none), (one, none), (one, one), (none, one)])
    assert verdicts.late == {2: 1, 1: 1}
    assert verdicts.missed == set()


def test_standing_are_those_liquidatable_for_two_blocks_and_still_so() -> None:
    none: frozenset[int] = frozenset()
    verdicts = judged([(frozenset({1}), none), (frozenset({1, 2}), none)])
    assert (verdicts.standing, verdicts.pending, verdicts.cured) == ({1}, {1, 2}, set())


def test_the_block_of_the_liquidation_is_the_second_one_if_it_began_liquidatable() -> None:
    verdicts = Verdicts()
    verdicts.block(1, {7, 8}, set())
    verdicts.block(2, set(), {7, 8}, opening={7})
    assert verdicts.liquidatable == {7}, "8 was cured by the newest price when block 2 began"
    assert verdicts.missed == set()
    assert verdicts.late == {1: 2}
    assert verdicts.escaped == 0
