"""Liquidations of a Synthetix V3 perps-market: the calls, what refuses them, several at once."""

from collections.abc import Sequence

from keeper.batching import SimulatedBatch
from keeper.errors import ProtocolError, RpcError
from keeper.facts import Assessment, Call, Head, Refused, Simulated
from keeper.ports import Rpc
from keeper.venues._abi import Contract, Function, received, refusal, reverted
from keeper.venues._pyth import BUNDLE, UPDATE, UPDATE_FEE

# A block may hold other liquidations of the same markets, each of which makes the next one dearer:
# twice the gas of the simulation was needed. The keeper's own factor is 1.5; this is the rest.
GAS_NUMERATOR, GAS_DENOMINATOR = 4, 3

LIQUIDATE = Function("liquidate(uint128)", "uint256")
LIQUIDATE_FLAGGED = Function("liquidateFlaggedAccounts(uint128[])", "uint256")
LIQUIDATE_MARGIN_ONLY = Function("liquidateMarginOnly(uint128)", "uint256")
# the errors that a liquidation may be refused with → facts.Refused.reason
REASONS = {
    "NotEligibleForLiquidation(uint128)": "not_liquidatable",
    "NotEligibleForMarginLiquidation(uint128)": "not_liquidatable",
    "AccountHasOpenPositions(uint128)": "not_liquidatable",
    "AccountNotFound(uint128)": "not_liquidatable",
    "OracleDataRequired(address,bytes)": "oracle",
    "Errors(bytes[])": "oracle",  # one or more of the oracle manager's
    "StalenessToleranceExceeded(bytes32,int256,uint256)": "oracle",
    "InvalidUpdateData()": "oracle",  # Pyth's, as the following
    "InvalidWormholeVaa()": "oracle",
    "InsufficientFee()": "oracle",
    "PriceFeedNotFound()": "oracle",
    "FeatureUnavailable(bytes32)": "unknown",
    "ERC2771ForwarderMismatchedValue(uint256,uint256)": "unknown",
}


def step_of(assessment: Assessment) -> tuple[Function, object]:
    """Return the call that fits: flagged accounts are ``alone``, without positions use nothing."""
    account = int(assessment.account)
    if assessment.alone:
        return LIQUIDATE_FLAGGED, [account]
    return (LIQUIDATE if assessment.uses else LIQUIDATE_MARGIN_ONLY), account


class Forwarder:
    """Makes several liquidations one call, through a contract that the market trusts (ERC-2771)."""

    def __init__(self, rpc: Rpc, address: str, perps: str, pyth: Contract | None) -> None:
        """``pyth``: where updates go, on a pull market."""
        self._rpc = rpc
        self._address = address
        self._perps = perps
        self._pyth = pyth

    async def simulate(
        self, assessments: Sequence[Assessment], wallet: str, head: Head
    ) -> SimulatedBatch | Refused:
        """Run all of them behind the updates they carry; each may fail alone.

        A contract that the market does not trust would be paid itself: that is refused.
        """
        steps = [step_of(each) for each in assessments]
        parts = [(self._perps, False, 0, made.data(argument)) for made, argument in steps]
        prices = [price for each in assessments for price in each.updates]
        updates = list(dict.fromkeys(one.payload for one in prices if one.payload))
        fee_wei = 0
        try:
            if updates and self._pyth:
                fee_wei = await self._pyth.read(UPDATE_FEE, updates)
                parts.insert(0, (self._pyth.address, True, fee_wei, UPDATE.data(updates)))
            call = Call(self._address, BUNDLE.data(parts), fee_wei)
            done = await self._rpc.simulate(call, wallet)
            if not done.success:
                return reverted(done.output, REASONS)
            answers = BUNDLE.decoded(done.output)[-len(steps) :]
            paid = {
                each.account: made.decoded(data)
                for each, (made, _), (success, data) in zip(
                    assessments, steps, answers, strict=True
                )
                if success
            }
        except (RpcError, ProtocolError) as error:
            return refusal(error, REASONS)
        rewards = {account: reward for account, reward in paid.items() if reward}
        total = sum(rewards.values())
        if received(done.logs, wallet) < total:
            return Refused("unknown", f"through {self._address} the wallet would not be paid")
        gas = done.gas_used * GAS_NUMERATOR // GAS_DENOMINATOR
        return SimulatedBatch(Simulated(call, gas, total, fee_wei, head), rewards)
