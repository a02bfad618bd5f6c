"""Stress: a venue's totals after a move of prices, as the document of ``/api/v1/stress``."""

from collections.abc import Iterator

from keeper.facts import AccountId
from keeper.margin.solvency import Exposure, Solvency, Total
from keeper.risk.portfolio import Moves, Portfolio
from keeper.units import PPM, WAD

TOP_MAX = 20  # under-margined accounts told by name


class Stress:
    """One venue's accounts after a move; ``steps`` has to be gone through first."""

    def __init__(self, portfolio: Portfolio, moves: Moves) -> None:
        """Nothing is worked out yet."""
        self._portfolio = portfolio
        self._moves = moves
        self.solvency: Solvency[AccountId] = Solvency(TOP_MAX)

    def steps(self) -> Iterator[None]:
        """Work out one account after the other."""
        valued = self._portfolio.at(self._moves)
        for account, exposure in self._portfolio.exposures(valued):
            if exposure is not None:
                self.solvency.add(account, exposure)
            yield

    def document(self) -> dict[str, object]:
        """Return what came of it; amounts in USD."""
        portfolio, found = self._portfolio, self.solvency
        after = portfolio.moved(self._moves)
        return {
            "block": portfolio.market.head.number,
            "at_s": portfolio.at_s,
            "prices": {
                feed: {
                    "now_usd": price / WAD if price else None,
                    "shocked_usd": after[feed] / WAD if price else None,
                    "shock_pct": self._moves.get(feed, 0) * 100 / PPM,
                    "of": "sources" if feed in portfolio.from_sources else "contract",
                }
                for feed, price in portfolio.prices.items()
            },
            "unknown": {
                "quarantined_accounts": portfolio.unknown.quarantined,
                "unpriced_accounts": portfolio.unknown.unpriced,
                "accounts_worth_more": found.not_whole,
            },
            "total": _total(found.whole),
            "markets": {name: _total(one) for name, one in sorted(found.markets.items())},
            "collateral_sold_usd": {name: usd(wad) for name, wad in sorted(found.sold.items())},
            "top_accounts": [_account(id_, exposure) for id_, exposure in found.top],
        }


def usd(wad: int) -> float:
    """Return USD to the cent, for people."""
    return round(wad / WAD, 2)


def _total(total: Total) -> dict[str, object]:
    return {
        "accounts": total.accounts,
        "long_usd": usd(total.long),
        "short_usd": usd(total.short),
        "equity_usd": usd(total.equity),
        "requirement_usd": usd(total.requirement),
        "under_margined_accounts": total.under_accounts,
        "under_margined_notional_usd": usd(total.under_notional),
        "insolvent_accounts": total.insolvent_accounts,
        "insolvent_notional_usd": usd(total.insolvent_notional),
        "bad_debt_usd": usd(total.bad_debt),
    }


def _account(account: AccountId, exposure: Exposure) -> dict[str, object]:
    return {
        "account": account,
        "notional_usd": usd(exposure.gross),
        "equity_usd": usd(exposure.equity),
        "requirement_usd": usd(exposure.requirement),
        "bad_debt_usd": usd(exposure.bad_debt),
        "markets": {name: usd(wad) for name, wad in exposure.notional.items()},
    }
