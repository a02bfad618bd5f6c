"""A venue whose adapter silently loses one event in twenty: the chain corrects the book.

With ``-s`` it says how long that took.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import Options, Rig, opened
from tests.nodes import Anvil

COMMAND = (sys.executable, "-m", "tests.e2e.keeper_with_kinds")
RECONCILE = "[reconcile]\nevery_ms = 50\naccounts_max = 4"
ACCOUNTS = 10  # each is compared once in five slices
STATED = "with a slice of 4 accounts every 50 ms: each of 10 within 5 slices, or blocks if longer"
DONE_S_MAX = 20.0


@pytest.fixture
def own_rig(tmp_path: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path, node, broker) as rig:
        yield rig


def test_what_was_lost_is_corrected_and_everybody_is_liquidated(own_rig: Rig) -> None:
    rig = own_rig
    accounts = [rig.open_safe() for _ in range(ACCOUNTS)]
    rig.chain.send("mint_usd", rig.chain.dev[0], 1_000 * WAD)
    with rig.keeper(Options(kind="forgetful_market", venue=RECONCILE), command=COMMAND) as keeper:
        keeper.until_ready()
        for number in range(99 - ACCOUNTS):
            rig.chain.send("deposit_cash", accounts[number % ACCOUNTS], WAD)
        head = int(rig.node.rpc("eth_blockNumber"), 16)
        keeper.until(lambda: keeper.metric("keeper_head_block") >= head, DONE_S_MAX)
        rig.node.rpc("evm_mine")
        keeper.until(lambda: keeper.metric("keeper_head_block") > head, DONE_S_MAX)
        # the hundredth event: it is lost, nothing else touches the account, and none comes after
        rig.chain.send("deposit_cash", accounts[-1], WAD)
        cash, lost_s = rig.chain.account(accounts[-1]).cash, time.monotonic()

        def corrected() -> bool:
            rig.node.rpc("evm_mine")
            lost = keeper.run.stderr.count('"event": "event lost"')
            return lost == 5 and any(
                f'"account": "{accounts[-1]}"' in line and f'"chain": "{cash}"' in line
                for line in keeper.run.stderr.splitlines()
                if "book corrected" in line
            )

        keeper.until(corrected, DONE_S_MAX)
        print(f"found after {(time.monotonic() - lost_s) * 1000:.0f} ms, {STATED}")  # noqa: T201
        field = {"venue": "demo", "field": "holdings.cash"}
        keeper.until(
            lambda: keeper.metric("keeper_reconcile_corrected_total", **field) >= 1, DONE_S_MAX
        )
        assert keeper.metric("keeper_reconcile_drift_ratio", venue="demo") > 0
        keeper.until(lambda: keeper.metric("keeper_venue_suspect", venue="demo") == 1, DONE_S_MAX)

        rig.oracle.set(0, 1_800 * WAD)
        keeper.until(
            lambda: {one["account"] for one in rig.liquidations()} == set(accounts), DONE_S_MAX
        )
        keeper.stop()
