"""The embedded world without the keeper: what stands in it, and that nothing of it is left."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiomqtt
import pytest
from eth_abi.abi import decode

from keeper.config import load
from keeper.demo.options import DemoOptions
from keeper.demo.path import Prices
from keeper.demo.population import draw_population
from keeper.demo.processes import DemoError
from keeper.demo.terms import ASSETS, FEED_BTC, FEED_ETH, MARKETS
from keeper.demo.world import World, open_world
from keeper.units import WAD
from tests.nodes import find_anvil

OPTIONS = DemoOptions(accounts=60, seed=5, speed=10, seconds=3, grace_s=1)
WAIT_S_MAX = 20.0
NEW = Prices(12_345 * WAD, 678 * WAD)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("ANVIL", str(find_anvil()))
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(open_world(OPTIONS, lambda _: None))


async def heard(world: World, feed: str, above_ms: int = 0) -> dict[str, str]:
    """Return the first message of a feed that is newer than ``above_ms``."""
    async with (
        asyncio.timeout(WAIT_S_MAX),
        aiomqtt.Client("127.0.0.1", world.parts.broker.port) as client,
    ):
        await client.subscribe(f"keeper/prices/{feed}")
        async for message in client.messages:
            body: dict[str, str] = json.loads(message.payload)
            if int(body["ts"]) > above_ms:
                return body
    raise AssertionError


async def chain_view(world: World, function: str, *arguments: object) -> object:
    place = world.parts.deployment
    call = {"to": place.address, "data": place.market.data(function, *arguments)}
    return place.market.result(function, await world.parts.rpc.call("eth_call", call, "latest"))


async def test_the_accounts_on_chain_are_those_that_were_drawn(world: World) -> None:
    drawn = draw_population(OPTIONS.seed, OPTIONS.accounts, world.parts.path.start)
    views = await chain_view(world, "account_views", list(range(1, OPTIONS.accounts + 1)))
    assert isinstance(views, tuple | list)
    assert len(views) == len(drawn)
    for number, (view, one) in enumerate(zip(views, drawn, strict=True), start=1):
        account, _, cash, collateral, positions = view
        assert account == number
        if not one.trader:
            assert cash == one.account.cash
            for index, market in enumerate(MARKETS):
                position = one.account.positions.get(market.name)
                size, entry, _ = positions[index]
                assert (size, entry) == (
                    (position.size, position.entry_price) if position else (0, 0)
                )
        for index, asset in enumerate(ASSETS):
            assert collateral[index] == one.account.collateral.get(asset.name, 0)


async def test_prices_are_signed_and_retained_and_only_on_the_broker(world: World) -> None:
    message = await heard(world, "BTC-USD")
    assert int(float(message["price"]) * 100) * WAD // 100 == world.parts.path.start.btc
    (update,) = decode(
        ["(uint256,uint256,uint256,uint256,uint256,uint256)"],
        bytes.fromhex(message["payload"].removeprefix("0x")),
    )
    feed, price, published_ms, *_ = update
    assert (feed, price, published_ms) == (FEED_BTC, world.parts.path.start.btc, message["ts"])
    view = await chain_view(world, "market_view")
    assert isinstance(view, tuple)
    assert [stored for _, stored, _ in view[5]] == [0, 0]


async def test_the_broker_comes_back_with_what_it_retained_and_prices_go_on(world: World) -> None:
    before = await heard(world, "ETH-USD")
    await world.kill_broker()
    world.parts.publisher.offer(NEW)
    await world.restart_broker()
    assert int((await heard(world, "ETH-USD"))["ts"]) >= int(before["ts"])
    after = await heard(world, "ETH-USD", above_ms=int(before["ts"]))
    while int(float(after["price"])) != NEW.eth // WAD:  # the old one may have been on its way
        after = await heard(world, "ETH-USD", above_ms=int(after["ts"]))
    newest = world.parts.record.newest(int(after["ts"]) + 60_000)
    assert newest[FEED_ETH].price == NEW.eth


async def test_the_chain_comes_back_with_every_block_anybody_saw(world: World) -> None:
    rpc, judge = world.parts.rpc, world.parts.judge
    await world.kill_node()
    seen = judge.judged
    assert seen is not None
    await world.restart_node()
    again = await rpc.call("eth_getBlockByNumber", hex(seen.number), *[False])
    assert again["hash"] == seen.hash
    async with asyncio.timeout(WAIT_S_MAX):
        await judge.caught_up(seen.number + 5)
    assert judge.verdicts.pending == set()


async def test_the_config_is_valid_and_its_key_is_ours_alone(world: World) -> None:
    settings = load(world.parts.config)
    assert not settings.dry_run
    assert settings.chain.id == world.parts.deployment.chain_id
    assert settings.keeper.state_dir == world.parts.folder / "state"
    key = world.parts.folder / "wallet.key"
    assert key.stat().st_mode & 0o077 == 0


async def test_without_a_keeper_the_judge_finds_who_was_missed(world: World) -> None:
    await world.play()
    await world.settle()
    report = await world.report()
    assert not report.holds
    assert report.missed == report.liquidatable > OPTIONS.accounts // 10
    assert report.standing > 0
    assert report.wrong == report.liquidated == 0


async def broken_run() -> None:
    async with open_world(OPTIONS, lambda _: None):
        raise DemoError


@pytest.mark.parametrize("cancelled_after_s", [None, 0.05, 0.3, 0.6, 1.0])
def test_nothing_is_left_of_a_run_that_fails_or_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancelled_after_s: float | None
) -> None:
    monkeypatch.setenv("ANVIL", str(find_anvil()))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def run() -> None:
        async with asyncio.timeout(cancelled_after_s):
            await broken_run()

    with pytest.raises((ExceptionGroup, TimeoutError)):
        asyncio.run(run())
    assert list(tmp_path.iterdir()) == []
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [command for command in commands if str(tmp_path).encode() in command]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (DemoOptions(accounts=0), "--accounts 0 is out of range: 1 to 5000"),
        (DemoOptions(speed=0), "--speed 0 is out of range"),
        (DemoOptions(seconds=float("nan")), "--seconds nan is out of range"),
        (DemoOptions(prices=Path("/nowhere.csv")), "/nowhere.csv: cannot be read"),
    ],
)
async def test_wrong_options_are_named_before_anything_starts(
    options: DemoOptions, named: str
) -> None:
    with pytest.raises(DemoError, match=named):
        async with open_world(options, lambda _: None):
            pass
