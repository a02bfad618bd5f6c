"""A venue's accounts at one moment, to be worked out at any prices; in slices, beside the loops.

Exact: the venue's own integers, as ``assess`` has them, not the rows of the book. What cannot be
worked out is counted, never taken for zero.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from keeper.capabilities import PriceKind
from keeper.facts import AccountId, AccountState, FeedId, MarketState, VenueId
from keeper.margin.solvency import Exposure
from keeper.ports import AccountIn_contra, Board, Clock, MarketIn_contra
from keeper.quarantine import Quarantine
from keeper.units import PPM
from keeper.watch.desk import Desk

SLICE_NS = 1_000_000  # work this long, then let the other loops run

Valuation = Callable[[AccountState], Exposure | None]
Moves = Mapping[FeedId, int]
"""How far prices are moved, in parts per million of what they are; those left out stay."""


@runtime_checkable
class Shockable(Protocol[MarketIn_contra, AccountIn_contra]):
    """A venue whose accounts can be worked out at other prices than there are. Pure, exact."""

    def markets(self, market: MarketIn_contra) -> Mapping[str, FeedId]:
        """Return the markets, as exposures name them, and the price that each follows."""
        ...

    def prices(self, market: MarketIn_contra) -> Mapping[FeedId, int]:
        """Return the contract's own prices, 0 where it has none, of all that accounts hold.

        By feed, or by a name of the venue's where the keeper follows no feed for it.
        """
        ...

    def valued_at(
        self, market: MarketIn_contra, prices: Mapping[FeedId, int], at_s: int
    ) -> Callable[[AccountIn_contra], Exposure | None]:
        """Return how an account stands at chain time ``at_s`` once the contract took these prices.

        Others stay as they are; 0: there is no such price. What is returned answers None for an
        account that holds something without a price.
        """
        ...


@dataclass
class Unknown:
    """Accounts that could not be worked out."""

    quarantined: int = 0  # set aside by a bug
    unpriced: int = 0  # there is no price of something they hold


@dataclass(frozen=True)
class Portfolio:
    """What is known of one venue. ``prices``: those to go by; 0: there is none.

    They are the ones that decide: the contract's own, or where a newer one is carried along (price
    kind *pull*) the sources' newest; ``from_sources`` says which.
    """

    id: VenueId
    venue: Shockable[Any, Any]
    market: MarketState
    at_s: int  # chain time
    prices: Mapping[FeedId, int]
    from_sources: frozenset[FeedId]
    states: Mapping[AccountId, AccountState]
    quarantine: Quarantine
    unknown: Unknown = field(default_factory=Unknown)

    @classmethod
    def of(cls, desk: Desk, board: Board, quarantine: Quarantine, clock: Clock) -> Self | None:
        """Return what a desk knows now; None if it was not read yet, or has no margins."""
        venue, market = desk.venue, desk.market
        if market is None or not isinstance(venue, Shockable):
            return None
        now_ms = clock.wall_ms()
        prices = dict(venue.prices(market))
        newest = {}
        if venue.capabilities.price is PriceKind.PULL:
            fresh = {feed: board.fresh(feed, now_ms) for feed in prices}
            newest = {feed: price.price_wad for feed, price in fresh.items() if price is not None}
        return cls(
            desk.venue.id,
            venue,
            market,
            desk.inclusion_s(now_ms),
            prices | newest,
            frozenset(newest),
            dict(desk.states),
            quarantine,
        )

    @property
    def markets(self) -> Mapping[str, FeedId]:
        """Return the markets' names and the price that each follows."""
        return self.venue.markets(self.market)

    def moved(self, moves: Moves) -> dict[FeedId, int]:
        """Return the prices after a move."""
        return {
            feed: price * (PPM + moves.get(feed, 0)) // PPM for feed, price in self.prices.items()
        }

    def at(self, moves: Moves) -> Valuation:
        """Return how accounts stand after a move of the prices."""
        return self.valued_at(self.moved(moves))

    def valued_at(self, prices: Mapping[FeedId, int]) -> Valuation:
        """Return how accounts stand at these prices."""
        return self.venue.valued_at(self.market, prices, self.at_s)

    def exposure(self, account: AccountId, valued: Valuation) -> Exposure | None:
        """Work out an account; None: it cannot be, which is not counted."""
        with self.quarantine.account(self.id, account):
            return valued(self.states[account])
        return None

    def exposures(self, valued: Valuation) -> Iterator[tuple[AccountId, Exposure | None]]:
        """Work out every account; what cannot be is None, and counted."""
        for account in self.states:
            if self.quarantine.is_quarantined(self.id, account):
                self.unknown.quarantined += 1
                yield account, None
                continue
            found = self.exposure(account, valued)
            if found is None:
                failed = self.quarantine.is_quarantined(self.id, account)
                self.unknown.quarantined += failed
                self.unknown.unpriced += not failed
            yield account, found


async def in_slices(
    steps: Iterator[object],
    clock: Clock,
    rest_s: float = 0.0,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Take all steps, a millisecond of them at once, then rest and let the loops run.

    ``beat`` is called at every rest: a sign of life.
    """
    started_ns = clock.monotonic_ns()
    for _ in steps:
        if clock.monotonic_ns() - started_ns > SLICE_NS:
            beat()
            await asyncio.sleep(rest_s)
            started_ns = clock.monotonic_ns()
