"""Two hundred accounts become liquidatable by one price: all are sent, the best first.

Prints how long it took; ``-s`` shows it.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pytest

from keeper.chain.journal_read import reading, whole
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import Options
from tests.faults.books import assert_right, attempts, journal_of
from tests.faults.world import LIMIT_S, World, opened_world
from tests.market_chain import under_eth_long

ACCOUNTS = 200
LANES = 4
OUT_OF_ORDER_MAX = 0.05  # of all pairs: eight are simulated side by side; at random it is half
GATE = "[gate]\nopen_attempts_max = 256"


@pytest.fixture
def world(tmp_path: Path, broker: Broker) -> Iterator[World]:
    options = Options(venue=GATE)
    with opened_world(tmp_path, broker, options, wallets=LANES) as running:
        yield running


def planned_rewards(world: World) -> list[int]:
    """Return the reward of each attempt as planned, in the order of the journal's commits."""
    with reading(journal_of(world.keeper)) as db:
        histories = [whole(db, row)["history"] for row in attempts(world.keeper)]
    lines = [line for history in histories for line in history]  # type: ignore[attr-defined]
    return [int(line["facts"]["reward_wei"]) for line in lines if line["event"] == "planned"]


def out_of_order(values: Sequence[int]) -> float:
    """Return the share of pairs of which the smaller comes first."""
    pairs = list(combinations(values, 2))
    return sum(first < second for first, second in pairs) / len(pairs)


def test_all_are_sent_the_best_first(world: World) -> None:
    rig, keeper = world.rig, world.keeper
    sizes = [60_000 + 700 * (number * 77 % ACCOUNTS) for number in range(ACCOUNTS)]
    world.accounts += rig.chain.seed([under_eth_long(5.0, size) for size in sizes])
    keeper.until(lambda: keeper.metric("keeper_accounts") == ACCOUNTS, LIMIT_S)
    rig.node.rpc("evm_setAutomine", False)  # noqa: FBT003
    rig.oracle.set(0, 1_900 * WAD)
    published_ms = rig.oracle.last_ms
    keeper.until(lambda: world.waiting == ACCOUNTS, LIMIT_S)
    keeper.until(lambda: all(row["sent_ms"] for row in attempts(keeper)), LIMIT_S)

    rows = attempts(keeper)
    assert {row["wallet"].lower() for row in rows} == {
        one.lower() for one in world.wallets.addresses
    }
    wrong = out_of_order(planned_rewards(world))
    last_ms = max(row["sent_ms"] for row in rows) - published_ms
    print(f"{ACCOUNTS} accounts, {LANES} lanes: {last_ms} ms from price to the last acceptance")  # noqa: T201
    print(f"{wrong:.2%} of pairs out of order")  # noqa: T201
    assert wrong <= OUT_OF_ORDER_MAX

    def over() -> bool:
        world.mine()
        return world.is_over

    keeper.until(over, LIMIT_S)
    assert_right(rig, keeper, world.wallets.addresses, world.accounts)
