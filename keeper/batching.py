"""Several liquidations in one transaction: what a venue says of them, and whose they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from keeper.facts import (
    AccountId,
    Assessment,
    Attempt,
    Head,
    Mined,
    Outcome,
    Plan,
    Refused,
    Settled,
    Simulated,
)


@dataclass(frozen=True, slots=True)
class SimulatedBatch:
    """The chain would accept it: one call for several accounts, and what each of them pays.

    ``whole``: the call, its gas and the reward of all. ``rewards_wad``: of the accounts that it
    would liquidate; one that is not in it stands in the way or gets nothing.
    """

    whole: Simulated
    rewards_wad: Mapping[AccountId, int]


@runtime_checkable
class Batching(Protocol):
    """A venue that can liquidate several accounts in one call and pays the sender for it."""

    async def simulate_batch(
        self, assessments: Sequence[Assessment], wallet: str, head: Head
    ) -> SimulatedBatch | Refused:
        """Ask the chain what one call for all of these would do from ``wallet``.

        Refused when it would do nothing as a whole: the caller tries it with fewer.
        """
        ...


def accounts_of(plan: Plan) -> Sequence[AccountId]:
    """Return the accounts that a plan's transaction is for."""
    return plan.batch or (plan.account,)


def onto(attempt: Attempt, plan: Plan) -> Plan:
    """Return a plan as that of an attempt in flight: whichever it replaces may be included too."""
    accounts = dict.fromkeys((*accounts_of(attempt.plan), *accounts_of(plan)))
    batch = tuple(accounts) if len(accounts) > 1 else ()
    return replace(plan, account=attempt.plan.account, batch=batch)


def paying(mined: Mined) -> Sequence[AccountId]:
    """Return the accounts that what took the nonce was for: they share its cost."""
    accounts = mined.transaction.accounts if mined.transaction else ()
    return accounts or accounts_of(mined.attempt.plan)


def divided(amount: int, count: int) -> list[int]:
    """Divide an amount (wei) into whole parts that add up to it; the first ones take the rest."""
    part, rest = divmod(amount, count)
    return [part + 1] * rest + [part] * (count - rest)


def dropped(attempt: Attempt, why: str) -> Sequence[Settled]:
    """Return the end, for each account, of an attempt that no endpoint took: it cost nothing."""
    plans = [replace(attempt.plan, account=account) for account in accounts_of(attempt.plan)]
    ended = [replace(attempt, plan=plan) for plan in plans]
    return [Settled(each, Outcome.DROPPED, why, None, 0, 0, 0) for each in ended]
