"""The uptime feed of a layer 2's sequencer, as a contract on a real node."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from keeper.app import _loops, build
from keeper.chain.rpc import HttpRpc
from keeper.chain.sequencer import NOT_READ, sequencer_trouble, watch_sequencer
from keeper.check import Finding, _sequencer
from keeper.config import load
from keeper.config.settings import ChainSettings
from keeper.demo.artifact import compile_source
from keeper.errors import TransientError
from keeper.facts import FeedId, Rejected, Tick
from keeper.prices.board import FeedRules, PriceBoard
from keeper.units import WAD
from tests.chain.conftest import CHAIN_ID, make_rpc
from tests.contracts import Contract
from tests.fakes import CountingTelemetry, ManualClock
from tests.nodes import Anvil, running_anvil
from tests.shell.market import ADDRESS
from tests.shell.test_status import CONFIG

SOURCE = Path(__file__).parents[1] / "prices" / "aggregator.vy"
ETH = FeedId("ETH/USD")
UP, DOWN = 0, 1


class Uptime(Contract):
    def __init__(self, node: Anvil) -> None:
        compiled = compile_source(SOURCE)
        super().__init__(node, compiled.abi, compiled.bytecode, 0)

    def turn(self, state: int) -> None:
        self.send("set_answer", state, self.now_s())


@pytest.fixture(scope="module")
def mining() -> Iterator[Anvil]:
    with running_anvil() as running:
        yield running


async def test_no_price_counts_while_it_is_down_and_for_the_grace_after(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, mining: Anvil
) -> None:
    rpc = make_rpc(session, telemetry, mining.url)
    feed = Uptime(mining)
    said = await sequencer_trouble(rpc, feed.address, 60)
    assert said == "the uptime feed has no answer yet"
    feed.turn(DOWN)
    feed.wait(1_000)
    assert await sequencer_trouble(rpc, feed.address, 60) == "the sequencer is down"
    feed.turn(UP)
    feed.wait(50)
    assert "s of grace are left" in await sequencer_trouble(rpc, feed.address, 60)
    assert await sequencer_trouble(rpc, feed.address, 40) == ""
    feed.wait(10)
    assert await sequencer_trouble(rpc, feed.address, 60) == ""


async def test_check_asks_the_feed_if_there_is_one(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry, mining: Anvil
) -> None:
    rpc, feed = make_rpc(session, telemetry, mining.url), Uptime(mining)
    findings: list[Finding] = []
    for state in (UP, DOWN):
        feed.turn(state)
        feed.wait(3_700)
        for address in (None, feed.address):
            chain = chain_settings(mining.url, address)
            await _sequencer(chain, rpc, findings)
    assert [(one.verdict, one.detail) for one in findings] == [
        ("ok", "up, and past its grace"),
        ("failed", "the sequencer is down"),
    ]
    gone = make_rpc(session, telemetry, "http://127.0.0.1:9")
    await _sequencer(chain_settings(mining.url, feed.address), gone, findings)
    assert (findings[-1].verdict, bool(findings[-1].mend)) == ("failed", True)


def chain_settings(url: str, feed: str | None) -> ChainSettings:
    given = {"id": CHAIN_ID, "http": [url], "native_feed": ETH, "sequencer_feed": feed}
    return ChainSettings.model_validate(given)


async def test_what_is_no_uptime_feed_closes_the_board(rpc: HttpRpc) -> None:
    clock = ManualClock()
    rules = FeedRules(10_000, 1_000, 10_000, 100_000, ("main",))
    board = PriceBoard({ETH: rules}, clock)
    board.offer(Tick(ETH, "main", WAD, clock.now_ms, clock.now_ms, 0))
    assert board.fresh(ETH, clock.now_ms) is not None
    watching = watch_sequencer(rpc, "0x" + "12" * 20, 60, board.close, lambda: None)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watching, 0.5)
    assert board.fresh(ETH, clock.now_ms) is None
    assert "does not answer as an uptime feed" in board.trouble(ETH, clock.now_ms)
    (refused,) = board.offer(Tick(ETH, "main", WAD, clock.now_ms + 1, clock.now_ms, 0))
    assert isinstance(refused, Rejected)
    assert refused.reason == "sequencer_down"
    board.close("")
    assert board.fresh(ETH, clock.now_ms) is not None


async def test_a_chain_that_does_not_answer_is_told_apart(
    session: aiohttp.ClientSession, telemetry: CountingTelemetry
) -> None:
    with running_anvil() as other:
        feed = Uptime(other)
        rpc = make_rpc(session, telemetry, other.url)
    with pytest.raises(TransientError):
        await sequencer_trouble(rpc, feed.address, 60)


async def test_until_it_was_read_once_no_price_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "0x" + "42" * 32)
    text = CONFIG.replace("[chain]", f'[chain]\nsequencer_feed = "{ADDRESS}"')
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    async with build(load(tmp_path / "config.toml")) as parts:
        assert "sequencer" in _loops(parts)
        assert parts.status.board.trouble(ETH, 0) == NOT_READ
