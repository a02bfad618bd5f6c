"""Traders, makers and prices on a deployed market."""

import math
from collections.abc import Sequence

from eth_utils.crypto import keccak

from keeper.units import WAD
from tests.curie.deploy import UNLIMITED, USD, Curie, CurieMarket
from tests.synthetix.chain import Contract, RevertedError

GAS = 8_000_000
TAKEN_IN = "CPF_NU"  # the feed has this price already
DEADLINE = 2**63
NO_CODE = b"\0" * 32
TICK_SPACING = 60
ETHER = 10**21
STEP, NEAR, STEPS_MAX = 0.04, 0.003, 40


def tick(price: float) -> int:
    """Return the nearest tick of the grid below a price in USD."""
    return math.floor(math.log(price, 1.0001) / TICK_SPACING) * TICK_SPACING


class World:
    """What people do there. An account is an address that the node lets send."""

    def __init__(self, curie: Curie) -> None:
        self.curie = curie
        self.chain = curie.chain
        self._people: dict[str, str] = {}

    def person(self, name: str) -> str:
        """Return an address for a name, funded and allowed to send."""
        if name not in self._people:
            address = "0x" + keccak(text=name).hex()[:40]
            self.chain.node.rpc("anvil_impersonateAccount", address)
            self.chain.node.rpc("anvil_setBalance", address, hex(ETHER))
            self._people[name] = address
        return self._people[name]

    @property
    def people(self) -> dict[str, str]:
        return dict(self._people)

    # --- margin -----------------------------------------------------------------------------------

    def deposit(self, name: str, usd: float) -> str:
        return self._deposit(self.curie.usdc, self.person(name), round(usd * USD))

    def deposit_weth(self, name: str, amount: float) -> str:
        return self._deposit(self.curie.weth, self.person(name), round(amount * WAD))

    def _deposit(self, token: Contract, who: str, amount: int) -> str:
        token.send("mint", who, amount)
        token.send("approve", self.curie.vault.address, UNLIMITED, sender=who)
        self.curie.vault.send("deposit", token.address, amount, sender=who)
        return who

    # --- trading ----------------------------------------------------------------------------------

    def trade(self, name: str, market: str, usd: float) -> None:
        """Open or add to a position by its value in USD: above 0 long, below short."""
        base, short = self.curie.markets[market].base.address, usd < 0
        amount = round(abs(usd) * WAD)
        order = (base, short, not short, amount, 0, DEADLINE, 0, NO_CODE)
        self.curie.house.send("openPosition", order, sender=self.person(name), gas=GAS)

    def close(self, name: str, market: str) -> None:
        base = self.curie.markets[market].base.address
        order = (base, 0, 0, DEADLINE, NO_CODE)
        self.curie.house.send("closePosition", order, sender=self.person(name), gas=GAS)

    def provide(
        self, name: str, market: str, amounts: Sequence[float], span: Sequence[float]
    ) -> None:
        """Add liquidity: units of base and USD, between two prices."""
        base, (units, usd) = self.curie.markets[market].base.address, amounts
        low, high = (tick(price) for price in span)
        parts = (round(units * WAD), round(usd * WAD), low, high, 0, 0, False, DEADLINE)
        order = (base, *parts)
        self.curie.house.send("addLiquidity", order, sender=self.person(name), gas=GAS)

    # --- prices -----------------------------------------------------------------------------------

    def set_index(self, market: str, price: float) -> None:
        """Let the oracle publish a price; the protocol's feed takes it in."""
        one = self.curie.markets[market]
        one.aggregator.send("set", round(price * 10**8))
        try:
            one.feed.send("update")
        except RevertedError as error:
            if TAKEN_IN not in str(error):
                raise  # else a trade in between had the feed take it in

    def move(self, market: str, price: float, *, settle_s: int = 2_000) -> None:
        """Take index and pool to a price in steps the protocol allows; then let marks follow."""
        pool = self.curie.markets[market].pool
        for _ in range(STEPS_MAX):
            now = self.pool_price(market)
            if abs(now / price - 1) < NEAR:
                break
            step = min(max(price, now * (1 - STEP)), now * (1 + STEP))
            self.set_index(market, step)
            depth = pool.call("liquidity") / WAD
            self.trade("whale", market, depth * (math.sqrt(step) - math.sqrt(now)))
            self.chain.pass_time(20)
        else:
            msg = f"the pool stayed at {self.pool_price(market)}, wanted {price}"
            raise AssertionError(msg)
        self.set_index(market, price)
        self.chain.pass_time(settle_s)

    def pool_price(self, market: str) -> float:
        root: int = self.curie.markets[market].pool.call("slot0")[0]
        return (root / 2**96) ** 2

    def mark(self, market: str) -> float:
        base = self.curie.markets[market].base.address
        return int(self.curie.balances.call("getMarkPrice", base)) / WAD

    def market(self, name: str) -> CurieMarket:
        return self.curie.markets[name]


def furnished(world: World) -> World:
    """Put makers, a whale and money into the insurance fund."""
    world.deposit("maker", 40_000_000)
    world.provide("maker", "ETH", (4_000, 8_000_000), (1_000, 3_000))
    world.provide("maker", "BTC", (130, 8_000_000), (30_000, 90_000))
    world.deposit("whale", 20_000_000)
    world.curie.usdc.send("mint", world.curie.fund.address, 200_000 * USD)
    return world
