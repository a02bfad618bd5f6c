"""What the HTTP API tells of risk. One question is worked out at a time, beside the loops."""

import asyncio
from collections.abc import Mapping, Sequence

from keeper.facts import VenueId
from keeper.ports import Board, Clock
from keeper.quarantine import Quarantine
from keeper.risk.portfolio import Portfolio, in_slices
from keeper.risk.shocks import moves_of
from keeper.risk.stress import Stress
from keeper.units import PPM
from keeper.watch.desk import Desk


class RiskReader:
    """Reads the desks. A bug that an account shows on the way sets it aside, as when deciding."""

    def __init__(
        self, desks: Mapping[VenueId, Desk], board: Board, quarantine: Quarantine, clock: Clock
    ) -> None:
        """Nothing is worked out before it is asked for."""
        self._desks = desks
        self._board = board
        self._quarantine = quarantine
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    def portfolios(self) -> list[Portfolio]:
        """Return what is known now of each venue that has margins and was read."""
        found = (
            Portfolio.of(desk, self._board, self._quarantine, self._clock)
            for desk in self._desks.values()
        )
        return [portfolio for portfolio in found if portfolio is not None]

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
                "left_out": {id_: self._why(desk) for id_, desk in self._left_out(stresses)},
            }

    def _left_out(self, known: Mapping[VenueId, object]) -> list[tuple[VenueId, Desk]]:
        return [(id_, desk) for id_, desk in self._desks.items() if id_ not in known]

    @staticmethod
    def _why(desk: Desk) -> str:
        return "not read yet" if desk.market is None else "its job knows no margins"
