"""Accounts that trade while prices fall: commit, wait for a later second, settle.

What the market refuses is no failure: an account may be liquidated by then.
"""

import random
import threading
import time
from collections.abc import Sequence

from keeper.units import WAD
from tests.storm.population import BTC, ETH, Member, Role
from tests.synthetix.world import Order, World, usd

POLL_S = 0.05
ORDERS_MAX = 4  # at a time
TRADED_USD = (2_000.0, 20_000.0)


class Traders(threading.Thread):
    """Trades with seeded accounts, sizes and sides until it is ended."""

    def __init__(self, world: World, people: Sequence[Member], rng: random.Random) -> None:
        super().__init__(name="traders", daemon=True)
        self.trouble: BaseException | None = None
        self.settled = 0
        self._world = world
        self._rng = rng
        self._ended = threading.Event()
        self._safe = [member.account for member in people if member.role is Role.TRADER]
        self._pressed = [member.account for member in people if member.role is Role.MIXED]

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                try:
                    self._trade()
                except ConnectionError:
                    time.sleep(POLL_S)  # the node is being restarted
        except Exception as error:  # noqa: BLE001 - told to whoever waits, who fails with it
            self.trouble = error

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _trade(self) -> None:
        safe = self._rng.sample(self._safe, 2)
        pressed = self._rng.sample(self._pressed, ORDERS_MAX - len(safe))
        orders = [self._order(account) for account in (*safe, *pressed)]
        self._world.commit(orders, required=False)
        committed_s = self._world.chain.now_s()
        while self._world.chain.now_s() <= committed_s:
            if self._ended.wait(POLL_S):
                return
        accounts = [order.account for order in orders]
        self.settled += len(self._world.settle(accounts, required=False))

    def _order(self, account: int) -> Order:
        market, side = self._rng.choice((ETH, BTC)), self._rng.choice((1, -1))
        worth = self._rng.uniform(*TRADED_USD)
        return Order(account, market, side * usd(worth * WAD / self._world.prices[market]))
