"""Several accounts of a venue in one transaction, where that is worth more than one each.

All are simulated and weighed alone first. Those that pay are simulated as one call; it is sent if
more is expected of it than of all of them alone. What fails as a whole, when it is simulated or on
the chain, is tried again by halves, until the culprit is alone and is treated like any other.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import structlog

from keeper.act.execute import Execution, Ready
from keeper.batching import accounts_of
from keeper.decide.agenda import HoldReason
from keeper.errors import RpcError, TransientError
from keeper.facts import AccountId, Head, Plan, Refused, VenueId
from keeper.watch.desk import Desk, Nominated

logger = structlog.get_logger(__name__)

Key = tuple[VenueId, AccountId]
T = TypeVar("T")


class Together:
    """Chooses what goes together."""

    def __init__(self, execution: Execution) -> None:
        """Every account may go with as many as its venue's config says, at first."""
        self._execution = execution

    def group(self, desk: Desk, best: Key, waiting: Mapping[Key, Nominated]) -> list[Key]:
        """Return who is to be tried together with the best candidate, itself first."""
        most = self._most(desk, best[1])
        group = [best]
        if most == 1:  # thousands may wait
            return group
        others = [key for key in waiting if key[0] == desk.venue.id and key != best]
        for key in sorted(others, key=lambda key: waiting[key].priority):
            its_most = self._most(desk, key[1])
            if len(group) < min(most, its_most):
                group.append(key)
                most = min(most, its_most)
        return group

    def _most(self, desk: Desk, account: AccountId) -> int:
        if desk.suspect:
            return 1
        at_once_max = self._execution.rules.simulations_at_once_max
        most = min(desk.rules.batch_accounts_max, at_once_max)
        return self._execution.halves.most(desk.venue.id, account, most)

    async def attempt(self, desk: Desk, some: Sequence[Nominated]) -> None:
        """Take nominated accounts of a venue as far as they go now, together if that is best."""
        head = desk.head
        if head is None:
            return
        with self._execution.working(desk, some, head) as free:
            wallet = self._execution.sender(desk, some[0].assessment.account)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._alone(desk, each, head, wallet), name="alone")
                    for each in free
                ]
            ready = [done for task in tasks if (done := task.result()) is not None]
            for one in await self._joined(desk, ready, head):
                accounts = accounts_of(one.plan)
                await self._guarded(desk, accounts, self._execution.commit(desk, one, head))

    async def _alone(
        self, desk: Desk, nominated: Nominated, head: Head, wallet: str | None
    ) -> Ready | None:
        async def prepared() -> Ready | None:
            return await self._execution.prepare(desk, desk.renewed(nominated), head, wallet)

        return await self._guarded(desk, [nominated.assessment.account], prepared())

    async def _guarded(
        self, desk: Desk, accounts: Sequence[AccountId], work: Awaitable[T]
    ) -> T | None:
        """Do work on accounts; a bug sets the first of them aside, and what fails holds them."""
        try:
            with desk.guard(accounts[0]):
                return await work
            desk.quarantined(accounts[0])
            accounts = accounts[1:]
        except (TransientError, RpcError) as error:
            logger.warning("failed", venue=desk.venue.id, accounts=accounts, error=str(error))
        for account in accounts:
            desk.failed_to_ask(account, self._execution.rules.hold_ms)
        return None

    async def _joined(self, desk: Desk, some: Sequence[Ready], head: Head) -> list[Ready]:
        """Return what to send: all in one, or what each half of them comes to."""
        if len(some) < 2:  # noqa: PLR2004 - nothing to join
            return list(some)
        joined = None
        with desk.guard(some[0].plan.account):  # a bug in this is one of going together
            joined = await self._join(desk, some, head)
        if joined is not None:
            left = [each for each in some if each.plan.account not in joined.plan.batch]
            return [joined, *left]
        middle = len(some) // 2
        halves = (some[:middle], some[middle:])
        return [one for half in halves for one in await self._joined(desk, half, head)]

    async def _join(self, desk: Desk, some: Sequence[Ready], head: Head) -> Ready | None:
        """Return all in one, without those it would not liquidate; None: it is not worth it."""
        while True:
            assessments = [each.nominated[0].assessment for each in some]
            wallet = some[0].wallet
            batch = await self._execution.simulate_batch(desk, assessments, wallet, head)
            if isinstance(batch, Refused):
                logger.info("not together", venue=desk.venue.id, reason=batch.detail)
                return None
            paid = [each for each in some if each.plan.account in batch.rewards_wad]
            if len(paid) == len(some):
                break
            if len(paid) < 2:  # noqa: PLR2004 - nothing to join
                return None
            some = paid
        weighed = self._execution.weigh(desk, some[0].nominated[0], batch.whole, head)
        if isinstance(weighed, HoldReason):
            return None
        plan, fee = weighed
        if plan.expected.expected_wei <= sum(each.plan.expected.expected_wei for each in some):
            return None
        return Ready(
            tuple(each.nominated[0] for each in some), _for_all(plan, some), fee, some[0].wallet
        )


def _for_all(plan: Plan, some: Sequence[Ready]) -> Plan:
    """Return a plan for all accounts: it draws on every market that any of them does."""
    takes: Counter[str] = Counter()
    for each in some:
        takes.update(dict.fromkeys(each.plan.uses, 0))
        takes.update(dict(zip(each.plan.uses, each.plan.takes, strict=False)))
    batch = tuple(each.plan.account for each in some)
    return replace(plan, batch=batch, uses=tuple(takes), takes=tuple(takes.values()))
