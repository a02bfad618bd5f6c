"""The demo market's venue against the contract itself: what it computes is what the chain does."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.errors import ProtocolError, RpcError
from keeper.facts import AccountId, Assessment, FeedId, Price, PriceView
from keeper.margin import MarginBook
from keeper.margin.model import Account, Margin, Position, margin
from keeper.units import WAD
from keeper.venues._demo_market_state import DemoAccountState, DemoMarketState
from keeper.venues.demo_market import INCLUSION_S_MAX, DemoMarket, Settings, build
from tests.market_chain import FEE_WEI, FEEDS, START_PRICES, MarketChain, random_account, seeded
from tests.venues.demo import ETH, MAX_AGE_S, eth_long, random_updates, read, ticks
from tests.venues.wire import head_of, tick

if TYPE_CHECKING:
    from keeper.ports import AnyVenue

# --- reading --------------------------------------------------------------------------------------


def test_it_is_a_venue(venue: DemoMarket) -> None:
    port: AnyVenue = venue  # the type checker's test
    assert port.id == "demo"


async def test_reads_are_whole_in_order_and_at_the_hash(
    venue: DemoMarket, chain: MarketChain
) -> None:
    rng = seeded(11)
    seeds = [random_account(rng, START_PRICES) for _ in range(225)]
    ids = chain.seed(seeds)
    head = head_of(chain.node)
    chain.set_prices({0: 1 * WAD})  # after the head: must not show
    chain.send("mint_usd", chain.dev[0], WAD)
    chain.send("deposit_cash", ids[0], WAD)
    rng.shuffle(ids)
    market = await venue.read_market(head)
    states = await venue.read_accounts([AccountId(str(number)) for number in ids], head)
    assert [int(state.account) for state in states] == ids
    assert [(stored.name, stored.price) for stored in market.feeds] == [
        (name, START_PRICES[i]) for i, name in enumerate(FEEDS)
    ]
    for state in states:
        seed = seeds[int(state.account) - 1]
        assert state.holdings.cash == seed.cash
        assert state.holdings.collateral == seed.collateral
        assert {k: p.size for k, p in state.holdings.positions.items()} == {
            k: p.size for k, p in seed.positions.items()
        }


async def test_unknown_accounts_read_as_empty(venue: DemoMarket, chain: MarketChain) -> None:
    market, (state,) = await read(venue, chain, [4_711])
    assert state.holdings == Account(0)
    assert venue.compile(state, market, {}) is None
    assert not venue.assess(state, market, {}, market.head.timestamp_s).liquidatable


async def test_reading_what_is_no_demo_market(chain: MarketChain, rpc: HttpRpc) -> None:
    nowhere = build(Settings(id="x", address="0x" + "11" * 20), rpc, 31_337)
    with pytest.raises(ProtocolError):
        await nowhere.read_market(head_of(chain.node))
    venue = build(Settings(id="x", address=chain.address), rpc, 31_337)
    with pytest.raises(RpcError):
        await venue.read_market(replace(head_of(chain.node), hash="0x" + "22" * 32))


async def test_repeated_names_are_refused(venue: DemoMarket, chain: MarketChain) -> None:
    chain.send("add_feed", FEEDS[0])
    with pytest.raises(ProtocolError, match="not unique"):
        await venue.read_market(head_of(chain.node))


async def test_factors_follow_the_mapping(chain: MarketChain, rpc: HttpRpc) -> None:
    settings = Settings(id="demo", address=chain.address, feeds={"ETH/USD": FeedId("eth-index")})
    venue = build(settings, rpc, 31_337)
    chain.send("add_feed", "NEW/USD")  # has no price yet
    market = await venue.read_market(head_of(chain.node))
    assert venue.price_factors(market)["ETH/USD"] == "eth-index"
    assert venue.price_factors(market)["BTC/USD"] == "BTC/USD"
    values = venue.factors(market, market.head.timestamp_s)
    assert values["ETH/USD"] == 2_000.0
    assert set(values) | {"NEW/USD"} == {
        *venue.price_factors(market),
        *venue.index_factors(market),
    }
    assert "NEW/USD" not in values


# --- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [21, 22])
async def test_assess_is_what_the_contract_says(
    venue: DemoMarket, chain: MarketChain, seed: int
) -> None:
    rng = seeded(seed)
    ids = chain.seed([random_account(rng, START_PRICES) for _ in range(100)])
    seen = {"no": 0, PriceView.CHAIN: 0, PriceView.SIGNED: 0}
    for wait_s in (1, 150, 20, 420, 60):  # fresh, then too old
        market, states = await read(venue, chain, ids)
        at_s = market.head.timestamp_s + wait_s
        updates = random_updates(rng, chain)
        chain.wait(wait_s)  # the state stays, only the time moves
        by_chain = [chain.call("is_liquidatable", number) for number in ids]
        by_signed = chain.call("preview_liquidatable", ids, list(updates.values()))
        for state, is_chain, is_signed in zip(states, by_chain, by_signed, strict=True):
            number = int(state.account)
            plain = venue.assess(state, market, {}, at_s)
            equity, net_value, maintenance, reserve, _ = chain.call("margin_of", number)
            assert plain.equity_wad == equity
            assert plain.requirement_wad == maintenance + reserve
            assert plain.bad_debt_wad == max(0, -net_value)
            assert plain.liquidatable is is_chain
            assert plain.view is PriceView.CHAIN
            under = bool(state.holdings.positions) and equity < maintenance + reserve
            assert bool(plain.stale) is (under and not is_chain), "nothing else keeps it safe"
            found = venue.assess(state, market, ticks(updates), at_s)
            assert found.liquidatable is (is_chain or is_signed), f"account {number}"
            check_view(chain, found, is_chain=is_chain)
            seen[found.view if found.liquidatable else "no"] += 1
    assert min(seen.values()) > 10, f"one-sided sample: {seen}"


def check_view(chain: MarketChain, found: Assessment, *, is_chain: bool) -> None:
    """What an assessment says must hold with exactly the updates it carries."""
    if not found.liquidatable:
        assert found.updates == ()
    elif found.view is PriceView.CHAIN:
        assert is_chain
        assert found.updates == ()
    else:
        assert found.updates
        carried = [decoded_tick(price) for price in found.updates]
        assert chain.call("preview_liquidatable", [int(found.account)], carried) == (True,)


def decoded_tick(price: Price) -> tuple[int, ...]:
    assert price.payload is not None
    return tuple(int.from_bytes(price.payload[i : i + 32], "big") for i in range(0, 192, 32))


async def test_signed_equity_is_the_contracts_after_the_updates(
    venue: DemoMarket, chain: MarketChain
) -> None:
    rng = seeded(23)
    ids = chain.seed([random_account(rng, START_PRICES) for _ in range(60)])
    market, states = await read(venue, chain, ids)
    at_s = market.head.timestamp_s + 50_000  # half a day of funding, at the old prices
    updates = {
        feed: chain.sign(feed, START_PRICES[feed] * 9 // 8, at_s * 1_000) for feed in range(4)
    }
    chain.node.rpc("evm_setNextBlockTimestamp", hex(at_s))
    chain.send("update_prices", list(updates.values()), value_wei=4 * FEE_WEI)
    assert chain.now_s() == at_s
    for state in states:
        found = venue.assess(state, market, ticks(updates), at_s)
        equity, net_value, maintenance, reserve, _ = chain.call("margin_of", int(state.account))
        assert found.equity_wad == equity
        assert found.requirement_wad == maintenance + reserve
        assert found.bad_debt_wad == max(0, -net_value)


async def test_price_age_is_judged_to_the_second(venue: DemoMarket, chain: MarketChain) -> None:
    (number,) = chain.seed([eth_long(500)])
    published_s = chain.now_s() + 5
    chain.set_prices({0: 2_000 * WAD}, published_s * 1_000)
    market, (state,) = await read(venue, chain, [number])
    for at_s, acts in ((published_s + MAX_AGE_S, True), (published_s + MAX_AGE_S + 1, False)):
        chain.wait(at_s - chain.now_s())
        assert chain.call("is_liquidatable", number) is acts
        assert venue.assess(state, market, {}, at_s).liquidatable is acts


# --- which view -----------------------------------------------------------------------------------


async def judged(
    venue: DemoMarket, chain: MarketChain, account: Account, price_usd: int, age_s: int
) -> Assessment:
    """Assess when the stored ETH price of 2,000 is that old and this one was just signed."""
    (number,) = chain.seed([account])
    chain.set_prices({0: 2_000 * WAD})
    market, (state,) = await read(venue, chain, [number])
    at_s = market.feeds[0].published_ms // 1_000 + age_s
    update = chain.sign(0, price_usd * WAD, at_s * 1_000)
    return venue.assess(state, market, {FeedId("ETH/USD"): tick("ETH/USD", update)}, at_s)


@pytest.mark.parametrize(
    ("cash_usd", "price_usd", "age_s", "view"),
    [
        (2_000, 2_000, 0, None),  # healthy
        (500, 1_990, 10, PriceView.CHAIN),  # under at both, the stored price lasts
        (500, 1_990, MAX_AGE_S - INCLUSION_S_MAX + 1, PriceView.SIGNED),  # it may not last
        (500, 2_100, MAX_AGE_S - 1, PriceView.CHAIN),  # the update would cure it
        (500, 2_100, MAX_AGE_S + 1, None),  # and nobody acts on the old price
        (500, 1_990, MAX_AGE_S + 1, PriceView.SIGNED),  # too old: taken along
        (500, 2_000, MAX_AGE_S + 1, PriceView.SIGNED),  # the same price, but young
        (2_000, 1_960, 10, PriceView.SIGNED),  # under at the signed one only
    ],
)
async def test_view(
    venue: DemoMarket,
    chain: MarketChain,
    cash_usd: int,
    price_usd: int,
    age_s: int,
    view: PriceView | None,
) -> None:
    found = await judged(venue, chain, eth_long(cash_usd), price_usd, age_s)
    assert found.liquidatable is (view is not None)
    assert len(found.updates) == (1 if view is PriceView.SIGNED else 0)
    if view is not None:
        assert found.view is view
        assert found.feeds == ("ETH/USD",)


async def test_an_equal_price_is_carried_only_when_the_stored_one_grows_old(
    venue: DemoMarket, chain: MarketChain
) -> None:
    account = Account(2_000 * WAD, {"1": WAD}, {ETH: Position(50 * WAD, 2_000 * WAD)})
    (number,) = chain.seed([account])
    chain.set_prices({0: 2_000 * WAD, 3: WAD})
    market, (state,) = await read(venue, chain, [number])
    stored_s = market.feeds[3].published_ms // 1_000
    for age_s, carried in ((10, ["ETH/USD"]), (MAX_AGE_S - 5, ["ETH/USD", "USDC/USD"])):
        at_s = stored_s + age_s
        newest = {
            0: chain.sign(0, 1_950 * WAD, at_s * 1_000),
            3: chain.sign(3, WAD, at_s * 1_000),
            1: chain.sign(1, WAD, at_s * 1_000),  # not the account's
        }
        found = venue.assess(state, market, ticks(newest), at_s)
        assert [price.feed for price in found.updates] == carried


async def test_payloads_that_are_not_used(venue: DemoMarket, chain: MarketChain) -> None:
    (number,) = chain.seed([eth_long(2_000)])
    market, (state,) = await read(venue, chain, [number])
    at_s, stored_ms = market.head.timestamp_s, market.feeds[0].published_ms
    low = 1_900 * WAD
    good = tick("ETH/USD", chain.sign(0, low, stored_ms + 1))
    bad = [
        tick("ETH/USD", chain.sign(1, low, stored_ms + 1)),  # another feed's
        tick("ETH/USD", chain.sign(0, low, stored_ms)),  # not newer
        tick("ETH/USD", chain.sign(0, 0, stored_ms + 1)),
        tick("ETH/USD", chain.sign(0, low, (at_s + 62) * 1_000)),  # from the future
        tick("ETH/USD", None, b""),
        tick("ETH/USD", None, b"\xff" * 192),
        tick("ETH/USD", None, (good.payload or b"") + b"\0"),
        tick("ETH/USD", None, None),
    ]
    feed = FeedId("ETH/USD")
    assert venue.assess(state, market, {feed: good}, at_s).liquidatable
    for price in bad:
        found = venue.assess(state, market, {feed: price}, at_s)
        assert not found.liquidatable
        assert found == venue.assess(state, market, {}, at_s)


# --- the screen -----------------------------------------------------------------------------------


def exact_at(
    state: DemoAccountState, market: DemoMarketState, values: Mapping[str, float]
) -> Margin:
    """Return the exact margin at the float values of the factors."""
    prices = [round(values[stored.name] * WAD) for stored in market.feeds]
    terms = market.terms(prices, market.head.timestamp_s)
    markets = {
        key: replace(one, funding_index=round(values[f"F:{market.markets[int(key)].name}"] * WAD))
        for key, one in terms.markets.items()
    }
    return margin(state.holdings, replace(terms, markets=markets))


@pytest.mark.parametrize("seed", [41, 42])
async def test_the_screen_never_misses(venue: DemoMarket, chain: MarketChain, seed: int) -> None:
    rng = seeded(seed)
    ids = chain.seed([random_account(rng, START_PRICES) for _ in range(150)])
    chain.wait(5_000)
    market, states = await read(venue, chain, ids)
    book: MarginBook[AccountId] = MarginBook(
        list(venue.price_factors(market)), list(venue.index_factors(market))
    )
    values = dict(venue.factors(market, market.head.timestamp_s + 100))
    book.move(values)
    held = [state for state in states if state.holdings.positions]
    by_id = {state.account: state for state in held}

    def put(state: DemoAccountState) -> None:
        row = venue.compile(state, market, values)
        assert row is not None
        book.put(state.account, row)
        exact = exact_at(state, market, values)
        gross = exact.notional / WAD + abs(state.holdings.cash) / WAD
        # exact where it was compiled, but for the reserve's kink, which may cost its maximum
        assert book.excess(state.account) == pytest.approx(exact.excess / WAD, abs=gross * 1e-9)

    for state in held:
        put(state)
    sunk = 0
    for _ in range(60):
        for name, value in values.items():
            drift = rng.uniform(-0.01, 0.01) * rng.choice([0, 0, 0, 1, 1, 3])
            values[name] = value + drift * (0.5 if name.startswith("F:") else value)
        moved = book.move(values)
        under = {state.account for state in held if exact_at(state, market, values).excess < 0}
        assert under <= set(book.under), f"missed {under - set(book.under)}"
        sunk += len(under)
        for account in moved.expired:
            put(by_id[account])
    assert sunk > 100


async def test_an_account_on_a_feed_without_price_waits_and_is_compiled_again(
    venue: DemoMarket, chain: MarketChain
) -> None:
    chain.send("add_feed", "NEW/USD")
    chain.send("add_market", "NEW-PERP", 4, [(2**256 - 1, WAD // 100)], WAD // 20, WAD)
    (number,) = chain.seed([Account(5 * WAD, {}, {"3": Position(WAD, 100 * WAD)})])
    market, (state,) = await read(venue, chain, [number])
    book: MarginBook[AccountId] = MarginBook(
        list(venue.price_factors(market)), list(venue.index_factors(market))
    )
    book.move(venue.factors(market, market.head.timestamp_s))
    row = venue.compile(state, market, book.values)
    assert row is not None
    book.put(state.account, row)
    assert state.account in book.unpriced
    found = venue.assess(state, market, {}, market.head.timestamp_s)
    assert not found.liquidatable
    moved = book.move({"NEW/USD": 98.0})
    assert moved.expired == (state.account,)
    row = venue.compile(state, market, book.values)
    assert row is not None
    book.put(state.account, row)
    assert book.excess(state.account) == pytest.approx(5 - 2 - 0.98 - 2)
