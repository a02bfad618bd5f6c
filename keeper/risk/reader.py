"""What the HTTP API tells of risk. One question is worked out at a time, beside the loops."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from keeper.facts import VenueId
from keeper.ports import Board, Clock
from keeper.quarantine import Quarantine
from keeper.risk.liquidation_map import MOVES_PCT, LiquidationMap
from keeper.risk.portfolio import Portfolio, in_slices
from keeper.risk.shocks import moves_of
from keeper.risk.stress import Stress
from keeper.units import PPM
from keeper.watch.desk import Desk

MAP_S = 5.0  # a map is answered with again for so long
MAP_SHARE = 3  # or for so many times what it took, if that is longer
WAIT_S_MAX = 8.0  # for a map; a request has ten
BEAT_S = 1.0
REST_S = 0.001  # after each slice of a map


class RiskReader:
    """Reads the desks. A bug that an account shows on the way sets it aside, as when deciding."""

    def __init__(
        self, desks: Mapping[VenueId, Desk], board: Board, quarantine: Quarantine, clock: Clock
    ) -> None:
        """Nothing is worked out before it is asked for."""
        self.desks = desks
        self._board = board
        self._quarantine = quarantine
        self._clock = clock
        self._failed: set[VenueId] = set()
        self._one_at_a_time = asyncio.Lock()
        self._map: dict[str, object] = {}
        self._map_until_ns = 0
        self._map_wanted = asyncio.Event()
        self._map_made = asyncio.Condition()

    def portfolios(self) -> list[Portfolio]:
        """Return what is known now of each venue that has margins and was read."""
        found = []
        for id_, desk in self.desks.items():
            with self._quarantine.venue(id_):
                portfolio = Portfolio.of(desk, self._board, self._quarantine, self._clock)
                found += [portfolio] if portfolio is not None else []
                continue
            self._failed.add(id_)
        return found

    async def work_out(
        self, venue: VenueId, steps: Iterator[object], rest_s: float, beat: Callable[[], None]
    ) -> bool:
        """Take all steps in slices; False when a bug ended them, which sets the venue aside.

        It comes back with the next steps that work: no analysis may end the process.
        """
        with self._quarantine.venue(venue):
            await in_slices(steps, self._clock, rest_s, beat)
            if venue in self._failed:
                self._failed.discard(venue)
                self._quarantine.release(venue)
            return True
        self._failed.add(venue)
        return False

    async def stress(self, shocks: Sequence[str], everything: str | None) -> dict[str, object]:
        """Return the document of ``/api/v1/stress``; raises ValueError for a shock that is none.

        Shocks as in ``shocks.moves_of``.
        """
        async with self._one_at_a_time:
            portfolios = self.portfolios()
            moves = moves_of(shocks, everything, portfolios)
            stresses = {one.id: Stress(one, moves) for one in portfolios}
            for stress in stresses.values():
                await in_slices(stress.steps(), self._clock)
            return {
                "shocks_pct": {feed: ppm * 100 / PPM for feed, ppm in moves.items()},
                "venues": {id_: stress.document() for id_, stress in stresses.items()},
                "left_out": self._left_out(stresses),
            }

    def _left_out(self, known: Mapping[VenueId, object]) -> dict[str, str]:
        return {id_: self._why(desk) for id_, desk in self.desks.items() if id_ not in known}

    def _why(self, desk: Desk) -> str:
        if desk.market is None:
            return "not read yet"
        if self._quarantine.is_quarantined(desk.venue.id):
            return "set aside by a bug: see the log"
        return "its job knows no margins"

    # --- the map ------------------------------------------------------------------------------

    async def liquidation_map(self) -> Mapping[str, object]:
        """Return the document of ``/api/v1/liquidation-map``, a few seconds old at most.

        Or as old as ``MAP_SHARE`` times what it takes. Raises TimeoutError when it takes too
        long to wait for; it goes on.
        """
        if self._clock.monotonic_ns() < self._map_until_ns:
            return self._map
        self._map_wanted.set()
        before = self._map
        async with asyncio.timeout(WAIT_S_MAX), self._map_made:
            await self._map_made.wait_for(lambda: self._map is not before)
        return self._map

    async def draw_maps(self, beat: Callable[[], None]) -> None:
        """Make a map whenever one is wanted, for ever."""
        while True:
            beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._map_wanted.wait()
            if self._map_wanted.is_set():
                started_ns = self._clock.monotonic_ns()
                made = await self.draw_map(beat)
                await self._publish(made, self._clock.monotonic_ns() - started_ns)

    async def draw_map(self, beat: Callable[[], None] = lambda: None) -> dict[str, object]:
        """Make the map now and return its document."""
        maps = {}
        for portfolio in self.portfolios():
            drawn = LiquidationMap(portfolio)
            if await self.work_out(portfolio.id, drawn.steps(), REST_S, beat):
                maps[portfolio.id] = drawn
        return {
            "moves_pct": list(MOVES_PCT),
            "venues": {id_: made.document() for id_, made in maps.items()},
            "left_out": self._left_out(maps),
        }

    async def _publish(self, made: dict[str, object], took_ns: int) -> None:
        async with self._map_made:
            self._map_wanted.clear()
            self._map = made
            kept_ns = max(int(MAP_S * 1e9), MAP_SHARE * took_ns)
            self._map_until_ns = self._clock.monotonic_ns() + kept_ns
            self._map_made.notify_all()
