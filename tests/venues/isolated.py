"""The market of the venue template on a real node."""

from pathlib import Path

from keeper.demo.artifact import compile_source
from keeper.units import WAD
from tests.contracts import Contract
from tests.nodes import Anvil

SOURCE = Path(__file__).with_name("isolated.vy")
RATE = WAD // 50
REWARD = 3 * WAD


class IsolatedMarket(Contract):
    """One deployed market, compiled here: it is no part of the keeper."""

    def __init__(self, node: Anvil) -> None:
        compiled = compile_source(SOURCE)
        super().__init__(node, compiled.abi, compiled.bytecode)

    def set_price(self, price: int, age_s_max: int = 3_600) -> None:
        self.send("set_terms", (price, RATE, REWARD, self.now_s() + age_s_max))

    def set_position(self, number: int, size: int, entry_price: int, cash: int) -> None:
        self.send("set_position", number, (size, entry_price, cash))
