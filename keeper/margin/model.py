"""The exact arithmetic of one account, in integers, as a contract does it.

Money is in USD wads, sizes in base-asset wads (long > 0, short < 0), prices in USD wads per unit,
rates in wads (0.05 = 5e16). A funding index is the cumulative funding per unit of base asset, a USD
wad of any sign: a long position has paid ``size × (index now − index at entry)``. Every product is
truncated toward zero, like the EVM's SDIV, so a contract that follows the same formulas agrees to
the last unit.

Formulas: cross margin with progressive ("marginal") maintenance tiers, as large exchanges publish
them, and haircuts that may grow with the amount held. A debt (an amount below zero) counts in full.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keeper.units import WAD, mul_wad


@dataclass(frozen=True, slots=True)
class Tier:
    """One bracket: ``rate`` (wad) applies to the part below ``up_to`` (None: no upper end)."""

    up_to: int | None
    rate: int


def check_tiers(tiers: tuple[Tier, ...]) -> None:
    """Raise ValueError unless the brackets rise and the last one is open."""
    bounds = [tier.up_to for tier in tiers]
    inner = [bound for bound in bounds[:-1] if bound is not None]
    rising = all(low < high for low, high in zip([0, *inner], inner, strict=False))
    if not bounds or bounds[-1] is not None or len(inner) != len(bounds) - 1 or not rising:
        msg = f"tiers must rise and end with an open one, got bounds {bounds}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class MarketTerms:
    """A market now: its mark price, maintenance tiers by notional (USD), funding index.

    ``minimum_margin``: what a position needs at least, in USD.
    """

    price: int
    tiers: tuple[Tier, ...]
    funding_index: int = 0
    minimum_margin: int = 0

    def __post_init__(self) -> None:
        """Refuse brackets with a gap: the part beyond them would silently need no margin."""
        check_tiers(self.tiers)


@dataclass(frozen=True, slots=True)
class AssetTerms:
    """A collateral asset now: its price and its haircut tiers by amount."""

    price: int
    haircuts: tuple[Tier, ...]

    def __post_init__(self) -> None:
        """Refuse brackets with a gap: the part beyond them would silently be worth nothing."""
        check_tiers(self.haircuts)


@dataclass(frozen=True, slots=True)
class ReserveTerms:
    """What a venue keeps for the liquidation reward: ``rate × notional`` within bounds (USD)."""

    rate: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything outside the account that its margin depends on."""

    markets: Mapping[str, MarketTerms]
    assets: Mapping[str, AssetTerms]
    reserve: ReserveTerms


@dataclass(frozen=True, slots=True)
class Position:
    """A position: signed size, entry price, funding index when funding was last settled."""

    size: int
    entry_price: int
    funding_index: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """Cash (USD), collateral amounts by asset (both may be negative: debt), positions by market."""

    cash: int
    collateral: Mapping[str, int] = field(default_factory=dict)
    positions: Mapping[str, Position] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Margin:
    """The outcome, in USD wads.

    equity       cash + haircut collateral + unrealised PnL − funding owed
    net_value    the same with collateral at its full price; below zero the account is bad debt
    maintenance  Σ tiered rate × notional, each at least its market's minimum
    reserve      kept for the liquidation reward; zero without positions
    notional     Σ |size| × price
    """

    equity: int
    net_value: int
    maintenance: int
    reserve: int
    notional: int

    @property
    def excess(self) -> int:
        """Equity above the requirement; negative means under-margined."""
        return self.equity - self.maintenance - self.reserve


def progressive(amount: int, tiers: tuple[Tier, ...]) -> int:
    """Return Σ rate × (part of ``amount`` inside each bracket); ``amount`` ≥ 0."""
    total, lower = 0, 0
    for tier in tiers:
        upper = amount if tier.up_to is None else min(amount, tier.up_to)
        if upper <= lower:
            break
        total += mul_wad(upper - lower, tier.rate)
        lower = upper
    return total


def haircut_value(amount: int, asset: AssetTerms) -> int:
    """Return the risk-adjusted USD value of ``amount`` units of collateral."""
    if amount < 0:
        return mul_wad(amount, asset.price)
    total, lower = 0, 0
    for tier in asset.haircuts:
        upper = amount if tier.up_to is None else min(amount, tier.up_to)
        if upper <= lower:
            break
        total += mul_wad(mul_wad(upper - lower, asset.price), WAD - tier.rate)
        lower = upper
    return total


def position_value(position: Position, market: MarketTerms) -> int:
    """Return unrealised PnL less the funding owed since entry."""
    pnl = mul_wad(position.size, market.price - position.entry_price)
    return pnl - mul_wad(position.size, market.funding_index - position.funding_index)


def maintenance_for(size: int, market: MarketTerms) -> int:
    """Return what a position of ``size`` needs, in USD; nothing if it is zero."""
    notional = mul_wad(abs(size), market.price)
    return max(progressive(notional, market.tiers), market.minimum_margin) if size else 0


def reserve_for(notional: int, reserve: ReserveTerms) -> int:
    """Return the reserve for a notional: ``rate × notional`` between minimum and maximum."""
    return min(max(mul_wad(notional, reserve.rate), reserve.minimum), reserve.maximum)


def margin(account: Account, terms: Terms) -> Margin:
    """Work out equity and requirement of one account.

    Raises KeyError when the account refers to a market or an asset that ``terms`` does not have.
    """
    equity = net_value = account.cash
    for name, amount in account.collateral.items():
        asset = terms.assets[name]
        equity += haircut_value(amount, asset)
        net_value += mul_wad(amount, asset.price)
    maintenance = notional = 0
    for name, position in account.positions.items():
        market = terms.markets[name]
        value = position_value(position, market)
        size_usd = mul_wad(abs(position.size), market.price)
        equity += value
        net_value += value
        notional += size_usd
        maintenance += maintenance_for(position.size, market)
    reserve = reserve_for(notional, terms.reserve) if account.positions else 0
    return Margin(equity, net_value, maintenance, reserve, notional)
