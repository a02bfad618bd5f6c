"""A whole keeper under a flood on one feed: the newest price decides about as soon as in calm.

Long form. With ``-s`` it says how long after a price had left an attempt was signed for it.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.margin.model import Account, margin
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Rig, opened, topic_of
from tests.market_chain import FEEDS, payload_of, under_eth_long
from tests.nodes import Anvil
from tests.prices.test_flood import flooder

SECONDS = 2
ROUNDS = 10  # at each rate
CALM, FLOOD = 20, 3_000  # messages a second
DONE_S_MAX = 20.0
ETH = 0


@pytest.fixture
def own_rig(tmp_path: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path, node, broker) as rig:
        yield rig


def message(rig: Rig, price: int, epoch: int) -> str:
    """What the oracle would publish, signed now; the flooder numbers it and says when."""
    rig.oracle.last_ms += 1
    update = rig.chain.sign(ETH, price, rig.oracle.last_ms)
    text = f"{price / WAD:.2f}"
    return json.dumps({"price": text, "epoch": epoch, "payload": "0x" + payload_of(update).hex()})


def standing_until(rig: Rig, rung: int) -> Account:
    """An ETH long of 50 that is under by 10 USD at the price after this rung, and not before."""
    terms = rig.chain.terms()
    price = (2_000 - rung - 1) * WAD
    markets = {**terms.markets, "0": replace(terms.markets["0"], price=price)}
    account = under_eth_long(0.0)
    found = margin(account, replace(terms, markets=markets))
    return replace(account, cash=-found.excess - 10 * WAD)


def sunk(rig: Rig, keeper: KeeperProcess, rate: int, rung: int, account: int) -> int:
    """Let the price fall by a rung in the middle of a flood; return when (wall ms)."""
    prices = (2_000 - rung) * WAD, (2_000 - rung - 1) * WAD
    messages = [message(rig, price, 2 + rung) for price in prices]
    topic = f"{rig.prefix}/{topic_of(FEEDS[ETH])}"
    with flooder("mqtt", rig.broker.port, topic, rate, SECONDS, *messages) as process:
        assert process.stdout is not None
        turned_ms = int(process.stdout.readline())
        keeper.until(lambda: rig.liquidated(account), DONE_S_MAX)
    return turned_ms


@pytest.mark.slow
def test_the_newest_price_of_a_flood_decides_as_soon_as_in_calm(own_rig: Rig) -> None:
    rig = own_rig
    accounts = rig.chain.seed([standing_until(rig, rung) for rung in range(2 * ROUNDS)])
    turned_ms: dict[str, int] = {}
    with rig.keeper() as keeper:
        keeper.until_ready()
        with rig.oracle.calm:
            for rung, account in enumerate(accounts):
                rate = (CALM, FLOOD)[rung % 2]
                turned_ms[str(account)] = sunk(rig, keeper, rate, rung, account)
        conflated = keeper.metric("keeper_price_conflated_total", stream="broker")
        assert conflated > 0
        assert keeper.metric("keeper_reconnects_total", stream="broker") == 0
        keeper.stop()
        took_ms = {row.account: row.opened_ms - turned_ms[row.account] for row in keeper.journal()}
    assert took_ms.keys() == turned_ms.keys()
    for rate, some in ((CALM, accounts[::2]), (FLOOD, accounts[1::2])):
        each = sorted(took_ms[str(account)] for account in some)
        print(f"{rate} msg/s: signed after {each} ms; {conflated:.0f} conflated")  # noqa: T201
