"""One wallet lane: the sole owner of its nonces, from a plan to a mined transaction.

Order of things for every transaction: nonce, signature, journal (on disk), broadcast. An attempt
stays open until its nonce is consumed ``confirmations`` blocks deep, by whichever of its hashes.
What is not included in time is replaced or cancelled at the same nonce; what got no answer is sent
again, byte for byte. A lane that cannot pay, sign or get on parks itself, and says why.
"""

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from keeper.batching import accounts_of, dropped, onto
from keeper.chain.fees import TRANSFER_GAS, fee_ceiling_wei, replacement_fee, transfer_fee
from keeper.chain.filling import filling
from keeper.chain.inclusion import Inclusion
from keeper.chain.lane_rules import LaneParts, LaneRules
from keeper.chain.nonces import Nonces
from keeper.chain.patience import Patience
from keeper.chain.rpc import quantity, rpc_error
from keeper.chain.signer import SigningError, Unsigned, Wallet
from keeper.chain.signing import Signing
from keeper.chain.tenure import Tenure
from keeper.decide.economics import Fee, Spend
from keeper.errors import JournalUnavailableError, RpcError, RpcFault, StandbyError
from keeper.facts import (
    AccountId,
    Attempt,
    Call,
    Head,
    Mined,
    NotSent,
    Plan,
    Settled,
    SignedTx,
    TxKind,
    VenueId,
)

logger = structlog.get_logger(__name__)

LATENCIES_MAX = 1000  # kept for the status page
FILLED_AT_ONCE_MAX = 16  # gaps filled per head


class Lane:
    """Sends transactions from one wallet. A wallet without a signer is only followed."""

    def __init__(self, wallet: Wallet, rules: LaneRules, parts: LaneParts) -> None:
        """Nothing is asked or sent before the first ``poll``."""
        self.wallet = wallet
        self.rules = rules
        self._rpc = parts.rpc
        self._broadcaster = parts.broadcaster
        self._journal = parts.journal
        self._clock = parts.clock
        self._telemetry = parts.telemetry
        self._inclusion = Inclusion(parts.rpc, rules.confirmations, parts.clock, parts.telemetry)
        self._nonces = Nonces()
        self.tenure = Tenure(parts.leading)
        self._signing = Signing(wallet, self.tenure, parts.clock)
        self._open: dict[str, Attempt] = {}  # by id: a reorg may leave an account with two
        self.balance_wei = 0
        self._unpaid_wei = 0  # that has to be free above the floor to leave the parking place
        self._tip_wei: int | None = None  # what others pay, at the last head
        self._head: Head | None = None  # last polled at
        self._patience = Patience()
        self.tick_to_sent_ms: deque[float] = deque(maxlen=LATENCIES_MAX)

    @property
    def name(self) -> str:
        """Return the wallet's name in the config."""
        return self.wallet.name

    @property
    def address(self) -> str:
        """Return the address that pays and is paid."""
        return self.wallet.address

    @property
    def open_attempts(self) -> Sequence[Attempt]:
        """Return what is in flight."""
        return tuple(self._open.values())

    @property
    def _may_sign(self) -> bool:
        return self.wallet.signer is not None and self.tenure.leads

    def is_ours(self, tx_hash: str) -> bool:
        """Say whether we signed a transaction lately."""
        return self._signing.is_ours(tx_hash)

    def attempt_of(self, venue: VenueId, account: AccountId) -> Attempt | None:
        """Return the account's open attempt, which may be for others too."""
        for attempt in self._open.values():
            if attempt.plan.venue == venue and account in accounts_of(attempt.plan):
                return attempt
        return None

    @property
    def free_wei(self) -> int:
        """Return the balance less what the open attempts may cost at worst."""
        return self.balance_wei - sum(open_.plan.cost_wei_max for open_ in self._open.values())

    @property
    def spare_wei(self) -> int:
        """Return what the wallet could give away: not what it sends already, nor its floor."""
        sending = (open_.plan.call.value_wei for open_ in self._open.values())
        return self.free_wei - sum(sending) - self.wallet.balance_wei_min

    def is_low(self, below_wei: int) -> bool:
        """Say whether the wallet, whose balance is known, holds less than this."""
        return self._head is not None and self.balance_wei < below_wei

    @property
    def parked(self) -> str:
        """Return why the lane starts nothing now, or nothing."""
        return self.trouble or ("another keeper has the lease" if self.tenure.standby else "")

    @property
    def trouble(self) -> str:
        """Return why the lane starts nothing, or would start nothing if its keeper led."""
        if self.wallet.signer is None:
            return "no wallet of the config: what it has in flight is followed"
        if self._head is None or self.tenure.coming is not None:
            return "the chain was not asked for its nonces yet"
        if self._signing.trouble:
            return self._signing.trouble
        if self.balance_wei < self._unpaid_wei + self.wallet.balance_wei_min:
            return "cannot pay for another attempt; fund it"
        stuck = self._stuck(self._head)
        if stuck is not None:
            return f"stuck at nonce {stuck.nonce}, which is neither included nor replaced"
        return ""

    def _stuck(self, head: Head) -> Attempt | None:
        """Return the attempt that keeps all later nonces waiting, although it was due long ago."""
        waiting = [one for one in self._open.values() if not self._inclusion.is_consumed(one)]
        first = min(waiting, key=lambda attempt: attempt.nonce, default=None)
        return first if first is not None and self.is_stuck(first, head) else None

    def is_stuck(self, attempt: Attempt, head: Head) -> bool:
        """Say whether an attempt was to be replaced long ago."""
        return self._patience.is_over(attempt, 2 * self.rules.replace_after_blocks, head)

    def adopt(self, attempt: Attempt) -> None:
        """Take over what the journal says this wallet has in flight.

        What was signed and perhaps never sent is overdue at once: it is simulated again before it
        is sent or cancelled.
        """
        self._open[attempt.id] = attempt
        if attempt.sent_ms is None:
            self._patience.distrust(attempt)
        for transaction in attempt.transactions:
            self._signing.remember(transaction)
        logger.info("found in flight", attempt=attempt.id, nonce=attempt.nonce)

    def reopen(self, attempt: Attempt, head: Head) -> None:
        """Follow again what seemed to be over: nodes do not always send it again."""
        self._open[attempt.id] = attempt
        self._patience.reopen(attempt, head)

    async def _learn_nonces(self) -> None:
        answer = await self._rpc.call("eth_getTransactionCount", [self.address, "pending"])
        self._nonces.learn(quantity(answer), {one.nonce for one in self._open.values()})

    # --- sending ----------------------------------------------------------------------------------

    async def submit(self, plan: Plan, fee: Fee, head: Head) -> Attempt | NotSent:
        """Open an attempt: nonce, signature, journal, broadcast."""
        if self._broadcaster.trouble:
            return NotSent.NO_ENDPOINT
        if self.parked:
            return NotSent.LANE_PARKED
        if self.free_wei - plan.cost_wei_max < self.wallet.balance_wei_min:
            self._unpaid_wei = max(self._unpaid_wei, plan.cost_wei_max)
            return NotSent.LANE_PARKED
        return await self._start(plan, fee, head)

    async def _start(self, plan: Plan, fee: Fee, head: Head) -> Attempt | NotSent:
        attempt = Attempt(
            id=uuid.uuid4().hex,
            plan=plan,
            wallet=self.address,
            nonce=self._nonces.take(),
            transactions=(),
            opened_ms=self._clock.wall_ms(),
        )
        self._open[attempt.id] = attempt  # before the first await: nobody else gets this account
        try:
            transaction = await self._sign(
                attempt, plan.call, plan.gas_limit, fee, head, TxKind.FIRST
            )
        except (SigningError, StandbyError) as error:
            logger.warning("not signed", wallet=self.name, error=str(error))
            self._take_back(attempt)
            return NotSent.STANDBY if isinstance(error, StandbyError) else NotSent.NOT_SIGNED
        try:
            attempt = await self._journaled(attempt, transaction)
        except JournalUnavailableError:
            self._take_back(attempt)
            return NotSent.NOT_WRITTEN
        refused = await self._broadcast(attempt, head)
        if refused is None or not refused.is_definite:
            return self._open.get(attempt.id, attempt)  # it may be settled already
        self._take_back(attempt)
        if refused.fault is RpcFault.INSUFFICIENT_FUNDS:
            # what we thought the wallet holds was wrong: wait for the next look at it
            self.balance_wei, self._unpaid_wei = 0, plan.cost_wei_max
        await self._journal.settle(dropped(attempt, refused.fault.value), self._clock.wall_ms())
        return NotSent.DROPPED

    def _take_back(self, attempt: Attempt) -> None:
        self._nonces.give_back(attempt.nonce)
        del self._open[attempt.id]

    async def fill_gaps(self, head: Head, may: Callable[[Plan, Fee], bool]) -> None:
        """Use up the nonces that all later ones wait for; ``may`` says which of it is paid for."""
        fee = transfer_fee(head, self.rules.fees, self._tip_wei)
        if fee is None or self._head != head or not self._may_sign:
            return
        for nonce in self._nonces.gaps[:FILLED_AT_ONCE_MAX]:
            plan = filling(self.address, nonce, fee, head)
            if self.balance_wei < plan.cost_wei_max or not may(plan, fee):
                return
            logger.warning("filling a gap", wallet=self.name, nonce=nonce)
            if not isinstance(await self._start(plan, fee, head), Attempt):
                return  # what is behind the gap waits on, and the lane says that it is stuck

    def replacement_fee(self, attempt: Attempt, head: Head, spend: Spend) -> Fee | None:
        """Return a fee that replaces what is in flight; None when it would cost too much."""
        ceiling_wei = fee_ceiling_wei(spend, self.rules.cost_wei_max, self.rules.fees)
        return self._dearer(attempt, head, ceiling_wei)

    def _dearer(self, attempt: Attempt, head: Head, ceiling_wei: int) -> Fee | None:
        """Return a fee above all that were ever signed for the nonce: the journal has them."""
        sent = attempt.transactions
        before = Fee(
            max(transaction.max_fee_wei for transaction in sent),
            max(transaction.priority_fee_wei for transaction in sent),
        )
        return replacement_fee(before, head, self.rules.fees, ceiling_wei, self._tip_wei)

    async def replace(self, attempt: Attempt, plan: Plan, fee: Fee, head: Head) -> None:
        """Send a dearer transaction at the attempt's nonce; raises TransientError."""
        # what it replaces may still be the one that is included
        dearest_wei = max(plan.cost_wei_max, attempt.plan.cost_wei_max)
        whole = replace(onto(attempt, plan), tick_ns=attempt.plan.tick_ns, cost_wei_max=dearest_wei)
        attempt = replace(attempt, plan=whole)
        signed = await self._sign(attempt, plan.call, plan.gas_limit, fee, head, TxKind.REPLACEMENT)
        await self._resend(attempt, replace(signed, accounts=tuple(accounts_of(plan))), head)

    async def cancel(self, attempt: Attempt, head: Head, cost_wei_max: int) -> bool:
        """Take the nonce with a self-transfer of nothing; False when that costs too much.

        Raises TransientError.
        """
        ceiling_wei = min(cost_wei_max, self.rules.cost_wei_max) // TRANSFER_GAS
        fee = self._dearer(attempt, head, ceiling_wei)
        if fee is None or self.wallet.signer is None:
            return False
        call = Call(self.address, b"")
        signed = await self._sign(attempt, call, TRANSFER_GAS, fee, head, TxKind.CANCEL)
        await self._resend(attempt, signed, head)
        return True

    async def _resend(self, attempt: Attempt, signed: SignedTx, head: Head) -> None:
        attempt = await self._journaled(attempt, signed)
        self._patience.renew(attempt)
        self._telemetry.count("keeper_replacements_total", kind=signed.kind.value)
        await self._broadcast(attempt, head)

    def overdue(self, head: Head) -> list[Attempt]:
        """Return the attempts whose newest transaction has waited too long, by nonce."""
        if not self._may_sign:
            return []
        after, patience = self.rules.replace_after_blocks, self._patience
        late = [
            attempt
            for attempt in self._open.values()
            if not self._inclusion.is_consumed(attempt)
            and attempt.transactions
            and (patience.is_stale(attempt) or patience.is_over(attempt, after, head))
        ]
        return sorted(late, key=lambda attempt: attempt.nonce)

    def waiting(self, head: Head) -> list[Attempt]:
        """Return the attempts in flight that are neither overdue nor being cancelled, by nonce."""
        if not self.tenure.leads:
            return []
        late = {attempt.id for attempt in self.overdue(head)}
        found = [
            attempt
            for attempt in self._open.values()
            if attempt.id not in late
            and not self._inclusion.is_consumed(attempt)
            and attempt.transactions
            and attempt.transactions[-1].kind is not TxKind.CANCEL
        ]
        return sorted(found, key=lambda attempt: attempt.nonce)

    async def poll(self, head: Head, tip_wei: int | None) -> list[Mined]:
        """Ask the chain about every open attempt; return those consumed deep enough.

        It first learns the wallet's nonces. What is not known to be accepted is sent again.
        """
        term = self.tenure.coming
        if term is not None:
            await self._learn_nonces()
        attempts = sorted(self._open.values(), key=lambda attempt: attempt.nonce)
        nonce, self.balance_wei, receipts = await self._inclusion.ask(self.address, attempts)
        self._nonces.used(nonce)
        self.tenure.used(nonce)
        if term is not None:
            self._begin(term, nonce, head)
        self._nonces.free(self.tenure.freed(2 * self.rules.replace_after_blocks, head))
        self._head, self._signing.trouble, self._tip_wei = head, "", tip_wei
        if self.balance_wei >= self._unpaid_wei + self.wallet.balance_wei_min:
            self._unpaid_wei = 0
        mined = [self._inclusion.mined(attempt, head, nonce, receipts) for attempt in attempts]
        for attempt, done in zip(attempts, mined, strict=True):
            waiting = done is None and attempt.transactions and not self._patience.is_stale(attempt)
            if waiting and attempt.nonce >= nonce:
                again = self._patience.was_reopened_at(attempt, head)
                if again or self._broadcaster.due(attempt, head):
                    await self._broadcast(attempt, head)
        await self._journal.follow(attempts, receipts, self._clock.wall_ms())
        return [done for done in mined if done is not None]

    def _begin(self, term: int, count: int, head: Head) -> None:
        ours = {one.nonce for one in self._open.values()}
        self.tenure.begin(term, self._nonces.others(count, ours), head)
        for attempt in self._open.values() if self._head else ():
            self._patience.distrust(attempt)  # another may have led meanwhile: it is judged anew

    async def close(self, settled: Sequence[Settled]) -> None:
        """Write the end of an attempt, for each of its accounts, and forget it."""
        attempt = settled[0].attempt
        await self._journal.settle(settled, self._clock.wall_ms())
        self._open.pop(attempt.id, None)
        self._patience.renew(attempt)
        self._inclusion.forget(attempt)

    # --- one transaction --------------------------------------------------------------------------

    async def _sign(
        self, attempt: Attempt, call: Call, gas: int, fee: Fee, head: Head, kind: TxKind
    ) -> SignedTx:
        unsigned = Unsigned(call, attempt.nonce, gas, fee, self.rules.chain_id)
        began_ns = self._clock.monotonic_ns()
        signed = await self._signing.sign(attempt, unsigned, head, kind)
        self._stage(attempt.plan, "sign", began_ns)
        return signed

    async def _journaled(self, attempt: Attempt, transaction: SignedTx) -> Attempt:
        plan = attempt.plan
        began_ns = self._clock.monotonic_ns()
        await self._journal.intend(attempt, transaction)
        self._stage(plan, "journal", began_ns)
        self._signing.remember(transaction)
        attempt = replace(attempt, transactions=(*attempt.transactions, transaction))
        self._open[attempt.id] = attempt
        if plan.tick_ns and transaction.kind is TxKind.FIRST:
            self._stage(plan, "decided_to_signed", plan.decided_ns)
        return attempt

    async def _broadcast(self, attempt: Attempt, head: Head) -> RpcError | None:
        """Send the newest transaction; None when an endpoint has it, else why not."""
        if not self.tenure.leads:  # it stays open, to be judged anew by who leads next
            return rpc_error(RpcFault.OTHER, "another keeper has the lease")
        signed_ns = self._clock.monotonic_ns()
        refused = await self._broadcaster.send(attempt, head)
        if refused is None and attempt.sent_ms is None:
            await self._note_sent(attempt, signed_ns)
        return refused

    async def _note_sent(self, attempt: Attempt, signed_ns: int) -> None:
        plan = attempt.plan
        current = self._open.get(attempt.id)
        if current is None or current.sent_ms is not None:
            return
        now_ns = self._clock.monotonic_ns()
        tick_to_sent_ms = None
        if plan.tick_ns:
            self._stage(plan, "signed_to_sent", signed_ns)
            self._stage(plan, "tick_to_sent", plan.tick_ns)
            tick_to_sent_ms = (now_ns - plan.tick_ns) / 1e6
            self.tick_to_sent_ms.append(tick_to_sent_ms)
        sent = replace(current, sent_ms=self._clock.wall_ms())
        self._open[attempt.id] = sent
        await self._journal.sent(sent.id, sent.sent_ms or 0, tick_to_sent_ms)

    def _stage(self, plan: Plan, stage: str, since_ns: int) -> None:
        seconds = (self._clock.monotonic_ns() - since_ns) / 1e9
        self._telemetry.observe("keeper_stage_seconds", seconds, venue=plan.venue, stage=stage)
