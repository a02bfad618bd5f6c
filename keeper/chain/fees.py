"""What a transaction would pay per unit of gas: EIP-1559, or one gas price on legacy chains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_low

import structlog

from keeper.chain.rpc import quantity
from keeper.decide.agenda import HoldReason
from keeper.decide.economics import Fee, FeeStrategy, Spend
from keeper.errors import RpcError
from keeper.facts import Head, VenueId
from keeper.ports import Rpc
from keeper.units import PPM

logger = structlog.get_logger(__name__)

TRANSFER_GAS = 21_000  # a transfer of nothing to ourselves: a cancel, or what fills a gap
HISTORY_BLOCKS = 5  # looked back at for what others pay


@dataclass(frozen=True, slots=True)
class FeeRules:
    """The ``[fees]`` table of config.toml, and what venues say otherwise."""

    priority_fee_wei: int
    base_fee_headroom_ppm: int
    max_fee_per_gas_wei_max: int
    replacement_bump_ppm: int
    strategy: FeeStrategy = FeeStrategy.FIXED
    percentile: int = 50
    profit_share_ppm: int = 0
    by_venue: Mapping[VenueId, FeeStrategy] = field(default_factory=dict)

    def strategy_of(self, venue: VenueId) -> FeeStrategy:
        """Return how the venue's priority fee is found."""
        return self.by_venue.get(venue, self.strategy)

    def needs_tip(self, head: Head) -> bool:
        """Say whether a fee cannot be told without asking what others pay."""
        asked = FeeStrategy.PERCENTILE in {self.strategy, *self.by_venue.values()}
        return asked or head.base_fee_wei is None


async def read_tip(rpc: Rpc, head: Head, rules: FeeRules) -> int | None:
    """Return what others pay, wei a gas; None when it is not known.

    With a base fee, the priority fee at the percentile, in the median of the latest blocks that are
    not empty; without one, the gas price that the node suggests.
    """
    try:
        if head.base_fee_wei is None:
            return quantity(await rpc.call("eth_gasPrice"))
        params = [hex(HISTORY_BLOCKS), "latest", [rules.percentile]]
        history = await rpc.call("eth_feeHistory", params)
        filled = zip(history["reward"], history["gasUsedRatio"], strict=True)
        tips = [quantity(reward[0]) for reward, used in filled if used]
    except (RpcError, KeyError, TypeError, IndexError, ValueError) as error:
        logger.warning("what others pay is not known", error=f"{type(error).__name__}: {error}")
        return None
    return median_low(tips) if tips else 0


def first_fee(
    venue: VenueId, head: Head, rules: FeeRules, spend: Spend, tip_wei: int | None
) -> Fee | HoldReason:
    """Return the fee of a first try on top of the head, or why there is none.

    The headroom keeps the transaction includable while the base fee rises (12.5 % a block), as far
    as that is worth it.
    """
    priority = _priority_fee(rules.strategy_of(venue), head, rules, spend, tip_wei)
    if priority is None:
        return HoldReason.FEE_UNKNOWN
    lowest = (head.base_fee_wei or 0) + priority
    if lowest > rules.max_fee_per_gas_wei_max:
        return HoldReason.COST_CAP
    if head.base_fee_wei is None:
        return Fee(priority, priority, legacy=True)
    wanted = head.base_fee_wei * rules.base_fee_headroom_ppm // PPM + priority
    worth = max(lowest, spend.worth_per_gas_wei)
    return Fee(min(wanted, worth, rules.max_fee_per_gas_wei_max), priority)


def transfer_fee(head: Head, rules: FeeRules, tip_wei: int | None) -> Fee | None:
    """Return the fee of a transfer to ourselves; None when unknown or over the cap."""
    spend = Spend(rules.max_fee_per_gas_wei_max * TRANSFER_GAS, TRANSFER_GAS, TRANSFER_GAS, 0)
    plain = FeeRules(
        rules.priority_fee_wei,
        rules.base_fee_headroom_ppm,
        rules.max_fee_per_gas_wei_max,
        rules.replacement_bump_ppm,
    )
    fee = first_fee(VenueId(""), head, plain, spend, tip_wei)
    return fee if isinstance(fee, Fee) else None


def _priority_fee(
    strategy: FeeStrategy, head: Head, rules: FeeRules, spend: Spend, tip_wei: int | None
) -> int | None:
    """Return the priority fee, on a legacy chain the gas price; None: it is not known."""
    base_wei = head.base_fee_wei
    if tip_wei is None and (base_wei is None or strategy is FeeStrategy.PERCENTILE):
        return None
    at_least = rules.priority_fee_wei if base_wei is not None else (tip_wei or 0)
    match strategy:
        case FeeStrategy.FIXED:
            return at_least
        case FeeStrategy.PERCENTILE:
            return max(at_least, tip_wei or 0)
        case FeeStrategy.PROFIT_SHARE:
            # what is left of its worth when inclusion costs the least it can
            left_wei = spend.worth_per_gas_wei - (at_least if base_wei is None else base_wei)
            share = max(0, left_wei) * rules.profit_share_ppm // PPM
            return at_least + share if base_wei is None else max(at_least, share)


def fee_ceiling_wei(spend: Spend, cost_wei_max: int, rules: FeeRules) -> int:
    """Return what a replacement may pay per unit of gas.

    In all it may cost neither more than any transaction may, nor, with the price of one cancel on
    top of it, more than it is worth.
    """
    capped = (cost_wei_max - spend.value_wei) // spend.gas_limit
    cancel_gas = TRANSFER_GAS * (PPM + rules.replacement_bump_ppm) // PPM
    return min(capped, (spend.worth_wei - spend.value_wei) // (spend.gas + cancel_gas))


def replacement_fee(
    before: Fee, head: Head, rules: FeeRules, ceiling_wei: int, tip_wei: int | None
) -> Fee | None:
    """Return a fee that replaces ``before`` at the same nonce; None when it would cost too much.

    Nodes want both fields raised by at least an eighth; ``ceiling_wei`` is what may be paid per
    unit of gas.
    """
    ceiling = min(ceiling_wei, rules.max_fee_per_gas_wei_max)
    least = _bumped(before.max_fee_wei, rules)
    priority = max(_bumped(before.priority_fee_wei, rules), rules.priority_fee_wei)
    if head.base_fee_wei is None:
        wanted = max(least, tip_wei or 0)
    else:
        wanted = max(least, head.base_fee_wei * rules.base_fee_headroom_ppm // PPM + priority)
    max_fee = wanted if wanted <= ceiling else least
    if max_fee > ceiling or priority > max_fee:
        return None
    if head.base_fee_wei is None:
        return Fee(max_fee, max_fee, legacy=True)
    return Fee(max_fee, priority)


def _bumped(fee_wei: int, rules: FeeRules) -> int:
    return -(-fee_wei * (PPM + rules.replacement_bump_ppm) // PPM) + 1
