"""Perp v2 "Curie": our own margin and positions, what we may take over, the cost of getting out.

Our account there is an account like any other, read from the chain at every start and whenever it
is touched: nothing about it is remembered. It is due as long as it holds a position, or less margin
than it should and the wallet can give some; ``due`` says what to do about it, and when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from keeper.errors import ProtocolError
from keeper.facts import Call, Head, Log, Refused, Simulated, Step, TakenOver
from keeper.jobs import Gain, Job
from keeper.ports import Rpc
from keeper.units import PPM, WAD, mul_wad
from keeper.venues._abi import Function, Reads, reverted
from keeper.venues._perp_curie_math import AsRead, Balance, System, price_of_root
from keeper.venues._perp_curie_reads import (
    ACCOUNT_VALUE,
    EVENTS,
    FREE_COLLATERAL,
    HOLDING,
    IM_RATIO,
    MARK_PRICE,
    SLOT0,
    TOKENS_OF,
    Wiring,
)

ALLOWANCE = Function("allowance(address,address)", "uint256")
APPROVE = Function("approve(address,uint256)", "bool")
DEPOSIT = Function("deposit(address,uint256)", "")

CLOSE = Function("closePosition((address,uint160,uint256,uint256,bytes32))", "uint256,uint256")
NO_CODE = b"\0" * 32
NO_DEADLINE = 2**63
DEADLINE_S = 600  # a closing that comes later is refused: the prices it was decided on are gone
FOREVER_S = 2**62
WINDOW_S = 120  # at the start of each period, in which a scheduled closing is done
AGAIN_S = 15  # until what is held is looked at again
REST_PPM_MAX = 1_000  # of a position that may be left over when it is closed in a simulation

# what the contracts refuse with → facts.Refused.reason
REASONS = {
    "CH_EAV": "not_liquidatable",  # enough account value
    "CH_NEXO": "not_liquidatable",  # no excess orders
    "CH_PSZ": "not_liquidatable",  # no position
    "CH_CLWTISO": "no_progress",  # orders stand in the way: it is read again with the next block
    "CH_IIC": "no_progress",  # the insurance fund could not cover the bad debt
    "CH_MNO": "no_progress",  # the market is not open
    "CH_NEFCI": "no_capital",  # too little free collateral to take it over
    "CH_NEFCM": "no_progress",  # and these: no way out of the position at present
    "CH_F0S": "no_progress",
    "CH_TLRS": "no_progress",
    "CH_TMRL": "no_progress",
    "EX_OPB": "no_progress",
    "EX_OPLAS": "no_progress",
}


class Flatten(StrEnum):
    """When positions that were taken over are closed."""

    NOW = "now"
    SCHEDULE = "schedule"  # in the first minutes of every period
    HOLD = "hold"  # as soon as they are worth more than a limit


class Policy(BaseModel):
    """The keys of the venue's table that are about our own margin and positions. USD."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin_usd_min: int = Field(
        default=0, ge=0, description="USD of margin at the venue below which it is topped up"
    )
    margin_usd_max: int = Field(
        default=0, ge=0, description="USD of margin it is topped up to; 0: nothing is deposited"
    )
    exposure_usd_max: int = Field(
        default=10_000,
        ge=0,
        description="USD of positions in one market that a wallet takes over at most",
    )
    exposure_total_usd_max: int = Field(
        default=20_000,
        ge=0,
        description="USD of positions in all markets that a wallet holds at most",
    )
    flatten: Flatten = Field(
        default=Flatten.NOW,
        description="When positions taken over are closed: now, schedule, or hold up to a limit",
    )
    flatten_every_s: int = Field(
        default=3_600, ge=2 * WINDOW_S, description="Seconds from one scheduled closing to the next"
    )
    hold_usd_max: int = Field(
        default=0, ge=0, description='USD of positions kept with flatten = "hold"'
    )
    slippage_ppm_max: int = Field(
        default=10_000,
        ge=1,
        le=PPM,
        description="Parts per million of the pool's price that closing may cost, fee included",
    )


class Own(NamedTuple):
    """What is ours beside the account: how much of the settlement token the wallet has, wads."""

    wallet: AsRead

    def is_due(self, balance: Balance, policy: Policy) -> bool:
        """Say whether there may be something to do."""
        return bool(balance.holdings) or self.missing(balance.cash, policy) > 0

    def missing(self, equity: int, policy: Policy) -> int:
        """Return how much margin to add now, wads."""
        if equity >= policy.margin_usd_min * WAD:
            return 0
        return max(0, min(policy.margin_usd_max * WAD - equity, *self.wallet.numbers))


class Due(NamedTuple):
    """What to do about our account: close a position, or add margin, or look again later."""

    close: str = ""
    margin: bool = False
    until_s: int | None = None


def due(own: Own, balance: Balance, system: System, policy: Policy, at_s: int) -> Due:
    """Return what to do now: positions first, then margin.

    Positions are closed whatever the policy says while our free margin is negative.
    """
    value = system.value(balance)
    worth = {
        base: abs(mul_wad(size, system.markets[base].mark))
        for base, size in value.sizes.items()
        if system.markets[base].is_open
    }
    largest = max(worth, key=lambda base: worth[base], default="")
    later_s = _later_s(policy, sum(worth.values()), at_s) if largest else at_s + AGAIN_S
    if largest and (later_s <= at_s or system.free(value) < 0):
        return Due(close=largest)
    if own.missing(system.account_value(value), policy) >= system.unit:
        return Due(margin=True)
    return Due(until_s=later_s)


def _later_s(policy: Policy, held: int, at_s: int) -> int:
    """Return when positions are to be closed, chain time; now or earlier: now."""
    match policy.flatten:
        case Flatten.NOW:
            return at_s
        case Flatten.SCHEDULE:
            since_s = at_s % policy.flatten_every_s
            return at_s if since_s < WINDOW_S else at_s - since_s + policy.flatten_every_s
        case Flatten.HOLD:
            return at_s if held > policy.hold_usd_max * WAD else at_s + AGAIN_S


@dataclass(frozen=True, slots=True)
class Room:
    """What we have there now: free margin, marks, our sizes. Wads."""

    free: int
    im_ppm: int
    marks: Mapping[str, int]
    sizes: Mapping[str, int]

    def notional_max(self, base: str, policy: Policy, in_flight: Mapping[str, int]) -> int:
        """Return how much may be taken over in a market beside what is in flight, USD."""
        held = {one: abs(mul_wad(size, self.marks[one])) for one, size in self.sizes.items()}
        flying = sum(in_flight.values())
        return min(
            policy.exposure_usd_max * WAD - held[base] - in_flight.get(base, 0),
            policy.exposure_total_usd_max * WAD - sum(held.values()) - flying,
            self.free * PPM // self.im_ppm - flying,
        )


async def find_room(
    rpc: Rpc, wiring: Wiring, wallet: str, bases: Sequence[str], head: Head
) -> Room:
    """Read what a wallet has at the venue; raises RpcError, ProtocolError."""
    batch = Reads(rpc, head)
    batch.call("im", wiring.config, IM_RATIO)
    found = await batch.answers()
    batch = Reads(rpc, head)
    batch.call("free", wiring.vault, FREE_COLLATERAL, wallet, found["im"])
    for base in bases:
        batch.call((base, "mark"), wiring.account_balance, MARK_PRICE, base)
        batch.call((base, "held"), wiring.account_balance, HOLDING, wallet, base)
    found |= await batch.answers()
    return Room(
        found["free"] * wiring.unit,
        found["im"],
        {base: found[base, "mark"] for base in bases},
        {base: found[base, "held"][0] for base in bases},
    )


async def close_now(
    rpc: Rpc, wiring: Wiring, wallet: str, base: str, policy: Policy, head: Head
) -> Simulated | Refused:
    """Simulate closing our position in a market within the slippage limit.

    Raises RpcError, ProtocolError.
    """
    batch = Reads(rpc, head)
    batch.call("held", wiring.account_balance, HOLDING, wallet, base)
    batch.call("spot", wiring.pools[base], SLOT0)
    found = await batch.answers()
    size = found["held"][0]
    at_spot = abs(mul_wad(size, price_of_root(found["spot"][0])))
    slippage = at_spot * policy.slippage_ppm_max // PPM
    bound = at_spot - slippage if size > 0 else at_spot + slippage
    call = Call(wiring.clearing_house, close(base, bound, head.timestamp_s + DEADLINE_S))
    (done,) = await rpc.simulate_each([call], wallet)
    if not done.success:
        return reverted(done.output, REASONS)
    reward = sum(gains(done.logs, wallet).values())
    return Simulated(call, done.gas_used, reward, 0, head, Job.FLATTEN)


async def add_margin(
    rpc: Rpc, wiring: Wiring, wallet: str, policy: Policy, head: Head
) -> Simulated | Refused:
    """Simulate topping our margin up, after an approval if there is none for that much.

    Raises RpcError, ProtocolError.
    """
    batch, token = Reads(rpc, head), wiring.settlement_token
    batch.call("equity", wiring.vault, ACCOUNT_VALUE, wallet)
    batch.call("wallet", token, TOKENS_OF, wallet)
    batch.call("allowance", token, ALLOWANCE, wallet, wiring.vault)
    found = await batch.answers()
    own = Own(AsRead(found["wallet"] * wiring.unit))
    amount = own.missing(found["equity"] * wiring.unit, policy) // wiring.unit
    if not amount:
        return Refused("no_progress", "there is no margin to add")
    calls = [Call(wiring.vault, DEPOSIT.data(token, amount))]
    if found["allowance"] < amount:
        calls.insert(0, Call(token, APPROVE.data(wiring.vault, found["wallet"])))
    done = await rpc.simulate_each(calls, wallet)
    for one in done:
        if not one.success:
            return reverted(one.output, REASONS)
    first, *then = (
        Step(Job.FUND, call, run.gas_used) for call, run in zip(calls, done, strict=True)
    )
    return Simulated(first.call, first.gas, 0, 0, head, Job.FUND, tuple(then))


def close(base: str, bound: int = 0, deadline_s: int = NO_DEADLINE) -> bytes:
    """Return the call data that close our position: for no less quote than ``bound``, or no more.

    ``bound`` 0: at any price, for a simulation.
    """
    return CLOSE.data((base, 0, bound, deadline_s, NO_CODE))


def taken_over(
    taking: Sequence[Log], closing: Sequence[Log], wallet: str, base: str, room: Room
) -> tuple[int, TakenOver] | Refused:
    """Return our discount and the position, from the logs of taking it over and of getting out.

    What we hold in the market already is closed along, and what that costs counts too.
    """
    size, discount, notional = _taken(taking, wallet)
    exited, received, _ = _exchanged(closing, wallet)
    total = room.sizes[base] + size
    if abs(total + exited) * PPM > abs(total) * REST_PPM_MAX:
        return Refused("no_progress", "the pool would not take all of it back now")
    cost = -mul_wad(exited, room.marks[base]) - received
    margin = notional * room.im_ppm // PPM
    return discount, TakenOver(base, notional, margin, max(0, cost))


def gains(logs: Sequence[Log], wallet: str) -> dict[Gain, int]:
    """Return what the logs of one transaction left a wallet with, by part, USD wads."""
    found, ours = dict.fromkeys(Gain, 0), wallet.lower()
    for log in logs:
        name, fields = EVENTS.read(log)
        if name == "PositionChanged" and fields["trader"] == ours:
            found[Gain.TRADE] += fields["realizedPnl"] + fields["fee"]
            found[Gain.FEE] -= fields["fee"]
        elif name == "FundingPaymentSettled" and fields["trader"] == ours:
            found[Gain.FUNDING] -= fields["fundingPayment"]
        elif name == "PositionLiquidated" and fields["liquidator"] == ours:
            _, discount, _ = _taken(logs, wallet)
            found[Gain.DISCOUNT] += discount
            found[Gain.UNREALISED] -= discount
    return {part: wad for part, wad in found.items() if wad}


def _taken(logs: Sequence[Log], wallet: str) -> tuple[int, int, int]:
    """Return the size that came to us, the discount, and its value at the mark price."""
    notional = 0
    for log in logs:
        name, fields = EVENTS.read(log)
        if name == "PositionLiquidated":
            notional = fields["positionNotional"]
    size, exchanged, _ = _exchanged(logs, wallet)
    return size, exchanged + (notional if size > 0 else -notional), notional


def _exchanged(logs: Sequence[Log], wallet: str) -> tuple[int, int, int]:
    """Return what a wallet traded: base, quote less fees, and the fees."""
    base = quote = fees = 0
    for log in logs:
        name, fields = EVENTS.read(log)
        if name == "PositionChanged" and fields["trader"] == wallet.lower():
            base += fields["exchangedPositionSize"]
            quote += fields["exchangedPositionNotional"] - fields["fee"]
            fees += fields["fee"]
    if not base:
        msg = f"no position of {wallet} was changed"
        raise ProtocolError(msg)
    return base, quote, fees
