"""What may be spent in any hour and any day: rolling budgets.

A budget counts what was settled within its span and, at its worst, everything that is in flight or
about to be sent. Settling comes after inclusion, so a cost is never out of the sum while it is
inside the span. *Gas* is what a transaction costs (execution, data, oracle fee); *loss* is what an
attempt cost beyond what it brought, never less than zero, so that wins do not pay for a storm of
reverts. Amounts in USD take the price of the native token at the time of settling.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from keeper.units import WAD

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Sort(StrEnum):
    """What is counted."""

    GAS = "gas"
    LOSS = "loss"


class Span(StrEnum):
    """Over which time, ending now."""

    HOUR = "hour"
    DAY = "day"


class Unit(StrEnum):
    """In which money."""

    WEI = "wei"
    USD = "usd"  # wads


SPANS_MS: Mapping[Span, int] = {Span.HOUR: HOUR_MS, Span.DAY: DAY_MS}


@dataclass(frozen=True, slots=True)
class Limit:
    """One budget: at most so much (wei or USD wads) in any span."""

    sort: Sort
    span: Span
    unit: Unit
    most: int

    @property
    def name(self) -> str:
        """Return the label of its metric."""
        return f"{self.sort}_{self.span}"


@dataclass(frozen=True, slots=True)
class Amounts:
    """What an attempt costs, and loses when it brings nothing; wei."""

    gas_wei: int
    loss_wei: int


@dataclass(frozen=True, slots=True)
class Spent:
    """A settled attempt. ``native_usd_wad``: what the native token cost then; None: unknown."""

    at_ms: int
    amounts: Amounts
    native_usd_wad: int | None


@dataclass(frozen=True, slots=True)
class Over:
    """A budget without room for what is wanted, and when it has some.

    ``until_ms`` None: not by time alone, but when what is in flight is settled, or fees fall.
    """

    limit: Limit
    left: int
    wanted: int
    until_ms: int | None

    def __str__(self) -> str:
        """Say which budget, what it has left and what was wanted."""
        limit, unit = self.limit, "USD" if self.limit.unit is Unit.USD else "native tokens"
        return (
            f"{limit.sort} budget of the {limit.span}: {self.left / WAD:g} of "
            f"{limit.most / WAD:g} {unit} left, {self.wanted / WAD:g} wanted"
        )


class Budget:
    """All budgets, and what was settled within the longest span."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        """Start with nothing spent. ``limits`` may be exchanged: what was spent counts on."""
        self.limits = tuple(limits)
        self._windows = {
            (sort, span, unit): _Window(sort, SPANS_MS[span], unit)
            for sort in Sort
            for span in Span
            for unit in Unit
        }

    def spend(self, spent: Spent) -> None:
        """Count a settled attempt; they come in the order of their settling."""
        for window in self._windows.values():
            window.add(spent)

    def over(
        self, wanted: Amounts, reserved: Iterable[Amounts], now_ms: int, native_usd_wad: int
    ) -> Over | None:
        """Return the budget that has no room for ``wanted`` beside what is reserved, or None.

        Of several, the one that has room last.
        """
        found: list[Over] = []
        held = _total(reserved)
        for limit in self.limits:
            window = self._windows[limit.sort, limit.span, limit.unit]
            need = _in_unit(limit, wanted, native_usd_wad)
            settled = window.sum(now_ms, native_usd_wad)
            left = limit.most - settled - _in_unit(limit, held, native_usd_wad)
            if need > left:
                until_ms = window.fits_at_ms(settled + need - limit.most, native_usd_wad)
                found.append(Over(limit, left, need, until_ms))
        return max(found, key=lambda over: over.until_ms or 0, default=None)

    def left(
        self, reserved: Iterable[Amounts], now_ms: int, native_usd_wad: int | None
    ) -> dict[Limit, int | None]:
        """Return what each budget has left; None for USD while the native price is unknown."""
        held = _total(reserved)
        found: dict[Limit, int | None] = {}
        for limit in self.limits:
            window = self._windows[limit.sort, limit.span, limit.unit]
            if limit.unit is Unit.USD and native_usd_wad is None:
                found[limit] = None
                continue
            price = native_usd_wad or 0
            found[limit] = limit.most - window.sum(now_ms, price) - _in_unit(limit, held, price)
        return found


class _Window:
    """What was settled within one span, with its sum kept."""

    def __init__(self, sort: Sort, span_ms: int, unit: Unit) -> None:
        self._sort = sort
        self._span_ms = span_ms
        self._unit = unit
        self._spent: deque[Spent] = deque()
        self._sum = 0
        self._unpriced_wei = 0  # in USD budgets: of attempts settled without a native price

    def _wei(self, spent: Spent) -> int:
        return spent.amounts.gas_wei if self._sort is Sort.GAS else spent.amounts.loss_wei

    def _count(self, spent: Spent, sign: int) -> None:
        if self._unit is Unit.WEI:
            self._sum += sign * self._wei(spent)
        elif spent.native_usd_wad is None:
            self._unpriced_wei += sign * self._wei(spent)
        else:
            self._sum += sign * _usd_wad(self._wei(spent), spent.native_usd_wad)

    def add(self, spent: Spent) -> None:
        self._forget(spent.at_ms)
        if self._wei(spent) > 0:
            self._spent.append(spent)
            self._count(spent, 1)

    def sum(self, now_ms: int, native_usd_wad: int) -> int:
        self._forget(now_ms)
        return self._sum + _usd_wad(self._unpriced_wei, native_usd_wad)

    def _forget(self, now_ms: int) -> None:
        while self._spent and self._spent[0].at_ms + self._span_ms < now_ms:
            self._count(self._spent.popleft(), -1)

    def fits_at_ms(self, excess: int, native_usd_wad: int) -> int | None:
        """Return when so much of what was settled has left the span; None: it never is so much."""
        if excess <= 0:
            return None
        for spent in self._spent:
            wei = self._wei(spent)
            price = native_usd_wad if spent.native_usd_wad is None else spent.native_usd_wad
            excess -= wei if self._unit is Unit.WEI else _usd_wad(wei, price)
            if excess <= 0:
                return spent.at_ms + self._span_ms + 1
        return None


def _total(amounts: Iterable[Amounts]) -> Amounts:
    gas_wei = loss_wei = 0
    for each in amounts:
        gas_wei += each.gas_wei
        loss_wei += each.loss_wei
    return Amounts(gas_wei, loss_wei)


def _in_unit(limit: Limit, amounts: Amounts, native_usd_wad: int) -> int:
    wei = amounts.gas_wei if limit.sort is Sort.GAS else amounts.loss_wei
    return wei if limit.unit is Unit.WEI else _usd_wad(wei, native_usd_wad)


def _usd_wad(wei: int, native_usd_wad: int) -> int:
    return -(-wei * native_usd_wad // WAD)  # rounded up: never in our favour
