"""What a transaction would pay per unit of gas (EIP-1559)."""

from dataclasses import dataclass

from keeper.decide.economics import Fee
from keeper.facts import Head
from keeper.units import PPM


@dataclass(frozen=True, slots=True)
class FeeRules:
    """The ``[fees]`` table of config.toml."""

    priority_fee_wei: int
    base_fee_headroom_ppm: int
    max_fee_per_gas_wei_max: int
    replacement_bump_ppm: int


def first_fee(head: Head, rules: FeeRules) -> Fee | None:
    """Return the fee of a first try on top of the head; None when the base fee is over the cap.

    The headroom keeps the transaction includable while the base fee rises (12.5 % a block).
    """
    lowest = head.base_fee_wei + rules.priority_fee_wei
    if lowest > rules.max_fee_per_gas_wei_max:
        return None
    wanted = head.base_fee_wei * rules.base_fee_headroom_ppm // PPM + rules.priority_fee_wei
    return Fee(min(wanted, rules.max_fee_per_gas_wei_max), rules.priority_fee_wei)


def replacement_fee(before: Fee, head: Head, rules: FeeRules, fee_ceiling_wei: int) -> Fee | None:
    """Return a fee that replaces ``before`` at the same nonce; None when it would cost too much.

    Nodes want both fields raised by at least an eighth; ``fee_ceiling_wei`` is what the attempt's
    budget leaves per unit of gas.
    """
    priority = max(_bumped(before.priority_fee_wei, rules), rules.priority_fee_wei)
    wanted = head.base_fee_wei * rules.base_fee_headroom_ppm // PPM + priority
    max_fee = max(_bumped(before.max_fee_wei, rules), wanted)
    ceiling = min(fee_ceiling_wei, rules.max_fee_per_gas_wei_max)
    if max_fee > ceiling:
        max_fee = _bumped(before.max_fee_wei, rules)
    if max_fee > ceiling or priority > max_fee:
        return None
    return Fee(max_fee, priority)


def _bumped(fee_wei: int, rules: FeeRules) -> int:
    return -(-fee_wei * (PPM + rules.replacement_bump_ppm) // PPM) + 1
