"""The whole keeper on the real contracts, while the market falls, rises, and turns on it.

Each scenario prints its net P&L. Afterwards nobody is under whom the contract's own rule called
liquidatable, the keeper holds nothing, and its assets changed by what its journal says.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from keeper.chain.journal_read import AttemptRow
from keeper.jobs import Gain
from keeper.units import WAD
from tests.curie.rig import Rig, opened, table
from tests.e2e.rig import KeeperProcess

pytestmark = pytest.mark.timeout(240)
MARGIN = "margin_usd_min = 10_000\nmargin_usd_max = 40_000\n"
LIMITS = "exposure_usd_max = 150_000\nexposure_total_usd_max = 200_000\n"
ERROR = '"level": "error"'
# name → margin in USD, position in USD; leverage from 3 to 9
TAKERS: Mapping[str, tuple[float, float]] = {
    "ann": (1_000, 8_900),
    "ben": (1_500, 11_000),
    "cleo": (2_000, 9_000),
    "dan": (1_000, -8_500),
    "eve": (2_500, -15_000),
    "fay": (4_000, 12_000),
    "gus": (1_200, 10_500),
}


def populate(rig: Rig) -> None:
    """Takers both ways, two margined in WETH, one in both markets, and makers with orders."""
    world = rig.world
    for name, (margin, position) in TAKERS.items():
        world.deposit(name, margin)
        world.trade(name, "ETH", position)
    for name, weth, position in (("hal", 1.5, 18_000), ("ivy", 1.0, 9_000)):
        world.deposit_weth(name, weth)
        world.trade(name, "ETH", position)
    world.deposit("joe", 2_000)
    world.trade("joe", "ETH", 8_000)
    world.trade("joe", "BTC", 9_000)
    for name, spans in (("kim", [(1_900, 1_990)]), ("lea", [(1_880, 1_960), (1_900, 1_990)])):
        world.deposit(name, 1_000)
        for span in spans:
            world.provide(name, "ETH", (0, 9_000 / len(spans)), span)


def balanced(rig: Rig, before: tuple[int, int], journal: Sequence[AttemptRow]) -> None:
    """Hold the journal against the wallet: to the unit in USD, to the wei in gas."""
    assets, gas_wei = before
    rows = [(row.nonce, row.job, row.outcome, row.detail, row.cost_wei) for row in journal]
    assert not {row.outcome for row in journal} & {None, "expired", "dropped"}, rows
    bought = sum(row.gains.get(Gain.COLLATERAL, 0) for row in journal)
    assert rig.assets() - assets == sum(row.reward_wad for row in journal) - bought
    assert (rig.world.curie.weth.call("balanceOf", rig.wallet) > 0) == (bought > 0)
    assert gas_wei - rig.gas_wei() == sum(row.cost_wei for row in journal), rows
    for row in journal:
        assert row.reward_wad == sum(row.gains.values())


def end(rig: Rig, keeper: KeeperProcess) -> list[AttemptRow]:
    """Wait until all is quiet, look at metrics and log, stop, and return the journal."""
    rig.until_quiet(keeper)
    discount = keeper.metric("keeper_gains_usd", part="discount")
    losses = keeper.metric("keeper_losses_wei_total")
    keeper.stop()
    journal = keeper.journal()
    ours = sum(row.gains.get("discount", 0) for row in journal)
    assert discount <= ours / WAD + 1e-6
    lost_wei = sum(max(0, -row.reward_wei) for row in journal)
    assert losses <= lost_wei * (1 + 1e-9)  # a metric is a float
    errors = [line for line in keeper.run.stderr.splitlines() if ERROR in line]
    assert errors == []
    return journal


def test_a_fall_and_a_rise(tmp_path: Path) -> None:
    """Partials, makers, margin in WETH, bad debt on the way down; shorts on the way up."""
    with opened(tmp_path, usd=60_000) as rig:
        populate(rig)
        before = rig.assets(), rig.gas_wei()
        with rig.keeper(MARGIN + LIMITS) as keeper:
            keeper.until_ready()
            rig.until(keeper, lambda: rig.world.curie.vault.call("getBalance", rig.wallet) > 0)
            for price in (1_895, 1_840, 1_690):
                rig.move("ETH", price)
                rig.until_quiet(keeper)
            rig.move("ETH", 2_230)
            journal = end(rig, keeper)
        sys.stdout.write(f"\n{table('a fall and a rise', journal, 2_000)}\n")
        assert rig.flat()
        assert rig.under() == set()
        balanced(rig, before, journal)
        done = rig.liquidations()
        assert {one["liquidator"] for one in done} == {rig.wallet.lower()}
        people = {who: name for name, who in rig.world.people.items()}
        dealt = {people[str(one["trader"])] for one in done}
        assert {"ann", "ben", "dan", "gus", "hal", "joe", "kim", "lea"} <= dealt
        assert dealt <= rig.seen_under | dealt
        outcomes = {(row.job, row.outcome) for row in journal}
        assert ("prepare", "done") in outcomes
        assert ("flatten", "done") in outcomes
        assert ("fund", "done") in outcomes
        assert ("collateral", "won") in outcomes
        shares = {
            one.gains["discount"] * 1_000 // WAD for one in journal if "discount" in one.gains
        }
        assert len(shares) > 1


def test_a_market_that_turns_on_it(tmp_path: Path) -> None:
    """It holds what it took over, is killed, the market falls on; the next start gets it out."""
    with opened(tmp_path, usd=60_000) as rig:
        populate(rig)
        before = rig.assets(), rig.gas_wei()
        with rig.keeper(MARGIN + LIMITS + 'flatten = "hold"\nhold_usd_max = 1_000_000\n') as keeper:
            keeper.until_ready()
            rig.until(keeper, lambda: rig.world.curie.vault.call("getBalance", rig.wallet) > 0)
            rig.move("ETH", 1_895)
            rig.until_quiet(keeper, flat=False)
            assert not rig.flat()
        held = rig.assets()
        rig.move("ETH", 1_800, settle_s=20_000)  # with nobody there; funding goes on
        assert rig.assets() < held, "the market falls on what it holds"
        with rig.keeper(MARGIN + LIMITS) as keeper:
            keeper.until_ready()
            journal = end(rig, keeper)
        sys.stdout.write(f"\n{table('a market that turns on it', journal, 2_000)}\n")
        assert rig.flat()
        assert rig.under() == set()
        balanced(rig, before, journal)
        parts = {part for row in journal for part in row.gains}
        assert {"discount", "unrealised", "trade", "fee", "funding"} <= parts
