"""``keeper`` that kills itself at the step of an attempt that a file names, for subprocesses.

The file ``die-at`` in its working folder holds one of ``STEPS``; when that comes, the file is
removed and the process sends itself SIGKILL. Nothing in production knows of it: the composition
root is given a journal, a broadcaster and signers of these kinds.
"""

import os
import signal
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp

from keeper import app
from keeper.chain import journal_rows
from keeper.chain.broadcast import Broadcast
from keeper.chain.journal import Journal
from keeper.chain.signer import Signer, Unsigned, Wallet, load_wallets
from keeper.cli import main
from keeper.config import WalletSettings
from keeper.errors import RpcError
from keeper.facts import Attempt, Head, Receipt, Settled, SignedTx

DIE_AT = Path("die-at")
STEPS = (
    "signing",  # the nonce is taken
    "first signed",
    "first being written",
    "first written",
    "first accepted",
    "acceptance noted",
    "replacement signed",
    "replacement written",
    "replacement accepted",
    "cancel written",
    "cancel accepted",
    "included",  # and seen, before its outcome is judged
    "settling",  # judged, and not written
    "settled",
)


def is_due(step: str) -> bool:
    return DIE_AT.exists() and DIE_AT.read_text() == step


def die_if(step: str) -> None:
    """End here and now if this is the step: no handler runs, nothing is flushed."""
    if is_due(step):
        DIE_AT.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class MortalSigner:
    """Signs like the one inside."""

    def __init__(self, inner: Signer) -> None:
        self.address = inner.address
        self._inner = inner

    async def sign(self, unsigned: Unsigned) -> tuple[str, bytes]:
        die_if("signing")
        return await self._inner.sign(unsigned)


class MortalJournal(Journal):
    """Dies before, amid and after what it writes."""

    async def intend(self, attempt: Attempt, transaction: SignedTx) -> None:
        kind = transaction.kind.value
        die_if(f"{kind} signed")
        being_written = f"{kind} being written"
        if is_due(being_written):
            await self._run(lambda: self._half(attempt, transaction, being_written))
        await super().intend(attempt, transaction)
        die_if(f"{kind} written")

    def _half(self, attempt: Attempt, transaction: SignedTx, step: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            journal_rows.intend(db, attempt, transaction)
            die_if(step)

        self._commit(work)

    async def sent(self, attempt_id: str, sent_ms: int, tick_to_sent_ms: float | None) -> None:
        await super().sent(attempt_id, sent_ms, tick_to_sent_ms)
        die_if("acceptance noted")

    async def follow(
        self, attempts: Sequence[Attempt], receipts: Mapping[str, Receipt], now_ms: int
    ) -> None:
        await super().follow(attempts, receipts, now_ms)
        if receipts:
            die_if("included")

    async def settle(self, settled: Sequence[Settled], now_ms: int) -> None:
        die_if("settling")
        await super().settle(settled, now_ms)
        die_if("settled")


class MortalBroadcast(Broadcast):
    """Dies when an endpoint has accepted a transaction."""

    async def send(self, attempt: Attempt, head: Head) -> RpcError | None:
        refused = await super().send(attempt, head)
        if refused is None:
            die_if(f"{attempt.transactions[-1].kind.value} accepted")
        return refused


def mortal_wallets(
    wallets: Sequence[WalletSettings], session: aiohttp.ClientSession
) -> list[Wallet]:
    return [
        replace(wallet, signer=MortalSigner(wallet.signer)) if wallet.signer else wallet
        for wallet in load_wallets(wallets, session)
    ]


MORTAL = {"Journal": MortalJournal, "Broadcast": MortalBroadcast, "load_wallets": mortal_wallets}

if __name__ == "__main__":
    for name, part in MORTAL.items():
        setattr(app, name, part)
    main()
