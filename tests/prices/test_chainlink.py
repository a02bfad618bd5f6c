"""Chainlink feeds on a real node: proxies that pass on to aggregators."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from keeper.demo.artifact import compile_source
from keeper.facts import FeedId, Rejected, Tick
from keeper.prices.chainlink import ChainlinkSource, Settings, build
from keeper.units import WAD
from tests.chain.conftest import make_rpc
from tests.contracts import Contract
from tests.fakes import CountingTelemetry, ManualClock
from tests.nodes import Anvil, running_anvil
from tests.prices.mqtt_rig import S_MAX

ETH, BTC = FeedId("ETH/USD"), FeedId("BTC/USD")
SOURCE = Path(__file__).with_name("aggregator.vy")
NOW_S = 1_767_225_600
UNIT = 10**8


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with running_anvil() as node:
        yield node


class Feed(Contract):
    """A proxy in front of an aggregator of its own, both with 8 decimals."""

    def __init__(self, node: Anvil, decimals: int = 8) -> None:
        compiled = compile_source(SOURCE)
        super().__init__(node, compiled.abi, compiled.bytecode, decimals)
        self.below = Contract(node, compiled.abi, compiled.bytecode, decimals)
        self.send("point_to", self.below.address)

    def answer(self, answer: int, at_s: int = NOW_S) -> None:
        self.below.send("set_answer", answer, at_s)

    def exchange(self) -> None:
        """Put another aggregator behind the proxy."""
        compiled = compile_source(SOURCE)
        self.below = Contract(self.node, compiled.abi, compiled.bytecode, 8)
        self.send("point_to", self.below.address)


class Stand:
    """Two feeds and a source that follows them."""

    def __init__(self, node: Anvil, session: aiohttp.ClientSession) -> None:
        self.ether, self.bitcoin = Feed(node), Feed(node, decimals=18)
        self.clock = ManualClock()
        self.telemetry = CountingTelemetry()
        self.rpc = make_rpc(session, self.telemetry, node.url)
        feeds = {self.ether.address.upper().replace("0X", "0x"): ETH, self.bitcoin.address: BTC}
        settings = Settings(feeds=feeds, poll_ms=50, ask_ms=60_000)
        self.source: ChainlinkSource = build(
            settings, "link", [ETH, BTC], self.clock, self.telemetry, self.rpc
        )

    @contextlib.asynccontextmanager
    async def taking(self) -> AsyncIterator[AsyncIterator[Tick | Rejected]]:
        async def said() -> AsyncGenerator[Tick | Rejected, None]:
            async for item in ticks:
                if item is not None:
                    yield item

        async with (
            contextlib.aclosing(self.source.ticks()) as ticks,
            contextlib.aclosing(said()) as items,
            asyncio.timeout(S_MAX),
        ):
            yield items


@pytest.fixture
async def stand(chain: Anvil) -> AsyncIterator[Stand]:
    async with aiohttp.ClientSession() as session:
        yield Stand(chain, session)


def priced(item: Tick | Rejected) -> tuple[FeedId, float, int]:
    assert isinstance(item, Tick), item
    assert item.source == "link"
    return item.feed, item.price_wad / WAD, item.published_ms


async def test_the_latest_answers_at_the_start_and_every_update_after(stand: Stand) -> None:
    stand.ether.answer(2_000 * UNIT)
    stand.bitcoin.answer(60_000 * WAD, NOW_S - 7)
    async with stand.taking() as items:
        assert priced(await anext(items)) == (ETH, 2_000, NOW_S * 1000)
        assert priced(await anext(items)) == (BTC, 60_000, (NOW_S - 7) * 1000)
        stand.ether.answer(2_001 * UNIT, NOW_S + 1)
        stand.ether.answer(2_002 * UNIT, NOW_S + 2)
        assert priced(await anext(items)) == (ETH, 2_001, (NOW_S + 1) * 1000)
        assert priced(await anext(items)) == (ETH, 2_002, (NOW_S + 2) * 1000)
        stand.bitcoin.answer(-(10**18), NOW_S)
        negative = await anext(items)
        assert isinstance(negative, Tick)
        assert negative.price_wad == -WAD, "for the board to refuse"


async def test_an_aggregator_that_is_exchanged_is_found_when_asked_again(stand: Stand) -> None:
    stand.ether.answer(2_000 * UNIT)
    stand.bitcoin.answer(60_000 * WAD)
    async with stand.taking() as items:
        await anext(items)
        await anext(items)
        stand.ether.exchange()
        stand.ether.answer(2_010 * UNIT, NOW_S + 1)  # nobody listens to this one yet
        stand.bitcoin.answer(60_001 * WAD, NOW_S + 1)
        assert priced(await anext(items))[0] == BTC
        stand.clock.advance(60)
        assert priced(await anext(items)) == (ETH, 2_010, (NOW_S + 1) * 1000)
        stand.ether.answer(2_011 * UNIT, NOW_S + 2)
        assert priced(await anext(items)) == (ETH, 2_011, (NOW_S + 2) * 1000)


async def test_a_proxy_that_is_none_is_refused_and_the_others_go_on(stand: Stand) -> None:
    stand.bitcoin.answer(60_000 * WAD)
    feeds = {"0x" + "12" * 20: ETH, stand.bitcoin.address: BTC}
    stand.source = build(
        Settings(feeds=feeds, poll_ms=50),
        "link",
        [ETH, BTC],
        stand.clock,
        stand.telemetry,
        stand.rpc,
    )
    async with stand.taking() as items:
        refused = await anext(items)
        assert isinstance(refused, Rejected)
        assert (refused.feed, refused.reason) == (ETH, "malformed")
        assert priced(await anext(items))[0] == BTC
    said = await stand.source.check()
    assert said.startswith("1 of 2 proxies answered; ETH/USD refused (")


async def test_a_feed_without_an_answer_is_refused(stand: Stand) -> None:
    stand.ether.answer(2_000 * UNIT)
    async with stand.taking() as items:
        assert priced(await anext(items))[0] == ETH
        refused = await anext(items)
    assert isinstance(refused, Rejected)
    assert refused.detail == "18 decimals, updated at 0"


async def test_what_a_dead_node_missed_is_asked_for_when_it_is_back(stand: Stand) -> None:
    stand.ether.answer(2_000 * UNIT)
    stand.bitcoin.answer(60_000 * WAD)
    async with stand.taking() as items:
        await anext(items)
        await anext(items)
        stand.source._block = 0  # as if it had slept: further behind than one query reaches
        for _ in range(501):
            stand.ether.node.rpc("evm_mine")
        stand.ether.answer(2_020 * UNIT, NOW_S + 1)
        assert priced(await anext(items)) == (ETH, 2_020, (NOW_S + 1) * 1000)
