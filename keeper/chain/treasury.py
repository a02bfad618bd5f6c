"""Keeps wallets able to pay: unwraps what they hold of the wrapped native token, tops them up.

What is sent from the treasury is an attempt like any other, journaled before it leaves; how much
left it in the last 24 hours is read from the journal, so a restart resets nothing. What stays in
the wallets is no cost: only the gas is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from eth_utils.crypto import keccak

from keeper.chain.fees import TRANSFER_GAS, FeeRules, transfer_fee
from keeper.chain.journal import Journal
from keeper.chain.rpc import quantity
from keeper.chain.submit import Lane
from keeper.decide.economics import Economics, Fee
from keeper.facts import OWN, AccountId, Call, Head, Plan
from keeper.jobs import Job
from keeper.ports import Clock, Rpc
from keeper.units import PPM

logger = structlog.get_logger(__name__)

DAY_MS = 24 * 3_600_000
BALANCE_OF, WITHDRAW = keccak(text="balanceOf(address)")[:4], keccak(text="withdraw(uint256)")[:4]
UNWRAP_GAS = 60_000  # WETH9 takes some 35,000
WORTH_ITS_COST = 10  # times what unwrapping costs at most: less is left for later
May = Callable[[Plan, Fee], bool]


@dataclass(frozen=True, slots=True)
class TreasuryRules:
    """From ``[treasury]``; ``wallet`` None: nobody tops up."""

    wallet: str | None
    below_wei: int
    to_wei: int
    top_up_wei_max: int
    wei_per_day_max: int
    wrapped_native: str | None


class Treasury:
    """Looks at the wallets once a head. ``lane``: the treasury's own; None: there is none."""

    def __init__(
        self, lane: Lane | None, rules: TreasuryRules, fees: FeeRules, rpc: Rpc, journal: Journal
    ) -> None:
        """Nothing is sent before the lanes know their balances."""
        self.lane = lane
        self._rules = rules
        self._fees = fees
        self._rpc = rpc
        self._journal = journal

    async def top_up(
        self, lanes: Sequence[Lane], head: Head, tip_wei: int | None, may: May, clock: Clock
    ) -> None:
        """Unwrap or top up where a wallet is low; raises RpcError."""
        fee = transfer_fee(head, self._fees, tip_wei)
        if fee is None:
            return
        for lane in lanes:
            if not lane.is_low(self._rules.below_wei) or self._is_coming(lane):
                continue
            if await self._unwrap(lane, head, fee, may):
                continue
            await self._send(lane, head, fee, may, clock.wall_ms())

    def _is_coming(self, lane: Lane) -> bool:
        """Say whether something is in flight that ends it."""
        senders = (lane, self.lane) if self.lane else (lane,)
        accounts = {_account(job, lane.address) for job in (Job.TOP_UP, Job.UNWRAP)}
        return any(each.plan.account in accounts for one in senders for each in one.open_attempts)

    async def _unwrap(self, lane: Lane, head: Head, fee: Fee, may: May) -> bool:
        """Turn what the wallet holds of the wrapped token into gas; False: too little, or none."""
        token = self._rules.wrapped_native
        if token is None:
            return False
        holder = bytes.fromhex(lane.address.removeprefix("0x")).rjust(32, b"\0")
        asked = {"to": token, "data": "0x" + (BALANCE_OF + holder).hex()}
        held_wei = quantity(await self._rpc.call("eth_call", [asked, "latest"]))
        amount_wei = min(held_wei, self._rules.to_wei - lane.balance_wei)
        if amount_wei < WORTH_ITS_COST * UNWRAP_GAS * fee.max_fee_wei:
            return False
        call = Call(token, WITHDRAW + amount_wei.to_bytes(32, "big"))
        plan = _plan(Job.UNWRAP, lane.address, call, UNWRAP_GAS, fee, head)
        logger.info("unwrapping", wallet=lane.name, amount_wei=amount_wei)
        if may(plan, fee):
            await lane.submit(plan, fee, head)
        return True

    async def _send(self, lane: Lane, head: Head, fee: Fee, may: May, now_ms: int) -> None:
        vault, rules = self.lane, self._rules
        if vault is None or vault.parked:
            return
        amount_wei = min(
            rules.to_wei - lane.balance_wei,
            rules.top_up_wei_max,
            rules.wei_per_day_max - await self._journal.topped_up_wei(now_ms - DAY_MS),
            vault.spare_wei - TRANSFER_GAS * fee.max_fee_wei,
        )
        if amount_wei <= 0:
            logger.warning("no top-up: its cap, or the treasury, has nothing left", to=lane.name)
            return
        call = Call(lane.address, b"", amount_wei)
        plan = _plan(Job.TOP_UP, lane.address, call, TRANSFER_GAS, fee, head)
        logger.info("topping up", wallet=lane.name, amount_wei=amount_wei)
        if may(plan, fee):
            await vault.submit(plan, fee, head)


def _account(job: Job, address: str) -> AccountId:
    return AccountId(f"{address} {job}")


def _plan(job: Job, address: str, call: Call, gas: int, fee: Fee, head: Head) -> Plan:
    """Return the plan of a transfer between what is ours: it costs its gas."""
    cost_wei = gas * fee.max_fee_wei
    return Plan(
        venue=OWN,
        account=_account(job, address),
        call=call,
        gas_limit=gas,
        cost_wei_max=cost_wei,
        expected=Economics(0, cost_wei, 0, 0, PPM),
        tick_ns=0,
        decided_ns=0,
        simulated_at=head.number,
        job=job,
    )
