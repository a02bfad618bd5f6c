"""The accounts that most tests start from."""

from tests.synthetix.chain import Event
from tests.synthetix.world import Order, World, usd

ETH, BTC = 100, 200
ALICE, BOB, CAROL, DAVE = 11, 2**127 + 12, 13, 14  # account numbers may be this large
MARGINS = {ALICE: usd(10_000), BOB: usd(10_000), CAROL: usd(400_000), DAVE: usd(2_000)}
TRADES = (
    Order(ALICE, ETH, usd(40)),
    Order(ALICE, BTC, usd(-0.5)),
    Order(BOB, ETH, usd(5)),
    Order(CAROL, ETH, usd(2_000)),
    Order(DAVE, ETH, usd(9)),
)


def populated(world: World) -> World:
    """Open alice's two positions, bob's and dave's small ones and carol's large one."""
    world.create(MARGINS)
    world.trade(TRADES)
    return world


def named(events: list[Event], name: str) -> list[Event]:
    return [event for event in events if event.name == name]
