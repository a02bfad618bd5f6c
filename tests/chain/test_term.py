"""A lane of a keeper that shares its wallet: what it does when the lease goes at any moment."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keeper.chain.broadcast import Broadcast, BroadcastRules
from keeper.chain.journal import Journal
from keeper.chain.lane_rules import LaneParts
from keeper.chain.lanes import Lanes
from keeper.chain.rpc import HttpRpc
from keeper.chain.signer import KeySigner, Unsigned, Wallet
from keeper.decide.economics import Fee
from keeper.errors import StandbyError
from keeper.facts import Attempt, NotSent
from tests.chain.conftest import CHAIN_ID
from tests.chain.test_lane import (
    KEY,
    RULES,
    WALLET,
    newest,
    pending,
    plan,
    spend,
    start,
)
from tests.fakes import CountingTelemetry, ManualClock
from tests.nodes import Anvil

NEVER = 10**9


@dataclass
class Term:
    """Leads in one term for so many questions more, and then in ``after``."""

    after: int | None = None
    left: int = NEVER

    @property
    def term(self) -> int | None:
        self.left -= 1
        return 1 if self.left >= 0 else self.after


class Watched(KeySigner):
    """Counts what it signs, and ends the term right after when it is to."""

    def __init__(self, term: Term) -> None:
        super().__init__(KEY)
        self.ends = False
        self.signed_count = 0
        self._term = term

    async def sign(self, unsigned: Unsigned) -> tuple[str, bytes]:
        self.signed_count += 1
        if self.ends:
            self._term.left = 0
        return await super().sign(unsigned)


@dataclass
class Shared:
    """A lane, its term and its signer."""

    lane: Lanes
    term: Term
    signer: Watched
    rpc: HttpRpc

    async def submit(self) -> Attempt | NotSent:
        head = await newest(self.rpc)
        some = plan()
        fee = self.lane.first_fee(some.venue, head, spend())
        assert isinstance(fee, Fee)
        return await self.lane.submit(some, WALLET, fee, head)


@pytest.fixture
async def shared(
    tmp_path: Path, rpc: HttpRpc, node: Anvil, telemetry: CountingTelemetry
) -> AsyncIterator[Shared]:
    node.rpc("anvil_setBalance", WALLET, hex(10**18))
    term = Term()
    signer = Watched(term)
    async with (
        Journal(tmp_path / "journal.sqlite", CHAIN_ID) as journal,
        Broadcast(rpc.endpoints, BroadcastRules(2), telemetry) as broadcast,
    ):
        parts = LaneParts(rpc, broadcast, journal, ManualClock(), telemetry, leading=term)
        lane = Lanes([Wallet("main", signer.address, signer)], {}, RULES, parts)
        await start(lane, rpc)
        yield Shared(lane, term, signer, rpc)


@pytest.mark.parametrize("after", [None, 2])
@pytest.mark.parametrize("left", range(3))
async def test_nothing_is_signed_after_the_term(
    shared: Shared, node: Anvil, left: int, after: int | None
) -> None:
    """However late it ends: so many times it still led when it was asked."""
    shared.term.left, shared.term.after = left, after
    with contextlib.suppress(StandbyError):
        assert isinstance(await shared.submit(), NotSent)
    assert shared.term.left < 0, "it was asked once more, right before signing"
    assert (shared.signer.signed_count, pending(node)) == (0, {})


async def test_in_another_term_nonces_are_learned_first(shared: Shared, node: Anvil) -> None:
    shared.term.left, shared.term.after = 0, 2
    assert isinstance(await shared.submit(), NotSent)
    await shared.lane.poll(await newest(shared.rpc))
    assert isinstance(await shared.submit(), Attempt)
    assert list(pending(node)) == [0]


@pytest.mark.parametrize("after", [None, 2])
async def test_what_was_signed_as_the_term_ended_is_not_sent(
    shared: Shared, node: Anvil, after: int | None
) -> None:
    shared.signer.ends, shared.term.after = True, after
    await shared.submit()
    assert (shared.signer.signed_count, pending(node)) == (1, {})
