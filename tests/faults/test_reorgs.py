"""A reorg removes our transactions: it is noticed, and each account is liquidated once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.journal_read import reading, whole
from tests.brokers import Broker
from tests.e2e.rig import Options
from tests.faults.books import assert_right, attempts, journal_of
from tests.faults.world import LIMIT_S, World, opened_world

AT_ONCE = 3
CONFIRMATIONS = 4


@pytest.fixture
def world(tmp_path: Path, broker: Broker, confirmations: int) -> Iterator[World]:
    with opened_world(tmp_path, broker, Options(confirmations=confirmations)) as running:
        yield running


def events(world: World) -> list[list[str]]:
    """Return what happened to each attempt, in order."""
    with reading(journal_of(world.keeper)) as db:
        stories: list[dict[str, Any]] = [whole(db, row) for row in attempts(world.keeper)]
    return [[line["event"] for line in story["history"]] for story in stories]


@pytest.mark.parametrize("confirmations", [CONFIRMATIONS])
def test_attempts_in_flight_are_tried_again(world: World) -> None:
    world.open_safe(AT_ONCE)
    world.sink()
    world.keeper.until(lambda: world.waiting == AT_ONCE, LIMIT_S)
    world.mine()
    world.keeper.until(
        lambda: all(row["state"] == "included" for row in attempts(world.keeper)), LIMIT_S
    )
    assert world.waiting == 0
    world.rig.node.rpc("anvil_reorg", 1, [])
    assert world.rig.liquidations() == []

    def over() -> bool:
        world.mine()
        return world.is_over

    world.keeper.until(over, LIMIT_S)
    assert world.keeper.metric("keeper_reorgs_total") >= 1
    # told even if it came back at once in another block; one that was cancelled meanwhile, because
    # the book was still after the liquidation, is followed by another attempt
    stories = events(world)[:AT_ONCE]
    assert [story.count("included") for story in stories] == [2] * AT_ONCE, stories
    assert_right(world.rig, world.keeper, world.wallets.addresses, world.accounts)


@pytest.mark.parametrize("confirmations", [1])
def test_what_was_settled_is_in_flight_again(world: World) -> None:
    world.open_safe(AT_ONCE)
    world.sink()
    world.keeper.until(lambda: world.waiting == AT_ONCE, LIMIT_S)
    world.mine()
    world.keeper.until(lambda: world.is_over, LIMIT_S)
    settled = len(events(world))
    world.rig.node.rpc("anvil_reorg", 1, [])
    assert world.rig.liquidations() == []

    def over() -> bool:
        world.mine()
        again = [story.count("settled") == 2 for story in events(world)]
        return all(again[:settled]) and world.is_over

    world.keeper.until(over, LIMIT_S)
    assert not any("quarantine" in why for why in world.keeper.unready())
    # an account may have been tried anew before it was known that it had been: one of them is late
    assert_right(world.rig, world.keeper, world.wallets.addresses, world.accounts, may_lose=True)
