"""The demo market with one account whose transactions are simulated well and revert. Tests only."""

from dataclasses import replace

from keeper.facts import Assessment, Head, Refused, Simulated
from keeper.ports import Rpc
from keeper.venues import demo_market

NO_FUNCTION = b"\xff\xff\xff\xff"  # of the contract: it reverts


class Settings(demo_market.Settings):
    """Those of the demo market, and which account reverts."""

    poison: str


class RevertingMarket(demo_market.DemoMarket):
    """What is sent for the poisoned account is not what was simulated."""

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        super().__init__(settings, rpc)
        self._poison = settings.poison

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        found = await super().simulate(assessment, wallet, head)
        if isinstance(found, Simulated) and assessment.account == self._poison:
            return replace(found, call=replace(found.call, data=NO_FUNCTION))
        return found


def build(settings: Settings, rpc: Rpc, _chain_id: int) -> RevertingMarket:
    """Make it."""
    return RevertingMarket(settings, rpc)
