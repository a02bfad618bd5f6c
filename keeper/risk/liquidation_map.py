"""The liquidation map: what can be liquidated once a price has moved, from −50 % to +50 %.

A *ray* moves one price, or all at once, and leaves the others. Each account that stands on it is
asked for at a few of the moves, by the arithmetic that decides (``solvency.sunk``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from keeper.facts import AccountId
from keeper.margin.solvency import Exposure, sunk
from keeper.risk.portfolio import Portfolio, Valuation
from keeper.risk.stress import usd
from keeper.units import PPM, WAD

MOVES_PCT = range(-50, 51, 2)
ALL = "all"  # the ray that moves every price


def _nothing() -> list[int]:
    return [0] * len(MOVES_PCT)


@dataclass
class Ray:
    """By move: accounts that can be liquidated, their whole notional, and that of each market.

    At present prices, USD wads, so that rays compare with the open interest there is.
    """

    accounts: list[int] = field(default_factory=_nothing)
    notional: list[int] = field(default_factory=_nothing)
    markets: dict[str, list[int]] = field(default_factory=dict)

    def add(self, exposure: Exposure, sunk_at: list[bool]) -> None:
        """Add an account that can be liquidated at these moves."""
        gross = exposure.gross
        for k, is_sunk in enumerate(sunk_at):
            if not is_sunk:
                continue
            self.accounts[k] += 1
            self.notional[k] += gross
            for market, signed in exposure.notional.items():
                self.markets.setdefault(market, _nothing())[k] += abs(signed)


class LiquidationMap:
    """One venue's rays; ``steps`` has to be gone through first."""

    def __init__(self, portfolio: Portfolio) -> None:
        """Nothing is worked out yet."""
        self._portfolio = portfolio
        self._valuations: dict[tuple[str, int], Valuation] = {}
        self.rays = {name: Ray() for name in (*portfolio.prices, ALL)}

    def steps(self) -> Iterator[None]:
        """Work out one account and ray after the other."""
        for account, now in self._portfolio.exposures(self._portfolio.at({})):
            if now is not None and now.notional:
                for ray in (*now.feeds, ALL):
                    self.rays[ray].add(now, self._sunk(account, ray))
                    yield
            yield

    def _sunk(self, account: AccountId, ray: str) -> list[bool]:
        def is_under(move_pct: int) -> bool:
            found = self._portfolio.exposure(account, self._valued(ray, move_pct))
            return found is not None and found.under

        return sunk(is_under, MOVES_PCT)

    def _valued(self, ray: str, move_pct: int) -> Valuation:
        found = self._valuations.get((ray, move_pct))
        if found is None:
            ppm = move_pct * (PPM // 100)
            moved = [feed for feed in self._portfolio.prices if ray in {feed, ALL}]
            found = self._portfolio.at(dict.fromkeys(moved, ppm))
            self._valuations[ray, move_pct] = found
        return found

    def document(self) -> dict[str, object]:
        """Return what came of it; a ray's ``markets`` are those that follow its price. USD."""
        portfolio = self._portfolio
        prices = {str(feed): price for feed, price in portfolio.prices.items()}
        return {
            "block": portfolio.market.head.number,
            "at_s": portfolio.at_s,
            "unknown": {
                "quarantined_accounts": portfolio.unknown.quarantined,
                "unpriced_accounts": portfolio.unknown.unpriced,
            },
            "rays": {
                name: {
                    "price_usd": prices[name] / WAD if prices.get(name) else None,
                    "accounts": ray.accounts,
                    "notional_usd": [usd(wad) for wad in ray.notional],
                    "markets_usd": {
                        market: [usd(wad) for wad in ray.markets.get(market, _nothing())]
                        for market, feed in portfolio.markets.items()
                        if name in {feed, ALL}
                    },
                }
                for name, ray in self.rays.items()
            },
        }
