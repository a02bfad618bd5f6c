"""Perp v2 "Curie": the markets of one clearing house, as both of its venues see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from keeper.facts import AccountId, FeedId, MarketState
from keeper.margin.solvency import Exposure
from keeper.units import WAD, mul_wad, wad_to_float
from keeper.venues._perp_curie_math import Balance, System

ADDRESS = r"^0x[0-9a-fA-F]{40}$"


@dataclass(frozen=True)
class CurieMarkets(MarketState):
    """Everything outside the accounts. ``marks``: more that rows are compiled from."""

    system: System
    feeds: Mapping[str, FeedId]  # by base token
    ours: tuple[AccountId, ...] = ()
    marks: str = ""

    @property
    def listed(self) -> Sequence[AccountId]:
        """Return our own accounts, which may hold something since before we looked."""
        return self.ours

    @property
    def epoch(self) -> str:
        """Return the parameters that rows are compiled from."""
        ratios = [(token, asset.ratio_ppm) for token, asset in self.system.assets.items()]
        return f"{self.system.mm_ppm} {ratios} {self.marks}"

    def factors(self, at_s: int) -> dict[str, float]:
        """Return the oracle's prices and what follows from the chain at this time."""
        prices = {base: wad_to_float(one.oracle) for base, one in self.system.markets.items()}
        return prices | self.system.factors(at_s - self.head.timestamp_s)

    def indices(self, prices: Mapping[str, float]) -> dict[str, float]:
        """Return the marks as they would be if the oracle said so."""
        found = self.system.markets
        return {
            f"M:{base}": wad_to_float(found[base].mark_at(round(price * WAD)))
            for base, price in prices.items()
            if base in found
        }

    def prices(self) -> dict[FeedId, int]:
        """Return the oracle's prices, and those of collateral by token, wads."""
        found = {self.feeds[base]: one.oracle for base, one in self.system.markets.items()}
        for token, asset in self.system.assets.items():
            found[FeedId(token)] = asset.price * WAD // int(10**asset.price_decimals)
        return found

    def at_prices(self, prices: Mapping[FeedId, int]) -> Self:
        """Return the markets once oracle, pools and their averages are at these prices."""
        system = self.system
        markets = {
            base: one.at_price(prices.get(self.feeds[base], one.oracle))
            for base, one in system.markets.items()
        }
        assets = {
            token: asset._replace(
                price=prices[FeedId(token)] * int(10**asset.price_decimals) // WAD
            )
            for token, asset in system.assets.items()
            if FeedId(token) in prices
        }
        moved = replace(system, markets=markets, assets={**system.assets, **assets})
        return replace(self, system=moved)

    def exposure(self, balance: Balance, later_s: int, *, ours: bool) -> Exposure | None:
        """Work out an account so many seconds on; None: of a market or token there is no price.

        ``ours``: it is never liquidated by us.
        """
        system, held = self.system, balance.holdings
        assets = {token: system.assets.get(token) for token in balance.collateral}
        priced = system.knows(balance) and all(system.markets[base].mark for base in held)
        if not priced or not all(asset.price for asset in assets.values() if asset):
            return None
        value = system.value(balance, later_s)
        open_ = [base for base in held if system.markets[base].is_open]
        listed = {token: asset for token, asset in assets.items() if asset}
        return Exposure(
            under=not ours and any(system.liquidatable(value, base) for base in open_),
            equity=system.account_value(value),
            requirement=system.requirement(value),
            net_value=value.settlement + value.full,
            notional={
                base: mul_wad(size, system.markets[base].mark) for base, size in value.sizes.items()
            },
            collateral={
                token: asset.value(balance.collateral[token]) for token, asset in listed.items()
            },
            whole=len(listed) == len(assets),
            feeds=(*dict.fromkeys(self.feeds[base] for base in held), *listed),
        )
