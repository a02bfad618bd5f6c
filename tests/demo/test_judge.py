"""The judge on a chain that the test mines by hand, with prices that the test publishes."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import astuple, dataclass, replace

import pytest
from coincurve import PrivateKey

from keeper.demo.contract import PriceSigner, SignedPrice, address_of
from keeper.demo.deploy import Deployment, deploy
from keeper.demo.jsonrpc import NodeRpc
from keeper.demo.judge import Case, Judge
from keeper.demo.population import SeedAccount
from keeper.demo.processes import DemoError
from keeper.demo.publisher import PriceRecord, Published, newest_first_pairs
from keeper.demo.terms import FEED_BTC, FEED_ETH, UPDATE_FEE_WEI
from keeper.margin.model import Account, Position
from keeper.units import WAD
from tests.nodes import Anvil, running_anvil

GAS = 3_000_000
BTC, ETH = 50_000, 3_000
BOTH, LONG, SAFE = 1, 2, 3  # account ids
JUDGED_S_MAX = 20.0


def long(cash: int, **sizes: int) -> SeedAccount:
    """A long account; sizes in thousandths of the base asset."""
    entry = {"BTC": BTC * WAD, "ETH": ETH * WAD}
    positions = {
        f"{name}-PERP": Position(size * WAD // 1000, entry[name]) for name, size in sizes.items()
    }
    return SeedAccount(trader=False, account=Account(cash * WAD, {}, positions))


POPULATION = (
    long(16_000, BTC=1000, ETH=16_000),  # sinks only when both fall by 15 %
    long(6_500, BTC=1000),  # sinks when BTC falls by 12 %
    long(60_000, BTC=1000),
)


@dataclass
class Rig:
    rpc: NodeRpc
    place: Deployment
    signer: PriceSigner
    record: PriceRecord
    judge: Judge
    wallet: str
    last_ms: int = 0

    def sign(self, feed: int, usd: int) -> SignedPrice:
        self.last_ms = max(time.time_ns() // 1_000_000, self.last_ms + 1)
        return self.signer.sign(feed, usd * WAD, self.last_ms)

    def publish(self, btc: int, eth: int = ETH) -> tuple[SignedPrice, ...]:
        prices = (self.sign(FEED_BTC, btc), self.sign(FEED_ETH, eth))
        for price in prices:
            published = Published(price, price.published_ms)
            self.record.add(published)
            self.record.acknowledge(published, price.published_ms)
        return prices

    async def liquidate(self, account: int, updates: Sequence[SignedPrice] = ()) -> None:
        """Send it; it is included with the next block."""
        structs = [astuple(update) for update in updates]
        data = self.place.market.data("liquidate_with_prices", account, structs)
        tx = {"from": self.wallet, "to": self.place.address, "data": data, "gas": hex(GAS)}
        fee = hex(UPDATE_FEE_WEI * len(updates))
        await self.rpc.call("eth_sendTransaction", {**tx, "value": fee})

    async def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            await self.rpc.call("evm_mine")
            head = int(await self.rpc.call("eth_blockNumber"), 16)
            async with asyncio.timeout(JUDGED_S_MAX):
                await self.judge.caught_up(head)

    @property
    def wrong(self) -> list[int]:
        return [one.account for one in self.judge.findings.wrong]


@pytest.fixture
def node() -> Iterator[Anvil]:
    with running_anvil() as node:
        yield node


@pytest.fixture
async def rig(node: Anvil) -> AsyncIterator[Rig]:
    rpc = NodeRpc(node.url)
    oracle = PrivateKey()
    place = await deploy(rpc, address_of(oracle), POPULATION, seed=1)
    await rpc.call("evm_setAutomine", *[False])
    wallet = (await rpc.call("eth_accounts"))[1]
    record = PriceRecord()
    ids = range(1, len(POPULATION) + 1)
    case = Case(place.market, place.address, ids, wallet)
    judge = Judge(rpc, node.ws_url, case, record)
    signer = PriceSigner(oracle, place.chain_id, place.address)
    rig = Rig(rpc, place, signer, record, judge, wallet)
    rig.publish(BTC)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(judge.run(), name="judge")
        async with asyncio.timeout(JUDGED_S_MAX):
            await judge.caught_up(place.block)
        yield rig
        task.cancel()
    await rpc.close()


async def test_at_the_start_nobody_is_liquidatable(rig: Rig) -> None:
    await rig.mine(3)
    assert rig.judge.verdicts.pending == set()


async def test_liquidated_in_the_block_its_price_arrived_is_right_and_not_late(rig: Rig) -> None:
    await rig.liquidate(LONG, rig.publish(43_800))
    await rig.mine(2)
    verdicts, findings = rig.judge.verdicts, rig.judge.findings
    assert (verdicts.liquidatable, verdicts.late, rig.wrong) == (set(), {0: 1}, [])
    (event,) = findings.liquidations
    assert (event.account, event.liquidator, event.full) == (LONG, rig.wallet, True)
    assert event.closed_notional == 43_800 * WAD
    assert event.reward == 219 * WAD
    assert (findings.transactions, findings.reverted) == (1, 0)
    assert findings.gas_wei > 0


async def test_liquidated_after_one_true_block_is_in_time(rig: Rig) -> None:
    prices = rig.publish(43_800)
    await rig.mine()
    assert rig.judge.verdicts.pending == {LONG}
    await rig.liquidate(LONG, prices)
    await rig.mine(2)
    assert (rig.judge.verdicts.liquidatable, rig.judge.verdicts.late) == ({LONG}, {1: 1})
    assert rig.judge.verdicts.missed == set()


async def test_late_is_counted_and_not_missed(rig: Rig) -> None:
    prices = rig.publish(43_800)
    await rig.mine(3)
    await rig.liquidate(LONG, prices)
    await rig.mine(2)
    verdicts = rig.judge.verdicts
    assert (verdicts.liquidatable, verdicts.missed, verdicts.late) == ({LONG}, set(), {3: 1})


async def test_never_liquidated_is_missed_and_standing(rig: Rig) -> None:
    rig.publish(43_800)
    await rig.mine(2)
    verdicts = rig.judge.verdicts
    assert (verdicts.missed, verdicts.standing, verdicts.cured) == ({LONG}, {LONG}, set())


async def test_cured_by_the_price_after_two_blocks_is_missed(rig: Rig) -> None:
    rig.publish(43_800)
    await rig.mine(2)
    rig.publish(BTC)
    await rig.mine(2)
    verdicts = rig.judge.verdicts
    assert (verdicts.missed, verdicts.standing, verdicts.cured) == ({LONG}, set(), {LONG})
    await rig.liquidate(LONG, rig.publish(43_800))
    await rig.mine()
    assert (verdicts.missed, verdicts.escaped, verdicts.late) == (set(), 1, {0: 1})


async def test_a_price_that_was_never_published_makes_it_wrong(rig: Rig) -> None:
    await rig.liquidate(LONG, [rig.sign(FEED_BTC, 43_800), rig.sign(FEED_ETH, ETH)])
    await rig.mine()
    assert rig.wrong == [LONG]


async def test_a_price_published_only_after_the_block_makes_it_wrong(rig: Rig) -> None:
    early = [rig.sign(FEED_BTC, 43_800), rig.sign(FEED_ETH, ETH)]
    await rig.liquidate(LONG, early)
    await rig.rpc.call("evm_mine")
    await asyncio.sleep(0.1)  # the next millisecond would do
    rig.publish(43_800)
    await rig.mine()
    assert rig.wrong == [LONG]


async def test_an_older_published_price_makes_it_right(rig: Rig) -> None:
    low = rig.publish(43_800)
    rig.publish(BTC)
    await rig.liquidate(LONG, low)
    await rig.mine()
    assert (rig.wrong, rig.judge.verdicts.late) == ([], {0: 1})


async def test_prices_of_two_ticks_may_be_combined(rig: Rig) -> None:
    low_btc, _ = rig.publish(42_000, ETH)
    _, low_eth = rig.publish(BTC, 2_520)
    await rig.mine()
    assert BOTH not in rig.judge.verdicts.pending
    await rig.liquidate(BOTH, [low_btc, low_eth])
    await rig.mine()
    assert rig.wrong == []
    assert [one.account for one in rig.judge.findings.liquidations] == [BOTH]


async def test_the_stored_price_makes_it_right_whatever_was_published_since(rig: Rig) -> None:
    await rig.liquidate(BOTH, rig.publish(42_000, 2_520))
    await rig.mine()
    rig.publish(BTC)
    await rig.liquidate(LONG)
    await rig.mine()
    assert [one.account for one in rig.judge.findings.liquidations] == [BOTH, LONG]
    assert rig.wrong == []


async def test_a_healthy_account_reverts_and_is_counted(rig: Rig) -> None:
    await rig.liquidate(SAFE, rig.publish(43_800))
    await rig.mine()
    findings = rig.judge.findings
    assert (findings.transactions, findings.reverted, findings.liquidations) == (1, 1, [])


async def test_blocks_mined_while_nobody_listened_are_caught_up_with(rig: Rig) -> None:
    deaf = Judge(rig.rpc, "", rig.judge._case, rig.record)
    numbers = []
    for _ in range(2):
        latest = await rig.rpc.call("eth_getBlockByNumber", "latest", *[False])
        await deaf._announce(latest, 10**15)
        numbers.append(int(latest["number"], 16))
        await rig.mine(4)
    first, last = numbers
    assert [block.number for block in deaf._announced] == list(range(first, last + 1))
    for block in deaf._announced[1:-1]:
        assert block.seen_ms == block.timestamp_s * 1000 + 999  # not when we heard of it


async def test_a_reorganised_chain_is_not_judged(rig: Rig) -> None:
    await rig.mine()
    judged = rig.judge.judged
    assert judged is not None
    with pytest.raises(DemoError, match="reorganised"):
        rig.judge._append(replace(judged, number=judged.number + 1, parent_hash="0x00"))


def test_pairs_come_newest_first_and_each_choice_once() -> None:
    key = PriceSigner(PrivateKey(), 1, "0x" + 40 * "0")
    left = [key.sign(0, WAD, at) for at in (3, 2)]
    right = [key.sign(1, WAD, at) for at in (30, 20, 10)]
    pairs = newest_first_pairs(left, right)
    assert pairs[0] == (left[0], right[0])
    assert pairs[-1] == ()
    assert len(pairs) == len(set(pairs)) == 3 * 4
