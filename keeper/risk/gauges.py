"""The live gauges of risk: how much stands near its liquidation, open interest, equity, bad debt.

Worked out in rounds, exactly, in slices that leave the loops most of the time, however long a round
then takes. What is shown is always of a whole round.
"""

import asyncio
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from keeper.capabilities import PriceKind
from keeper.facts import AccountId, VenueId
from keeper.margin.book import MarginBook
from keeper.margin.solvency import NO_MARKET, Exposure, Solvency, Total
from keeper.observe.metrics import Metrics
from keeper.ports import Clock
from keeper.risk.portfolio import Portfolio
from keeper.risk.reader import RiskReader
from keeper.units import WAD, wad_to_float

WITHIN_BP = (25, 50, 100, 200, 500, 1_000)
ROUND_S = 2  # at least, from one round to the next
REST_S = 0.009  # after each millisecond of work: a tenth of one core
MARKETS_MAX = 1_000  # of a venue, as label values; further ones are told as unknown


def _nothing() -> list[int]:
    return [0] * len(WITHIN_BP)


@dataclass
class Near:
    """Accounts and notional (USD wads) whose distance falls in each step of ``WITHIN_BP``."""

    accounts: list[int] = field(default_factory=_nothing)
    notional: list[int] = field(default_factory=_nothing)


class Round:
    """One venue's numbers at one moment; ``steps`` has to be gone through first."""

    def __init__(self, portfolio: Portfolio, book: MarginBook[AccountId]) -> None:
        """``book``: the one that follows the portfolio's prices."""
        self._portfolio = portfolio
        self._book = book
        self.solvency: Solvency[AccountId] = Solvency(0)
        self.near = {market: Near() for market in portfolio.markets}

    def steps(self) -> Iterator[None]:
        """Work out one account after the other."""
        for account, exposure in self._portfolio.exposures(self._portfolio.at({})):
            if exposure is not None:
                self.solvency.add(account, exposure)
                if not exposure.under and account in self._book:
                    self._note_near(exposure, self._book.distance(account))
            yield

    def _note_near(self, exposure: Exposure, distance_pct: float) -> None:
        step = bisect_left(WITHIN_BP, 100.0 * distance_pct)
        if math.isnan(distance_pct) or step == len(WITHIN_BP):
            return
        for market, signed in exposure.notional.items():
            near = self.near.setdefault(market, Near())
            near.accounts[step] += 1
            near.notional[step] += abs(signed)


class RiskGauges:
    """Works out round after round, and sets the gauges after each."""

    def __init__(self, reader: RiskReader, metrics: Metrics, clock: Clock) -> None:
        """Nothing is shown before the first round is done."""
        self._reader = reader
        self._metrics = metrics
        self._clock = clock
        self._rebuilds: dict[VenueId, int] = {}  # counted already

    async def keep(self, beat: Callable[[], None]) -> None:
        """Go round for ever."""
        while True:
            for portfolio in self._reader.portfolios():
                desk = self._reader.desks[portfolio.id]
                pull = desk.venue.capabilities.price is PriceKind.PULL
                round_ = Round(portfolio, desk.lead if pull else desk.chain)
                if await self._reader.work_out(portfolio.id, round_.steps(), REST_S, beat):
                    self.show(portfolio, round_)
                self._count_rebuilds(portfolio.id, desk.lead.rebuilds + desk.chain.rebuilds)
            for _ in range(ROUND_S):
                beat()
                await asyncio.sleep(1)

    def _count_rebuilds(self, venue: VenueId, rebuilds: int) -> None:
        more = rebuilds - self._rebuilds.get(venue, 0)
        self._rebuilds[venue] = rebuilds
        self._metrics.count("keeper_fence_rebuilds_total", more, venue=venue)

    def show(self, portfolio: Portfolio, done: Round) -> None:
        """Set the gauges of a venue from a round that is done."""
        venue, gauge = portfolio.id, self._metrics.gauge
        totals = dict.fromkeys(portfolio.markets, Total()) | done.solvency.markets
        self._metrics.know("market", [NO_MARKET, *list(totals)[:MARKETS_MAX]])
        for market, total in totals.items():
            self._show_total(venue, market, total)
            self._show_near(venue, market, done.near.get(market, Near()))
        unknown = portfolio.unknown
        for why, accounts in (
            ("quarantined", unknown.quarantined),
            ("unpriced", unknown.unpriced),
            ("worth_more", done.solvency.not_whole),
        ):
            gauge("keeper_risk_unknown_accounts", accounts, venue=venue, why=why)

    def _show_total(self, venue: VenueId, market: str, total: Total) -> None:
        gauge, at = self._metrics.gauge, {"venue": venue, "market": market}
        sides = (("long", total.long), ("short", total.short))
        for side, wad in sides:
            gauge("keeper_open_interest_usd", wad_to_float(wad), **at, side=side)
        gauge("keeper_equity_usd", wad_to_float(total.equity), **at)
        gauge("keeper_bad_debt_usd", wad_to_float(total.bad_debt), **at)
        gauge("keeper_under_margined_notional_usd", wad_to_float(total.under_notional), **at)
        gauge("keeper_leverage_ratio", _ratio(total.notional, total.equity), **at)
        gauge("keeper_margin_utilisation_ratio", _ratio(total.requirement, total.equity), **at)

    def _show_near(self, venue: VenueId, market: str, near: Near) -> None:
        accounts = notional = 0
        for k, basis_points in enumerate(WITHIN_BP):
            accounts += near.accounts[k]
            notional += near.notional[k]
            at = {"venue": venue, "market": market, "within_bp": str(basis_points)}
            self._metrics.gauge("keeper_near_accounts", accounts, **at)
            self._metrics.gauge("keeper_near_notional_usd", notional / WAD, **at)


def _ratio(wad: int, of: int) -> float:
    """Return a share of equity; NaN where there is none."""
    return wad / of if of > 0 else math.nan
