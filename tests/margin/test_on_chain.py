"""The model and the screen against the contract itself, on a real node."""

from collections.abc import Iterator, Mapping

import pytest

from keeper.margin import MarginBook
from keeper.margin.model import Account, Position, Terms, margin
from keeper.margin.rows import AssetFactors, MarketFactors, Row, compile_row
from keeper.units import WAD, wad_to_float
from tests.market_chain import (
    FEE_WEI,
    START_PRICES,
    MarketChain,
    furnish,
    random_account,
    seeded,
)
from tests.nodes import Anvil, running_anvil

PORTFOLIOS = 2_000
READ_MAX = 256  # ids in one account_views
FEED_OF = {"0": "P0", "1": "P1", "2": "P2"}  # market → factor
ASSET_FEED_OF = {"0": "P0", "1": "P3"}


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    with running_anvil() as node:
        yield node


def read(chain: MarketChain, ids: list[int]) -> dict[int, Account]:
    found = {}
    for start in range(0, len(ids), READ_MAX):
        part = ids[start : start + READ_MAX]
        for number, view in zip(part, chain.call("account_views", part), strict=True):
            positions = {
                str(i): Position(p["size"], p["entry_price"], p["funding_index"])
                for i, p in enumerate(view["positions"])
                if p["size"]
            }
            held = {str(i): amount for i, amount in enumerate(view["collateral"]) if amount}
            found[number] = Account(view["cash"], held, positions)
    return found


def values(terms: Terms, prices: Mapping[int, int]) -> dict[str, float]:
    found = {f"P{feed}": wad_to_float(price) for feed, price in prices.items()}
    indices = {f"F{key}": wad_to_float(m.funding_index) for key, m in terms.markets.items()}
    return found | indices


def compiled(account: Account, terms: Terms) -> Row | None:
    markets = {k: MarketFactors(m, FEED_OF[k], f"F{k}") for k, m in terms.markets.items()}
    assets = {k: AssetFactors(a, ASSET_FEED_OF[k]) for k, a in terms.assets.items()}
    return compile_row(account, markets, assets, terms.reserve)


def empty_book() -> MarginBook[int]:
    return MarginBook([f"P{feed}" for feed in START_PRICES], ["F0", "F1", "F2"])


@pytest.mark.parametrize("steps", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_portfolios_are_judged_as_the_contract_judges_them(node: Anvil, steps: int) -> None:
    """To the wei by the model; the screen misses nobody and names at most 0.1 % others."""
    chain = MarketChain(node, max_price_age_s=600, update_fee_wei=FEE_WEI)
    furnish(chain)
    rng, prices = seeded(steps), dict(START_PRICES)
    ids = chain.seed([random_account(rng, prices) for _ in range(PORTFOLIOS)])
    accounts, terms = read(chain, ids), chain.terms()
    assert list(accounts) == ids
    book = empty_book()
    book.move(values(terms, prices))
    for number, account in accounts.items():
        row = compiled(account, terms)
        if row is not None:
            book.put(number, row)
    for _ in range(steps):
        prices = {feed: int(price * rng.uniform(0.93, 1.07)) for feed, price in prices.items()}
        chain.wait(rng.randrange(1, 5_000))
        chain.set_prices(prices)
        chain.wait(rng.randrange(1, 500))
        terms = chain.terms()
        for number in book.move(values(terms, prices)).expired:
            row = compiled(accounts[number], terms)
            assert row is not None
            book.put(number, row)
        liquidatable = set()
        for number, account in accounts.items():
            found = margin(account, terms)
            told = chain.call("margin_of", number)
            expected = (found.equity, found.net_value, found.maintenance)
            assert told == (*expected, found.reserve, found.notional), f"account {number}"
            if account.positions and found.excess < 0:
                liquidatable.add(number)
        for number in [*sorted(liquidatable)[:50], *sorted(set(ids) - liquidatable)[:50]]:
            assert chain.call("is_liquidatable", number) is (number in liquidatable)
        assert 100 < len(liquidatable) < PORTFOLIOS - 100
        assert liquidatable <= book.under
        assert len(book.under - liquidatable) <= PORTFOLIOS // 1000


def test_a_wei_decides_and_the_screen_takes_both_sides(node: Anvil) -> None:
    """Where float64 cannot tell them apart, the account that is not yet liquidatable is named."""
    chain = MarketChain(node, max_price_age_s=600, update_fee_wei=FEE_WEI)
    furnish(chain)
    position = {"0": Position(25 * WAD, 2_000 * WAD)}  # 50,000 USD: 200 maintenance, 100 reserve
    needed = 300 * WAD
    ids = chain.seed([Account(needed + wei, {}, position) for wei in (-1, 0, 1)])
    for number in ids:
        chain.send("set_whole_below", 1_000 * WAD)  # a block; nothing of the margin changes
        account, terms = chain.account(number), chain.terms()
        found = margin(account, terms)
        row = compiled(account, terms)
        assert row is not None
        book: MarginBook[int] = MarginBook(
            [f"P{feed}" for feed in START_PRICES], ["F0", "F1", "F2"]
        )
        book.move(values(terms, START_PRICES))
        book.put(number, row)
        assert chain.call("is_liquidatable", number) is (found.excess < 0)
        assert book.under == ({number} if found.excess < WAD // 10**6 else set())
