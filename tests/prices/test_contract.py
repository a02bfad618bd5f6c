"""What every price source's file must be. A new file in keeper/prices is picked up here.

On the wire each has its real counterpart, or a server that speaks as its own does (``scenes.py``);
what a kind alone does is tested beside it.
"""

import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel, ValidationError

import keeper.prices
from keeper.config import kinds
from keeper.facts import FeedId, Rejected, Tick
from keeper.units import WAD
from tests.prices.mqtt_rig import until
from tests.prices.scenes import FIRST_USD, SCENES, SECOND_USD, Scene
from tests.prices.streams import taking

FOUND = sorted(module.name for module in pkgutil.iter_modules(keeper.prices.__path__))
KINDS = [*kinds("prices"), "_template"]  # what people copy must not rot


@pytest.fixture(params=KINDS)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"keeper.prices.{request.param}")


def test_every_public_file_but_the_board_is_a_source() -> None:
    assert {name for name in FOUND if not name.startswith("_")} - {"board"} == set(KINDS[:-1])


def test_it_tells_what_it_is(module: ModuleType) -> None:
    assert len((module.__doc__ or "").strip().splitlines()) > 1, "describe the server's messages"


def test_settings_are_frozen_strict_and_described(module: ModuleType) -> None:
    model = module.Settings
    assert issubclass(model, BaseModel)
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == "forbid"
    assert [name for name, one in model.model_fields.items() if not one.description] == []
    with pytest.raises(ValidationError, match="surplus"):
        model(surplus=1)


def test_build_takes_what_the_loader_gives(module: ModuleType) -> None:
    given = ["settings", "name", "feeds", "clock", "telemetry", "rpc"]
    assert list(inspect.signature(module.build).parameters) == given


# --- on the wire ----------------------------------------------------------------------------------

ETH = FeedId("ETH/USD")


@pytest.fixture(params=KINDS)
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    kind = request.param
    if kind not in SCENES:
        pytest.fail(f"tests/prices/scenes.py has no scene of a {kind} source", pytrace=False)
    async with SCENES[kind](tmp_path) as opened:
        yield opened


async def ether(items: AsyncIterator[Tick | Rejected], usd: int) -> list[Rejected]:
    """Wait for a price of ETH; return what was refused before it came."""
    refused = []
    async for item in items:
        if isinstance(item, Rejected):
            refused.append(item)
        elif item.feed == ETH and item.price_wad > 0:
            assert (item.price_wad, item.conf_wad >= 0) == (usd * WAD, True)
            assert item.published_ms > 0
            assert item.received_ms > 0
            assert item.received_ns > 0
            return refused
    raise AssertionError


async def test_prices_come_and_junk_between_them_ends_nothing(scene: Scene) -> None:
    async with taking(scene.source) as items:
        waiting = asyncio.ensure_future(ether(items, FIRST_USD))
        await scene.price(FIRST_USD)
        assert await waiting == []
        waiting = asyncio.ensure_future(ether(items, SECOND_USD))
        await scene.junk()
        await asyncio.sleep(0.1)  # what is not looked at is displaced by what is newer
        await scene.price(SECOND_USD)
        assert all(one.source == scene.source.name and one.detail for one in await waiting)


async def test_a_sign_of_life_comes_when_nothing_else_does(scene: Scene) -> None:
    async def alive() -> None:
        async for item in scene.source.ticks():
            if item is None:
                return

    await asyncio.wait_for(alive(), 10)


async def test_cancelling_leaves_nothing_running(scene: Scene) -> None:
    before = asyncio.all_tasks()
    async with taking(scene.source) as items:
        waiting = asyncio.ensure_future(ether(items, FIRST_USD))
        await scene.price(FIRST_USD)
        await waiting
        still = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0.05)
        still.cancel()
        await asyncio.wait([still])
    await until(lambda: asyncio.all_tasks() <= before)
