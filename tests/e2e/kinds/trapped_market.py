"""The demo market with one healthy account that its adapter takes for due. For tests only."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eth_abi.abi import decode

from keeper.batching import SimulatedBatch
from keeper.facts import AccountState, Assessment, Call, Head, Refused, Simulated
from keeper.margin.rows import Row
from keeper.ports import Rpc
from keeper.units import WAD
from keeper.venues import demo_market

GAS = 200_000
REWARD_WAD = 20 * WAD


class Settings(demo_market.Settings):
    """Those of the demo market, and who always reverts."""

    trap: str


class TrappedMarket(demo_market.DemoMarket):
    """Says of the trap that it is under, and that a simulation went well."""

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        super().__init__(settings, rpc)
        self._trap = settings.trap
        self._address = settings.address

    def compile(self, account: AccountState, *rest: Any) -> Row | None:  # noqa: ANN401 - passed on
        if account.account == self._trap:
            return Row(-1.0, {}, {})
        return super().compile(account, *rest)  # type: ignore[arg-type]

    def assess(self, account: AccountState, *rest: Any) -> Assessment:  # noqa: ANN401 - passed on
        found = super().assess(account, *rest)  # type: ignore[arg-type]
        if account.account != self._trap:
            return found
        return replace(found, liquidatable=True, reward_wad=REWARD_WAD, updates=())

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        if assessment.account != self._trap:
            return await super().simulate(assessment, wallet, head)
        call = Call(self._address, demo_market.LIQUIDATE.data(int(self._trap)))
        return Simulated(call, GAS, REWARD_WAD, 0, head)

    async def simulate_batch(
        self, assessments: Sequence[Assessment], wallet: str, head: Head
    ) -> SimulatedBatch | Refused:
        others = [each for each in assessments if each.account != self._trap]
        batch = await super().simulate_batch(others, wallet, head)
        if len(others) == len(assessments) or isinstance(batch, Refused):
            return batch
        _, updates = decode(["uint256[]", f"{demo_market.UPDATE}[]"], batch.whole.call.data[4:])
        data = demo_market.LIQUIDATE_MANY.data([int(each.account) for each in assessments], updates)
        paid = {each.account: batch.rewards_wad.get(each.account, 0) for each in assessments}
        whole = replace(
            batch.whole,
            call=replace(batch.whole.call, data=data),
            gas=batch.whole.gas + GAS,
            all_or_none=len(assessments),
        )
        return SimulatedBatch(whole, paid)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> TrappedMarket:  # noqa: ARG001
    """Make it."""
    return TrappedMarket(settings, rpc)
