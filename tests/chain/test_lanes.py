"""Several wallets side by side on a real node that mines only when told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.journal import Journal
from keeper.chain.lane_rules import LaneParts
from keeper.chain.lanes import Lanes
from keeper.chain.rpc import HttpRpc
from keeper.chain.signer import KeySigner, SigningError, Unsigned, Wallet
from keeper.chain.wordings import rpc_error
from keeper.decide.economics import Fee
from keeper.errors import RpcFault
from keeper.facts import (
    Attempt,
    NotSent,
    Outcome,
    Settled,
    VenueId,
)
from keeper.jobs import Job
from keeper.units import GWEI
from tests.chain.conftest import CHAIN_ID
from tests.chain.test_lane import RULES, newest, plan
from tests.fakes import CountingTelemetry, ManualClock, PlainBroadcaster
from tests.nodes import Anvil

SIGNERS = [KeySigner("0x" + f"{number:02x}" * 32) for number in (0x51, 0x52, 0x53)]
ONE, TWO, THREE = (signer.address for signer in SIGNERS)
VENUE = VenueId("demo")
FEE = Fee(5 * GWEI, GWEI)


class Moody:
    """A signer that fails when the test says."""

    def __init__(self, signer: KeySigner) -> None:
        self.address = signer.address
        self.fails = False
        self.asked = 0
        self.called = asyncio.Event()
        self.waiting: asyncio.Event | None = None  # sign only after it
        self._signer = signer

    async def sign(self, unsigned: Unsigned) -> tuple[str, bytes]:
        self.asked += 1
        self.called.set()
        if self.waiting is not None:
            await self.waiting.wait()
        if self.fails:
            msg = "signer x: did not answer in time"
            raise SigningError(msg)
        return await self._signer.sign(unsigned)


class Partial(HttpRpc):
    """Does not answer for one wallet."""

    deaf_for = ""

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        if self.deaf_for and self.deaf_for in str(params):
            raise rpc_error(RpcFault.UNREACHABLE, "connection lost")
        return await super().call(method, params)

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        if self.deaf_for and self.deaf_for in str(requests):
            raise rpc_error(RpcFault.UNREACHABLE, "connection lost")
        return await super().batch(requests)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite", CHAIN_ID) as opened:
        yield opened


@pytest.fixture
def moody() -> list[Moody]:
    return [Moody(signer) for signer in SIGNERS]


@pytest.fixture
def partial(rpc: HttpRpc) -> Partial:
    return Partial(rpc.endpoints, 2)


@pytest.fixture
async def lanes(
    partial: Partial, rpc: HttpRpc, node: Anvil, journal: Journal, moody: list[Moody]
) -> Lanes:
    for signer in moody:
        node.rpc("anvil_setBalance", signer.address, hex(10**18))
    found = make_lanes(partial, journal, moody)
    await found.recover()
    await found.poll(await newest(rpc))
    return found


def make_lanes(partial: Partial, journal: Journal, moody: Sequence[Moody]) -> Lanes:
    wallets = [Wallet(f"w{number}", one.address, one) for number, one in enumerate(moody, 1)]
    allowed = {VenueId("picky"): ["w2"]}
    broadcaster = PlainBroadcaster(partial)
    parts = LaneParts(partial, broadcaster, journal, ManualClock(), CountingTelemetry())
    return Lanes(wallets, allowed, RULES, parts)


async def send(lanes: Lanes, rpc: HttpRpc, account: str) -> Attempt:
    wallet = lanes.wallet_for(VENUE)
    assert wallet is not None
    attempt = await lanes.submit(plan(account), wallet, FEE, await newest(rpc))
    assert isinstance(attempt, Attempt)
    return attempt


async def test_attempts_go_where_the_least_is_in_flight(
    lanes: Lanes, rpc: HttpRpc, node: Anvil
) -> None:
    sent = [await send(lanes, rpc, str(number)) for number in range(6)]
    assert sorted(attempt.wallet for attempt in sent) == sorted([ONE, ONE, TWO, TWO, THREE, THREE])
    assert sorted(attempt.nonce for attempt in sent) == [0, 0, 0, 1, 1, 1]
    node.rpc("evm_mine")
    assert len(await lanes.poll(await newest(rpc))) == 6


async def test_a_venue_uses_the_wallets_it_names(lanes: Lanes) -> None:
    picky = VenueId("picky")
    assert lanes.wallets_of(picky) == [TWO]
    assert {lanes.wallet_for(picky) for _ in range(3)} == {TWO}
    lanes.lanes[1].balance_wei = 0
    lanes.lanes[1]._unpaid_wei = 1
    assert lanes.wallet_for(picky) is None


async def test_a_signer_that_fails_parks_its_lane_until_the_next_head(
    lanes: Lanes, rpc: HttpRpc, moody: list[Moody]
) -> None:
    moody[0].fails = True
    head = await newest(rpc)
    assert await lanes.submit(plan("1"), ONE, FEE, head) is NotSent.NOT_SIGNED
    assert lanes.open_attempts == ()
    assert lanes.lanes[0].parked == "signer x: did not answer in time"
    assert {(await send(lanes, rpc, str(number))).wallet for number in range(4)} == {TWO, THREE}
    moody[0].fails = False
    await lanes.poll(head)
    attempt = await lanes.submit(plan("9"), ONE, FEE, head)
    assert isinstance(attempt, Attempt)
    assert attempt.nonce == 0, "what was not signed left no gap"


async def test_a_gap_that_a_failed_signature_left_is_filled(
    lanes: Lanes, rpc: HttpRpc, node: Anvil, moody: list[Moody]
) -> None:
    """Both ask for a signature at once; the first fails after the second has got its own."""
    head, lane, signer = await newest(rpc), lanes.lanes[0], moody[0]
    signer.waiting = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(lanes.submit(plan("1"), ONE, FEE, head))
        await signer.called.wait()
        late, signer.waiting = signer.waiting, None
        second = await lanes.submit(plan("2"), ONE, FEE, head)
        signer.fails = True
        late.set()
    assert first.result() is NotSent.NOT_SIGNED
    assert isinstance(second, Attempt)
    assert second.nonce == 1
    signer.fails = False
    await lanes.poll(head)
    await lanes.fill_gaps(head, lambda *_: True)
    filling = lane.open_attempts[-1]
    assert (filling.nonce, filling.plan.job) == (0, Job.FILL)
    node.rpc("evm_mine")
    assert len(await lanes.poll(await newest(rpc))) == 2


async def test_a_signer_is_asked_once_a_head_in_vain(
    lanes: Lanes, rpc: HttpRpc, moody: list[Moody]
) -> None:
    head = await newest(rpc)
    attempts = [await lanes.submit(plan(str(n)), ONE, FEE, head) for n in range(3)]
    moody[0].fails, moody[0].asked = True, 0
    for attempt in attempts:
        assert isinstance(attempt, Attempt)
        with pytest.raises(SigningError):
            await lanes.cancel(attempt, head, RULES.cost_wei_max)
    assert moody[0].asked == 1


async def test_a_stuck_lane_takes_no_more_and_holds_up_no_other(
    lanes: Lanes, rpc: HttpRpc, node: Anvil
) -> None:
    stuck = await lanes.submit(plan("1"), ONE, FEE, await newest(rpc))
    assert isinstance(stuck, Attempt)
    node.rpc("anvil_dropTransaction", stuck.transactions[0].hash)
    for _ in range(2 * RULES.replace_after_blocks):
        node.rpc("evm_mine")
    head = await newest(rpc)
    await lanes.poll(head)
    assert lanes.lanes[0].parked == "stuck at nonce 0, which is neither included nor replaced"
    assert {(await send(lanes, rpc, str(number))).wallet for number in range(2, 6)} == {TWO, THREE}
    node.rpc("evm_mine")
    head = await newest(rpc)
    assert len(await lanes.poll(head)) == 4
    assert await lanes.cancel(stuck, head, RULES.cost_wei_max)
    assert not lanes.lanes[0].parked, "it gets on"


async def test_a_wallet_the_chain_cannot_be_asked_about_holds_up_no_other(
    lanes: Lanes, rpc: HttpRpc, node: Anvil, partial: Partial
) -> None:
    for number in range(3):
        await send(lanes, rpc, str(number))
    node.rpc("evm_mine")
    partial.deaf_for = ONE
    head = await newest(rpc)
    assert {mined.attempt.wallet for mined in await lanes.poll(head)} == {TWO, THREE}
    partial.deaf_for = ""
    assert len(await lanes.poll(head)) == 3


async def test_what_a_wallet_has_in_flight_is_followed_when_it_left_the_config(
    lanes: Lanes,
    rpc: HttpRpc,
    node: Anvil,
    journal: Journal,
    partial: Partial,
    moody: list[Moody],
) -> None:
    attempt = await send(lanes, rpc, "1")
    rest = [one for one in moody if one.address != attempt.wallet]
    again = make_lanes(partial, journal, rest)
    await again.recover()
    await again.poll(await newest(rpc))
    assert attempt.wallet not in again.wallets
    (found,) = again.open_attempts
    assert found.id == attempt.id
    for _ in range(9):
        node.rpc("evm_mine")
    head = await newest(rpc)
    (mined,) = await again.poll(head)
    assert again.overdue(head) == []
    await again.close([Settled(mined.attempt, Outcome.WON, "", mined.receipt, 0, 0, 0)])
    assert again.open_attempts == ()
