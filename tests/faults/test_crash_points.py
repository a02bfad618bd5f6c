"""SIGKILL at each step of an attempt, then a restart: each account is liquidated once.

One keeper with two wallets goes through all of them, three accounts under water each time. It is
killed by itself at the step (``mortal_keeper``); the first account to come there is enough.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from keeper.units import GWEI, WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.runs import until
from tests.faults.books import Wallets, all_settled, assert_right, make_wallets
from tests.faults.mortal_keeper import DIE_AT, STEPS
from tests.nodes import running_anvil

COMMAND = (sys.executable, "-m", "tests.faults.mortal_keeper")
LIMIT_S = 40.0
AT_ONCE = 3
UNSENT = ("signing", "first", "acceptance")  # steps that come before all transactions wait
SAFE_USD, SINKING_USD = 2_000, 1_900
USUAL_WEI, DEAR_WEI = GWEI, 10 * GWEI  # base fees


@dataclass
class World:
    """A market on a node that mines when it is told, and the keeper that dies again and again."""

    rig: Rig
    keeper: KeeperProcess
    wallets: Wallets
    accounts: list[int] = field(default_factory=list)

    def mine(self, base_fee_wei: int) -> None:
        self.rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
        self.rig.node.rpc("evm_mine")

    def price(self, usd: int) -> None:
        """Publish the price, and wait until the keeper has it."""
        self.rig.oracle.set(0, usd * WAD)
        self.keeper.until(
            lambda: self.keeper.metric("keeper_price_usd", feed="ETH/USD") == usd, LIMIT_S
        )

    def open_safe(self) -> None:
        """Open accounts that are safe at the price of the start."""
        self.price(SAFE_USD)
        self.mine(USUAL_WEI)
        self.rig.node.rpc("evm_setAutomine", True)  # noqa: FBT003
        # newer than what the keeper has brought, which the chain has in whole seconds only
        self.rig.chain.set_prices(self.rig.oracle.prices, self.rig.oracle.last_ms)
        self.accounts += [self.rig.open_safe() for _ in range(AT_ONCE)]
        self.rig.node.rpc("evm_setAutomine", False)  # noqa: FBT003
        known = len(self.accounts)
        self.keeper.until(lambda: self.keeper.metric("keeper_accounts") >= known, LIMIT_S)

    def sink(self, step: str) -> None:
        """Let the price fall, and all that it takes to bring the keeper to the step."""
        self.rig.oracle.set(0, SINKING_USD * WAD)
        if step.startswith(UNSENT):
            return
        self.keeper.until(lambda: self.waiting == AT_ONCE, LIMIT_S)
        if step.startswith("cancel"):  # it is not worth it any more
            self.price(SAFE_USD)

    @property
    def waiting(self) -> int:
        """Return how many transactions are in the pool."""
        return int(self.rig.node.rpc("txpool_status")["pending"], 16)

    @property
    def is_over(self) -> bool:
        liquidated = {one["account"] for one in self.rig.liquidations()}
        return liquidated >= set(self.accounts) and all_settled(self.keeper)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("crashes")
    with running_anvil() as node, opened(folder, node, broker) as rig:
        wallets = make_wallets(rig, folder, 2)
        with rig.keeper(Options(key=wallets.tables), command=COMMAND) as keeper:
            keeper.until_ready()
            yield World(rig, keeper, wallets)


@pytest.mark.parametrize("step", STEPS)
def test_each_account_once_each_nonce_once_and_the_money_to_the_wei(
    world: World, step: str
) -> None:
    outbid = step.startswith(("replacement", "cancel"))
    base_fee_wei = DEAR_WEI if outbid else USUAL_WEI  # above what was offered, or not
    world.open_safe()
    (world.keeper.run.cwd / DIE_AT).write_text(step)
    world.sink(step)

    def dead() -> bool:
        if not step.startswith(UNSENT):
            world.mine(base_fee_wei)
        return not world.keeper.run.running

    until(dead, LIMIT_S, lambda: world.keeper.run.stderr[-4000:])
    world.keeper.start()
    world.rig.oracle.set(0, SINKING_USD * WAD)

    def over() -> bool:
        world.mine(base_fee_wei)
        return world.is_over

    world.keeper.until(over, LIMIT_S)
    world.keeper.until_ready()
    assert_right(world.rig, world.keeper, world.wallets.addresses, world.accounts)
