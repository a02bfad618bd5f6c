"""Lanes on a real node that mines only when told."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from keeper.chain.broadcast import Broadcast, BroadcastRules
from keeper.chain.fees import FeeRules
from keeper.chain.heads import head_from_json
from keeper.chain.journal import Journal
from keeper.chain.lane_rules import LaneParts, LaneRules
from keeper.chain.lanes import Lanes
from keeper.chain.rpc import HttpRpc
from keeper.chain.signer import KeySigner, Wallet
from keeper.decide.economics import Economics, Fee, Spend
from keeper.errors import RpcError, RpcFault, TransientRpcError
from keeper.facts import (
    OWN,
    AccountId,
    Attempt,
    Call,
    Head,
    Mined,
    NotSent,
    Outcome,
    Plan,
    Settled,
    TxKind,
    VenueId,
)
from keeper.jobs import Job
from keeper.units import GWEI
from tests.chain.conftest import CHAIN_ID, DEV_ADDRESS, endpoints_of
from tests.fakes import CountingTelemetry, ManualClock
from tests.nodes import Anvil

KEY = "0x" + "42" * 32
WALLET = KeySigner(KEY).address
TARGET = "0x" + "77" * 20
RULES = LaneRules(
    chain_id=CHAIN_ID,
    confirmations=1,
    replace_after_blocks=2,
    cost_wei_max=10**17,
    fees=FeeRules(
        priority_fee_wei=GWEI,
        base_fee_headroom_ppm=2_000_000,
        max_fee_per_gas_wei_max=500 * GWEI,
        replacement_bump_ppm=125_000,
    ),
)
MakeLane = Callable[..., Lanes]


def plan(account: str = "1", value_wei: int = 7) -> Plan:
    return Plan(
        venue=VenueId("demo"),
        account=AccountId(account),
        call=Call(TARGET, b"", value_wei),
        gas_limit=21_000,
        cost_wei_max=10**15,
        expected=Economics(10**16, 10**14, 0, 0, 900_000),
        tick_ns=1,
        decided_ns=2,
        simulated_at=1,
    )


def spend(worth_wei: int = 10**17, gas_limit: int = 21_000, value_wei: int = 7) -> Spend:
    return Spend(worth_wei, 21_000, gas_limit, value_wei)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite", CHAIN_ID) as opened:
        yield opened


@pytest.fixture
async def lane_of(
    rpc: HttpRpc, node: Anvil, telemetry: CountingTelemetry
) -> AsyncIterator[MakeLane]:
    node.rpc("anvil_setBalance", WALLET, hex(10**18))
    async with Broadcast(rpc.endpoints, BroadcastRules(2), telemetry) as broadcast:

        def make(
            journal: Journal, *, via: Broadcast = broadcast, key: str | None = KEY, floor: int = 0
        ) -> Lanes:
            signers = [KeySigner(key)] if key else []
            wallets = [
                Wallet("main", signer.address, signer, balance_wei_min=floor) for signer in signers
            ]
            parts = LaneParts(rpc, via, journal, ManualClock(), telemetry)
            return Lanes(wallets, {}, RULES, parts)

        yield make


async def newest(rpc: HttpRpc) -> Head:
    return head_from_json(await rpc.call("eth_getBlockByNumber", ["latest", False]), 0)


async def start(lane: Lanes, rpc: HttpRpc) -> Sequence[Mined]:
    """Read the journal and look at the chain, as the settle loop does first."""
    await lane.recover()
    return await lane.poll(await newest(rpc))


async def submit(lane: Lanes, rpc: HttpRpc, some: Plan) -> Attempt:
    head = await newest(rpc)
    fee = lane.first_fee(some.venue, head, spend())
    assert isinstance(fee, Fee)
    attempt = await lane.submit(some, WALLET, fee, head)
    assert isinstance(attempt, Attempt)
    return attempt


def pending(node: Anvil) -> dict[int, str]:
    """Return nonce → hash of what the node would mine for our wallet."""
    pools = node.rpc("txpool_content")
    found = {}
    for pool in ("pending", "queued"):
        for sender, transactions in pools[pool].items():
            if sender.lower() == WALLET.lower():
                found.update({int(t["nonce"], 16): t["hash"] for t in transactions.values()})
    return found


def received(node: Anvil) -> int:
    return int(node.rpc("eth_getBalance", TARGET, "latest"), 16)


class Deaf(Broadcast):
    """Swallows what is sent: did it arrive or not?"""

    deaf = True

    async def send(self, attempt: Attempt, head: Head) -> RpcError | None:
        if self.deaf:
            return TransientRpcError(RpcFault.UNREACHABLE, "connection lost")
        return await super().send(attempt, head)


@pytest.fixture
async def deaf(rpc: HttpRpc, telemetry: CountingTelemetry) -> AsyncIterator[Deaf]:
    async with Deaf(rpc.endpoints, BroadcastRules(1), telemetry) as broadcast:
        yield broadcast


async def test_from_plan_to_receipt(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    assert lane.wallet_for(VenueId("demo")) is None, "nothing before the journal was read"
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    assert pending(node) == {0: attempt.transactions[0].hash}
    assert await lane.poll(await newest(rpc)) == []
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert mined.receipt is not None
    assert mined.receipt.success
    assert mined.receipt.cost_wei == mined.receipt.gas_price_wei * 21_000
    await lane.close([Settled(mined.attempt, Outcome.WON, "", mined.receipt, 5, 6, 7)])
    assert lane.open_attempts == ()
    assert await journal.open_attempts() == []
    assert await journal.profit_wei() == {"demo": -1}
    assert received(node) == 7


async def test_raw_bytes_are_on_disk_before_they_are_broadcast(
    rpc: HttpRpc, node: Anvil, tmp_path: Path, lane_of: MakeLane, deaf: Deaf
) -> None:
    """A keeper that dies between journal and broadcast sends exactly one transaction."""
    async with Journal(tmp_path / "j", CHAIN_ID) as journal:
        lane = lane_of(journal, via=deaf)
        await start(lane, rpc)
        attempt = await submit(lane, rpc, plan())
        assert pending(node) == {}
    async with Journal(tmp_path / "j", CHAIN_ID) as journal:
        (found,) = await journal.open_attempts()
        assert found.transactions == attempt.transactions
        lane = lane_of(journal)
        assert len(await lane.recover()) == 1
        head = await newest(rpc)
        assert await lane.poll(head) == []
        assert pending(node) == {}, "not sent again before it was simulated again"
        assert lane.overdue(head) == [found]
        fee = lane.replacement_fee(found, head, spend())
        assert fee is not None
        await lane.replace(found, plan(), fee, head)
        assert list(pending(node)) == [0]
        node.rpc("evm_mine")
        (mined,) = await lane.poll(await newest(rpc))
        assert mined.receipt is not None
        assert lane.overdue(await newest(rpc)) == []
    assert received(node) == 7


async def test_a_restart_after_the_broadcast_finds_what_was_mined_meanwhile(
    rpc: HttpRpc, node: Anvil, tmp_path: Path, lane_of: MakeLane
) -> None:
    async with Journal(tmp_path / "j", CHAIN_ID) as journal:
        lane = lane_of(journal)
        await start(lane, rpc)
        await submit(lane, rpc, plan())
    node.rpc("evm_mine")
    async with Journal(tmp_path / "j", CHAIN_ID) as journal:
        lane = lane_of(journal)
        (mined,) = await start(lane, rpc)
        assert mined.receipt is not None
        second = await submit(lane, rpc, plan("2"))
        assert second.nonce == 1
    assert received(node) == 7


async def test_a_broadcast_without_an_answer_is_repeated_byte_for_byte(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane, deaf: Deaf
) -> None:
    lane = lane_of(journal, via=deaf)
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    assert attempt.sent_ms is None
    deaf.deaf = False
    await lane.poll(await newest(rpc))
    assert pending(node) == {0: attempt.transactions[0].hash}


async def test_overdue_is_replaced_at_the_same_nonce_for_an_eighth_more(
    rpc: HttpRpc,
    node: Anvil,
    journal: Journal,
    lane_of: MakeLane,
    telemetry: CountingTelemetry,
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    node.rpc("anvil_dropTransaction", attempt.transactions[0].hash)
    node.rpc("evm_mine")
    assert lane.overdue(await newest(rpc)) == []
    node.rpc("evm_mine")
    head = await newest(rpc)
    assert lane.overdue(head) == [lane.attempt_of(VenueId("demo"), AccountId("1"))]
    fee = lane.replacement_fee(attempt, head, spend())
    assert fee is not None
    assert fee.max_fee_wei * 8 >= attempt.transactions[0].max_fee_wei * 9
    assert fee.priority_fee_wei * 8 >= attempt.transactions[0].priority_fee_wei * 9
    cheaper = replace(plan(value_wei=9), cost_wei_max=1)
    await lane.replace(attempt, cheaper, fee, head)
    (open_now,) = lane.open_attempts
    assert open_now.plan.cost_wei_max == plan().cost_wei_max, "the first may still be included"
    assert telemetry.counts["keeper_replacements_total", "replacement"] == 1
    assert lane.overdue(head) == [], "the newest transaction has its own time to wait"
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert mined.transaction is not None
    assert mined.transaction.kind is TxKind.REPLACEMENT
    assert mined.attempt.nonce == 0
    assert received(node) == 9


@pytest.mark.parametrize("restarted", [False, True])
async def test_each_replacement_bids_an_eighth_more_than_the_last_by_whomever(
    rpc: HttpRpc,
    node: Anvil,
    journal: Journal,
    lane_of: MakeLane,
    restarted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    await submit(lane, rpc, plan())
    for number in (1, 2, 3):
        if restarted:
            lane = lane_of(journal)
            await lane.recover()
        head = await newest(rpc)
        await lane.poll(head)
        (attempt,) = lane.open_attempts
        fee = lane.replacement_fee(attempt, head, spend())
        assert fee is not None
        assert len(attempt.transactions) == number
        for before in attempt.transactions:
            assert fee.max_fee_wei * 8 >= before.max_fee_wei * 9
            assert fee.priority_fee_wei * 8 >= before.priority_fee_wei * 9
        await lane.replace(attempt, plan(), fee, head)
        (attempt,) = lane.open_attempts
        assert pending(node) == {0: attempt.transactions[-1].hash}, "the node takes it"


async def test_a_replacement_stays_within_the_cost_cap(
    rpc: HttpRpc, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    head = await newest(rpc)
    before = attempt.transactions[0].max_fee_wei
    gas_limit = RULES.cost_wei_max // before
    assert lane.replacement_fee(attempt, head, spend(gas_limit=gas_limit)) is None
    assert lane.replacement_fee(attempt, head, spend(value_wei=RULES.cost_wei_max)) is None


async def test_a_replacement_leaves_the_price_of_a_cancel_of_what_it_is_worth(
    rpc: HttpRpc, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    head = await newest(rpc)
    fee = lane.replacement_fee(attempt, head, spend())
    assert fee is not None
    both = 21_000 + 21_000 * 9 // 8  # its own gas, and a cancel's at an eighth more
    worth_wei = both * fee.max_fee_wei + 7
    assert lane.replacement_fee(attempt, head, spend(worth_wei=worth_wei)) == fee
    assert lane.replacement_fee(attempt, head, spend(worth_wei=worth_wei - both)) is None


async def test_whichever_transaction_of_a_nonce_is_mined_settles_the_attempt(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane, deaf: Deaf
) -> None:
    lane = lane_of(journal, via=deaf)
    deaf.deaf = False
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    deaf.deaf = True
    head = await newest(rpc)
    fee = lane.replacement_fee(attempt, head, spend())
    assert fee is not None
    await lane.replace(attempt, plan(), fee, head)  # never arrives: the first one is mined
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert mined.transaction is not None
    assert mined.transaction.kind is TxKind.FIRST


async def test_a_cancel_takes_the_nonce(
    rpc: HttpRpc,
    node: Anvil,
    journal: Journal,
    lane_of: MakeLane,
    telemetry: CountingTelemetry,
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    assert not await lane.cancel(attempt, await newest(rpc), 21_000 * 2 * GWEI), "no eighth more"
    assert await lane.cancel(attempt, await newest(rpc), RULES.cost_wei_max)
    assert telemetry.counts["keeper_replacements_total", "cancel"] == 1
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert mined.transaction is not None
    assert mined.transaction.kind is TxKind.CANCEL
    assert received(node) == 0


async def test_a_nonce_used_by_somebody_else_expires_the_attempt(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane, deaf: Deaf
) -> None:
    lane = lane_of(journal, via=deaf)
    await start(lane, rpc)
    await submit(lane, rpc, plan())
    node.rpc("anvil_impersonateAccount", WALLET)
    node.rpc("eth_sendTransaction", {"from": WALLET, "to": DEV_ADDRESS, "value": "0x1"})
    node.rpc("evm_mine")
    assert await lane.poll(await newest(rpc)) == [], "the receipt may only be late"
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert mined.receipt is None
    deaf.deaf = False
    assert (await submit(lane, rpc, plan("2"))).nonce == 1


async def test_confirmations_hold_a_settlement_back_and_a_reorg_reopens_it(
    rpc: HttpRpc,
    node: Anvil,
    journal: Journal,
    lane_of: MakeLane,
    telemetry: CountingTelemetry,
) -> None:
    lane = lane_of(journal)
    lane.lanes[0]._inclusion._confirmations = 3
    await start(lane, rpc)
    await submit(lane, rpc, plan())
    included = ("keeper_stage_seconds", "demo", "sent_to_included")
    node.rpc("evm_mine")
    assert included not in telemetry.seconds
    assert await lane.poll(await newest(rpc)) == []
    assert telemetry.seconds[included] == [0.0], "inclusion is measured, not its confirmation"
    node.rpc("evm_mine")
    assert await lane.poll(await newest(rpc)) == []
    assert len(telemetry.seconds[included]) == 1
    node.rpc("anvil_reorg", 2, [])
    node.rpc("evm_mine")
    assert await lane.poll(await newest(rpc)) == []
    node.rpc("evm_mine")
    assert lane.overdue(await newest(rpc)), "it is open again, and overdue"


async def test_an_account_has_one_open_attempt(
    rpc: HttpRpc, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    await submit(lane, rpc, plan())
    with pytest.raises(ValueError, match="has an open attempt"):
        await submit(lane, rpc, plan())


async def test_a_wallet_that_cannot_pay_parks_and_goes_on_when_funded(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    node.rpc("anvil_setBalance", WALLET, hex(15 * 10**14))
    lane = lane_of(journal)
    await start(lane, rpc)
    await submit(lane, rpc, plan("1"))
    head, fee = await newest(rpc), Fee(2 * GWEI, GWEI)
    assert await lane.submit(plan("2"), WALLET, fee, head) is NotSent.LANE_PARKED
    assert len(await journal.open_attempts()) == 1, "and nothing was signed for it"
    node.rpc("anvil_setBalance", WALLET, hex(10**18))
    await lane.poll(head)
    assert not lane.lanes[0].parked
    assert (await submit(lane, rpc, plan("2"))).nonce == 1


async def test_nothing_is_started_that_could_take_the_wallet_below_its_floor(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    floor = 3 * 10**17
    node.rpc("anvil_setBalance", WALLET, hex(floor + plan().cost_wei_max - 1))
    lane = lane_of(journal, floor=floor)
    await start(lane, rpc)
    head, fee = await newest(rpc), Fee(2 * GWEI, GWEI)
    assert lane.lanes[0].parked == "", "it is above its floor"
    assert await lane.submit(plan(), WALLET, fee, head) is NotSent.LANE_PARKED
    assert await journal.open_attempts() == []
    assert "fund it" in lane.lanes[0].parked, "it takes no more until it is funded"
    node.rpc("anvil_setBalance", WALLET, hex(floor + plan().cost_wei_max))
    await lane.poll(head)
    assert (await submit(lane, rpc, plan("1"))).nonce == 0
    assert await lane.submit(plan("2"), WALLET, fee, head) is NotSent.LANE_PARKED


async def test_a_lower_floor_frees_what_a_higher_one_parked(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    node.rpc("anvil_setBalance", WALLET, hex(plan().cost_wei_max))
    lane = lane_of(journal, floor=1)
    await start(lane, rpc)
    head = await newest(rpc)
    assert await lane.submit(plan(), WALLET, Fee(2 * GWEI, GWEI), head) is NotSent.LANE_PARKED
    lane.adopt(RULES, {"main": 0})
    assert (await submit(lane, rpc, plan())).nonce == 0


async def test_a_refusal_for_good_gives_the_nonce_back(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    node.rpc("anvil_setBalance", WALLET, hex(1000))  # behind the lane's back
    head = await newest(rpc)
    assert await lane.submit(plan(), WALLET, Fee(2 * GWEI, GWEI), head) is NotSent.DROPPED
    assert await journal.open_attempts() == []
    node.rpc("anvil_setBalance", WALLET, hex(10**18))
    await lane.poll(head)
    assert (await submit(lane, rpc, plan())).nonce == 0


async def test_a_gap_below_a_journaled_nonce_is_filled_at_the_start(
    rpc: HttpRpc, node: Anvil, tmp_path: Path, lane_of: MakeLane, deaf: Deaf
) -> None:
    """Nonce 0 was given out and lost with the process before it was journaled; 1 was sent."""
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(Journal(tmp_path / "j", CHAIN_ID))
        lane = lane_of(journal, via=deaf)
        await start(lane, rpc)
        assert lane.lanes[0]._nonces.take() == 0
        deaf.deaf = False
        await submit(lane, rpc, plan("1"))
    async with Journal(tmp_path / "j", CHAIN_ID) as journal:
        lane = lane_of(journal)
        await start(lane, rpc)
        head = await newest(rpc)
        await lane.fill_gaps(head, lambda *_: False)
        assert len(lane.open_attempts) == 1, "nobody pays for it"
        await lane.fill_gaps(head, lambda *_: True)
        filling = lane.open_attempts[-1]
        assert (filling.nonce, filling.plan.job, filling.plan.venue) == (0, Job.FILL, OWN)
        assert (await submit(lane, rpc, plan("2"))).nonce == 2
        node.rpc("evm_mine")
        assert len(await lane.poll(await newest(rpc))) == 3
    assert received(node) == 14, "what fills a gap moves nothing"


async def test_a_dry_run_sends_nothing(rpc: HttpRpc, journal: Journal, lane_of: MakeLane) -> None:
    lane = lane_of(journal, key=None)
    await start(lane, rpc)
    head = await newest(rpc)
    assert await lane.submit(plan(), WALLET, Fee(1, 1), head) is NotSent.NO_WALLET
    assert await lane.poll(head) == []


def test_a_key_never_shows() -> None:
    assert "42" * 8 not in repr(KeySigner(KEY))
    for wrong in ("0x" + "00" * 32, "0x1234", "zz" * 32, "0x" + "ff" * 32):
        with pytest.raises(ValueError, match="not a private key") as raised:
            KeySigner(wrong)
        assert wrong not in str(raised.value)


async def test_a_refusal_after_a_try_without_an_answer_keeps_the_nonce(
    rpc: HttpRpc,
    session: aiohttp.ClientSession,
    node: Anvil,
    journal: Journal,
    lane_of: MakeLane,
    telemetry: CountingTelemetry,
) -> None:
    """The first endpoint may have taken it before it went away; the second one refuses it."""
    endpoints = endpoints_of(session, telemetry, "http://127.0.0.1:9", node.url)
    async with Broadcast(endpoints, BroadcastRules(2), telemetry) as broadcast:
        lane = lane_of(journal, via=broadcast)
        await start(lane, rpc)
        node.rpc("anvil_setBalance", WALLET, hex(1000))
        head = await newest(rpc)
        attempt = await lane.submit(plan(), WALLET, Fee(2 * GWEI, GWEI), head)
    assert isinstance(attempt, Attempt)
    assert attempt.sent_ms is None
    assert len(await journal.open_attempts()) == 1


async def test_what_another_keeper_has_in_flight_is_waited_for_and_then_used_up(
    node: Anvil, rpc: HttpRpc, journal: Journal, lane_of: MakeLane, tmp_path: Path
) -> None:
    first = lane_of(journal)
    await start(first, rpc)
    theirs = await submit(first, rpc, plan("alice"))
    async with Journal(tmp_path / "other.sqlite", CHAIN_ID) as other:
        second = lane_of(other)
        await start(second, rpc)
        assert second.inherited == f"in flight and not ours: main: nonces {theirs.nonce}"
        assert second.sending_trouble == second.inherited
        assert second.wallet_for(VenueId("demo")) is None
        head = await newest(rpc)
        fee = second.first_fee(VenueId("demo"), head, spend())
        assert isinstance(fee, Fee)
        assert await second.submit(plan("bob"), WALLET, fee, head) is NotSent.LANE_PARKED
        await second.fill_gaps(head, lambda _plan, _fee: True)
        assert not list(second.open_attempts), "it waits first"
        late = replace(head, number=head.number + 2 * RULES.replace_after_blocks)
        await second.poll(late)
        await second.fill_gaps(late, lambda _plan, _fee: True)
        (filling,) = second.open_attempts
        assert (filling.nonce, filling.plan.job) == (theirs.nonce, Job.FILL)
        node.rpc("evm_mine")
        await second.poll(await newest(rpc))
        assert second.inherited == ""
        assert (await submit(second, rpc, plan("bob"))).nonce == theirs.nonce + 1
