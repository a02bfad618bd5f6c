"""Many accounts at once: one that always reverts among good ones, and dust that does not pay."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.journal_read import reading, whole
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.faults.books import attempts, journal_of
from tests.market_chain import under_eth_long
from tests.nodes import running_anvil

WITH_KINDS = (sys.executable, "-m", "tests.e2e.keeper_with_kinds")
LIMIT_S = 60.0
CROWD = 50
TRIES = 3
BACKOFF_MS_MIN = 1_000  # as the config has it; doubles


@pytest.fixture
def rig(tmp_path: Path, broker: Broker) -> Iterator[Rig]:
    with (
        running_anvil("--block-time", "0.25", "--mixed-mining") as node,
        opened(tmp_path, node, broker) as running,
    ):
        yield running


def test_one_that_always_reverts_backs_off_and_the_others_go_through(rig: Rig) -> None:
    accounts = rig.chain.seed([under_eth_long(5.0)] * CROWD)
    poisoned = accounts.pop(CROWD // 2)
    options = Options(kind="reverting_market", venue=f'poison = "{poisoned}"')
    with rig.keeper(options, command=WITH_KINDS) as keeper:
        keeper.until_ready()
        rig.oracle.set(0, 1_900 * WAD)

        def settled(outcome: str) -> float:
            return keeper.metric("keeper_attempts_total", outcome=outcome)

        keeper.until(
            lambda: settled("won") == len(accounts) and settled("reverted") >= TRIES, LIMIT_S
        )
        keeper.stop()
        assert Counter(one["account"] for one in rig.liquidations()) == Counter(accounts)
        mine = [row for row in attempts(keeper) if row["account"] == str(poisoned)]
        settled_ms = failures = 0
        for row in mine:
            if failures:
                assert row["opened_ms"] >= settled_ms + (BACKOFF_MS_MIN << failures - 1)
            settled_ms = row["settled_ms"]
            failures = failures + 1 if row["outcome"] == "reverted" else 0  # a cancel is none
        with reading(journal_of(keeper)) as db:
            told: list[dict[str, Any]] = [
                whole(db, row) for row in mine if row["outcome"] == "reverted"
            ]
        for one in told:
            worst_wei = max(int(sent["cost_wei_max"]) for sent in one["transactions"])
            assert 0 < int(one["cost_wei"]) <= worst_wei


DUST = under_eth_long(0.3, 1_000)  # pays 2 USD, the market's least
PROFIT_WEI_MIN = WAD // 50  # 40 USD at 2,000
QUIET_BLOCKS, MOVES = 16, 40


def dust_costs_nothing(rig: Rig, count: int) -> None:
    """Have so many accounts that do not pay; count what ticks and blocks cost because of them."""
    good = rig.chain.seed([under_eth_long(5.0)])[0]
    options = Options(venue=f"[gate]\nprofit_wei_min = {PROFIT_WEI_MIN}")
    with rig.keeper(options) as keeper:
        keeper.until_ready()

        def counted(name: str) -> float:
            return keeper.metric(f"keeper_{name}_total", venue="demo")

        def held() -> float:
            return keeper.metric("keeper_held_total", reason="unprofitable")

        def move() -> None:
            """Let the price move for some blocks, never so far that anybody sinks."""
            head = keeper.metric("keeper_head_block")
            for step in range(MOVES):
                rig.oracle.set(0, (2_000 * 100 - step) * WAD // 100)
            keeper.until(lambda: keeper.metric("keeper_head_block") >= head + QUIET_BLOCKS, LIMIT_S)

        with watched(keeper, "without dust"):
            move()
        rig.chain.seed([DUST] * count)
        with watched(keeper, f"{count} dust accounts, new"):
            keeper.until(lambda: held() >= count, 60.0 + count / 25)
        assessed, simulated = counted("assessed"), counted("simulated")
        with watched(keeper, f"{count} dust accounts, known"):
            move()
        assert counted("assessed") - assessed < count / 10
        assert counted("simulated") - simulated < count / 10

        rig.oracle.set(0, 1_900 * WAD)
        keeper.until(lambda: rig.liquidated(good), LIMIT_S)
        decided_ms = 1000 * _mean(keeper, "keeper_stage_seconds", stage="price_to_decided")
        print(f"price to decided {decided_ms:.1f} ms")  # noqa: T201
        keeper.stop()
        assert [row["account"] for row in attempts(keeper)] == [str(good)]


@contextlib.contextmanager
def watched(keeper: KeeperProcess, what: str) -> Iterator[None]:
    """Print what a tick takes meanwhile, and how long the keeper lets others wait for an answer."""
    ticks, answers_ms, ended = _ticks(keeper), list[float](), threading.Event()

    def ask() -> None:
        while not ended.wait(0.05):
            began = time.perf_counter()
            keeper.get("/healthz")
            answers_ms.append(1000 * (time.perf_counter() - began))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
    count, seconds = (now - then for now, then in zip(_ticks(keeper), ticks, strict=True))
    answers_ms.sort()
    print(  # noqa: T201
        f"{what}: tick {1e6 * seconds / count:.0f} us, answers "
        f"{answers_ms[len(answers_ms) // 2]:.1f} ms, p99 "
        f"{answers_ms[len(answers_ms) * 99 // 100]:.1f}, at most {answers_ms[-1]:.1f}"
    )


def _ticks(keeper: KeeperProcess) -> tuple[float, float]:
    name = "keeper_tick_seconds"
    return keeper.metric(f"{name}_count", venue="demo"), keeper.metric(f"{name}_sum", venue="demo")


def _mean(keeper: KeeperProcess, name: str, **labels: str) -> float:
    count = keeper.metric(f"{name}_count", venue="demo", **labels)
    return keeper.metric(f"{name}_sum", venue="demo", **labels) / count


def test_dust_costs_nothing_once_it_is_known_not_to_pay(rig: Rig) -> None:
    dust_costs_nothing(rig, 300)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_dust_accounts(rig: Rig) -> None:
    dust_costs_nothing(rig, 10_000)
