"""The market of the venue template on a real node, and a scene of it to be recorded."""

from pathlib import Path

from keeper.demo.artifact import compile_source
from keeper.facts import FeedId
from tests.contracts import Contract
from tests.nodes import Anvil

SOURCE = Path(__file__).with_name("isolated.vy")
SIZE, PRICE, MONEY = 10**18, 10**8, 10**6
MAINTENANCE, REWARD = 625, 125  # in basis points
ETH, BTC = "0x" + "e1" * 20, "0x" + "b2" * 20
FEEDS = {ETH: FeedId("ETH/USD"), BTC: FeedId("BTC/USD")}


class IsolatedMarket(Contract):
    """The deployed contract, compiled here: it is no part of the keeper."""

    def __init__(self, node: Anvil) -> None:
        compiled = compile_source(SOURCE)
        super().__init__(node, compiled.abi, compiled.bytecode)
        self.send("set_market", ETH, (2_000 * PRICE, MAINTENANCE, REWARD))
        self.send("set_market", BTC, (60_000 * PRICE, MAINTENANCE, REWARD))

    def trader(self, number: int) -> str:
        return f"0x{number:040x}"

    def open(self, market: str, number: int, size: int, entry_price: int, margin: int) -> str:
        """Set a position; return the keeper's name of the account."""
        self.send("set_position", market, self.trader(number), (size, entry_price, margin))
        return f"{market}:{self.trader(number)}"


def scene(node: Anvil) -> tuple[dict[str, object], list[str]]:
    """Return settings and accounts; the newest blocks hold trades, a fall and a liquidation."""
    market = IsolatedMarket(node)
    long, entry = 10 * SIZE, 2_000 * PRICE
    accounts = [
        market.open(ETH, 1, long, entry, 1_300 * MONEY),
        market.open(ETH, 2, long, entry, 2_243_750_000),  # at the edge of the last price
        market.open(ETH, 3, long, entry, 2_243_749_999),  # and a millionth below it
        market.open(ETH, 4, -long, entry, 1_255 * MONEY),
        market.open(BTC, 1, SIZE // 2, 60_000 * PRICE, 9_000 * MONEY),
        market.open(BTC, 2, 0, 0, 5 * MONEY),
        market.open(ETH, 5, 20 * SIZE, entry, 1_000 * MONEY),
    ]
    market.send("set_price", ETH, 1_950 * PRICE)
    market.open(BTC, 2, -SIZE // 4, 60_000 * PRICE, 950 * MONEY)
    market.send("liquidate", ETH, market.trader(5))
    market.send("set_price", ETH, 1_900 * PRICE)
    market.send("set_price", ETH, 1_894 * PRICE)
    return {"address": market.address, "feeds": FEEDS}, accounts
