"""The demo market's rules on a real node: prices, trading, the owner, the limits."""

import pytest
from eth_keys.datatypes import PrivateKey

from keeper.margin.model import Account, Position, margin
from keeper.units import WAD, div_trunc, mul_wad
from tests.contracts import NOBODY, fields
from tests.market_chain import FEE_WEI, OPEN_END, MarketChain, seeded, under_eth_long
from tests.nodes import NodeError

ETH = "0"


# --- prices ---------------------------------------------------------------------------------------


def test_bad_signatures(chain: MarketChain) -> None:
    at_ms = chain.next_ms()
    good = chain.sign(0, 1_900 * WAD, at_ms)
    foreign = chain.sign(0, 1_900 * WAD, at_ms, PrivateKey(b"\x01" * 32))
    bad = [
        foreign,
        (0, 1_901 * WAD, *good[2:]),  # another price
        (1, *good[1:]),  # another feed
        (*good[:2], at_ms + 1, *good[3:]),  # another time
        (*good[:3], 0, 0, 0),  # recovers to nobody
    ]
    for update in bad:
        assert chain.refusal("update_prices", [update], value_wei=FEE_WEI) == "bad signature"
    other = MarketChain(chain.node)
    assert other.refusal("update_prices", [good]) == "no such feed"
    other.send("add_feed", "ETH/USD")
    assert other.refusal("update_prices", [good]) == "bad signature"
    chain.send("update_prices", [good], value_wei=FEE_WEI)


def test_future_zero_and_unknown_feed(chain: MarketChain) -> None:
    now_s = chain.now_s()
    future = chain.sign(0, WAD, (now_s + 1_000) * 1_000)
    zero = chain.sign(0, 0, chain.next_ms())
    unknown = chain.sign(4, WAD, now_s * 1_000)
    reasons = [
        chain.refusal("update_prices", [update], value_wei=FEE_WEI)
        for update in (future, zero, unknown)
    ]
    assert reasons == ["price from the future", "price is zero", "no such feed"]


def test_a_publishers_clock_may_be_a_minute_ahead(chain: MarketChain) -> None:
    at_s = chain.now_s() + 10
    late = chain.sign(0, WAD, (at_s + 61) * 1_000)
    chain.node.rpc("evm_setNextBlockTimestamp", hex(at_s))
    assert chain.refusal("update_prices", [late], value_wei=FEE_WEI) == "price from the future"
    assert chain.now_s() == at_s
    last = chain.sign(0, WAD, (at_s + 62) * 1_000 - 1)  # the next block is a second later
    chain.node.rpc("evm_setNextBlockTimestamp", hex(at_s + 1))
    chain.send("update_prices", [last], value_wei=FEE_WEI)


def test_only_newer_prices_are_stored(chain: MarketChain) -> None:
    at_ms = chain.next_ms()
    newest, same, older = (
        chain.sign(0, price * WAD, ms)
        for price, ms in ((1_910, at_ms), (1_920, at_ms), (1_930, at_ms - 1))
    )
    events = chain.send("update_prices", [newest, same, older], value_wei=3 * FEE_WEI)
    assert events == [("PriceUpdated", {"feed": 0, "price": 1_910 * WAD, "published_ms": at_ms})]
    assert chain.send("update_prices", [same], value_wei=FEE_WEI) == []
    assert chain.call("market_view")["feeds"][0]["price"] == 1_910 * WAD


def test_update_fee_is_due_for_each_and_kept(chain: MarketChain) -> None:
    updates = [chain.sign(feed, WAD, chain.next_ms()) for feed in (0, 1)]
    assert chain.refusal("update_prices", updates, value_wei=2 * FEE_WEI - 1) == "fee too low"
    before = int(chain.node.rpc("eth_getBalance", chain.address, "latest"), 16)
    chain.send("update_prices", updates, value_wei=2 * FEE_WEI)
    after = int(chain.node.rpc("eth_getBalance", chain.address, "latest"), 16)
    assert after - before == 2 * FEE_WEI


def test_liquidation_with_prices_carried_along(chain: MarketChain) -> None:
    (number,) = chain.seed([under_eth_long(3.0)])
    update = chain.sign(0, 1_960 * WAD, chain.next_ms())
    assert chain.call("preview_liquidatable", [number], []) == (False,)
    assert chain.call("preview_liquidatable", [number], [update]) == (True,)
    call = ("liquidate_with_prices", number, [update])
    assert chain.refusal(*call, value_wei=FEE_WEI - 1) == "fee too low"
    events = chain.send(*call, value_wei=FEE_WEI)
    assert events[0][0] == "PriceUpdated"
    assert fields(events, "Liquidated")[0]["account"] == number


def test_preview_is_for_calls_only(chain: MarketChain) -> None:
    update = chain.sign(0, WAD, chain.next_ms())
    assert chain.refusal("preview_liquidatable", [], [update]) == "eth_call only"
    assert chain.call("preview_liquidatable", [], [update], sender=NOBODY) == ()


def test_funding_accrues_at_the_old_price(chain: MarketChain) -> None:
    chain.seed([Account(10**6 * WAD, {}, {ETH: Position(250 * WAD, 2_000 * WAD)})])
    before = chain.call("market_view")["markets"][0]
    chain.wait(43_200)
    chain.set_prices({0: 4_000 * WAD})
    after = chain.call("market_view")["markets"][0]
    elapsed = after["t_last"] - before["t_last"]
    assert elapsed >= 43_200
    rate = WAD // 40  # half the skew scale: half of 5 % a day
    grown = div_trunc(mul_wad(2_000 * WAD, rate) * elapsed, 86_400)
    assert after["index_last"] - before["index_last"] == grown


# --- users ----------------------------------------------------------------------------------------


@pytest.fixture
def trader(chain: MarketChain) -> tuple[str, int]:
    """Return a dev account and the market account it holds, with 10,000 USD in it."""
    user = chain.dev[2]
    chain.send("mint_usd", user, 15_000 * WAD)
    events = chain.send("open_account", sender=user)
    number = fields(events, "AccountOpened")[0]["account"]
    chain.send("deposit_cash", number, 10_000 * WAD, sender=user)
    return user, number


def test_deposit_and_withdraw(chain: MarketChain, trader: tuple[str, int]) -> None:
    user, number = trader
    assert chain.account(number).cash == 10_000 * WAD
    assert chain.call("balanceOf", user) == 5_000 * WAD
    with pytest.raises(NodeError):  # more than the sender has
        chain.send("deposit_cash", number, 5_001 * WAD, sender=user)
    events = chain.send("withdraw_cash", number, 10_000 * WAD, sender=user)
    assert ("CashChanged", {"account": number, "cash": 0}) in events
    assert chain.call("balanceOf", user) == 15_000 * WAD
    for sender, reason in ((user, "not enough margin"), (chain.dev[3], "account owner only")):
        assert chain.refusal("withdraw_cash", number, 1, sender=sender) == reason
    assert chain.refusal("deposit_cash", 999, 1, sender=user) == "no such account"


def test_transfer_moves_usd(chain: MarketChain, trader: tuple[str, int]) -> None:
    user, _ = trader
    events = chain.send("transfer", chain.dev[5], 7, sender=user)
    expected = {"sender": user, "receiver": chain.dev[5], "amount": 7}
    assert events == [("Transfer", expected)]
    with pytest.raises(NodeError):
        chain.send("transfer", chain.dev[5], 10**30, sender=user)


def test_withdraw_leaves_twice_the_maintenance_and_the_reserve(
    chain: MarketChain, trader: tuple[str, int]
) -> None:
    user, number = trader
    chain.send("trade", number, 0, 10 * WAD, sender=user)  # 20,000 USD: 80 maintenance, 40 reserve
    spare = chain.call("margin_of", number)[0] - 200 * WAD
    refusal = chain.refusal("withdraw_cash", number, spare + 1, sender=user)
    assert refusal == "not enough margin"
    # a second's funding per block: leave a few cents for it
    chain.send("withdraw_cash", number, spare - WAD // 10, sender=user)
    chain.wait(700)
    assert chain.refusal("withdraw_cash", number, 1, sender=user) == "stale price"


def test_trade_checks(chain: MarketChain, trader: tuple[str, int]) -> None:
    user, number = trader

    def refusal(market: int, delta: int, sender: str = user) -> str:
        return chain.refusal("trade", number, market, delta, sender=sender)

    assert refusal(0, WAD, chain.dev[3]) == "account owner only"
    assert refusal(3, WAD) == "no such market"
    assert refusal(0, 0) == "nothing to trade"
    assert refusal(0, 10_000 * WAD) == "not enough margin"
    chain.wait(700)
    assert refusal(0, WAD) == "stale price"


def test_trade_sizes_entries_and_equity(chain: MarketChain, trader: tuple[str, int]) -> None:
    user, number = trader
    rng = seeded(7)
    for delta in (3, 4, -5, -6, 2, 9, -7):  # open, add, reduce, cross, reduce, cross, close
        eth = int(2_000 * WAD * rng.uniform(0.97, 1.03))
        chain.set_prices({0: eth})
        before = chain.account(number)
        old = before.positions.get(ETH, Position(0, 0))
        chain.send("trade", number, 0, delta * WAD, sender=user)
        after, terms = chain.account(number), chain.terms()
        new = after.positions.get(ETH, Position(0, 0))
        assert new.size == old.size + delta * WAD
        # a trade at the mark costs nothing: equity before and after differ by rounding only
        was, now = margin(before, terms).equity, margin(after, terms).equity
        assert abs(was - now) <= 10
        if old.size * new.size <= 0 and new.size:
            assert new.entry_price == eth
        elif 0 < abs(new.size) < abs(old.size):
            assert new.entry_price == old.entry_price
        skew = chain.call("market_view")["markets"][0]["skew"]
        assert skew == new.size


# --- the owner ------------------------------------------------------------------------------------

OPEN_TIERS = [(OPEN_END, WAD // 100)]
OWNER_CALLS: dict[str, tuple[object, ...]] = {
    "add_feed": ("X/USD",),
    "add_market": ("X-PERP", 0, OPEN_TIERS, WAD, WAD),
    "add_asset": ("X", 0, OPEN_TIERS),
    "set_reserve": (WAD, 0, WAD),
    "set_whole_below": (WAD,),
    "set_price_rules": (60, 7),
    "mint_usd": (NOBODY, 1),
    "seed_accounts": ([],),
}


@pytest.mark.parametrize("name", OWNER_CALLS)
def test_owner_only(chain: MarketChain, name: str) -> None:
    arguments = OWNER_CALLS[name]
    assert chain.refusal(name, *arguments, sender=chain.dev[1]) == "owner only"
    events = chain.send(name, *arguments)
    logged = [found for found, _ in events]
    expected = {"mint_usd": ["Transfer"], "seed_accounts": []}.get(name, ["ParametersChanged"])
    assert logged == expected


def test_parameters_are_checked(chain: MarketChain) -> None:
    bad_tiers = [[], [(WAD, WAD)], [(OPEN_END, WAD + 1)], [(5, 0), (5, 0), (OPEN_END, 0)]]
    for tiers in bad_tiers:
        assert chain.refusal("add_asset", "X", 0, tiers) == "bad tiers"
    assert chain.refusal("add_asset", "X", 4, OPEN_TIERS) == "no such feed"
    assert chain.refusal("add_market", "X", 0, OPEN_TIERS, WAD, 0) == "skew scale is zero"
    assert chain.refusal("set_reserve", WAD, 2, 1) == "bad reserve"
    with pytest.raises(NodeError, match="no such asset"):
        chain.seed([Account(0, {"2": 1}, {})])
    with pytest.raises(NodeError, match="no such market"):
        chain.seed([Account(0, {}, {"3": Position(1, 1)})])


def test_limits_of_the_interface_hold_together(chain: MarketChain) -> None:
    """Eight feeds and markets, four assets, 25 full accounts a seed, 256 ids a read."""
    for i in range(4, 8):
        chain.send("add_feed", f"F{i}")
    for i in range(3, 8):
        chain.send("add_market", f"M{i}", i, [(10 * WAD, 0), (OPEN_END, WAD)], WAD, WAD)
    for i in range(2, 4):
        chain.send("add_asset", f"A{i}", i, OPEN_TIERS)
    chain.set_prices(dict.fromkeys(range(8), 100 * WAD))
    crowded = Account(
        1, {str(i): WAD for i in range(4)}, {str(i): Position(WAD, WAD) for i in range(8)}
    )
    ids = chain.seed([crowded] * 25)
    assert ids == list(range(1, 26))
    views = chain.call("account_views", (ids * 11)[:256])
    assert len(views) == 256
    assert chain.account(25).positions.keys() == crowded.positions.keys()
    assert margin(chain.account(25), chain.terms()).equity == chain.call("margin_of", 25)[0]
    events = chain.send(
        "liquidate_with_prices",
        25,
        [chain.sign(i, WAD // 2, chain.next_ms()) for i in range(8)],
        value_wei=8 * FEE_WEI,
    )
    assert len(fields(events, "PositionChanged")) == 8
