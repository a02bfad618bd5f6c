"""A stress foretells what the contract says once its oracle has moved, to the wei."""

from keeper.facts import FeedId
from keeper.margin.solvency import Solvency
from keeper.units import PPM, mul_wad
from keeper.venues.demo_market import DemoMarket
from tests.market_chain import FEEDS, START_PRICES, MarketChain, random_account, seeded
from tests.venues.demo import read

ACCOUNTS = 60
SHOCKS_PPM = {"ETH/USD": -200_000, "BTC/USD": -150_000, "SOL/USD": 70_000}


async def test_the_contract_says_after_a_shock_what_the_stress_said_before(
    venue: DemoMarket, chain: MarketChain
) -> None:
    rng = seeded(4)
    ids = chain.seed([random_account(rng, START_PRICES) for _ in range(ACCOUNTS)])
    chain.wait(5_000)  # funding
    market, states = await read(venue, chain, ids)
    shocked = {
        feed: price * (PPM + SHOCKS_PPM.get(feed, 0)) // PPM
        for feed, price in venue.prices(market).items()
    }
    chain.wait(700)  # of which funding is owed at the old prices
    chain.set_prices({FEEDS.index(feed): price for feed, price in shocked.items()})
    at_s = chain.now_s()
    assert at_s >= market.head.timestamp_s + 700
    valued = venue.valued_at(market, shocked, at_s)
    found: Solvency[int] = Solvency(ACCOUNTS)
    for number, state in zip(ids, states, strict=True):
        one = valued(state)
        assert one is not None
        equity, net_value, maintenance, reserve, notional = chain.call("margin_of", number)
        assert (one.equity, one.net_value) == (equity, net_value)
        assert one.requirement == maintenance + reserve
        assert one.gross == notional
        assert one.under is chain.call("is_liquidatable", number)
        held = chain.account(number).collateral
        worth = {"WETH": shocked[FeedId("ETH/USD")], "USDC": shocked[FeedId("USDC/USD")]}
        names = dict(zip("01", worth, strict=True))
        assert one.collateral == {
            names[key]: mul_wad(amount, worth[names[key]]) for key, amount in held.items()
        }
        found.add(number, one)
    assert 10 < found.whole.under_accounts < ACCOUNTS - 10
    assert found.whole.insolvent_accounts > 0
    insolvent = [chain.call("margin_of", number)[1] for number in ids]
    assert found.whole.bad_debt == -sum(value for value in insolvent if value < 0)
