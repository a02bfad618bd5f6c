"""Liquidations sent without waiting for a simulation: what a venue has to offer for that."""

from typing import Protocol, runtime_checkable

from keeper.facts import Assessment, Call, Head, Simulated


@runtime_checkable
class Optimistic(Protocol):
    """A venue whose liquidations its own arithmetic foresees whole.

    Each is one call that ties up no capital and pays in cash what the assessment says. Where only
    the chain can tell what a call would do (steps, capacity, positions taken over), there is none.
    """

    def liquidation(self, assessment: Assessment) -> Call | None:
        """Return the very call that ``simulate`` asks about; its value is the oracle fee.

        None: what it needs was not read yet.
        """
        ...


def foreseen(venue: Optimistic, assessment: Assessment, gas: int, head: Head) -> Simulated | None:
    """Return what is expected of a liquidation. ``gas``: that others of the venue have used."""
    call = venue.liquidation(assessment)
    if call is None or not assessment.reward_wad:
        return None
    return Simulated(call, gas, assessment.reward_wad, call.value_wei, head, optimistic=True)
