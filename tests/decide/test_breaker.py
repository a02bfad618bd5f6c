from keeper.decide.breaker import Breaker

OPEN_MS = 1_000


def broken() -> Breaker:
    breaker = Breaker(reverts_in_a_row_max=2, open_ms=OPEN_MS)
    for _ in range(2):
        assert breaker.lets_through(0)
        breaker.sending()
        breaker.ended(reverted=True, now_ms=0)
    return breaker


def test_it_opens_after_reverts_in_a_row_only() -> None:
    breaker = Breaker(reverts_in_a_row_max=2, open_ms=OPEN_MS)
    for reverted in (True, False, True, False, True):
        breaker.ended(reverted=reverted, now_ms=0)
        assert breaker.lets_through(0)
    assert not broken().lets_through(OPEN_MS - 1)


def test_half_open_it_lets_one_through_at_a_time() -> None:
    breaker = broken()
    assert breaker.lets_through(OPEN_MS)
    breaker.sending()
    assert not breaker.lets_through(OPEN_MS)
    breaker.ended_without_proof()
    assert breaker.lets_through(OPEN_MS), "what was not sent proves nothing"
    breaker.sending()
    breaker.ended(reverted=True, now_ms=OPEN_MS)
    assert not breaker.lets_through(2 * OPEN_MS - 1)
    assert breaker.lets_through(2 * OPEN_MS)
    breaker.sending()
    breaker.ended(reverted=False, now_ms=2 * OPEN_MS)
    assert breaker.lets_through(2 * OPEN_MS)
    breaker.sending()
    assert breaker.lets_through(2 * OPEN_MS), "closed: as many as come"
