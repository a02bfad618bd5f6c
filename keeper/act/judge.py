"""What became of one account of a transaction whose nonce is used, by its logs and the chain."""

from collections.abc import Mapping

from keeper.act.execute import Execution
from keeper.batching import paying
from keeper.facts import (
    Attempt,
    Head,
    LiquidationSeen,
    Mined,
    Outcome,
    Receipt,
    Refused,
    TxKind,
    VenueId,
)
from keeper.jobs import OURS, PAID, Job
from keeper.units import PPM
from keeper.watch.desk import Desk

OUT_OF_GAS_PPM = 980_000  # of the gas limit: a call leaves its caller a 64th of what it has
Judged = tuple[Outcome, str, LiquidationSeen | None]


class Judge:
    """Tells won from lost, and a lost race from a wrong transaction."""

    def __init__(self, desks: Mapping[VenueId, Desk], execution: Execution) -> None:
        """Ask the desks what they know and the chain about the rest."""
        self._desks = desks
        self._execution = execution

    async def judged(self, mined: Mined, head: Head) -> Judged:
        """Return how it ended for the account of the attempt's plan, and why."""
        receipt = mined.receipt
        if receipt is None or mined.transaction is None:
            return Outcome.EXPIRED, "the nonce was used by a transaction we did not sign", None
        given_away = mined.attempt.plan.account not in paying(mined)
        if mined.transaction.kind is TxKind.CANCEL or given_away:
            detail = "its nonce went to another account" if given_away else ""
            return Outcome.CANCELLED, detail, None
        if mined.transaction.job in OURS:
            return (Outcome.DONE if receipt.success else Outcome.REVERTED), "", None
        desk = self._desks.get(mined.attempt.plan.venue)
        if desk is None:
            return Outcome.EXPIRED, "its venue is no longer configured", None
        if receipt.success:
            return await self._included(desk, mined.attempt, receipt, mined.transaction.job, head)
        out_of_gas = receipt.gas_used * PPM >= mined.attempt.plan.gas_limit * OUT_OF_GAS_PPM
        outcome, detail, seen = await self._reverted(desk, mined.attempt, head)
        return outcome, f"out of gas: {detail}" if out_of_gas else detail, seen

    async def _included(
        self, desk: Desk, attempt: Attempt, receipt: Receipt, job: Job, head: Head
    ) -> Judged:
        if job not in PAID:
            return Outcome.DONE, "", None
        seen = self._liquidation(desk, attempt, receipt)
        if seen is not None:
            return Outcome.WON, "", seen
        if attempt.plan.batch:  # it alone was refused
            return await self._reverted(desk, attempt, head)
        return Outcome.LOST, "included, but nothing was liquidated", None

    async def _reverted(self, desk: Desk, attempt: Attempt, head: Head) -> Judged:
        """Tell a lost race, or a cure in the block of inclusion, from a wrong transaction."""
        account = attempt.plan.account
        if account not in desk.states or desk.market is None:
            return Outcome.REVERTED, "reverted; the account is not in the book", None
        simulation = await self._execution.simulate(
            desk, desk.assess(account), attempt.wallet, head
        )
        if isinstance(simulation, Refused) and simulation.reason == "not_liquidatable":
            return Outcome.LOST, "no longer liquidatable: cured, or somebody was faster", None
        detail = simulation.detail if isinstance(simulation, Refused) else "it would succeed now"
        return Outcome.REVERTED, detail, None

    def _liquidation(
        self, desk: Desk, attempt: Attempt, receipt: Receipt
    ) -> LiquidationSeen | None:
        ours = frozenset(desk.venue.addresses())
        for log in receipt.logs:
            if log.address not in ours:
                continue
            for seen in desk.venue.touched(log).liquidations:
                if seen.account == attempt.plan.account:
                    return seen
        return None
