"""The demo market on a real node: the margin model's arithmetic, and the rules as written."""

import pytest

from keeper.margin.model import Account, Position, Terms, margin, reserve_for
from keeper.units import WAD, div_trunc, mul_wad
from tests.contracts import Events, fields
from tests.market_chain import (
    START_PRICES,
    WHOLE_BELOW,
    MarketChain,
    random_account,
    seeded,
    under_eth_long,
)

ETH, SOL = "0", "2"


# --- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_margin_is_the_models_to_the_wei(chain: MarketChain, seed: int) -> None:
    rng = seeded(seed)
    prices = dict(START_PRICES)
    ids = chain.seed([random_account(rng, prices) for _ in range(125)])
    seen = {True: 0, False: 0}
    for _ in range(3):
        prices = {feed: int(price * rng.uniform(0.93, 1.07)) for feed, price in prices.items()}
        chain.wait(rng.randrange(1, 5_000))
        chain.set_prices(prices)
        chain.wait(rng.randrange(1, 500))
        terms = chain.terms()
        for number in ids:
            expected = margin(chain.account(number), terms)
            got = chain.call("margin_of", number)
            assert got == (
                expected.equity,
                expected.net_value,
                expected.maintenance,
                expected.reserve,
                expected.notional,
            ), f"account {number}"
            under = bool(chain.account(number).positions) and expected.excess < 0
            assert chain.call("is_liquidatable", number) is under
            seen[under] += 1
    assert min(seen.values()) > 60, f"one-sided sample: {seen}"


@pytest.mark.parametrize("seed", [3])
def test_every_liquidation_does_what_the_model_says(chain: MarketChain, seed: int) -> None:
    rng = seeded(seed)
    ids = chain.seed([random_account(rng, START_PRICES) for _ in range(75)])
    chain.wait(450)  # funding of some minutes
    kinds = {True: 0, False: 0}
    bad_debts = 0
    for number in ids:
        while chain.call("is_liquidatable", number):
            before = chain.account(number)
            events = chain.send("liquidate", number, sender=chain.dev[3])
            full, bad_debt = check_step(before, chain.account(number), chain.terms(), events)
            kinds[full] += 1
            bad_debts += bad_debt
            if not full and rng.random() < 0.5:
                break  # do not halve every large account to the end
        chain.set_prices(START_PRICES)  # keep them fresh; time passes with every block
    assert min(kinds.values()) > 5, f"one-sided sample: {kinds}"
    assert bad_debts > 0


def check_step(before: Account, after: Account, terms: Terms, events: Events) -> tuple[bool, bool]:
    """Compare one liquidation with the rules; terms are those of its block. → full, bad debt."""
    found = margin(before, terms)
    full = found.notional <= WHOLE_BELOW or found.equity * 2 < found.maintenance
    cash, closed_notional = before.cash, 0
    left: dict[str, Position] = {}
    for name, position in before.positions.items():
        market = terms.markets[name]
        closed = position.size if full else div_trunc(position.size, 2)
        cash += mul_wad(closed, market.price - position.entry_price)
        cash -= mul_wad(position.size, market.funding_index - position.funding_index)
        closed_notional += mul_wad(abs(closed), market.price)
        rest = position.size - closed
        if rest:
            left[name] = Position(rest, position.entry_price, market.funding_index)
    reward = reserve_for(closed_notional, terms.reserve)
    cash -= reward
    net_value = cash + sum(mul_wad(n, terms.assets[a].price) for a, n in before.collateral.items())
    bad_debt = full and net_value < 0
    (liquidated,) = fields(events, "Liquidated")
    assert liquidated["reward"] == reward
    assert liquidated["closed_notional"] == closed_notional
    assert liquidated["full"] is full
    assert [values["amount"] for values in fields(events, "BadDebt")] == [-net_value] * bad_debt
    assert len(fields(events, "PositionChanged")) == len(before.positions)
    assert fields(events, "Transfer")[0]["amount"] == reward
    expected = Account(cash, before.collateral, left)
    assert after == (Account(0, {}, {}) if bad_debt else expected)
    return full, bad_debt


def test_skew_is_the_sum_of_sizes(chain: MarketChain) -> None:
    rng = seeded(4)
    ids = chain.seed([random_account(rng, START_PRICES) for _ in range(50)])
    for number in ids:
        if chain.call("is_liquidatable", number):
            chain.send("liquidate", number)
    accounts = [chain.account(number) for number in ids]
    for i, market in enumerate(chain.call("market_view")["markets"]):
        sizes = [
            account.positions[str(i)].size for account in accounts if str(i) in account.positions
        ]
        assert market["skew"] == sum(sizes)


def test_funding_rate_is_clamped_at_its_maximum(chain: MarketChain) -> None:
    size = 5_000 * WAD  # ten times the skew scale
    (number,) = chain.seed([Account(10**7 * WAD, {}, {ETH: Position(size, 2_000 * WAD)})])
    start_s = chain.now_s()
    chain.wait(86_400)
    assert chain.terms().markets[ETH].funding_index == 2_000 * WAD // 20
    assert chain.now_s() - start_s == 86_400
    equity = chain.call("margin_of", number)[0]
    assert equity == 10**7 * WAD - mul_wad(size, 100 * WAD)


# --- liquidation ----------------------------------------------------------------------------------


def test_half_then_full(chain: MarketChain) -> None:
    (number,) = chain.seed([under_eth_long(0.9)])
    events = chain.send("liquidate", number, sender=chain.dev[3])
    assert fields(events, "Liquidated")[0]["full"] is False
    assert chain.account(number).positions[ETH].size == 25 * WAD
    chain.set_prices({0: 1_980 * WAD})
    events = chain.send("liquidate", number, sender=chain.dev[3])
    assert fields(events, "Liquidated")[0]["full"] is True
    assert chain.account(number).positions == {}
    assert chain.refusal("liquidate", number) == "not liquidatable"


def test_reward_is_bounded_and_paid_in_usd(chain: MarketChain) -> None:
    accounts = [under_eth_long(0.3, usd) for usd in (100_000, 390_000)]
    small = Account(0, {}, {ETH: Position(-(WAD // 100), 1_995 * WAD)})
    rewards = []
    for number in chain.seed([small, *accounts]):
        events = chain.send("liquidate", number, sender=chain.dev[4])
        rewards.append(fields(events, "Liquidated")[0]["reward"])
    assert rewards == [2 * WAD, 200 * WAD, 500 * WAD]  # minimum, 0.2 % of notional, maximum
    assert chain.call("balanceOf", chain.dev[4]) == sum(rewards)


def test_bad_debt_takes_cash_and_collateral(chain: MarketChain) -> None:
    account = Account(
        -3_000 * WAD, {"0": WAD}, {ETH: Position(10 * WAD, 2_000 * WAD), SOL: Position(-WAD, 1)}
    )
    (number,) = chain.seed([account])
    events = chain.send("liquidate", number)
    (debt,) = fields(events, "BadDebt")
    assert debt["amount"] > 0
    assert fields(events, "CollateralChanged") == [{"account": number, "asset": 0, "amount": 0}]
    assert chain.account(number) == Account(0, {}, {})


def test_a_solvent_full_close_keeps_collateral_against_negative_cash(chain: MarketChain) -> None:
    # 90 % of one WETH is 1,800: below the requirement, yet the full price covers the debt
    account = Account(-1_790 * WAD, {"0": WAD}, {ETH: Position(10 * WAD, 2_000 * WAD)})
    (number,) = chain.seed([account])
    events = chain.send("liquidate", number)
    assert fields(events, "Liquidated")[0]["full"] is True
    assert fields(events, "BadDebt") == []
    after = chain.account(number)
    assert after.collateral == {"0": WAD}
    assert after.cash < 0


def test_healthy_empty_and_unknown_accounts_are_refused(chain: MarketChain) -> None:
    healthy, empty = chain.seed([under_eth_long(2.0), Account(-5 * WAD)])
    for number in (healthy, empty, 0, 999):
        assert chain.refusal("liquidate", number) == "not liquidatable"


def test_stale_price_of_a_position_or_of_collateral(chain: MarketChain) -> None:
    on_price, on_collateral = chain.seed(
        [
            under_eth_long(0.5),
            Account(0, {"1": WAD}, {ETH: Position(50 * WAD, 2_000 * WAD)}),
        ]
    )
    chain.wait(610)
    assert chain.call("is_liquidatable", on_price) is False
    assert chain.refusal("liquidate", on_price) == "stale price"
    chain.set_prices({0: 2_000 * WAD})  # ETH only: the dollar stays old
    assert chain.call("is_liquidatable", on_price) is True
    assert chain.refusal("liquidate", on_collateral) == "stale price"
    chain.send("liquidate", on_price)


@pytest.mark.parametrize(("offset_ms", "lasts_s"), [(0, 600), (-1, 599), (999, 600)])
def test_price_age_is_judged_to_the_millisecond(
    chain: MarketChain, offset_ms: int, lasts_s: int
) -> None:
    (number,) = chain.seed([under_eth_long(0.5)])
    published_s = chain.now_s() + 5
    chain.set_prices({0: 2_000 * WAD}, published_s * 1_000 + offset_ms)
    chain.wait(published_s + lasts_s - chain.now_s())
    assert chain.call("is_liquidatable", number) is True
    chain.wait(1)
    assert chain.call("is_liquidatable", number) is False
