"""An account as one linear inequality in its price factors, valid inside an envelope.

``excess ≥ constant + Σ weight[f] * value[f]`` while every enveloped factor stays in its range.
Everything here is float64 USD: the screen's numbers, never money that is signed or journaled.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from keeper.margin.model import (
    Account,
    AssetTerms,
    MarketTerms,
    Position,
    ReserveTerms,
    Tier,
)
from keeper.units import WAD

_WAD2 = WAD * WAD  # wad * wad, before the division that the exact arithmetic truncates
_UNBOUNDED = (0.0, sys.float_info.max)  # of a price


def finite(number: float, name: str) -> float:
    """Return ``number`` as a finite float; raises ValueError that names it."""
    try:
        if math.isfinite(number):  # which takes no strings, unlike float()
            return float(number)
    except (TypeError, OverflowError):
        pass
    msg = f"{name} must be a finite number, got {number!r}"
    raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Row:
    """One account: ``constant`` in USD, ``weights`` in USD per unit of a factor's value.

    ``envelope``: factor → (low, high), both inclusive, where the inequality holds; a factor that is
    not in it is unbounded. Raises ValueError on a number that is not finite and on low > high.
    """

    constant: float
    weights: Mapping[str, float] = field(default_factory=dict)
    envelope: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every number and take copies, so that the caller's dicts may change later."""
        weights = {
            name: w if _is_finite(w) else finite(w, f"weight of {name}")
            for name, w in self.weights.items()
        }
        envelope = {name: _interval(pair, name) for name, pair in self.envelope.items()}
        object.__setattr__(self, "constant", finite(self.constant, "constant"))
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "envelope", envelope)

    def holds_at(self, values: Mapping[str, float]) -> bool:
        """Say whether every factor of the envelope has a value, and one inside it."""
        return all(
            name in values and low <= values[name] <= high
            for name, (low, high) in self.envelope.items()
        )


def _is_finite(number: float) -> bool:
    """Say whether it is a finite float as it is: rows are made by the hundred thousand."""
    return type(number) is float and -math.inf < number < math.inf


def _interval(pair: tuple[float, float], name: str) -> tuple[float, float]:
    """Check one envelope entry."""
    low, high = pair
    if _is_finite(low) and _is_finite(high) and low <= high:
        return low, high
    low, high = (finite(bound, f"envelope of {name}") for bound in pair)
    if low > high:
        msg = f"envelope of {name} must have low <= high, got ({low}, {high})"
        raise ValueError(msg)
    return low, high


@dataclass(frozen=True, slots=True)
class MarketFactors:
    """A market's present terms and the factors they follow.

    ``price``: the factor of its mark price. ``index``: the factor of its funding index; None: the
    index stands still at the terms' value.
    """

    terms: MarketTerms
    price: str
    index: str | None = None


@dataclass(frozen=True, slots=True)
class AssetFactors:
    """A collateral asset's present terms and its price factor; None: the price stands still."""

    terms: AssetTerms
    price: str | None


def compile_row(
    account: Account,
    markets: Mapping[str, MarketFactors],
    assets: Mapping[str, AssetFactors],
    reserve: ReserveTerms,
) -> Row | None:
    """Compile an account to a row under the rules of ``model.margin``; None without positions.

    At the terms' prices and indices the row's excess is the exact one; elsewhere inside the
    envelope it is at most the exact one (but for float64 rounding, which the book's guard band
    covers). An envelope holds prices only: the row is linear in everything else.

    * A position's notional lies in one maintenance bracket. Going on with that bracket's rate
      beyond its ends would ask for too little margin, so its ends bound the price.
    * Below the notional at which the bracket's margin is the market's minimum the minimum counts,
      above it the bracket: another kink that bounds the price.
    * The reserve is ``rate * notional`` between a minimum and a maximum. The maximum is always
      enough. The sloping part is too little below its lower end, the minimum too little above it;
      that kink lies on the account's whole notional, and as a box of prices, every market's price
      is bounded at the same ratio to its present one.

    Factors may be shared; their weights add up. Raises KeyError for a market or an asset that is
    not given, ValueError for a price that is not positive or for a factor with two present values.
    """
    if not account.positions:
        return None
    draft = _Draft(constant=account.cash * WAD)
    for name, amount in account.collateral.items():
        _add_collateral(draft, amount, assets[name])
    for name, position in account.positions.items():
        _add_position(draft, position, markets[name])
    _add_reserve(draft, account, markets, reserve)
    return draft.row()


@dataclass(slots=True)
class _Draft:
    """A row in the making, in integers: USD and USD per unit of a factor's value, at 1e36.

    ``slack``: how far, in USD wads, truncations may take the exact excess below the sum.
    """

    constant: int
    slack: int = 0
    weights: dict[str, int] = field(default_factory=dict)
    envelope: dict[str, tuple[float, float]] = field(default_factory=dict)
    present: dict[str, int] = field(default_factory=dict)

    def add(self, factor: str | None, present: int, weight: int) -> None:
        """Add ``weight * value`` (weight at 1e36, value in wads); without a factor it is fixed."""
        if not weight:
            return  # a row must not wait for the price of nothing
        if factor is None:
            self.constant += weight * present // WAD  # rounds down: the safe side
            return
        if self.present.setdefault(factor, present) != present:
            msg = f"factor {factor!r} has two present values: {self.present[factor]} and {present}"
            raise ValueError(msg)
        self.weights[factor] = self.weights.get(factor, 0) + weight

    def bound(self, factor: str, low: float, high: float) -> None:
        """Narrow the envelope of a price factor."""
        was_low, was_high = self.envelope.get(factor, _UNBOUNDED)
        narrowed = max(low, was_low), min(high, was_high)
        if narrowed != _UNBOUNDED:
            self.envelope[factor] = narrowed

    def row(self) -> Row:
        """Convert to float64, each number rounded once."""
        return Row(
            constant=(self.constant - self.slack * WAD) / _WAD2,
            weights={name: weight / _WAD2 for name, weight in self.weights.items()},
            envelope=self.envelope,
        )


def _add_collateral(draft: _Draft, amount: int, asset: AssetFactors) -> None:
    """Add the amount's parts, each at its bracket's haircut; a debt in full."""
    lower, weight = 0, min(amount, 0) * WAD
    for tier in asset.terms.haircuts:
        upper = amount if tier.up_to is None else min(amount, tier.up_to)
        if upper <= lower:
            break
        weight += (upper - lower) * (WAD - tier.rate)
        draft.slack += 2  # two truncated products a bracket
        lower = upper
    draft.add(asset.price, _positive(asset.terms.price, "collateral"), weight)


def _add_position(draft: _Draft, position: Position, market: MarketFactors) -> None:
    """Add unrealised PnL, funding, and the maintenance of the present bracket."""
    terms, size = market.terms, position.size
    price = _positive(terms.price, "market")
    draft.add(market.price, price, size * WAD)
    draft.add(market.index, terms.funding_index, -size * WAD)
    draft.constant += size * (position.funding_index - position.entry_price)
    draft.slack += 2  # PnL and funding; the requirement is truncated to the account's advantage
    if size:
        _add_maintenance(draft, abs(size), market)


def _add_maintenance(draft: _Draft, size: int, market: MarketFactors) -> None:
    """Take off the present bracket's margin, or the market's minimum."""
    terms, now = market.terms, market.terms.price / WAD
    lower, tier, below = _bracket(size * terms.price, terms.tiers)
    least = terms.minimum_margin * WAD
    kink = _notional_at(least, terms.tiers) / size if least else 0.0
    if least * WAD >= (below - tier.rate * lower) * WAD + tier.rate * size * terms.price:
        draft.constant -= least
        draft.bound(market.price, 0.0, max(kink, now))
        return
    draft.add(market.price, terms.price, -tier.rate * size)
    draft.constant -= below - tier.rate * lower
    high = _UNBOUNDED[1] if tier.up_to is None else tier.up_to / size
    draft.bound(market.price, max(lower / size, min(kink, now)), high)


def _notional_at(least: int, tiers: tuple[Tier, ...]) -> float:
    """Return the notional, in wads, whose margin is ``least`` (at 1e36); inf if none is."""
    lower = below = 0
    for tier in tiers:
        above = None if tier.up_to is None else below + (tier.up_to - lower) * tier.rate
        if above is None or above >= least:
            break
        lower, below = tier.up_to or 0, above
    return lower + (least - below) / tier.rate if tier.rate else math.inf


def _bracket(notional: int, tiers: tuple[Tier, ...]) -> tuple[int, Tier, int]:
    """Return the bracket of a notional (at 1e36): its lower end, itself, the margin below it.

    The lower end is in wads, the margin at 1e36. Compared before truncation, so that the present
    price is never outside the envelope that follows from the answer.
    """
    lower = below = 0
    for tier in tiers:
        if tier.up_to is None or notional <= tier.up_to * WAD:
            return lower, tier, below
        below += (tier.up_to - lower) * tier.rate
        lower = tier.up_to
    msg = "the last tier must be open"
    raise ValueError(msg)


def _add_reserve(
    draft: _Draft, account: Account, markets: Mapping[str, MarketFactors], reserve: ReserveTerms
) -> None:
    """Take off the reserve: its sloping part between the clamps, else a constant."""
    held = [
        (abs(position.size), markets[name].terms.price, markets[name].price)
        for name, position in account.positions.items()
        if position.size
    ]
    notional = sum(size * price for size, price, _ in held)
    sloping, minimum = reserve.rate * notional, reserve.minimum * _WAD2
    if sloping >= reserve.maximum * _WAD2 or reserve.minimum >= reserve.maximum:
        draft.constant -= reserve.maximum * WAD
        return
    if sloping > minimum:
        for size, price, factor in held:
            draft.add(factor, price, -reserve.rate * size)
            draft.bound(factor, price * minimum / (WAD * sloping), _UNBOUNDED[1])
        return
    draft.constant -= reserve.minimum * WAD
    for _, price, factor in held if sloping else ():
        draft.bound(factor, 0.0, price * minimum / (WAD * sloping))


def _positive(price: int, kind: str) -> int:
    """Refuse a price that the book would refuse later."""
    if price <= 0:
        msg = f"{kind} price must be positive, got {price}"
        raise ValueError(msg)
    return price
