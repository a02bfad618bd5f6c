"""SIGKILL at each step of an attempt, then a restart: each account is liquidated once.

One keeper with two wallets goes through all of them, three accounts under water each time. It is
killed by itself at the step (``mortal_keeper``); the first account to come there is enough.
"""

import sys
from collections.abc import Iterator

import pytest

from tests.brokers import Broker
from tests.e2e.runs import until
from tests.faults.books import assert_right
from tests.faults.mortal_keeper import DIE_AT, STEPS
from tests.faults.world import DEAR_WEI, LIMIT_S, SAFE_USD, USUAL_WEI, World, opened_world

COMMAND = (sys.executable, "-m", "tests.faults.mortal_keeper")
AT_ONCE = 3
UNSENT = ("signing", "first", "acceptance")  # steps that come before all transactions wait
OUTBID = ("replacement", "cancel")  # steps to which only a base fee above the first bid leads


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[World]:
    with opened_world(tmp_path_factory.mktemp("crashes"), broker, command=COMMAND) as running:
        yield running


@pytest.mark.parametrize("step", STEPS)
def test_each_account_once_each_nonce_once_and_the_money_to_the_wei(
    world: World, step: str
) -> None:
    base_fee_wei = DEAR_WEI if step.startswith(OUTBID) else USUAL_WEI
    world.open_safe(AT_ONCE)
    (world.keeper.run.cwd / DIE_AT).write_text(step)
    world.sink()
    if not step.startswith(UNSENT):
        world.keeper.until(lambda: world.waiting == AT_ONCE, LIMIT_S)
    if step.startswith("cancel"):  # it is not worth it any more
        world.price(SAFE_USD)

    def dead() -> bool:
        if not step.startswith(UNSENT):
            world.mine(base_fee_wei)
        return not world.keeper.run.running

    until(dead, LIMIT_S, lambda: world.keeper.run.stderr[-4000:])
    world.keeper.start()
    world.sink()

    def over() -> bool:
        world.mine(base_fee_wei)
        return world.is_over

    world.keeper.until(over, LIMIT_S)
    world.keeper.until_ready()
    assert_right(world.rig, world.keeper, world.wallets.addresses, world.accounts)
