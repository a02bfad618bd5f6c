"""A little life on the chain: its wallets deposit and trade, gas gets dearer and cheaper."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from keeper.demo.contract import Market
from keeper.demo.jsonrpc import NodeError, NodeRpc, NodeUnreachableError
from keeper.units import WAD

ACTIONS_PER_S = 1.0
DEPOSIT_USD = (50, 500)
TRADE_SHARE = (-0.04, 0.04)  # of the position
WALLET_USD = 1_000_000 * WAD
GAS = 2_000_000
BASE_FEE_WEI = (10**8, 8 * 10**8)  # as on a rollup on a busy day
BASE_FEE_CHANGE = 0.06  # a block; the protocol's own limit is 0.125


@dataclass(frozen=True, slots=True)
class Holder:
    """An account that trades: its owner's wallet (unlocked in the node), its sizes by market."""

    account: int
    owner: str
    sizes: dict[int, int]


class Traders:
    """Deposits into, and small trades of, accounts with low leverage: nobody is saved by them."""

    def __init__(
        self, rpc: NodeRpc, market: Market, address: str, holders: Sequence[Holder], seed: int
    ) -> None:
        """Act for ``holders``; ``run`` does the work."""
        self._rpc = rpc
        self._market = market
        self._address = address
        self._holders = holders
        self._random = random.Random(f"traders {seed}")  # noqa: S311 - a seeded simulation

    async def run(self) -> None:
        """Act until cancelled; what the market refuses (no fresh price) is left alone."""
        while self._holders:
            await asyncio.sleep(self._random.expovariate(ACTIONS_PER_S))
            holder = self._random.choice(self._holders)
            call = {"from": holder.owner, "to": self._address, "data": self._action(holder)}
            with suppress(NodeError, NodeUnreachableError):
                await self._rpc.call("eth_call", call, "latest")
                await self._rpc.call("eth_sendTransaction", {**call, "gas": hex(GAS)})

    def _action(self, holder: Holder) -> str:
        rng = self._random
        if rng.random() < 1 / 2:
            amount = rng.randint(*DEPOSIT_USD) * WAD
            return self._market.data("deposit_cash", holder.account, amount)
        market = rng.choice(list(holder.sizes))
        delta = round(holder.sizes[market] * rng.uniform(*TRADE_SHARE)) or 1
        return self._market.data("trade", holder.account, market, delta)


class GasMarket:
    """Sets the base fee of each block: an almost empty chain would make gas free in a minute."""

    def __init__(self, rpc: NodeRpc, block_time_s: float, seed: int) -> None:
        """Set it once a block; ``run`` does the work."""
        self._rpc = rpc
        self._block_time_s = block_time_s
        self._random = random.Random(f"gas {seed}")  # noqa: S311 - a seeded simulation

    async def run(self) -> None:
        """Let the base fee wander until cancelled; the node may be away."""
        low, high = BASE_FEE_WEI
        fee = float(self._random.randint(low, high))
        while True:
            fee *= 1 + self._random.uniform(-BASE_FEE_CHANGE, BASE_FEE_CHANGE)
            fee = min(max(fee, low), high)
            with suppress(NodeUnreachableError):
                await self._rpc.call("anvil_setNextBlockBaseFeePerGas", hex(int(fee)))
            await asyncio.sleep(self._block_time_s)
