"""A stop writes the accounts down; the next start acts without reading them again."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode

from keeper.margin.model import margin
from keeper.units import WAD
from keeper.venues.demo_market import READ_ACCOUNTS
from tests.brokers import Broker
from tests.e2e.proxy import Proxy, running_proxy
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.runs import KEEPER
from tests.nodes import Anvil

DONE_S_MAX = 15.0
ACCOUNT_VIEWS = "0x" + READ_ACCOUNTS.data([]).hex()[:8]


@pytest.fixture
def own_rig(tmp_path: Path, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path, node, broker) as rig:
        yield rig


def said(keeper: KeeperProcess, event: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in keeper.run.stderr.splitlines() if event in line]
    found: dict[str, Any] = lines[-1]
    return found


def stressed(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*KEEPER, "stress", "--saved", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)


def stress_of_what_was_saved(rig: Rig, keeper: KeeperProcess, accounts: list[int]) -> None:
    """Without a keeper that runs: the saved accounts, at the prices that the contract holds."""
    done = stressed(keeper.config, "--shock", "ETH=-10%", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    venue = document["venues"]["demo"]
    assert venue["prices"]["ETH/USD"]["of"] == "contract"
    assert document["saved_blocks"]["demo"] <= venue["block"]
    terms = rig.chain.terms(venue["at_s"])
    price = terms.markets["0"].price * 9 // 10
    markets = {**terms.markets, "0": replace(terms.markets["0"], price=price)}
    found = [margin(rig.chain.account(one), replace(terms, markets=markets)) for one in accounts]
    assert venue["total"]["under_margined_accounts"] == sum(one.excess < 0 for one in found) == 5
    assert venue["total"]["bad_debt_usd"] == pytest.approx(
        sum(max(0, -one.net_value) for one in found) / WAD, abs=0.05
    )
    nothing, _, _ = rig.configure(keeper.config.parent / "another", Options())
    done = stressed(nothing)
    assert done.returncode == 1
    assert done.stderr.startswith("no accounts are saved in ")


def test_a_stop_and_a_warm_start(own_rig: Rig) -> None:
    rig = own_rig
    accounts = [rig.open_safe() for _ in range(5)]
    with rig.keeper() as keeper:
        keeper.until_ready()
        keeper.until(lambda: keeper.metric("keeper_accounts", venue="demo") == 5, DONE_S_MAX)
        keeper.stop()
        assert said(keeper, "snapshot written")["accounts"] == 5
        stress_of_what_was_saved(rig, keeper, accounts)
        later = rig.open_safe()
        keeper.start()
        keeper.until_ready()
        warm = said(keeper, "warm start")
        assert (warm["kept"], warm["of"]) == (5, 5)
        keeper.until(lambda: keeper.metric("keeper_accounts", venue="demo") == 6, DONE_S_MAX)
        rig.oracle.set(0, 1_800 * WAD)
        every = {*accounts, later}
        keeper.until(lambda: {one["account"] for one in rig.liquidations()} == every, DONE_S_MAX)
        keeper.stop()


def test_a_warm_start_asks_for_new_logs_and_changed_accounts_only(own_rig: Rig) -> None:
    rig = own_rig
    accounts = [rig.open_safe() for _ in range(30)]
    rig.chain.send("mint_usd", rig.chain.dev[0], WAD)
    # the two that are compared with the chain besides are told from those that are read
    reconcile = "[reconcile]\nevery_ms = 600000\naccounts_max = 2"
    with running_proxy(rig.node.port) as proxy:
        options = Options(http=proxy.url, venue=reconcile)
        with rig.keeper(options) as keeper:
            keeper.until_ready()
            head = keeper.metric("keeper_head_block")
            before, read = asked_for(proxy)
            assert int(head) - len(accounts) in before
            assert {*accounts} <= read
            keeper.stop()
            rig.chain.send("deposit_cash", accounts[7], WAD)
            proxy.asked.clear()
            keeper.start()
            keeper.until_ready()
            assert keeper.metric("keeper_accounts_read_total", venue="demo") == 1
            logs, read = asked_for(proxy)
            assert logs, "those that came meanwhile are read"
            assert logs.isdisjoint(before), "logs read before are not read again"
            assert accounts[7] in read
            assert len(read) <= 1 + 2
            assert keeper.metric("keeper_accounts", venue="demo") == len(accounts)
            keeper.stop()


def asked_for(proxy: Proxy) -> tuple[set[int], set[int]]:
    """Return the blocks whose logs, of all events, were asked for by range, and the accounts."""
    blocks, accounts = set[int](), set[int]()
    for method, params in proxy.asked:
        if method == "eth_getLogs" and params[0].keys() == {"address", "fromBlock", "toBlock"}:
            blocks.update(range(int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16) + 1))
        elif method == "eth_call" and params[0]["data"].startswith(ACCOUNT_VIEWS):
            (ids,) = decode(["uint256[]"], bytes.fromhex(params[0]["data"].removeprefix("0x"))[4:])
            accounts.update(ids)
    return blocks, accounts
