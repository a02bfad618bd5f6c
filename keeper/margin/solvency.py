"""How solvent a set of accounts is: totals, bad debt, and at which move of a price accounts sink.

Pure and exact: integers, USD wads throughout. An account comes as an ``Exposure``, worked out by a
venue's own arithmetic at some prices.
"""

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

IdT = TypeVar("IdT", bound=Hashable)

NO_MARKET = "-"  # where accounts without a position count


@dataclass(frozen=True, slots=True)
class Exposure:
    """One account at some prices, USD wads.

    under        the venue's verdict: it may be liquidated, whatever the age of the prices
    equity       cash + risk-adjusted collateral + unrealised PnL − funding owed
    requirement  what the verdict holds against it: maintenance margin and reserve
    net_value    equity with collateral at full price; below zero the account is insolvent
    notional     market → size × price, below zero for a short; an open position is never left out
    collateral   asset → value at full price of what is held beside cash
    whole        False: it holds something that is not valued here, so it is worth more
    feeds        the prices that it stands on
    """

    under: bool
    equity: int
    requirement: int
    net_value: int
    notional: Mapping[str, int]
    collateral: Mapping[str, int] = field(default_factory=dict)
    whole: bool = True
    feeds: Sequence[str] = ()

    @property
    def gross(self) -> int:
        """Σ |notional|."""
        return sum(map(abs, self.notional.values()))

    @property
    def bad_debt(self) -> int:
        """What is missing once everything is closed and sold at these prices."""
        return max(0, -self.net_value)

    @property
    def sold(self) -> dict[str, int]:
        """The collateral that a liquidation would have to sell, at full price.

        Positions are closed at these prices; what cash then lacks comes from the assets, from each
        by its share of their value.
        """
        held = sum(self.collateral.values())
        lacking = min(held, max(0, held - self.net_value))
        if not self.under or not lacking:
            return {}
        return {asset: value * lacking // held for asset, value in self.collateral.items()}


@dataclass(slots=True)
class Total:
    """Sums over accounts, USD wads; ``long`` and ``short`` are both positive."""

    accounts: int = 0
    long: int = 0
    short: int = 0
    equity: int = 0
    requirement: int = 0
    bad_debt: int = 0
    under_accounts: int = 0
    under_notional: int = 0
    insolvent_accounts: int = 0
    insolvent_notional: int = 0

    @property
    def notional(self) -> int:
        """Long and short together."""
        return self.long + self.short

    def add(self, exposure: Exposure, notionals: Iterable[int], part: int = 1, of: int = 1) -> None:
        """Add ``part / of`` of an account, with these of its notionals."""
        size = 0
        for signed in notionals:
            size += abs(signed)
            self.long += max(0, signed)
            self.short += max(0, -signed)
        self.accounts += 1
        self.equity += exposure.equity * part // of
        self.requirement += exposure.requirement * part // of
        self.bad_debt += exposure.bad_debt * part // of
        if exposure.under:
            self.under_accounts += 1
            self.under_notional += size
        if exposure.net_value < 0:
            self.insolvent_accounts += 1
            self.insolvent_notional += size


class Solvency(Generic[IdT]):
    """Totals of accounts: all together, by market, and the largest under-margined ones.

    In ``markets`` an account counts in each market in which it has a position, with equity,
    requirement and bad debt by the market's share of its notional; so these sum to ``whole``, up to
    a wei an account, and the numbers of accounts do not. Without a position it counts under
    ``NO_MARKET``.
    """

    def __init__(self, top_max: int) -> None:
        """Start empty; ``top_max`` accounts are kept by name."""
        self.whole = Total()
        self.markets: dict[str, Total] = {}
        self.sold: dict[str, int] = {}  # by asset
        self.not_whole = 0  # accounts that hold something that is not valued
        self._top_max = top_max
        self._top: list[tuple[int, int, IdT, Exposure]] = []  # a heap, the smallest first
        self._count = 0

    def add(self, id_: IdT, exposure: Exposure) -> None:
        """Add one account."""
        gross = exposure.gross
        self.not_whole += not exposure.whole
        self.whole.add(exposure, exposure.notional.values())
        for market, signed in exposure.notional.items():
            share = (abs(signed), gross) if gross else (1, len(exposure.notional))
            self.markets.setdefault(market, Total()).add(exposure, [signed], *share)
        if not exposure.notional:
            self.markets.setdefault(NO_MARKET, Total()).add(exposure, [])
        for asset, value in exposure.sold.items():
            self.sold[asset] = self.sold.get(asset, 0) + value
        if exposure.under:
            self._count += 1  # ids and exposures need no order
            entry = (gross, -self._count, id_, exposure)
            if len(self._top) < self._top_max:
                heapq.heappush(self._top, entry)
            else:
                heapq.heappushpop(self._top, entry)

    @property
    def top(self) -> list[tuple[IdT, Exposure]]:
        """The under-margined accounts of the largest notional, largest first."""
        return [(id_, exposure) for _, _, id_, exposure in sorted(self._top, reverse=True)]


def sunk(is_under: Callable[[int], bool], moves: Sequence[int]) -> list[bool]:
    """Say for each move of a price whether an account is under-margined after it.

    ``moves`` rise and contain 0. The excess must be concave in the price, as it is where
    requirements do not fall with notional and collateral is valued by its amount: then what is not
    under lies in one piece, and few moves have to be asked for. From there to the first move of
    either side is a bisection; a side that is under at both its ends is asked for move by move.
    """
    middle = moves.index(0)
    found = [False] * len(moves)
    found[middle] = is_under(moves[middle])
    for end in (0, len(moves) - 1):
        if end == middle:
            continue
        found[end] = is_under(moves[end])
        step = 1 if end > middle else -1
        inner = range(middle + step, end, step)  # outwards
        if found[middle] and found[end]:
            for k in inner:
                found[k] = is_under(moves[k])
        elif found[middle] != found[end]:
            first, last = 0, len(inner)  # of those as at the end
            while first < last:
                half = (first + last) // 2
                if is_under(moves[inner[half]]) == found[end]:
                    last = half
                else:
                    first = half + 1
            for place, k in enumerate(inner):
                found[k] = found[end] if place >= first else found[middle]
    return found
