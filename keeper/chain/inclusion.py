"""What has become of a nonce: which of its transactions was mined, and how deep."""

from collections.abc import Mapping, Sequence

from keeper.chain.rpc import batch_whole, quantity, receipt_from_json
from keeper.chain.signer import sent_value_wei
from keeper.facts import Attempt, Head, Mined, Receipt
from keeper.ports import Clock, Rpc, Telemetry


class Inclusion:
    """Follows one wallet's nonces into the chain, and out of it again after a reorg."""

    def __init__(self, rpc: Rpc, confirmations: int, clock: Clock, telemetry: Telemetry) -> None:
        """``confirmations``: how deep a nonce has to be consumed to be settled."""
        self._rpc = rpc
        self._confirmations = confirmations
        self._clock = clock
        self._telemetry = telemetry
        self._consumed_at: dict[str, int] = {}  # attempt → head that first showed its nonce used
        self._measured: set[str] = set()  # attempts whose time to inclusion was observed

    async def ask(
        self, wallet: str, attempts: Sequence[Attempt]
    ) -> tuple[int, int, Mapping[str, Receipt]]:
        """Return the wallet's nonce and balance, and the receipts there are by hash."""
        hashes = [tx.hash for attempt in attempts for tx in attempt.transactions]
        answers = await batch_whole(
            self._rpc,
            [
                ("eth_getTransactionCount", [wallet, "latest"]),
                ("eth_getBalance", [wallet, "latest"]),
                *(("eth_getTransactionReceipt", [tx_hash]) for tx_hash in hashes),
            ],
        )
        nonce, balance_wei = quantity(answers[0]), quantity(answers[1])
        raws = zip(hashes, answers[2:], strict=False)
        return nonce, balance_wei, {h: receipt_from_json(raw) for h, raw in raws if raw}

    def is_consumed(self, attempt: Attempt) -> bool:
        """Say whether the attempt's nonce was seen consumed, however deep."""
        return attempt.id in self._consumed_at

    def mined(
        self, attempt: Attempt, head: Head, nonce: int, receipts: Mapping[str, Receipt]
    ) -> Mined | None:
        """Return what consumed the attempt's nonce, once that is deep enough."""
        for transaction in attempt.transactions:
            receipt = receipts.get(transaction.hash)
            if receipt is not None:
                self._measure(attempt)
                self._consumed_at[attempt.id] = receipt.block_number
                deep = head.number - receipt.block_number + 1 >= self._confirmations
                value_wei = sent_value_wei(transaction.raw)
                return Mined(attempt, transaction, receipt, value_wei) if deep else None
        if nonce <= attempt.nonce or not attempt.transactions:
            self._consumed_at.pop(attempt.id, None)  # a reorg gave the nonce back
            return None
        first = self._consumed_at.setdefault(attempt.id, head.number)
        # one block more than for a receipt: an endpoint may know the count before the receipt
        deep = head.number - first >= self._confirmations
        return Mined(attempt, None, None) if deep else None

    def forget(self, attempt: Attempt) -> None:
        """Drop what is known of an attempt that was settled."""
        self._consumed_at.pop(attempt.id, None)
        self._measured.discard(attempt.id)

    def _measure(self, attempt: Attempt) -> None:
        if attempt.sent_ms is None or attempt.id in self._measured:
            return
        self._measured.add(attempt.id)
        seconds = max(0, self._clock.wall_ms() - attempt.sent_ms) / 1000
        venue, stage = attempt.plan.venue, "sent_to_included"
        self._telemetry.observe("keeper_stage_seconds", seconds, venue=venue, stage=stage)
