"""``keeper bench risk``: what the analyses of many accounts take, and how late they make the loops.

The accounts are the demo's, in its market; beside the analyses one loop sleeps a millisecond over
and over. A round and a stress end when their time is up; the line counts the accounts they came to.
Totals are compared with a plain sum over the exact margins of the same accounts.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from keeper import __version__
from keeper.bench.ladder import START
from keeper.clock import SystemClock
from keeper.demo.population import draw_population, start_terms
from keeper.demo.terms import ASSETS, FEEDS, MARKETS, RESERVE
from keeper.facts import AccountId, AccountState, FeedId, Head, VenueId
from keeper.margin import MarginBook
from keeper.margin.model import Account, margin
from keeper.observe.metrics import Metrics
from keeper.quarantine import Quarantine
from keeper.risk.gauges import REST_S as ROUND_REST_S
from keeper.risk.gauges import Round
from keeper.risk.liquidation_map import LiquidationMap
from keeper.risk.portfolio import Portfolio, in_slices
from keeper.risk.reader import REST_S as MAP_REST_S
from keeper.risk.stress import Stress
from keeper.units import PPM
from keeper.venues._demo_market_state import (
    Asset,
    DemoAccountState,
    DemoMarketState,
    PerpMarket,
    StoredPrice,
)
from keeper.venues.demo_market import DemoMarket, Settings

NAP_S = 0.001
IDLE_S = 1.0  # of the loop alone: how late the machine is by itself
NAPS_P99 = 100  # at least, that a p99 means something
NEAREST = 50  # as one slice of a reconciliation asks for
FALL_PPM = -PPM // 5
VENUE = DemoMarket(
    Settings(id="demo", address="0x" + "00" * 20),
    rpc=None,  # type: ignore[arg-type]  # nothing is read
)


@dataclass(frozen=True, slots=True)
class Line:
    """One analysis: its length, its share of a core, how late it made the sleeping loop."""

    name: str
    accounts: int
    wall_s: float
    cpu_s: float
    late_p99_ms: float | None  # None: done in one piece, so that the loop hardly slept meanwhile
    late_max_ms: float


def bounded(steps: Iterator[object], s_max: float) -> Iterator[object]:
    """Take steps until so many seconds are over."""
    until_s = time.perf_counter() + s_max
    for step in steps:
        yield step
        if time.perf_counter() > until_s:
            return


@contextlib.asynccontextmanager
async def watched(name: str, accounts: Callable[[], int], lines: list[Line]) -> AsyncIterator[None]:
    """Measure what is done inside; ``accounts`` is asked afterwards."""
    click.echo(f"{name} …", err=True)
    late: list[float] = []

    async def nap() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(NAP_S)
            late.append(time.perf_counter() - before - NAP_S)

    async with asyncio.TaskGroup() as group:
        napping = group.create_task(nap(), name="nap")
        await asyncio.sleep(0)  # it sleeps when the work begins
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        await asyncio.sleep(2 * NAP_S)
        napping.cancel()
    p99 = 1e3 * float(np.percentile(late, 99)) if len(late) >= NAPS_P99 else None
    lines.append(Line(name, accounts(), wall_s, cpu_s, p99, 1e3 * max(late)))


def portfolio_of(accounts: dict[str, Account]) -> Portfolio:
    """Return accounts of a demo market that is on no chain, as if just read."""
    clock = SystemClock()
    head = Head(1, "0x", "0x", clock.wall_ms() // 1000, 0, clock.wall_ms())
    prices = (START.btc, START.eth)  # in the order of the feeds
    stored = tuple(
        StoredPrice(name, FeedId(name), price, 0) for name, price in zip(FEEDS, prices, strict=True)
    )
    perps = tuple(
        PerpMarket(m.name, m.feed, m.tiers, 0, m.skew_scale, 0, 0, head.timestamp_s)
        for m in MARKETS
    )
    assets = tuple(Asset(asset.name, asset.feed, asset.haircuts) for asset in ASSETS)
    market = DemoMarketState(head, 60, 0, 0, RESERVE, stored, perps, assets)
    names = [spec.name for spec in MARKETS], [spec.name for spec in ASSETS]
    numbers = {name: str(k) for some in names for k, name in enumerate(some)}
    states: dict[AccountId, AccountState] = {}
    for name, one in accounts.items():
        held = {numbers[asset]: amount for asset, amount in one.collateral.items()}
        opened = {numbers[key]: position for key, position in one.positions.items()}
        holdings = Account(one.cash, held, opened)
        states[AccountId(name)] = DemoAccountState(AccountId(name), head, holdings)
    return Portfolio(
        id=VenueId("demo"),
        venue=VENUE,
        market=market,
        at_s=head.timestamp_s,
        prices={one.feed: one.price for one in stored},
        from_sources=frozenset(),
        states=states,
        quarantine=Quarantine(clock, Metrics(__version__)),
    )


def book_of(portfolio: Portfolio) -> MarginBook[AccountId]:
    """Return the book as the keeper has it."""
    market = portfolio.market
    assert isinstance(market, DemoMarketState)  # noqa: S101 - made above
    book: MarginBook[AccountId] = MarginBook(
        list(VENUE.price_factors(market)), list(VENUE.index_factors(market))
    )
    book.move(VENUE.factors(market, portfolio.at_s))
    rows = {}
    for account, state in portfolio.states.items():
        assert isinstance(state, DemoAccountState)  # noqa: S101
        row = VENUE.compile(state, market, book.values)
        if row is not None:
            rows[account] = row
    book.put_many(rows)
    return book


async def measure(count: int, mapped: int, seed: int, s_max: float) -> tuple[list[Line], bool]:
    """Return the lines, and whether the totals are those of the plain sum."""
    clock, lines = SystemClock(), list[Line]()
    click.echo(f"drawing {count:,} accounts …", err=True)
    drawn = draw_population(seed, count, START)
    accounts = {str(k): one.account for k, one in enumerate(drawn)}
    portfolio = portfolio_of(accounts)
    book = book_of(portfolio)
    async with watched("nothing", lambda: 0, lines):
        await asyncio.sleep(IDLE_S)
    async with watched("copying the states first", lambda: count, lines):
        dict(portfolio.states)
    async with watched(f"the {NEAREST} nearest", lambda: count, lines):
        book.nearest(NEAREST)
    gauges = Round(portfolio, book)
    async with watched("a round of the gauges", lambda: gauges.solvency.whole.accounts, lines):
        await in_slices(bounded(gauges.steps(), s_max), clock, ROUND_REST_S)
    stress = Stress(portfolio, dict.fromkeys(portfolio.prices, FALL_PPM))
    async with watched("a stress of -20 %", lambda: stress.solvency.whole.accounts, lines):
        await in_slices(bounded(stress.steps(), s_max), clock)
    part = portfolio_of(dict(list(accounts.items())[:mapped]))
    drawing = LiquidationMap(part)
    async with watched("a liquidation map", lambda: len(part.states), lines):
        await in_slices(drawing.steps(), clock, MAP_REST_S)
    terms = start_terms(START)
    summed = list(accounts.values())[: gauges.solvency.whole.accounts]
    equity = sum(margin(one, terms).equity for one in summed)
    return lines, gauges.solvency.whole.equity == equity


def main(count: int, mapped: int, seed: int, s_max: float, *, as_json: bool) -> int:
    """Measure and print; return 1 if a total is not that of the plain sum."""
    lines, same = asyncio.run(measure(count, mapped, seed, s_max))
    if as_json:
        click.echo(json.dumps({"same": same, "lines": [asdict(one) for one in lines]}))
        return 0 if same else 1
    table = Table("", box=None, pad_edge=False)
    for title in ("accounts", "wall s", "CPU s", "a loop late, p99 ms", "max ms"):
        table.add_column(title, justify="right")
    for one in lines:
        times = one.wall_s, one.cpu_s, one.late_p99_ms, one.late_max_ms
        cells = ["-" if value is None else f"{value:,.2f}" for value in times]
        table.add_row(one.name, f"{one.accounts:,}", *cells)
    Console().print(table)
    click.echo(f"totals {'equal' if same else 'DIFFER FROM'} the plain sum")
    return 0 if same else 1
