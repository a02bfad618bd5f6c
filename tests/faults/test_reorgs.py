"""A reorg removes our transactions, or what others did: noticed, and each is liquidated once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.journal_read import reading, whole
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import Options
from tests.faults.books import assert_right, attempts, journal_of
from tests.faults.world import LIMIT_S, World, opened_world

AT_ONCE = 3
CONFIRMATIONS = 4
DEPTH_MAX = 3  # that is followed back, in one of the tests
DEPOSIT_USD = 50_000  # keeps an account safe at the lower price


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


def deposited(world: World) -> int:
    """Have money paid into an account, in the newest block, and wait until the keeper has it."""
    chain, node, owner = world.rig.chain, world.rig.node, world.rig.chain.dev[1]
    world.open_safe(2)
    node.rpc("evm_setAutomine", True)  # noqa: FBT003
    chain.send("mint_usd", owner, DEPOSIT_USD * WAD)
    for _ in range(DEPTH_MAX + 1):
        node.rpc("evm_mine")
    account = world.accounts[0]
    chain.send("deposit_cash", account, DEPOSIT_USD * WAD, sender=owner)
    node.rpc("evm_setAutomine", False)  # noqa: FBT003
    world.keeper.until(lambda: cash(world, account) == chain.account(account).cash, LIMIT_S)
    return account


def cash(world: World, account: int) -> int:
    """Return what the keeper believes the account to hold."""
    _, body = world.keeper.get(f"/api/v1/accounts/demo/{account}")
    return int(json.loads(body)["state"]["holdings"]["cash"])


def as_if_never_deposited(world: World, account: int, believed: int) -> None:
    """Wait until the keeper has read it again, and see that it acts by that."""
    chain, keeper = world.rig.chain, world.keeper
    assert chain.account(account).cash == believed - DEPOSIT_USD * WAD
    world.mine()
    keeper.until(lambda: cash(world, account) == chain.account(account).cash, LIMIT_S)
    assert keeper.metric("keeper_reconcile_corrected_total") == 0, "not found by chance"
    world.sink()
    keeper.until(lambda: world.waiting == len(world.accounts), LIMIT_S)

    def over() -> bool:
        world.mine()
        return world.is_over

    keeper.until(over, LIMIT_S)
    assert keeper.metric("keeper_reorgs_total") >= 1
    assert_right(world.rig, keeper, world.wallets.addresses, world.accounts)


@pytest.mark.parametrize("confirmations", [1])
def test_what_only_an_orphaned_block_said_is_forgotten(world: World) -> None:
    account = deposited(world)
    believed = cash(world, account)
    world.rig.node.rpc("anvil_reorg", 1, [])
    as_if_never_deposited(world, account, believed)
    assert "reorg_depth_max" not in world.keeper.run.stderr


def test_deeper_than_is_followed_back_everything_is_read_again(
    tmp_path: Path, broker: Broker
) -> None:
    options = Options(chain=f"reorg_depth_max = {DEPTH_MAX}")
    with opened_world(tmp_path, broker, options) as world:
        account = deposited(world)
        believed = cash(world, account)
        for _ in range(DEPTH_MAX + 1):  # it is forgotten by now which block touched which account
            world.mine()
            world.followed()
        world.rig.node.rpc("anvil_reorg", DEPTH_MAX + 2, [])
        as_if_never_deposited(world, account, believed)
        said = "chain replaced beyond reorg_depth_max: reading everything again"
        (line,) = (line for line in world.keeper.run.stderr.splitlines() if said in line)
        assert json.loads(line)["level"] == "error"
