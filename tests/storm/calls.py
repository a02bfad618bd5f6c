"""What a transaction asked for: names and arguments, through the forwarder or not."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode
from eth_utils.abi import collapse_if_tuple

from tests.synthetix.chain import Contract, selector
from tests.synthetix.deploy import FORWARDER, System


@dataclass(frozen=True, slots=True)
class Made:
    """One call; the name is empty when none of the system's contracts has such a function."""

    name: str
    arguments: tuple[Any, ...]


def calls_of(system: System, to: str, data: bytes) -> list[Made]:
    """Return the calls of a transaction; those inside in place of the forwarder's own."""
    contracts = [it for it in (system.perps, system.pyth) if it is not None]
    if to != FORWARDER:
        return [_made(contracts, to, data)]
    (inner,) = _made([system.forwarder], to, data).arguments
    return [_made(contracts, target.lower(), payload) for target, _, _, payload in inner]


def _made(contracts: Iterable[Contract], to: str, data: bytes) -> Made:
    for contract in contracts:
        if contract.address != to:
            continue
        for name, entry in contract.interface.functions.items():
            if selector(entry) == data[:4]:
                types = [collapse_if_tuple(dict(part)) for part in entry["inputs"]]
                return Made(name, decode(types, data[4:]))
    return Made("", ())
