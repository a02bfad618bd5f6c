"""The demo market as an adapter sees it that loses one account event in twenty. For tests only."""

import structlog

from keeper.facts import Log, Touched
from keeper.ports import Rpc
from keeper.venues import demo_market

logger = structlog.get_logger(__name__)
LOST_EACH = 20


class Settings(demo_market.Settings):
    """Those of the demo market."""


class ForgetfulMarket(demo_market.DemoMarket):
    """Says of every twentieth event that it touched nothing."""

    _told = 0

    def touched(self, log: Log) -> Touched:
        found = super().touched(log)
        if found.accounts:
            self._told += 1
            if self._told % LOST_EACH == 0:
                logger.info("event lost", accounts=sorted(found.accounts))
                return Touched()
        return found


def build(settings: Settings, rpc: Rpc, chain_id: int) -> ForgetfulMarket:  # noqa: ARG001
    """Make it."""
    return ForgetfulMarket(settings, rpc)
