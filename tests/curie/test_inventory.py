"""Our own account there: margin, positions taken over, when and how they are closed."""

from dataclasses import replace

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.facts import AccountId, Assessment, Log, Refused, Simulated
from keeper.jobs import Gain, Job
from keeper.units import WAD
from keeper.venues._perp_curie_inventory import AGAIN_S, FOREVER_S, WINDOW_S
from keeper.venues.perp_curie import PerpCurie
from tests.curie.deploy import USD
from tests.curie.keeping import assess, judged, logs_of, read, send, simulate, venue_of
from tests.curie.world import World

UNIT = WAD // USD


@pytest.fixture
def keeper(world: World) -> str:
    return world.deposit("keeper", 20_000)


async def known(venue: PerpCurie, world: World) -> PerpCurie:
    """Let the venue learn whose wallet it works for, as the keeper's loops do."""
    await venue.probe(world.person("keeper").upper().replace("0X", "0x"))
    return venue


async def own(venue: PerpCurie, world: World) -> Assessment:
    return await judged(venue, world, "keeper")


def position(world: World, market: str = "ETH") -> int:
    base = world.market(market).base.address
    info = world.curie.balances.call("getAccountInfo", world.person("keeper"), base)
    size: int = info["takerPositionSize"]
    return size


def assets(world: World) -> int:
    """Return all the keeper has in the settlement token, wads: wallet, margin, realised PnL."""
    who, curie = world.person("keeper"), world.curie
    owed, unrealised, _ = curie.balances.call("getPnlAndPendingFee", who)
    cash = curie.usdc.call("balanceOf", who) + curie.vault.call("getBalance", who)
    pending = curie.exchange.call("getAllPendingFundingPayment", who)
    return int(cash * UNIT + owed + unrealised - pending)


async def taken_over(venue: PerpCurie, world: World) -> list[Log]:
    """Have a long of 9,000 USD liquidated by us; return the logs."""
    world.deposit("alice", 1_000)
    world.trade("alice", "ETH", 9_000)
    world.move("ETH", 1_815)
    simulated = await simulate(venue, world, await judged(venue, world, "alice"))
    assert isinstance(simulated, Simulated)
    return logs_of(send(world, simulated))


async def test_what_is_taken_over_is_closed_and_accounted_to_the_unit(
    world: World, rpc: HttpRpc, keeper: str
) -> None:
    """Taking over, a while of funding, closing: the parts add up to what the keeper has more."""
    venue = await known(venue_of(world, rpc), world)
    before = assets(world)
    first = venue.gains(await taken_over(venue, world), keeper)
    assert first[Gain.DISCOUNT] == -first[Gain.UNREALISED] > 90 * WAD
    world.chain.pass_time(5_000)
    verdict = await own(venue, world)
    assert (verdict.liquidatable, verdict.uses) == (True, (world.market("ETH").base.address,))
    simulated = await simulate(venue, world, verdict)
    assert isinstance(simulated, Simulated)
    assert (simulated.job, simulated.then) == (Job.FLATTEN, ())
    last = venue.gains(logs_of(send(world, simulated)), keeper)
    assert position(world) == 0
    assert set(last) == {Gain.TRADE, Gain.FEE, Gain.FUNDING}
    assert last[Gain.FEE] < 0 < last[Gain.TRADE]
    assert sum(first.values()) + sum(last.values()) == assets(world) - before
    assert simulated.reward_wad == pytest.approx(sum(last.values()), rel=0.01)
    assert not (await own(venue, world)).liquidatable
    flat = await read(venue, world, ["keeper"])
    assert flat.accounts["keeper"].due_until_s is None


async def test_our_account_is_found_at_a_start_and_left_out_of_the_screen(
    world: World, rpc: HttpRpc, keeper: str
) -> None:
    """A new process knows nothing: the market lists our account, and it is due by itself."""
    await taken_over(await known(venue_of(world, rpc), world), world)
    fresh = venue_of(world, rpc)
    found = await read(fresh, world, ["keeper"])
    assert (found.market.listed, found.accounts["keeper"].due_until_s) == ((), None)
    await known(fresh, world)
    found = await read(fresh, world, ["keeper"])
    assert found.market.listed == (AccountId(keeper),)
    assert found.accounts["keeper"].due_until_s == FOREVER_S
    assert fresh.compile(found.accounts["keeper"], found.market, {}) is None
    assert assess(fresh, found, "keeper").liquidatable


async def test_a_closing_stays_within_its_slippage_and_waits_for_what_is_on_its_way(
    world: World, rpc: HttpRpc, keeper: str
) -> None:
    venue = await known(venue_of(world, rpc, slippage_ppm_max=500), world)
    await taken_over(venue, world)
    verdict = await own(venue, world)
    refused = await simulate(venue, world, verdict)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.detail) == ("no_progress", "CH_TLRS")  # the fee alone is 0.1 %
    wider = await known(venue_of(world, rpc, slippage_ppm_max=5_000), world)
    (base,) = verdict.uses
    refused = await simulate(wider, world, replace(verdict, in_flight={base: 10 * WAD}))
    assert isinstance(refused, Refused)
    assert refused.reason == "no_progress"
    assert isinstance(await simulate(wider, world, verdict), Simulated)
    assert keeper == world.person("keeper")


async def test_a_schedule_waits_for_its_time(world: World, rpc: HttpRpc, keeper: str) -> None:
    settings: dict[str, object] = {"flatten": "schedule", "flatten_every_s": 7_200}
    venue = await known(venue_of(world, rpc, **settings), world)
    await taken_over(venue, world)
    world.chain.pass_time(7_200 - world.chain.now_s() % 7_200 + WINDOW_S + 5)
    found = await read(venue, world, ["keeper"])
    verdict = assess(venue, found, "keeper")
    assert not verdict.liquidatable
    assert verdict.until_s is not None
    assert verdict.until_s % 7_200 == 0
    assert 0 < verdict.until_s - found.head.timestamp_s <= 7_200
    world.chain.pass_time(verdict.until_s - world.chain.now_s())
    assert (await own(venue, world)).liquidatable
    assert keeper == world.person("keeper")


async def test_positions_are_held_up_to_a_limit(world: World, rpc: HttpRpc, keeper: str) -> None:
    patient = await known(venue_of(world, rpc, flatten="hold", hold_usd_max=9_000), world)
    await taken_over(patient, world)
    found = await read(patient, world, ["keeper"])
    verdict = assess(patient, found, "keeper")
    assert (verdict.liquidatable, verdict.until_s) == (False, found.head.timestamp_s + AGAIN_S)
    less = await known(venue_of(world, rpc, flatten="hold", hold_usd_max=5_000), world)
    assert (await own(less, world)).liquidatable
    # whatever the policy: too little margin for what is held, and it is closed
    balance = world.curie.vault.call("getFreeCollateral", keeper)
    world.curie.vault.send("withdraw", world.curie.usdc.address, balance, sender=keeper)
    world.set_index("ETH", 1_700)
    world.trade("whale", "ETH", -500_000)
    world.chain.pass_time(2_000)
    assert (await own(patient, world)).liquidatable


async def test_margin_is_topped_up_within_its_cap(world: World, rpc: HttpRpc) -> None:
    """An approval, then the deposit; never above the cap, nor beyond the wallet."""
    settings: dict[str, object] = {"margin_usd_min": 500, "margin_usd_max": 2_000}
    venue = venue_of(world, rpc, **settings)
    keeper, usdc = world.person("keeper"), world.curie.usdc
    usdc.send("mint", keeper, 3_000 * USD)
    assert not (await own(venue, world)).liquidatable, "it is nobody's yet"
    await known(venue, world)
    verdict = await own(venue, world)
    assert (verdict.liquidatable, verdict.uses) == (True, ())
    first = await simulate(venue, world, verdict)
    assert isinstance(first, Simulated)
    assert [first.job, *(step.job for step in first.then)] == [Job.FUND, Job.FUND]
    assert venue.gains(logs_of(send(world, first)), keeper) == {}
    assert usdc.call("allowance", keeper, world.curie.vault.address) == 3_000 * USD
    second = await simulate(venue, world, await own(venue, world))
    assert isinstance(second, Simulated)
    assert (second.job, second.then) == (Job.FUND, ())
    assert venue.gains(logs_of(send(world, second)), keeper) == {}
    assert world.curie.vault.call("getBalance", keeper) == 2_000 * USD
    assert (await read(venue, world, ["keeper"])).accounts["keeper"].due_until_s is None
    # some of it is gone: up to the cap again, as far as the wallet goes
    vault = world.curie.vault
    vault.send("withdraw", usdc.address, 1_600 * USD, sender=keeper)
    usdc.send("transfer", world.person("alice"), 1_900 * USD, sender=keeper)
    await _until_done(venue, world)
    assert vault.call("getBalance", keeper) == 1_100 * USD
    assert usdc.call("balanceOf", keeper) == 0


async def _until_done(venue: PerpCurie, world: World) -> None:
    for _ in range(3):
        verdict = await own(venue, world)
        if not verdict.liquidatable:
            return
        simulated = await simulate(venue, world, verdict)
        assert isinstance(simulated, Simulated)
        send(world, simulated)
    pytest.fail("there is always something to do")


async def test_another_wallets_account_is_not_ours_to_act_on(
    world: World, rpc: HttpRpc, keeper: str
) -> None:
    venue = await known(venue_of(world, rpc), world)
    await taken_over(venue, world)
    verdict = await own(venue, world)
    head = (await read(venue, world, [])).head
    refused = await venue.simulate(verdict, world.person("maker"), head)
    assert isinstance(refused, Refused)
    assert verdict.account == keeper


async def test_only_our_own_logs_count(world: World, rpc: HttpRpc, keeper: str) -> None:
    venue = venue_of(world, rpc)
    logs = await taken_over(venue, world)
    assert venue.gains(logs, world.person("whale")) == {}
    assert venue.gains(logs, keeper)
