"""Perp v2 "Curie": our own margin and positions, what we may take over, the cost of getting out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeper.errors import ProtocolError
from keeper.facts import Head, Log, Refused, TakenOver
from keeper.ports import Rpc
from keeper.units import PPM, WAD, mul_wad
from keeper.venues._abi import Function, Reads
from keeper.venues._perp_curie_reads import (
    EVENTS,
    FREE_COLLATERAL,
    HOLDING,
    IM_RATIO,
    MARK_PRICE,
    Wiring,
)

CLOSE = Function("closePosition((address,uint160,uint256,uint256,bytes32))", "uint256,uint256")
NO_CODE = b"\0" * 32
NO_DEADLINE = 2**63
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


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be held, USD."""

    market_usd_max: int
    total_usd_max: int


@dataclass(frozen=True, slots=True)
class Room:
    """What we have there now: free margin, marks, our sizes. Wads."""

    free: int
    im_ppm: int
    marks: Mapping[str, int]
    sizes: Mapping[str, int]

    def notional_max(self, base: str, limits: Limits, in_flight: Mapping[str, int]) -> int:
        """Return how much may be taken over in a market beside what is in flight, USD."""
        held = {one: abs(mul_wad(size, self.marks[one])) for one, size in self.sizes.items()}
        flying = sum(in_flight.values())
        return min(
            limits.market_usd_max * WAD - held[base] - in_flight.get(base, 0),
            limits.total_usd_max * WAD - sum(held.values()) - flying,
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
