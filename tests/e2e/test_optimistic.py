"""An optimistic venue on a real node: sent without a simulation, and what a revert then costs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.e2e.rig import Options
from tests.e2e.test_contested import outbid
from tests.e2e.test_journal_cli import said
from tests.faults.books import FUNDS_WEI, attempts
from tests.faults.world import LIMIT_S, World, opened_world

TAUGHT = 3  # won ones after which it is known what they use


@pytest.fixture
def world(tmp_path: Path, broker: Broker) -> Iterator[World]:
    options = Options(venue="optimistic = true")
    with opened_world(tmp_path, broker, options, wallets=1) as running:
        yield running


def sink(world: World, accounts: int) -> float:
    """Sink so many new accounts, until all are sent; return how many simulations that took."""
    world.open_safe(accounts)
    before = world.keeper.metric("keeper_simulated_total")
    world.sink()
    world.keeper.until(lambda: world.waiting == accounts, LIMIT_S)
    return world.keeper.metric("keeper_simulated_total") - before


def mined_until(world: World, won: int, lost: int) -> None:
    def ended() -> bool:
        world.mine()
        found = [row["outcome"] for row in attempts(world.keeper)]
        return found.count("won") == won and found.count("lost") == lost

    world.keeper.until(ended, LIMIT_S)


def test_what_is_foreseen_is_sent_unasked_and_a_revert_is_paid_from_the_budget(
    world: World,
) -> None:
    keeper, (wallet,) = world.keeper, world.wallets.addresses
    assert sink(world, TAUGHT) == TAUGHT, "nothing is known yet of what one uses"
    mined_until(world, TAUGHT, lost=0)
    assert keeper.metric("keeper_optimistic_total") == 0
    left = keeper.metric("keeper_budget_left_wei", budget="loss_hour")

    assert sink(world, 2) == 0
    assert keeper.metric("keeper_optimistic_total") == 2
    outbid(world.rig, world.accounts[-1])
    mined_until(world, TAUGHT + 1, lost=1)

    rows = attempts(keeper)
    (lost,) = (row for row in rows if row["outcome"] == "lost")
    assert lost["account"] == str(world.accounts[-1])
    cost = int(lost["cost_wei"])
    assert cost > 0
    spent = left - keeper.metric("keeper_budget_left_wei", budget="loss_hour")
    assert spent == pytest.approx(cost, rel=1e-6), "a gauge is a float"
    left_wei = int(world.rig.node.rpc("eth_getBalance", wallet, "latest"), 16)
    assert sum(int(row["cost_wei"]) for row in rows) == FUNDS_WEI - left_wei
    assert sum(int(row["reward_wad"]) for row in rows) == world.rig.usd(wallet)
    assert "not simulated, decided on block" in said(keeper.config, "show", lost["id"])
