"""What the keeper does there, on the contracts: simulated, sent, and as it was simulated."""

from dataclasses import replace
from typing import Any

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.errors import TransientError
from keeper.facts import (
    Log,
    Refused,
    Simulated,
)
from keeper.jobs import Job
from keeper.units import PPM, WAD
from keeper.venues._perp_curie_reads import EVENTS
from tests.curie.deploy import USD
from tests.curie.keeping import judged, logs_of, send, simulate, venue_of
from tests.curie.world import World
from tests.synthetix.chain import RevertedError
from tests.venues.wire import head_of

UNIT = WAD // USD
LARGE = {"exposure_usd_max": 10**6, "exposure_total_usd_max": 10**6}


@pytest.fixture
def keeper(world: World) -> str:
    return world.deposit("keeper", 20_000)


def margin_of(world: World, name: str) -> int:
    """Return a person's account value, wads."""
    value: int = world.curie.house.call("getAccountValue", world.person(name))
    return value


def size_of(world: World, name: str, market: str = "ETH") -> int:
    base = world.market(market).base.address
    size: int = world.curie.balances.call("getTotalPositionSize", world.person(name), base)
    return size


def liquidation(receipt: dict[str, Any]) -> dict[str, Any]:
    found = [EVENTS.read(log) for log in logs_of(receipt)]
    (event,) = [fields for name, fields in found if name == "PositionLiquidated"]
    return event


async def test_a_taker_is_liquidated_as_simulated(world: World, rpc: HttpRpc, keeper: str) -> None:
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    healthy = await judged(venue, world, "alice")
    assert not healthy.liquidatable
    world.move("ETH", 1_840)
    verdict = await judged(venue, world, "alice")
    assert verdict.liquidatable
    assert verdict.bad_debt_wad == 0
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Simulated)
    assert (simulated.job, [step.job for step in simulated.then]) == (
        Job.LIQUIDATE,
        [Job.FLATTEN],
    )
    before, size = margin_of(world, "keeper"), size_of(world, "alice")
    event = liquidation(send(world, simulated))
    taken = simulated.takes_over
    assert taken is not None
    assert taken.notional_wad == pytest.approx(event["positionNotional"], rel=1e-4)
    assert simulated.reward_wad == pytest.approx(event["liquidationFee"] // 2, rel=1e-4)
    assert simulated.reward_wad == pytest.approx(verdict.reward_wad, rel=1e-4)
    # the discount is ours at once, at the mark price
    assert margin_of(world, "keeper") - before == pytest.approx(simulated.reward_wad, rel=1e-3)
    assert size_of(world, "keeper") == size - size_of(world, "alice") > 0
    world.close("keeper", "ETH")
    gain = margin_of(world, "keeper") - before
    # quoted when it was decided; the mark has moved a little since
    assert gain == pytest.approx(simulated.reward_wad - taken.exit_cost_wad, abs=WAD)
    assert taken.exit_cost_wad > 0
    assert event["liquidator"] == keeper


async def test_the_chain_refuses_a_healthy_account(world: World, rpc: HttpRpc, keeper: str) -> None:
    """An assessment may be older than the chain: the chain has the last word."""
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.move("ETH", 1_840)
    verdict = await judged(venue, world, "alice")
    world.deposit("alice", 5_000)
    refused = await simulate(venue, world, verdict)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.detail) == ("not_liquidatable", "CH_EAV")
    assert keeper == world.person("keeper")


@pytest.mark.parametrize(("price", "share"), [(1_895, 0.5), (1_815, 1.0)])
async def test_half_is_taken_above_half_of_the_maintenance_margin(
    world: World, rpc: HttpRpc, keeper: str, price: float, share: float
) -> None:
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.move("ETH", price)
    before = size_of(world, "alice")
    simulated = await simulate(venue, world, await judged(venue, world, "alice"))
    assert isinstance(simulated, Simulated)
    send(world, simulated)
    assert size_of(world, "keeper") / before == pytest.approx(share)
    assert keeper == world.person("keeper")


async def test_limits_cut_what_is_taken_over(world: World, rpc: HttpRpc, keeper: str) -> None:
    venue = venue_of(world, rpc, exposure_usd_max=3_000, exposure_total_usd_max=10**6)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.move("ETH", 1_840)
    verdict = await judged(venue, world, "alice")
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Simulated)
    event = liquidation(send(world, simulated))
    assert event["positionNotional"] / WAD == pytest.approx(3_000, rel=0.01)
    again = await simulate(venue, world, await judged(venue, world, "alice"))
    assert isinstance(again, Refused) or (
        again.takes_over is not None and again.takes_over.notional_wad < 60 * WAD
    )
    assert event["liquidator"] == keeper


async def test_what_is_in_flight_and_missing_margin_leave_less(world: World, rpc: HttpRpc) -> None:
    """Margin 300 USD serve for 3,000: none without it, none when it is spoken for."""
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.move("ETH", 1_840)
    verdict = await judged(venue, world, "alice")
    refused = await simulate(venue, world, verdict)
    assert isinstance(refused, Refused)
    assert refused.reason == "no_capital"
    world.deposit("keeper", 300)
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Simulated)
    assert simulated.takes_over is not None
    assert simulated.takes_over.notional_wad / WAD == pytest.approx(3_000, rel=0.01)
    assert simulated.takes_over.margin_wad * 10 == pytest.approx(simulated.takes_over.notional_wad)
    refused = await simulate(venue, world, replace(verdict, in_flight={"BTC": 3_000 * WAD}))
    assert isinstance(refused, Refused)
    assert refused.reason == "no_capital"


async def test_a_maker_is_liquidated_step_by_step(world: World, rpc: HttpRpc, keeper: str) -> None:
    """Orders are cancelled first; the account is judged again; then it is liquidated."""
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("erin", 950)
    world.provide("erin", "ETH", (0, 9_000), (1_900, 1_990))
    world.move("ETH", 1_850)
    await judged(venue, world, "maker")  # its fees change with every trade in the pool
    verdict = await judged(venue, world, "erin")
    assert verdict.liquidatable
    base = world.market("ETH").base.address
    with pytest.raises(RevertedError, match="CH_CLWTISO"):
        world.curie.house.call("liquidate", world.person("erin"), base, 0, sender=keeper)
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Simulated)
    jobs = [simulated.job, *(step.job for step in simulated.then)]
    assert jobs == [Job.PREPARE, Job.LIQUIDATE, Job.FLATTEN]
    logs = [log for log in logs_of(send(world, simulated)) if log.address in venue.addresses()]
    assert logs
    for log in logs:
        assert venue.touched(log).accounts == {world.person("erin"), world.person("maker")}
    between = await judged(venue, world, "erin")
    assert between.uses == (base,)
    last = await simulate(venue, world, between)
    assert isinstance(last, Simulated)
    assert last.reward_wad == pytest.approx(simulated.reward_wad, rel=1e-3)
    event = liquidation(send(world, last))
    assert event["trader"] == world.person("erin")
    assert size_of(world, "keeper") > 0


async def test_from_bad_debt_the_whole_penalty_is_ours(
    world: World, rpc: HttpRpc, keeper: str
) -> None:
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.move("ETH", 1_650)
    verdict = await judged(venue, world, "alice")
    assert verdict.bad_debt_wad > 0
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Simulated)
    before = margin_of(world, "keeper")
    event = liquidation(send(world, simulated))
    assert simulated.reward_wad == pytest.approx(event["liquidationFee"], rel=1e-4)
    assert event["liquidationFee"] * PPM == pytest.approx(event["positionNotional"] * 25_000)
    assert margin_of(world, "keeper") - before == pytest.approx(simulated.reward_wad, rel=1e-2)
    assert keeper == world.person("keeper")


async def test_a_short_is_taken_over_too(world: World, rpc: HttpRpc, keeper: str) -> None:
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("sam", 1_000)
    world.trade("sam", "ETH", -9_000)
    world.move("ETH", 2_160)
    verdict = await judged(venue, world, "sam")
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Simulated)
    assert simulated.takes_over is not None
    before = margin_of(world, "keeper")
    send(world, simulated)
    assert size_of(world, "keeper") < 0
    world.close("keeper", "ETH")
    expected = simulated.reward_wad - simulated.takes_over.exit_cost_wad
    assert margin_of(world, "keeper") - before == pytest.approx(expected, abs=WAD)
    assert keeper == world.person("keeper")


async def test_without_a_way_out_nothing_is_taken(world: World, rpc: HttpRpc, keeper: str) -> None:
    """The pool is too far from the index: whoever takes a position over now is stuck with it."""
    venue = venue_of(world, rpc, **LARGE)
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.move("ETH", 1_840)
    world.market("ETH").aggregator.send("set", 2_100 * 10**8)
    verdict = await judged(venue, world, "alice")
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Refused)
    assert simulated.reason == "no_progress"
    assert simulated.detail == "EX_OPB"
    assert keeper == world.person("keeper")


async def test_a_market_that_cannot_be_valued_now_is_asked_for_again(
    world: World, rpc: HttpRpc
) -> None:
    """A mark that reverts is no bug of ours: the venue waits until it is there again."""
    venue, config = venue_of(world, rpc), world.curie.config
    config.send("setMarkPriceMarketTwapInterval", 10**6)  # longer than the pool looks back
    with pytest.raises(TransientError, match="OLD"):
        await venue.read_market(head_of(world.chain.node))
    config.send("setMarkPriceMarketTwapInterval", 1_800)
    topics = ("0x" + "5a" * 32,)  # whatever is not known may be a change of what is behind it
    strange = Log(world.curie.house.address, topics, b"", 1, "0x" + "00" * 32, "0x" + "00" * 32)
    assert venue.touched(strange).everything
    await venue.read_market(head_of(world.chain.node))


async def test_probe(world: World, rpc: HttpRpc, keeper: str) -> None:
    venue = venue_of(world, rpc)
    probe = await venue.probe(keeper)
    assert probe.open
    assert probe.facts["reward"] == "a discount of 1.25% of what is taken over"
    assert probe.facts["our free margin"].startswith(str(20_000 * USD))
    assert probe.facts["liquidators"].startswith("0 distinct")
    other = await venue_of(world, rpc, vault=world.curie.house.address).probe(keeper)
    assert not other.open
    assert "mend vault" in other.detail
    wrong = await venue_of(world, rpc, address=world.curie.usdc.address).probe(None)
    assert not wrong.open
    world.curie.house.send("pause")
    paused = await venue.probe(None)
    assert (paused.open, paused.detail) == (False, "the protocol is paused")
