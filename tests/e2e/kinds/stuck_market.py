"""The demo market whose adapter is stuck as soon as there is an account to read. For tests only."""

import asyncio
from collections.abc import Sequence
from threading import Event
from typing import Literal

import structlog

from keeper.facts import AccountId, Head
from keeper.ports import Rpc
from keeper.venues import demo_market
from keeper.venues._demo_market_state import DemoAccountState

logger = structlog.get_logger(__name__)


class Settings(demo_market.Settings):
    """Those of the demo market, and who is never done with reading."""

    stuck: Literal["loop", "process"]


class StuckMarket(demo_market.DemoMarket):
    """Waits for what never comes: alone, or with everything that runs in the process."""

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        super().__init__(settings, rpc)
        self._stuck = settings.stuck

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[DemoAccountState]:
        logger.info("stuck")
        if self._stuck == "process":
            Event().wait()
        await asyncio.Event().wait()
        return await super().read_accounts(accounts, head)


def build(settings: Settings, rpc: Rpc, _chain_id: int) -> StuckMarket:
    """Make it."""
    return StuckMarket(settings, rpc)
