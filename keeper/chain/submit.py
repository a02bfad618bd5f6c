"""One wallet lane: the sole owner of its nonces, from a plan to a mined transaction.

Order of things for every transaction: nonce, signature, journal (on disk), broadcast. An attempt
stays open until its nonce is consumed ``confirmations`` blocks deep, whichever of the hashes
journaled for that nonce was mined. What is not included in time is replaced at the same nonce or
cancelled by a self-transfer; a transaction whose broadcast got no answer is sent again, byte for
byte.
"""

import uuid
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from keeper.chain.fees import FeeRules, first_fee, replacement_fee
from keeper.chain.journal import Journal
from keeper.chain.rpc import batch_whole, quantity, receipt_from_json
from keeper.chain.signer import Signer, sent_value_wei
from keeper.decide.economics import Fee
from keeper.errors import JournalUnavailableError, RpcError, RpcFault
from keeper.facts import (
    AccountId,
    Attempt,
    Call,
    Head,
    Mined,
    NotSent,
    Outcome,
    Plan,
    Receipt,
    Settled,
    SignedTx,
    TxKind,
    VenueId,
)
from keeper.ports import Broadcaster, Clock, Rpc, Telemetry

logger = structlog.get_logger(__name__)

HASHES_MAX = 10_000  # of our own transactions, remembered to know them in the logs
LATENCIES_MAX = 1000  # kept for the status page
TRANSFER_GAS = 21_000


@dataclass(frozen=True, slots=True)
class LaneRules:
    """How long to wait and how deep to look; from ``[chain]`` and ``[fees]``."""

    chain_id: int
    confirmations: int
    replace_after_blocks: int
    cost_wei_max: int
    fees: FeeRules


class Lane:
    """Sends transactions from one wallet. Without a signer (dry run) it sends nothing."""

    def __init__(  # noqa: PLR0913, PLR0917 - one composition root calls it
        self,
        rpc: Rpc,
        broadcaster: Broadcaster,
        journal: Journal,
        signer: Signer | None,
        rules: LaneRules,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """Nothing is asked or sent before ``recover``."""
        self._rpc = rpc
        self._broadcaster = broadcaster
        self._journal = journal
        self._signer = signer
        self._rules = rules
        self._clock = clock
        self._telemetry = telemetry
        self._next_nonce = 0
        self._gaps: list[int] = []  # nonces below the next one that nothing is known to occupy
        self._open: dict[tuple[VenueId, AccountId], Attempt] = {}
        self._consumed_at: dict[str, int] = {}  # attempt → head that first showed its nonce used
        self.balance_wei = 0
        self._parked_below_wei = 0  # balance that has to be exceeded to leave the parking place
        self._recovered = False
        self._signed: OrderedDict[str, None] = OrderedDict()  # hashes, newest last
        self._stale: set[str] = set()  # found in the journal, decided by another process
        self.tick_to_sent_ms: deque[float] = deque(maxlen=LATENCIES_MAX)

    @property
    def wallet(self) -> str | None:
        """Return the address that pays and is paid; None in a dry run."""
        return self._signer.address if self._signer else None

    @property
    def open_attempts(self) -> Sequence[Attempt]:
        """Return what is in flight."""
        return tuple(self._open.values())

    def is_ours(self, tx_hash: str) -> bool:
        """Say whether we signed a transaction lately."""
        return tx_hash in self._signed

    def attempt_of(self, venue: VenueId, account: AccountId) -> Attempt | None:
        """Return the account's open attempt."""
        return self._open.get((venue, account))

    @property
    def reserved_wei(self) -> int:
        """Return what the open attempts may cost at worst."""
        return sum(attempt.plan.cost_wei_max for attempt in self._open.values())

    @property
    def recovered(self) -> bool:
        """Return whether what was in flight at the start has been found again."""
        return self._recovered

    @property
    def parked(self) -> bool:
        """Return whether the lane waits: for its recovery at start, or to be funded."""
        return not self._recovered or self.balance_wei < self._parked_below_wei

    async def recover(self) -> Sequence[Attempt]:
        """Read the journal and the wallet's nonces.

        What was signed and perhaps never sent is overdue at once: it is simulated again before it
        is sent or cancelled.
        """
        attempts = await self._journal.open_attempts()
        self._stale = {attempt.id for attempt in attempts if attempt.sent_ms is None}
        for attempt in attempts:
            self._open[attempt.plan.venue, attempt.plan.account] = attempt
            for transaction in attempt.transactions:
                self._note_signed(transaction)
        if self._signer is None:
            self._recovered = True
            return attempts
        wallet = self._signer.address
        answers = await batch_whole(
            self._rpc,
            [
                ("eth_getTransactionCount", [wallet, "pending"]),
                ("eth_getBalance", [wallet, "latest"]),
            ],
        )
        pending, self.balance_wei = (quantity(answer) for answer in answers)
        ours = {attempt.nonce for attempt in attempts if attempt.wallet == wallet}
        self._next_nonce = max([pending, *(nonce + 1 for nonce in ours)])
        self._gaps = [nonce for nonce in range(pending, self._next_nonce) if nonce not in ours]
        for attempt in attempts:
            if attempt.wallet != wallet:
                logger.error("open attempt of another wallet", wallet=attempt.wallet, id=attempt.id)
            else:
                logger.info("found in flight", attempt=attempt.id, nonce=attempt.nonce)
        await self._journal.resumed(attempts, self._clock.wall_ms())
        self._recovered = True
        return attempts

    def first_fee(self, head: Head) -> Fee | None:
        """Return the fee of a first try; None when the base fee is over the cap."""
        return first_fee(head, self._rules.fees)

    def replacement_fee(self, attempt: Attempt, head: Head, gas: int, value_wei: int) -> Fee | None:
        """Return a fee that replaces what the attempt has in flight within the cost cap."""
        sent = attempt.transactions
        before = Fee(
            max(transaction.max_fee_wei for transaction in sent),
            max(transaction.priority_fee_wei for transaction in sent),
        )
        ceiling = (self._rules.cost_wei_max - value_wei) // gas
        return replacement_fee(before, head, self._rules.fees, ceiling)

    async def submit(self, plan: Plan, fee: Fee, head: Head) -> Attempt | NotSent:
        """Open an attempt: nonce, signature, journal, broadcast."""
        if self._signer is None:
            return NotSent.NO_WALLET
        if self._broadcaster.trouble:
            return NotSent.NO_ENDPOINT
        needed = self.reserved_wei + plan.cost_wei_max
        if self.parked or self.balance_wei < needed:
            self._parked_below_wei = max(self._parked_below_wei, plan.cost_wei_max)
            return NotSent.LANE_PARKED
        key = (plan.venue, plan.account)
        if key in self._open:
            msg = f"account {plan.account} has an open attempt"
            raise ValueError(msg)
        attempt = Attempt(
            id=uuid.uuid4().hex,
            plan=plan,
            wallet=self._signer.address,
            nonce=self._gaps[0] if self._gaps else self._next_nonce,
            transactions=(),
            opened_ms=self._clock.wall_ms(),
        )
        transaction = self._sign(attempt, plan.call, plan.gas_limit, fee, head, TxKind.FIRST)
        # signed and before the first await: nobody else gets this nonce or this account
        self._take_nonce(attempt.nonce)
        self._open[key] = attempt
        try:
            attempt = await self._journaled(attempt, transaction)
        except JournalUnavailableError:
            self._unsend(attempt)
            return NotSent.NOT_WRITTEN
        refused = await self._broadcast(attempt, head)
        if refused is not None and refused.is_definite and self._give_back(attempt.nonce):
            del self._open[key]
            if refused.fault is RpcFault.INSUFFICIENT_FUNDS:
                # what we thought the wallet holds was wrong: wait for the next look at it
                self.balance_wei, self._parked_below_wei = 0, plan.cost_wei_max
            settled = Settled(attempt, Outcome.DROPPED, refused.fault.value, None, 0, 0, 0)
            await self._journal.settle(settled, self._clock.wall_ms())
            return NotSent.DROPPED
        return self._open.get(key, attempt)  # it may be settled already

    async def replace(self, attempt: Attempt, plan: Plan, fee: Fee, head: Head) -> None:
        """Send a dearer transaction at the attempt's nonce."""
        attempt = replace(attempt, plan=replace(plan, tick_ns=attempt.plan.tick_ns))
        await self._resend(attempt, plan.call, plan.gas_limit, fee, head, TxKind.REPLACEMENT)

    async def cancel(self, attempt: Attempt, head: Head) -> bool:
        """Take the nonce with a self-transfer of nothing; False when the cap forbids the fee."""
        if self._signer is None:
            return False
        fee = self.replacement_fee(attempt, head, TRANSFER_GAS, 0)
        if fee is None:
            return False
        call = Call(self._signer.address, b"")
        await self._resend(attempt, call, TRANSFER_GAS, fee, head, TxKind.CANCEL)
        return True

    async def _resend(
        self, attempt: Attempt, call: Call, gas: int, fee: Fee, head: Head, kind: TxKind
    ) -> None:
        transaction = self._sign(attempt, call, gas, fee, head, kind)
        attempt = await self._journaled(attempt, transaction)
        self._stale.discard(attempt.id)
        self._telemetry.count("keeper_replacements_total", kind=kind.value)
        await self._broadcast(attempt, head)

    def overdue(self, head: Head) -> list[Attempt]:
        """Return the attempts whose newest transaction has waited too long, by nonce."""
        after = self._rules.replace_after_blocks
        late = [
            attempt
            for attempt in self._open.values()
            if attempt.wallet == self.wallet
            and attempt.id not in self._consumed_at
            and attempt.transactions
            and (attempt.id in self._stale or attempt.transactions[-1].block + after <= head.number)
        ]
        return sorted(late, key=lambda attempt: attempt.nonce)

    async def poll(self, head: Head) -> list[Mined]:
        """Ask the chain about every open attempt; return those consumed deep enough."""
        attempts = sorted(self._open.values(), key=lambda attempt: attempt.nonce)
        hashes = [tx.hash for attempt in attempts for tx in attempt.transactions]
        wallets = sorted({attempt.wallet for attempt in attempts} - {self.wallet})
        if self.wallet is not None:
            wallets.insert(0, self.wallet)
        answers = await batch_whole(
            self._rpc,
            [
                *(("eth_getTransactionReceipt", [tx_hash]) for tx_hash in hashes),
                *(("eth_getTransactionCount", [wallet, "latest"]) for wallet in wallets),
                *(("eth_getBalance", [wallet, "latest"]) for wallet in wallets[:1]),
            ],
        )
        receipts = {
            h: receipt_from_json(raw) for h, raw in zip(hashes, answers, strict=False) if raw
        }
        counts = {w: quantity(n) for w, n in zip(wallets, answers[len(hashes) :], strict=False)}
        if self.wallet is not None:
            self._note_wallet(counts[self.wallet], quantity(answers[-1]))
        mined = [self._mined(attempt, head, counts, receipts) for attempt in attempts]
        for attempt, done in zip(attempts, mined, strict=True):
            waiting = done is None and attempt.transactions and attempt.id not in self._stale
            unused = attempt.nonce >= counts[attempt.wallet]
            if waiting and unused and self._broadcaster.due(attempt, head):
                await self._broadcast(attempt, head)
        await self._journal.follow(attempts, receipts, self._clock.wall_ms())
        return [done for done in mined if done is not None]

    def _note_wallet(self, nonce: int, balance_wei: int) -> None:
        self.balance_wei = balance_wei
        self._next_nonce = max(self._next_nonce, nonce)
        self._gaps = [gap for gap in self._gaps if gap >= nonce]
        if not self.parked:
            self._parked_below_wei = 0

    def _mined(
        self, attempt: Attempt, head: Head, counts: dict[str, int], receipts: dict[str, Receipt]
    ) -> Mined | None:
        for transaction in attempt.transactions:
            receipt = receipts.get(transaction.hash)
            if receipt is not None:
                if attempt.sent_ms is not None and attempt.id not in self._consumed_at:
                    self._stage_included(attempt.plan.venue, attempt.sent_ms)
                self._consumed_at[attempt.id] = receipt.block_number
                deep = head.number - receipt.block_number + 1 >= self._rules.confirmations
                value_wei = sent_value_wei(transaction.raw)
                return Mined(attempt, transaction, receipt, value_wei) if deep else None
        if counts[attempt.wallet] <= attempt.nonce or not attempt.transactions:
            self._consumed_at.pop(attempt.id, None)  # a reorg gave the nonce back
            return None
        first = self._consumed_at.setdefault(attempt.id, head.number)
        # one block more than for a receipt: an endpoint may know the count before the receipt
        deep = head.number - first >= self._rules.confirmations
        return Mined(attempt, None, None) if deep else None

    async def close(self, settled: Settled) -> None:
        """Write the end of an attempt and forget it."""
        attempt = settled.attempt
        await self._journal.settle(settled, self._clock.wall_ms())
        self._open.pop((attempt.plan.venue, attempt.plan.account), None)
        self._consumed_at.pop(attempt.id, None)

    def _note_signed(self, transaction: SignedTx) -> None:
        self._signed[transaction.hash] = None
        while len(self._signed) > HASHES_MAX:
            self._signed.popitem(last=False)

    def _take_nonce(self, nonce: int) -> None:
        if self._gaps:
            self._gaps.remove(nonce)
        else:
            self._next_nonce = nonce + 1

    def _give_back(self, nonce: int) -> bool:
        """Return whether the nonce could be taken back (nothing later depends on it)."""
        if nonce != self._next_nonce - 1:
            return False
        self._next_nonce = nonce
        return True

    def _unsend(self, attempt: Attempt) -> None:
        """Forget an attempt whose transaction nobody has seen; its nonce is free again."""
        del self._open[attempt.plan.venue, attempt.plan.account]
        if not self._give_back(attempt.nonce):
            self._gaps = sorted([*self._gaps, attempt.nonce])

    def _sign(
        self, attempt: Attempt, call: Call, gas: int, fee: Fee, head: Head, kind: TxKind
    ) -> SignedTx:
        if self._signer is None:
            msg = "a dry run signs nothing"
            raise ValueError(msg)
        tx_hash, raw = self._signer.sign(
            call, nonce=attempt.nonce, gas_limit=gas, fee=fee, chain_id=self._rules.chain_id
        )
        return SignedTx(
            hash=tx_hash,
            raw=raw,
            kind=kind,
            max_fee_wei=fee.max_fee_wei,
            priority_fee_wei=fee.priority_fee_wei,
            signed_ms=self._clock.wall_ms(),
            block=head.number,
            job=attempt.plan.job,
        )

    async def _journaled(self, attempt: Attempt, transaction: SignedTx) -> Attempt:
        plan = attempt.plan
        await self._journal.intend(attempt, transaction)
        self._note_signed(transaction)
        attempt = replace(attempt, transactions=(*attempt.transactions, transaction))
        self._open[plan.venue, plan.account] = attempt
        if plan.tick_ns and transaction.kind is TxKind.FIRST:
            self._stage(plan, "decided_to_signed", plan.decided_ns)
        return attempt

    async def _broadcast(self, attempt: Attempt, head: Head) -> RpcError | None:
        """Send the newest transaction; None when an endpoint has it, else why not."""
        signed_ns = self._clock.monotonic_ns()
        refused = await self._broadcaster.send(attempt, head)
        if refused is None and attempt.sent_ms is None:
            await self._note_sent(attempt, signed_ns)
        return refused

    async def _note_sent(self, attempt: Attempt, signed_ns: int) -> None:
        plan = attempt.plan
        current = self._open.get((plan.venue, plan.account))
        if current is None or current.id != attempt.id or current.sent_ms is not None:
            return
        now_ns = self._clock.monotonic_ns()
        tick_to_sent_ms = (now_ns - plan.tick_ns) / 1e6 if plan.tick_ns else None
        if plan.tick_ns:
            self._stage(plan, "signed_to_sent", signed_ns)
            self._stage(plan, "tick_to_sent", plan.tick_ns)
            self.tick_to_sent_ms.append((now_ns - plan.tick_ns) / 1e6)
        sent = replace(current, sent_ms=self._clock.wall_ms())
        self._open[plan.venue, plan.account] = sent
        await self._journal.sent(sent.id, sent.sent_ms or 0, tick_to_sent_ms)

    def _stage(self, plan: Plan, stage: str, since_ns: int) -> None:
        seconds = (self._clock.monotonic_ns() - since_ns) / 1e9
        self._telemetry.observe("keeper_stage_seconds", seconds, venue=plan.venue, stage=stage)

    def _stage_included(self, venue: VenueId, sent_ms: int) -> None:
        seconds, stage = max(0, self._clock.wall_ms() - sent_ms) / 1000, "sent_to_included"
        self._telemetry.observe("keeper_stage_seconds", seconds, venue=venue, stage=stage)
