"""Who gets the nonce of a liquidation that is over: the next best candidate, before any cancel."""

from collections.abc import Iterator
from itertools import islice

from keeper.decide.agenda import HoldReason
from keeper.facts import AccountId
from keeper.watch.desk import Desk, Nominated

ASSESSED_MAX = 64  # a few milliseconds
TRIED_MAX = 4  # simulated one after the other
# what waits for nothing but room: a nonce that is there already is that room
WAITING = frozenset(
    {
        HoldReason.OPEN_ATTEMPTS,
        HoldReason.LANE_PARKED,
        HoldReason.BUDGET,
        HoldReason.CAPACITY_IN_USE,
    }
)


def next_best(desk: Desk) -> list[Nominated]:
    """Return the candidates of a venue that wait to be sent, best first."""
    found: list[Nominated] = []
    for account in islice(_waiting(desk), ASSESSED_MAX):
        with desk.guard(account):
            assessment = desk.assess(account)
            if assessment.liquidatable:
                found.append(desk.nomination(assessment))
    return sorted(found, key=lambda each: each.priority)[:TRIED_MAX]


def _waiting(desk: Desk) -> Iterator[AccountId]:
    for account in desk.agenda:
        hold = desk.agenda.hold_of(account)
        waits = hold.reason in WAITING if hold else desk.agenda.is_due(account)
        if waits and account in desk.states:
            yield account
