"""What attempts in flight leave for the next one: a simulation on the newest block misses them."""

from collections import Counter
from collections.abc import Sequence

from keeper.batching import accounts_of
from keeper.facts import AccountId, Assessment, Attempt, VenueId


def leaves_no_room(assessment: Assessment, venue: VenueId, attempts: Sequence[Attempt]) -> bool:
    """Say whether a step would get nothing behind the attempts at its venue.

    A market without numbers has room for one at a time.
    """
    if not assessment.alone or not assessment.uses:
        return False
    taken: Counter[str] = Counter()
    busy: set[str] = set()
    for attempt in attempts:
        plan = attempt.plan
        if plan.venue == venue:
            busy.update(plan.uses)
            taken.update(dict(zip(plan.uses, plan.takes, strict=False)))
    room = dict(zip(assessment.uses, assessment.room, strict=False))
    for market in assessment.uses:
        left = room.get(market, 0)
        if market not in busy or left is None or left > taken[market]:
            return False
    return True


def taking_over(venue: VenueId, account: AccountId, attempts: Sequence[Attempt]) -> Counter[str]:
    """Return what attempts on other accounts take over, by market: it ties up our margin."""
    found: Counter[str] = Counter()
    for attempt in attempts:
        plan = attempt.plan
        if plan.takes_over and plan.venue == venue and account not in accounts_of(plan):
            found[plan.takes_over.market] += plan.takes_over.notional_wad
    return found
