"""A market on a node that mines when it is told, and a keeper in front of it."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from keeper.units import GWEI, WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.runs import KEEPER
from tests.faults.books import Wallets, all_settled, make_wallets
from tests.nodes import running_anvil

LIMIT_S = 40.0
SAFE_USD, SINKING_USD = 2_000, 1_900
USUAL_WEI, DEAR_WEI = GWEI, 10 * GWEI  # base fees: the keeper's first bid is between the two


@dataclass
class World:
    """``accounts``: all that were opened."""

    rig: Rig
    keeper: KeeperProcess
    wallets: Wallets
    accounts: list[int] = field(default_factory=list)

    def mine(self, base_fee_wei: int = USUAL_WEI) -> None:
        self.rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
        self.rig.node.rpc("evm_mine")

    def followed(self) -> None:
        """Wait until the keeper has seen the newest block."""
        newest = int(self.rig.node.rpc("eth_blockNumber"), 16)
        self.keeper.until(lambda: self.keeper.metric("keeper_head_block") >= newest, LIMIT_S)

    def price(self, usd: int) -> None:
        """Publish the price, and wait until the keeper has it."""
        self.rig.oracle.set(0, usd * WAD)
        self.keeper.until(
            lambda: self.keeper.metric("keeper_price_usd", feed="ETH/USD") == usd, LIMIT_S
        )

    def open_safe(self, count: int) -> None:
        """Open accounts that are safe at the price of the start, and no longer at the other."""
        self.price(SAFE_USD)
        self.mine()
        self.rig.node.rpc("evm_setAutomine", True)  # noqa: FBT003
        # newer than what the keeper has brought, which the chain has in whole seconds only
        self.rig.chain.set_prices(self.rig.oracle.prices, self.rig.oracle.last_ms)
        self.accounts += [self.rig.open_safe() for _ in range(count)]
        self.rig.node.rpc("evm_setAutomine", False)  # noqa: FBT003
        known = len(self.accounts)
        self.keeper.until(lambda: self.keeper.metric("keeper_accounts") >= known, LIMIT_S)

    def sink(self) -> None:
        """Let the price fall."""
        self.rig.oracle.set(0, SINKING_USD * WAD)

    @property
    def waiting(self) -> int:
        """Return how many transactions are in the pool."""
        return int(self.rig.node.rpc("txpool_status")["pending"], 16)

    @property
    def is_over(self) -> bool:
        liquidated = {one["account"] for one in self.rig.liquidations()}
        return liquidated >= set(self.accounts) and all_settled(self.keeper)


@contextlib.contextmanager
def opened_world(
    folder: Path,
    broker: Broker,
    options: Options | None = None,
    *,
    wallets: int = 2,
    command: Sequence[str] = KEEPER,
) -> Iterator[World]:
    """Run all of it for the length of the block; the keeper is ready."""
    with running_anvil() as node, opened(folder, node, broker) as rig:
        made = make_wallets(rig, folder, wallets)
        chosen = replace(options or Options(), key=made.tables)
        with rig.keeper(chosen, command=command) as keeper:
            keeper.until_ready()
            yield World(rig, keeper, made)
