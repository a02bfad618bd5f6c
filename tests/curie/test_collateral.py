"""Collateral of accounts in debt, on the contracts: judged, bought, accounted for."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from keeper.capabilities import RewardKind
from keeper.chain.rpc import HttpRpc
from keeper.facts import AccountId, Assessment, Refused, Simulated
from keeper.jobs import Gain, Job
from keeper.margin import MarginBook
from keeper.units import PPM, WAD
from keeper.venues.perp_curie_collateral import (
    CollateralMarkets,
    IndebtedAccount,
    PerpCurieCollateral,
    Settings,
    build,
)
from tests.curie.deploy import USD
from tests.curie.keeping import logs_of
from tests.curie.test_values import crowd, shake
from tests.curie.world import World
from tests.market_chain import seeded
from tests.venues.wire import head_of

SEED = 20_220_914
UNIT = WAD // USD


def venue_of(world: World, rpc: HttpRpc, **settings: object) -> PerpCurieCollateral:
    given = {"id": "collateral", **world.curie.settings, **settings}
    return build(Settings(**given), rpc, 31_337)  # type: ignore[arg-type]


async def read(
    venue: PerpCurieCollateral, world: World, names: Sequence[str]
) -> tuple[CollateralMarkets, dict[str, IndebtedAccount]]:
    head = head_of(world.chain.node)
    market = await venue.read_market(head)
    states = await venue.read_accounts([AccountId(world.person(one)) for one in names], head)
    return market, dict(zip(names, states, strict=True))


async def judged(venue: PerpCurieCollateral, world: World, name: str) -> Assessment:
    market, found = await read(venue, world, [name])
    return venue.assess(found[name], market, {}, market.head.timestamp_s)


async def simulate(
    venue: PerpCurieCollateral, world: World, verdict: Assessment
) -> Simulated | Refused:
    return await venue.simulate(verdict, world.person("keeper"), head_of(world.chain.node))


def send(world: World, simulated: Simulated) -> dict[str, object]:
    call, wallet = simulated.call, world.person("keeper")
    data = "0x" + call.data.hex()
    sent = world.chain.broadcast(wallet, call.to, data, gas=simulated.gas * 3 // 2)
    receipt = world.chain.receipts([sent])[0]
    assert receipt["status"] == "0x1"
    return receipt


def indebted(world: World) -> None:
    """Let dave, margined in 1.5 WETH, lose more than these count for."""
    world.deposit_weth("dave", 1.5)
    world.trade("dave", "ETH", 18_000)
    world.move("ETH", 1_850)
    world.curie.usdc.send("mint", world.person("keeper"), 5_000 * USD)


def by_contract(world: World, who: str, block: str) -> bool:
    return bool(world.curie.vault.call("isLiquidatable", who, block={"blockHash": block}))


def extremes(world: World, rng: random.Random) -> list[str]:
    """Beside a crowd, accounts with debt and hardly a position."""
    names = crowd(world, rng)
    for n in range(6):
        name = f"debtor{n}"
        world.deposit_weth(name, rng.uniform(0.5, 3))
        world.trade(name, "ETH", rng.uniform(3_000, 5_000) * rng.choice([-1, 1]))
        names.append(name)
    return names


async def test_verdicts_are_the_contracts_and_the_screen_is_never_above(
    world: World, rpc: HttpRpc
) -> None:
    rng, venue = seeded(SEED), venue_of(world, rpc)
    names, verdicts = extremes(world, rng), set[bool]()
    for trend in (0, -0.05, -0.05, -0.05, 0.05):
        shake(world, rng, trend)
        if trend < 0:
            world.curie.manager.send("setDebtThreshold", rng.choice([100, 800, 10_000]) * USD)
        market, found = await read(venue, world, names)
        book: MarginBook[str] = MarginBook(
            list(venue.price_factors(market)), list(venue.index_factors(market))
        )
        book.move(venue.factors(market, market.head.timestamp_s))
        for name, account in found.items():
            verdict = venue.assess(account, market, {}, market.head.timestamp_s)
            theirs = by_contract(world, account.account, market.head.hash)
            assert (verdict.equity_wad < 0) == theirs, (SEED, name)
            verdicts.add(verdict.liquidatable)
            row = venue.compile(account, market, book.values)
            if row is None:
                assert not theirs
                continue
            book.put(name, row)
            assert book.excess(name) <= verdict.equity_wad / WAD + 1e-6, (SEED, name)
            assert name in book.under or not theirs
    assert verdicts == {True, False}


async def test_it_is_bought_as_simulated(world: World, rpc: HttpRpc) -> None:
    """An approval, the purchase, and parts that are what the wallet has more."""
    venue = venue_of(world, rpc)
    indebted(world)
    keeper, curie = world.person("keeper"), world.curie
    verdict = await judged(venue, world, "dave")
    assert (verdict.liquidatable, verdict.uses) == (True, (curie.weth.address,))
    first = await simulate(venue, world, verdict)
    assert isinstance(first, Simulated)
    assert [first.job, *(step.job for step in first.then)] == [Job.PREPARE, Job.COLLATERAL]
    assert first.takes_over is not None
    assert first.takes_over.exit_cost_wad * 100 == pytest.approx(first.takes_over.notional_wad)
    assert first.reward_wad == pytest.approx(verdict.reward_wad, rel=1e-3)
    send(world, first)
    second = await simulate(venue, world, await judged(venue, world, "dave"))
    assert isinstance(second, Simulated)
    assert (second.job, second.then) == (Job.COLLATERAL, ())
    logs = logs_of(send(world, second))
    paid = 5_000 * USD - curie.usdc.call("balanceOf", keeper)
    parts = venue.gains(logs, keeper)
    assert parts[Gain.REPAID] == -paid * UNIT
    price = curie.manager.call("getPrice", curie.weth.address, 900) * 10**10
    worth = curie.weth.call("balanceOf", keeper) * price // WAD
    assert parts[Gain.COLLATERAL] == pytest.approx(worth, rel=1e-6)
    assert sum(parts.values()) == pytest.approx(second.reward_wad, rel=1e-9)
    assert sum(parts.values()) * 10 == pytest.approx(worth, rel=1e-3)  # a discount of a tenth
    (seen,) = [one for log in logs for one in venue.touched(log).liquidations
               if log.address in venue.addresses()]  # fmt: skip
    assert (seen.account, seen.liquidator, seen.job) == (verdict.account, keeper, Job.COLLATERAL)
    assert seen.reward_wad == sum(parts.values())
    assert venue.gains(logs, world.person("whale")) == {}


async def test_an_approval_takes_nothing_from_what_others_on_their_way_need(
    world: World, rpc: HttpRpc
) -> None:
    """Two that were simulated before either was approved: the second approval lowers nothing."""
    indebted(world)
    keeper, curie = world.person("keeper"), world.curie
    small, large = venue_of(world, rpc, pay_usd_max=10), venue_of(world, rpc)
    verdict = await judged(large, world, "dave")
    offers = [await simulate(venue, world, verdict) for venue in (large, small)]
    for offer in offers:
        assert isinstance(offer, Simulated)
        send(world, offer)
    first = offers[0]
    assert isinstance(first, Simulated)
    (step,) = first.then
    send(world, replace(first, call=step.call, gas=step.gas))
    left = curie.usdc.call("balanceOf", keeper)
    assert left < 5_000 * USD
    assert curie.usdc.call("allowance", keeper, curie.vault.address) == left


async def test_what_selling_costs_is_the_operators_word(world: World, rpc: HttpRpc) -> None:
    indebted(world)
    venue = venue_of(world, rpc, selling_cost_ppm=30_000)
    offer = await simulate(venue, world, await judged(venue, world, "dave"))
    assert isinstance(offer, Simulated)
    assert offer.takes_over is not None
    sold_wad = offer.takes_over.notional_wad
    assert offer.takes_over.exit_cost_wad == pytest.approx(sold_wad * 3 / 100)


async def test_the_wallet_its_limit_and_what_is_in_flight_bound_what_is_paid(
    world: World, rpc: HttpRpc
) -> None:
    indebted(world)
    venue = venue_of(world, rpc, pay_usd_max=200)
    verdict = await judged(venue, world, "dave")
    part = await simulate(venue, world, verdict)
    assert isinstance(part, Simulated)
    assert part.takes_over is not None
    assert part.takes_over.margin_wad == 200 * WAD
    flying = Assessment(
        **{name: getattr(verdict, name) for name in verdict.__slots__}
        | {"in_flight": {verdict.uses[0]: 200 * WAD}}
    )
    refused = await simulate(venue, world, flying)
    assert isinstance(refused, Refused)
    assert refused.reason == "no_capital"
    world.curie.usdc.send("transfer", world.person("whale"), 5_000 * USD,
                          sender=world.person("keeper"))  # fmt: skip
    refused = await simulate(venue, world, verdict)
    assert isinstance(refused, Refused)
    assert refused.reason == "no_capital"


async def test_a_cured_account_is_refused_by_the_chain(world: World, rpc: HttpRpc) -> None:
    venue = venue_of(world, rpc)
    indebted(world)
    verdict = await judged(venue, world, "dave")
    world.deposit("dave", 4_000)
    refused = await simulate(venue, world, verdict)
    assert isinstance(refused, Refused)
    assert refused.reason == "not_liquidatable"
    assert not (await judged(venue, world, "dave")).liquidatable


async def test_probe(world: World, rpc: HttpRpc) -> None:
    venue = venue_of(world, rpc)
    assert venue.capabilities.reward is RewardKind.INVENTORY
    assert venue.capabilities.learns_from_reads, "makers are learned by reading them"
    probe = await venue.probe(world.person("keeper"))
    assert probe.open
    assert probe.facts[f"discount on {world.curie.weth.address}"] == f"{100_000 / PPM:.2%}"
    assert not (await venue_of(world, rpc, decimals=18).probe(None)).open
    world.curie.vault.send("pause")
    assert not (await venue.probe(None)).open
