"""Real maintenance brackets and real account sizes, when they are on this machine."""

import csv
import gzip
import itertools
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import pytest

from keeper.margin import MarginBook
from keeper.margin.model import (
    Account,
    MarketTerms,
    Position,
    ReserveTerms,
    Terms,
    Tier,
    margin,
    progressive,
)
from keeper.margin.rows import MarketFactors, compile_row
from keeper.units import WAD, wad_to_float
from tests.market_chain import seeded

DATA = Path(__file__).parents[3] / "shared" / "data"
BRACKETS = DATA / "maintenance-margin-tiers.csv"
SIZES = DATA / "accounts-2025-10-10.csv.gz"
MARKETS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "DOGE/USDT:USDT")
NO_RESERVE = ReserveTerms(0, 0, 0)

pytestmark = pytest.mark.skipif(
    not (BRACKETS.exists() and SIZES.exists()),
    reason="the shared tables are not on this machine",
)


def wad(text: str) -> int:
    return int(Fraction(text) * WAD)


def brackets() -> dict[str, list[dict[str, str]]]:
    found = defaultdict(list)
    with BRACKETS.open() as file:
        for line in csv.DictReader(file):
            found[line["symbol"]].append(line)
    return found


def tiers(lines: list[dict[str, str]]) -> tuple[Tier, ...]:
    ends = [wad(line["max_notional_usd"]) for line in lines[:-1]]
    rates = [wad(line["maintenance_margin_rate"]) for line in lines]
    return tuple(Tier(end, rate) for end, rate in zip([*ends, None], rates, strict=True))


def test_progressive_is_rate_times_notional_less_the_published_amount() -> None:
    whole = 0
    for symbol, lines in brackets().items():
        steps = tiers(lines)
        amount = Fraction(0)
        for line, tier, before in zip(lines, steps, [None, *steps], strict=False):
            low = Fraction(line["min_notional_usd"])
            if before is not None:
                amount += low * Fraction(tier.rate - before.rate, WAD)
            notional = int((low + 1) * WAD)
            found = Fraction(progressive(notional, steps), WAD)
            assert abs(found - ((low + 1) * Fraction(tier.rate, WAD) - amount)) < Fraction(
                1, 10**15
            )
            whole += abs(amount - Fraction(line["maintenance_amount_usd"])) < 1
        assert amount >= 0, symbol
    assert whole > 0.9 * sum(map(len, brackets().values())), (
        "the exchange publishes the same amounts"
    )


def test_a_book_of_real_sizes_under_real_brackets_misses_nobody() -> None:
    table, rng = brackets(), seeded(10)
    prices = dict(zip(MARKETS, (112_000, 3_800, 180, 1), strict=True))
    terms = {name: MarketTerms(price * WAD, tiers(table[name])) for name, price in prices.items()}
    accounts = {}
    with gzip.open(SIZES, "rt") as file:
        for line in itertools.islice(csv.DictReader(file), 0, None, 4):
            name, notional = rng.choice(MARKETS), wad(line["notional_usd"])
            size = rng.choice([1, -1]) * notional * WAD // terms[name].price
            if size:
                entry = Position(size, terms[name].price)
                accounts[int(line["account"])] = Account(
                    wad(line["account_value_usd"]), {}, {name: entry}
                )
    assert len(accounts) > 4_000
    book: MarginBook[int] = MarginBook(MARKETS)

    def put(number: int) -> None:
        markets = {name: MarketFactors(one, name) for name, one in terms.items()}
        row = compile_row(accounts[number], markets, {}, NO_RESERVE)
        assert row is not None
        book.put(number, row)

    book.move({name: wad_to_float(one.price) for name, one in terms.items()})
    for number in accounts:
        put(number)
    sunk, expired = [], 0
    for change in (0.999, 0.99, 1.003, 0.93, 0.95, 1.08, 0.9):
        terms = {
            name: MarketTerms(
                int(one.price * rng.uniform(change - 0.002, change + 0.002)), one.tiers
            )
            for name, one in terms.items()
        }
        moved = book.move({name: wad_to_float(one.price) for name, one in terms.items()})
        expired += len(moved.expired)
        for number in moved.expired:
            put(number)
        whole = Terms(terms, {}, NO_RESERVE)
        exact = {n for n, account in accounts.items() if margin(account, whole).excess < 0}
        assert exact <= book.under
        assert len(book.under - exact) <= len(accounts) // 1000
        sunk.append(len(exact))
    assert max(sunk) > min(sunk) + 100
    assert expired > 100
