"""A wallet's signatures: none while another keeper leads; and what was signed lately."""

from collections import OrderedDict

from keeper.batching import accounts_of
from keeper.chain.signer import SigningError, Unsigned, Wallet
from keeper.chain.tenure import Tenure
from keeper.errors import StandbyError
from keeper.facts import Attempt, Head, SignedTx, TxKind
from keeper.ports import Clock

HASHES_MAX = 10_000  # of our own transactions, remembered to know them in the logs


class Signing:
    """Asks one wallet's signer. ``trouble``: why it does not sign, since the last head."""

    def __init__(self, wallet: Wallet, tenure: Tenure, clock: Clock) -> None:
        """Nothing is asked yet."""
        self.trouble = ""
        self._wallet = wallet
        self._tenure = tenure
        self._clock = clock
        self._hashes: OrderedDict[str, None] = OrderedDict()  # newest last

    def remember(self, transaction: SignedTx) -> None:
        """Take note of a transaction that is journaled."""
        self._hashes[transaction.hash] = None
        while len(self._hashes) > HASHES_MAX:
            self._hashes.popitem(last=False)

    def is_ours(self, tx_hash: str) -> bool:
        """Say whether we signed a transaction lately."""
        return tx_hash in self._hashes

    async def sign(
        self, attempt: Attempt, unsigned: Unsigned, head: Head, kind: TxKind
    ) -> SignedTx:
        """Sign for an attempt; raises SigningError, StandbyError, ValueError without a signer."""
        signer = self._wallet.signer
        if signer is None:
            msg = f"wallet {self._wallet.address} has no signer"
            raise ValueError(msg)
        if self.trouble:  # once a head is often enough to wait for it in vain
            raise SigningError(self.trouble)
        if not self._tenure.leads:
            raise StandbyError
        try:
            tx_hash, raw = await signer.sign(unsigned)
        except SigningError as error:
            self.trouble = str(error)
            raise
        return SignedTx(
            hash=tx_hash,
            raw=raw,
            kind=kind,
            max_fee_wei=unsigned.fee.max_fee_wei,
            priority_fee_wei=unsigned.fee.priority_fee_wei,
            signed_ms=self._clock.wall_ms(),
            block=head.number,
            job=attempt.plan.job,
            accounts=() if kind is TxKind.CANCEL else tuple(accounts_of(attempt.plan)),
        )
