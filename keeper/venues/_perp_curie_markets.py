"""Perp v2 "Curie": the markets of one clearing house, as both of its venues see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeper.facts import AccountId, FeedId, MarketState
from keeper.units import WAD, wad_to_float
from keeper.venues._perp_curie_math import System

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
