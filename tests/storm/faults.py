"""Broker, node and keeper, killed one at a time in the middle of a staged liquidation."""

import time
from collections.abc import Callable, Mapping

from tests.storm.rig import Storm

AWAY_BLOCKS = 4
NODE_AWAY_S = 1.0
IN_FLIGHT_S_MAX = 5.0


def kill_broker(storm: Storm) -> None:
    """No prices for some blocks."""
    _staged(storm)
    with storm.outage():
        storm.broker.kill()
        storm.blocks(AWAY_BLOCKS)
        storm.broker.start()
        taken = storm.feeder.taken
        storm.until(lambda: storm.feeder.taken > taken, "a price after the broker's return")


def kill_node(storm: Storm) -> None:
    """No chain for a while; it comes back with its blocks, without its mempool."""
    _staged(storm)
    with storm.outage():
        storm.node.halt()
        storm.caught_up()  # older states are gone after a restart
        storm.node.kill()
        time.sleep(NODE_AWAY_S)
        storm.node.restart()
        head = storm.head
        storm.until(lambda: storm.head > head, "a block after the node's return")


def kill_keeper(storm: Storm) -> None:
    """SIGKILL with something in flight, if it comes to that; what it was is mined meanwhile."""
    _staged(storm)
    deadline = time.monotonic() + IN_FLIGHT_S_MAX
    while not _in_flight(storm) and time.monotonic() < deadline:
        time.sleep(0.01)
    storm.restarted = True
    with storm.outage():
        storm.keeper.kill()
        storm.blocks(AWAY_BLOCKS)
        storm.keeper.start()


def _in_flight(storm: Storm) -> bool:
    pending, latest = (
        str(storm.node.rpc("eth_getTransactionCount", storm.keeper.wallet, tag))
        for tag in ("pending", "latest")
    )
    return pending != latest


def _staged(storm: Storm) -> None:
    before = len(storm.verdicts.dealt)
    storm.until(
        lambda: bool(storm.verdicts.open_flagged) and len(storm.verdicts.dealt) > before,
        "a staged liquidation, and the fall going on",
    )


FAULTS: Mapping[str, Callable[[Storm], None]] = {
    "broker": kill_broker,
    "node": kill_node,
    "keeper": kill_keeper,
}
