import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.decide.agenda import Agenda, Hold, HoldReason


def fresh() -> Agenda[str]:
    return Agenda(backoff_ms_min=100, backoff_ms_max=1600)


def test_nominated_is_due_until_held_and_due_again_when_woken() -> None:
    agenda = fresh()
    assert agenda.nominate("a", now_ms=0)
    assert not agenda.nominate("a", now_ms=0)
    assert list(agenda.due()) == ["a"]
    agenda.hold("a", Hold(HoldReason.UNPROFITABLE, until_ms=50))
    assert not agenda.has_due
    assert agenda.why("a") == "unprofitable"
    agenda.wake(now_ms=49, block=10**9)
    assert not agenda.has_due
    agenda.wake(now_ms=50, block=0)
    assert list(agenda.due()) == ["a"]
    assert agenda.why("a") == "due (last held: unprofitable)"


def test_hold_by_block_wakes_at_that_block() -> None:
    agenda = fresh()
    agenda.nominate("a", now_ms=0)
    agenda.hold("a", Hold(HoldReason.NOT_LIQUIDATABLE, until_block=7))
    agenda.wake(now_ms=10**12, block=6)
    assert not agenda.has_due
    agenda.wake(now_ms=0, block=7)
    assert agenda.is_due("a")


def test_a_hold_must_end() -> None:
    agenda = fresh()
    agenda.nominate("a", now_ms=0)
    with pytest.raises(ValueError, match="needs something that ends it"):
        agenda.hold("a", Hold(HoldReason.UNPROFITABLE))


def test_backoff_doubles_ends_and_survives_a_cure() -> None:
    agenda = fresh()
    now = 0
    spans = []
    for _ in range(7):
        agenda.nominate("a", now_ms=now)
        agenda.start("a")
        agenda.finish("a", failed=True, now_ms=now, block=1)
        agenda.cure("a")
        agenda.nominate("a", now_ms=now)
        assert agenda.why("a") == "backoff"
        start = now
        while not agenda.is_due("a"):
            now += 50
            agenda.wake(now_ms=now, block=10**9)
        spans.append(now - start)
    assert spans == [100, 200, 400, 800, 1600, 1600, 1600]


def test_success_forgets_the_failures_and_waits_for_the_new_state() -> None:
    agenda = fresh()
    agenda.nominate("a", now_ms=0)
    agenda.finish("a", failed=True, now_ms=0, block=1)
    agenda.wake(now_ms=100, block=1)
    agenda.start("a")
    agenda.finish("a", failed=False, now_ms=100, block=5)
    assert agenda.why("a") == "state_behind"
    agenda.refresh("a")
    assert agenda.is_due("a")
    agenda.finish("a", failed=True, now_ms=200, block=6)
    agenda.wake(now_ms=300, block=6)
    assert agenda.is_due("a"), "the back-off started over at its minimum"


def test_success_is_looked_at_again_even_if_its_state_never_comes() -> None:
    agenda = fresh()
    agenda.nominate("a", now_ms=0)
    agenda.finish("a", failed=False, now_ms=0, block=5)
    agenda.wake(now_ms=0, block=6)
    assert not agenda.is_due("a")
    agenda.wake(now_ms=0, block=7)
    assert agenda.is_due("a")


def test_new_facts_end_a_hold_but_not_a_backoff_nor_work() -> None:
    agenda = fresh()
    for name in ("held", "backed off", "busy"):
        agenda.nominate(name, now_ms=0)
    agenda.hold("held", Hold(HoldReason.UNPROFITABLE, until_ms=10**6))
    agenda.finish("backed off", failed=True, now_ms=0, block=1)
    agenda.start("busy")
    for name in ("held", "backed off", "busy", "stranger"):
        agenda.refresh(name)
    assert list(agenda.due()) == ["held"]
    assert agenda.why("busy") == "in_flight"
    assert agenda.why("stranger") == "not_under_margined"


def test_release_wakes_exactly_one_reason() -> None:
    agenda = fresh()
    agenda.nominate("stale", now_ms=0)
    agenda.nominate("dust", now_ms=0)
    agenda.hold("stale", Hold(HoldReason.STALE_PRICE, until_block=10**6))
    agenda.hold("dust", Hold(HoldReason.UNPROFITABLE, until_ms=10**6))
    agenda.release(HoldReason.STALE_PRICE)
    assert list(agenda.due()) == ["stale"]


def test_a_lower_base_fee_wakes_what_pays_at_it() -> None:
    agenda = fresh()
    for name, base_fee_wei in (("near", 90), ("far", 10), ("never", None)):
        agenda.nominate(name, now_ms=0)
        hold = Hold(HoldReason.UNPROFITABLE, until_ms=10**6, base_fee_wei=base_fee_wei)
        agenda.hold(name, hold)
    agenda.cheaper(91)
    assert list(agenda.due()) == []
    agenda.cheaper(90)
    assert list(agenda.due()) == ["near"]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["nominate", "cure", "hold", "start", "fail", "win", "refresh", "wake"]),
        st.integers(0, 5),
        st.integers(0, 400),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_no_account_is_ever_forgotten(operations: list[tuple[str, int, int]]) -> None:
    """Whatever happened, an account on the agenda becomes due once time and blocks have passed,
    unless somebody works on it.
    """
    agenda: Agenda[int] = Agenda(backoff_ms_min=100, backoff_ms_max=1600)
    now, block, members, busy = 0, 0, set[int](), set[int]()
    for operation, account, step in operations:
        now, block = now + step, block + step // 100
        match operation:
            case "nominate":
                agenda.nominate(account, now)
                members.add(account)
            case "cure":
                agenda.cure(account)
                members.discard(account)
                busy.discard(account)
            case "hold":
                agenda.hold(account, Hold(HoldReason.COST_CAP, until_ms=now + step))
                busy.discard(account)
            case "start":
                agenda.start(account)
                busy |= {account} & members
            case "fail" | "win":
                agenda.finish(account, failed=operation == "fail", now_ms=now, block=block)
                busy.discard(account)
            case "refresh":
                agenda.refresh(account)
            case _:
                agenda.wake(now, block)
    assert {a for a in range(6) if a in agenda} == members
    agenda.wake(now + 10_000, block + 100)
    assert set(agenda.due()) == members - busy
