"""What a shock moves at a Curie deployment: oracle, pools, averages and collateral together."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from keeper.facts import FeedId
from keeper.units import WAD
from keeper.venues._perp_curie_markets import CurieMarkets
from keeper.venues._perp_curie_math import Market
from keeper.venues.perp_curie import CurieAccount, PerpCurie, Settings, build
from tests.venues.recording import Recording, load

MARKET = Market(
    oracle=2_000 * WAD,
    market_15s=2_010 * WAD,
    market_30m=1_990 * WAD,
    premium=-4 * WAD,
    spot_x96=44 * 2**96,
    growth_x96=0,
    growth_rate_x96=0,
)


@pytest.mark.parametrize("percent", [50, 80, 120, 150])
def test_the_mark_follows_by_as_much_whatever_lags_behind(percent: int) -> None:
    moved = MARKET.at_price(MARKET.oracle * percent // 100)
    assert MARKET.mark == 1_996 * WAD
    assert moved.mark == MARKET.mark * percent // 100
    assert moved.spot_x96**2 == pytest.approx(MARKET.spot_x96**2 * percent / 100, rel=1e-9)


def test_what_is_settled_or_has_no_price_stays() -> None:
    for market in (MARKET._replace(settled=5 * WAD), MARKET._replace(oracle=0)):
        assert market.at_price(WAD) == market


def recorded() -> Recording:
    found = load("perp_curie")
    assert found is not None
    return found


async def read() -> tuple[PerpCurie, CurieMarkets, Sequence[CurieAccount]]:
    recording = recorded()
    venue = build(Settings(**recording.settings), recording.rpc, recording.chain_id)
    market = await venue.read_market(recording.head)
    return venue, market, await venue.read_accounts(recording.accounts, recording.head)


async def test_collateral_is_shocked_by_its_token() -> None:
    """No feed follows it, so it goes by the token: an account that holds some loses equity."""
    venue, market, states = await read()
    (token,) = (FeedId(one) for one in market.system.assets)
    prices = venue.prices(market)
    at_s = market.head.timestamp_s
    half = venue.valued_at(market, {token: prices[token] // 2}, at_s)
    none = venue.valued_at(market, {token: 0}, at_s)
    holder = replace(states[0], balance=states[0].balance._replace(collateral={token: 10**18}))
    before = venue.valued_at(market, {}, at_s)(holder)
    after = half(holder)
    assert before is not None
    assert after is not None
    assert after.collateral[token] == pytest.approx(before.collateral[token] / 2, rel=1e-6)
    lost = before.collateral[token] - after.collateral[token]
    ratio = market.system.assets[token].ratio_ppm / 10**6
    assert before.net_value - after.net_value == lost
    assert before.equity - after.equity == pytest.approx(lost * ratio, rel=1e-3)
    assert none(holder) is None, "without a price it is not known"
    stranger = replace(holder, balance=holder.balance._replace(collateral={"0xother": 1}))
    found = half(stranger)
    assert found is not None
    assert not found.whole
