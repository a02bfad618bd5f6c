"""What seemed to be over and was not, on a real node and a real journal."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.journal import Journal
from keeper.chain.lanes import Lanes
from keeper.chain.orphans import GIVEN_UP_MS_MAX
from keeper.chain.rpc import HttpRpc
from keeper.decide.economics import Fee
from keeper.errors import TransientRpcError
from keeper.facts import Attempt, Head, Mined, NotSent, Outcome, Receipt, Settled
from keeper.units import GWEI
from tests.chain.conftest import DEV_ADDRESS
from tests.chain.test_lane import (
    WALLET,
    MakeLane,
    journal,
    lane_of,
    newest,
    pending,
    plan,
    received,
    start,
    submit,
)
from tests.nodes import Anvil

__all__ = ["journal", "lane_of"]  # fixtures

REWARD_WEI = 5 * 10**16


async def won(lane: Lanes, mined: Mined) -> Receipt:
    """Close an attempt as settlement does."""
    receipt = mined.receipt
    assert receipt is not None
    done = Settled(mined.attempt, Outcome.WON, "", receipt, 9, REWARD_WEI, receipt.cost_wei)
    await lane.close([done])
    return receipt


async def settled(lane: Lanes, rpc: HttpRpc, node: Anvil) -> tuple[Attempt, Receipt]:
    """Open an attempt and see it settled by the next block."""
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    receipt = await won(lane, mined)
    assert lane.open_attempts == ()
    return attempt, receipt


async def reorged(node: Anvil, rpc: HttpRpc, depth: int) -> Head:
    """Replace the newest blocks by empty ones; their transactions are gone."""
    node.rpc("anvil_reorg", depth, [])
    node.rpc("evm_mine")
    return await newest(rpc)


def happened(path: Path) -> list[tuple[str, Any]]:
    with sqlite3.connect(path) as db:
        return db.execute("SELECT event, facts FROM history ORDER BY seq").fetchall()


def events(path: Path) -> list[str]:
    return [event for event, _ in happened(path)]


SETTLED = ["planned", "signed", "broadcast", "included", "settled"]


async def test_a_transaction_that_comes_back_in_another_block_is_settled_anew(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane, tmp_path: Path
) -> None:
    lane = lane_of(journal)
    attempt, before = await settled(lane, rpc, node)
    first_profit = await journal.profit_wei()
    assert first_profit == {"demo": REWARD_WEI - before.cost_wei}
    head = await reorged(node, rpc, 1)
    assert received(node) == 0
    assert pending(node) == {}, "the node does not send it again"

    (again,) = await lane.reopen(before.block_number, head)

    assert (again.id, again.transactions) == (attempt.id, attempt.transactions)
    assert lane.attempt_of(attempt.plan.venue, attempt.plan.account) == again
    assert await journal.profit_wei() == {}
    assert await journal.past(0) == []
    assert [one.id for one in await journal.open_attempts()] == [attempt.id]
    assert await lane.poll(head) == []
    assert pending(node) == {0: attempt.transactions[0].hash}, "so we do"
    assert lane.overdue(head) == [], "and give it the usual time"
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    after = await won(lane, mined)
    assert after.tx_hash == before.tx_hash
    assert after.block_hash != before.block_hash
    assert await journal.profit_wei() == {"demo": REWARD_WEI - after.cost_wei}
    assert events(tmp_path / "journal.sqlite") == [*SETTLED, "orphaned", "included", "settled"]
    _, facts = happened(tmp_path / "journal.sqlite")[5]
    assert f'"reward_wei": "{REWARD_WEI}"' in facts
    assert '"was": "won"' in facts
    assert (await lane.reopen(0, await newest(rpc))) == [], "its block stands"


async def test_a_transaction_that_never_comes_back_expires_and_earned_nothing(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane, tmp_path: Path
) -> None:
    lane = lane_of(journal)
    attempt, _ = await settled(lane, rpc, node)
    node.rpc("anvil_reorg", 1, [])
    node.rpc("anvil_impersonateAccount", WALLET)
    node.rpc("eth_sendTransaction", {"from": WALLET, "to": DEV_ADDRESS, "value": "0x1"})
    node.rpc("evm_mine")
    head = await newest(rpc)
    (again,) = await lane.reopen(0, head)
    assert again.id == attempt.id
    assert await lane.poll(head) == [], "an endpoint may know the count before the receipt"
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert (mined.attempt.id, mined.receipt) == (attempt.id, None)
    await lane.close([Settled(mined.attempt, Outcome.EXPIRED, "", None, 0, 0, 0)])
    assert await journal.profit_wei() == {"demo": 0}
    assert await journal.open_attempts() == []
    assert events(tmp_path / "journal.sqlite") == [*SETTLED, "orphaned", "settled"]
    assert (await submit(lane, rpc, plan("2"))).nonce == 1


async def given_up(lane: Lanes, rpc: HttpRpc, node: Anvil) -> Attempt:
    """Open an attempt whose nonce another transaction of the wallet takes."""
    await start(lane, rpc)
    attempt = await submit(lane, rpc, plan())
    node.rpc("anvil_dropTransaction", attempt.transactions[0].hash)
    node.rpc("anvil_impersonateAccount", WALLET)
    node.rpc("eth_sendTransaction", {"from": WALLET, "to": DEV_ADDRESS, "value": "0x1"})
    node.rpc("evm_mine")
    assert await lane.poll(await newest(rpc)) == []
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert mined.receipt is None
    await lane.close([Settled(mined.attempt, Outcome.EXPIRED, "", None, 0, 0, 0)])
    return attempt


def sent_by_others(node: Anvil, attempt: Attempt) -> None:
    """Have its transaction in the next block: a relay or another node still had it."""
    node.rpc("eth_sendRawTransaction", "0x" + attempt.transactions[-1].raw.hex())
    node.rpc("evm_mine")


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_expired_and_is_included_after_all_is_settled_with_its_money(
    rpc: HttpRpc,
    node: Anvil,
    journal: Journal,
    lane_of: MakeLane,
    tmp_path: Path,
    restarted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    lane = lane_of(journal)
    attempt = await given_up(lane, rpc, node)
    assert await lane.reappeared(await newest(rpc)) == []
    node.rpc("anvil_reorg", 2, [])
    sent_by_others(node, attempt)
    if restarted:
        lane = lane_of(journal)
        assert await lane.recover() == []
    head = await newest(rpc)
    (again,) = await lane.reappeared(head)
    assert (again.id, again.transactions) == (attempt.id, attempt.transactions)
    (mined,) = await lane.poll(head)
    receipt = await won(lane, mined)
    assert receipt.tx_hash == attempt.transactions[0].hash
    assert await journal.profit_wei() == {"demo": REWARD_WEI - receipt.cost_wei}
    assert await lane.reappeared(head) == [], "once"
    ended = ["settled", "reappeared", "included", "settled"]
    assert events(tmp_path / "journal.sqlite") == ["planned", "signed", "broadcast", *ended]


async def test_what_every_endpoint_refused_and_is_included_after_all_is_settled_too(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    await start(lane, rpc)
    node.rpc("anvil_setBalance", WALLET, hex(1000))  # behind the lane's back
    head = await newest(rpc)
    assert await lane.submit(plan(), WALLET, Fee(2 * GWEI, GWEI), head) is NotSent.DROPPED
    node.rpc("anvil_setBalance", WALLET, hex(10**18))
    await lane.poll(head)
    other = await submit(lane, rpc, plan("2"))
    (refused,) = await journal.given_up_since(0)
    assert other.nonce == refused.nonce == 0
    node.rpc("anvil_dropTransaction", other.transactions[0].hash)
    sent_by_others(node, refused)
    head = await newest(rpc)
    (again,) = await lane.reappeared(head)
    (mined,) = await lane.poll(head)
    assert mined.attempt.id == again.id == refused.id
    receipt = await won(lane, mined)
    assert await journal.profit_wei() == {"demo": REWARD_WEI - receipt.cost_wei}
    node.rpc("evm_mine")
    (mined,) = await lane.poll(await newest(rpc))
    assert (mined.attempt.id, mined.receipt) == (other.id, None), "it is the one that expired"


async def test_what_was_given_up_long_ago_is_not_looked_for(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    attempt = await given_up(lane, rpc, node)
    node.rpc("anvil_reorg", 2, [])
    sent_by_others(node, attempt)
    with sqlite3.connect(journal._path) as db:
        db.execute("UPDATE attempts SET settled_ms = settled_ms - ?", (GIVEN_UP_MS_MAX + 1,))
    assert await lane.reappeared(await newest(rpc)) == []


async def test_a_start_finds_what_was_orphaned_meanwhile(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    attempt, _ = await settled(lane_of(journal), rpc, node)
    head = await reorged(node, rpc, 1)
    lane = lane_of(journal)
    assert await lane.recover() == []
    assert [one.id for one in await lane.reopen(0, head)] == [attempt.id]
    assert await lane.poll(head) == []
    assert pending(node) == {0: attempt.transactions[0].hash}
    assert (await submit(lane, rpc, plan("2"))).nonce == 1, "its nonce is not given out again"
    node.rpc("evm_mine")
    assert len(await lane.poll(await newest(rpc))) == 2


async def test_what_a_wallet_had_settled_is_followed_when_it_left_the_config(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    attempt, _ = await settled(lane_of(journal), rpc, node)
    head = await reorged(node, rpc, 1)
    watching = lane_of(journal, key=None)
    await watching.recover()
    assert [one.id for one in await watching.reopen(0, head)] == [attempt.id]
    assert watching.open_attempts


async def test_an_account_may_have_a_newer_attempt_by_then(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    first, _ = await settled(lane, rpc, node)
    second = await submit(lane, rpc, plan())
    head = await reorged(node, rpc, 1)
    await lane.reopen(0, head)
    assert {one.id for one in lane.open_attempts} == {first.id, second.id}
    await lane.poll(head)
    node.rpc("evm_mine")
    head = await newest(rpc)
    (mined,) = await lane.poll(head)
    assert mined.attempt.id == first.id
    await won(lane, mined)
    assert [one.id for one in lane.open_attempts] == [second.id]
    assert [one.id for one in lane.overdue(head)] == [second.id], "the node has dropped it"


@pytest.mark.parametrize("case", ["above", "too deep"])
async def test_what_was_not_replaced_stays_settled(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane, case: str
) -> None:
    lane = lane_of(journal)
    attempt, receipt = await settled(lane, rpc, node)
    for _ in range(3 if case == "above" else lane._rules.reorg_depth_max):
        node.rpc("evm_mine")
    if case == "above":
        head = await reorged(node, rpc, 2)
    else:  # as deep as no reorganisation is followed back
        head = await newest(rpc)
        with sqlite3.connect(journal._path) as db:
            db.execute("UPDATE attempts SET included_block = included_block - 1")
    assert await lane.reopen(0, head) == []
    assert await journal.profit_wei() == {"demo": REWARD_WEI - receipt.cost_wei}
    assert lane.attempt_of(attempt.plan.venue, attempt.plan.account) is None


async def test_an_endpoint_that_lags_is_not_believed(
    rpc: HttpRpc, node: Anvil, journal: Journal, lane_of: MakeLane
) -> None:
    lane = lane_of(journal)
    await settled(lane, rpc, node)
    head = await newest(rpc)
    unknown = Head(head.number + 1, "0x" + "99" * 32, head.hash, head.timestamp_s + 1, GWEI, 0)
    with pytest.raises(TransientRpcError, match="lags"):
        await lane.reopen(0, unknown)
    assert await journal.open_attempts() == []
