"""The liquidation map against working every account out at every move."""

import asyncio
from itertools import product
from typing import Any

from keeper.facts import AccountId, FeedId
from keeper.margin.model import ReserveTerms, Tier
from keeper.risk.liquidation_map import ALL, MOVES_PCT, LiquidationMap
from keeper.risk.portfolio import Portfolio
from keeper.units import PPM, WAD
from keeper.venues._demo_market_state import (
    Asset,
    DemoAccountState,
    DemoMarketState,
    PerpMarket,
    StoredPrice,
)
from keeper.venues.demo_market import DemoMarket, Settings
from tests.market_chain import FEEDS, RESERVE, START_PRICES, random_account, seeded
from tests.shell.rig import scripted_rig
from tests.shell.test_risk import made, reader
from tests.shell.venue import VENUE

ACCOUNTS = 50
TIERS = (
    Tier(50_000 * WAD, WAD // 250),
    Tier(400_000 * WAD, WAD // 100),
    Tier(None, WAD // 40),
)


def demo_portfolio() -> Portfolio:
    """Return random accounts of a demo market that is on no chain."""
    rig, _ = scripted_rig()
    rng, head = seeded(5), rig.chain.head
    stored = tuple(
        StoredPrice(name, FeedId(name), START_PRICES[k], 0) for k, name in enumerate(FEEDS)
    )
    perps = tuple(
        PerpMarket(f"{name[:3]}-PERP", k, TIERS, 0, WAD, 0, 0, head.timestamp_s)
        for k, name in enumerate(FEEDS[:3])
    )
    assets = (
        Asset("WETH", 0, (Tier(20 * WAD, WAD // 10), Tier(None, WAD // 4))),
        Asset("USDC", 3, (Tier(None, WAD // 100),)),
    )
    market = DemoMarketState(head, 60, 0, 0, ReserveTerms(*RESERVE), stored, perps, assets)
    states = {
        (id_ := AccountId(str(number))): DemoAccountState(
            id_, head, random_account(rng, START_PRICES)
        )
        for number in range(ACCOUNTS)
    }
    venue = DemoMarket(Settings(id="demo", address="0x" + "11" * 20), rpc=None)  # type: ignore[arg-type]
    prices = {one.feed: one.price for one in stored}
    at_s, nothing = head.timestamp_s, frozenset[FeedId]()
    return Portfolio(venue.id, venue, market, at_s, prices, nothing, states, rig.quarantine)


def test_every_bar_is_what_working_everything_out_gives() -> None:
    portfolio = demo_portfolio()
    drawn = LiquidationMap(portfolio)
    list(drawn.steps())
    now = {id_: one for id_, one in portfolio.exposures(portfolio.at({})) if one is not None}
    turned = 0
    for ray, (k, move) in product(drawn.rays, enumerate(MOVES_PCT)):
        feeds = [feed for feed in portfolio.prices if ray in {feed, ALL}]
        valued = portfolio.at(dict.fromkeys(feeds, move * PPM // 100))
        under = [
            id_
            for id_, one in portfolio.exposures(valued)
            if one is not None and one.under and (ray == ALL or ray in now[id_].feeds)
        ]
        found = drawn.rays[ray]
        assert found.accounts[k] == len(under), (ray, move)
        assert found.notional[k] == sum(now[id_].gross for id_ in under)
        for market, values in found.markets.items():
            assert values[k] == sum(abs(now[id_].notional.get(market, 0)) for id_ in under)
        turned += len(under)
    assert turned > 1_000


async def test_a_map_is_kept_for_a_few_seconds_and_then_made_again() -> None:
    rig = await made()
    risk, beats = reader(rig), list[int]()
    drawing = asyncio.create_task(risk.draw_maps(lambda: beats.append(1)))
    try:
        first: Any = await risk.liquidation_map()
        eth = first["venues"][VENUE]["rays"]["ETH/USD"]
        bars = dict(zip(first["moves_pct"], eth["markets_usd"]["eth-perp"], strict=True))
        assert bars[-50] == bars[-8] == 20_000.0
        assert bars[-6] == bars[50] == 0.0
        both = first["venues"][VENUE]["rays"]["all"]
        assert dict(zip(first["moves_pct"], both["accounts"], strict=True))[0] == 1, "carl is under"
        assert await risk.liquidation_map() is first
        rig.clock.advance(6)
        assert await risk.liquidation_map() is not first
        assert beats
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])


async def test_what_is_set_aside_is_counted() -> None:
    rig = await made()
    rig.venue.poisoned.add(("exposure", "carl"))
    (portfolio,) = reader(rig).portfolios()
    drawn = LiquidationMap(portfolio)
    list(drawn.steps())
    assert drawn.document()["unknown"] == {"quarantined_accounts": 1, "unpriced_accounts": 0}
    assert not any(drawn.rays["BTC/USD"].accounts)
