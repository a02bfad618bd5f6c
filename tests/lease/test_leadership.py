"""Who leads, when: two keepers on one lease, each with a clock that the other does not know."""

from collections.abc import Callable

import pytest

from keeper.errors import TransientError
from keeper.leading import Record
from tests.lease.api import Api
from tests.lease.conftest import RENEW_S, TTL_S, Keeper

Made = Callable[..., Keeper]
LEAD_S = TTL_S - RENEW_S  # how long one renewal lets a keeper lead


def advance(seconds: float, *keepers: Keeper) -> None:
    for keeper in keepers:
        keeper.clock.advance(seconds)


def term_of(keeper: Keeper) -> int | None:
    return keeper.term


async def test_the_first_leads_and_the_second_stands_by(keeper: Made) -> None:
    one, two = keeper("one"), keeper("two", start_s=5_000)
    assert one.term is None
    assert await one.step() == 1
    assert await two.step() is None
    assert (two.holder, two.telemetry.counts["keeper_lease_changes_total",]) == ("one", 0)
    for _ in range(10):
        advance(RENEW_S, one, two)
        assert await one.step() == 1
        assert await two.step() is None


async def test_a_leader_that_cannot_renew_stops_before_the_other_begins(
    api: Api, keeper: Made
) -> None:
    one, two = keeper("one"), keeper("two", start_s=700)
    await one.step()
    await two.step()
    advance(LEAD_S - 0.001, one, two)
    assert term_of(one) == 1
    api.refuse = 503
    with pytest.raises(TransientError, match="HTTP 503"):
        await one.step()
    assert term_of(one) == 1, "its last renewal still holds"
    advance(0.001, one, two)
    assert term_of(one) is None
    api.refuse = 0
    assert await two.step() is None, "it leaves the first another renew_s"
    advance(RENEW_S, one, two)
    assert await two.step() == 1
    assert await one.step() is None
    assert one.telemetry.counts["keeper_lease_changes_total",] == 2
    assert api.lease()["spec"]["leaseTransitions"] == 1


async def test_a_lead_counts_from_before_the_renewal_was_sent(
    keeper: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby may have seen the record as soon as it was written, long before we heard so."""
    one = keeper("one")
    write = one._lease.write

    async def slow(record: Record) -> Record | None:
        written = await write(record)
        advance(RENEW_S / 2, one)
        return written

    monkeypatch.setattr(one._lease, "write", slow)
    assert await one.step() == 1
    advance(LEAD_S - RENEW_S / 2 - 0.001, one)
    assert term_of(one) == 1
    advance(0.001, one)
    assert term_of(one) is None


async def test_an_expiry_is_judged_by_what_was_seen_and_by_no_wall_clock(
    api: Api, keeper: Made
) -> None:
    one, two = keeper("one"), keeper("two")
    await one.step()
    api.lease()["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"
    advance(10 * TTL_S, two)
    assert await two.step() is None, "it has only now seen it"
    advance(TTL_S - 0.001, two)
    assert await two.step() is None
    advance(0.001, two)
    assert await two.step() == 1


async def test_a_longer_ttl_in_the_record_counts(api: Api, keeper: Made) -> None:
    one, two = keeper("one"), keeper("two")
    await one.step()
    api.lease()["spec"]["leaseDurationSeconds"] = 2 * TTL_S
    await two.step()
    advance(TTL_S, two)
    assert await two.step() is None
    advance(TTL_S, two)
    assert await two.step() == 1


async def test_what_stood_still_does_not_lead_when_it_goes_on(keeper: Made) -> None:
    one, two = keeper("one"), keeper("two")
    await one.step()
    await two.step()
    advance(TTL_S, one, two)  # the first was stopped meanwhile
    assert await two.step() == 1
    assert one.term is None
    assert await one.step() is None
    assert one.holder == "two"


async def test_a_term_that_was_interrupted_is_another_term(api: Api, keeper: Made) -> None:
    one = keeper("one")
    assert await one.step() == 1
    advance(LEAD_S, one)
    assert one.term is None
    assert await one.step() == 2, "nobody came, but somebody might have"
    assert api.lease()["spec"]["leaseTransitions"] == 0


async def test_what_is_given_up_is_taken_at_once(api: Api, keeper: Made) -> None:
    one, two = keeper("one"), keeper("two")
    await one.step()
    await two.step()
    await one.give_up()
    assert one.term is None
    assert api.holder() is None
    assert await two.step() == 1
    await one.give_up()
    assert api.holder() == "two", "only what is ours is given up"


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_write_whose_answer_was_lost_is_known_again(
    api: Api, keeper: Made, lost: int
) -> None:
    one = keeper("one")
    await one.step()
    advance(RENEW_S, one)
    api.lose_answers = lost
    for _ in range(lost):
        with pytest.raises(TransientError):
            await one.step()
        advance(0.5, one)
    assert await one.step() == 1
    assert one.telemetry.counts["keeper_lease_changes_total",] == 1


async def test_who_gives_up_in_the_middle_of_a_renewal_gives_up_all_the_same(
    api: Api, keeper: Made
) -> None:
    one = keeper("one")
    await one.step()
    api.lose_answers = 1
    with pytest.raises(TransientError):
        await one.step()
    await one.give_up()
    assert api.holder() is None


async def test_of_two_that_take_it_at_once_one_leads(api: Api, keeper: Made) -> None:
    one, two, three = keeper("one"), keeper("two"), keeper("three")
    await one.step()
    await two.step()
    await three.step()
    advance(TTL_S, two, three)
    await two._look()
    await three._look()  # both have seen it run out
    assert await two._take()
    assert not await three._take()
    assert (two.term, three.term, api.holder()) == (1, None, "two")


async def test_a_lease_that_was_deleted_under_a_leader_is_not_taken_at_once(
    api: Api, keeper: Made
) -> None:
    one, two = keeper("one"), keeper("two")
    await one.step()
    await two.step()
    api.objects.clear()
    assert await two.step() is None
    assert one.term == 1
    advance(TTL_S, one, two)
    assert await two.step() == 1
    assert one.term is None
