"""The market's own state, word by word: what its views do not show.

Slots follow from ``storage.dump.json`` of the npm package. A word is read at a block as it is, so
this is an oracle for whoever rebuilds funding and positions from events or views.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from tests.synthetix.chain import Contract

NAMESPACE = "io.synthetix.perps-market."
WORD = 2**256
HALF = 2**128


@dataclass(frozen=True, slots=True)
class MarketState:
    """Funding as it was last recorded: rate a day, value per unit of size, chain time."""

    skew: int
    size: int
    last_funding_rate: int
    last_funding_value: int
    last_funding_s: int


@dataclass(frozen=True, slots=True)
class PositionState:
    """A position since it was last touched: signed size; price, funding and interest then."""

    size: int
    price: int
    funding: int
    interest: int  # accrued per USD of locked notional


@dataclass(frozen=True, slots=True)
class InterestState:
    """Interest accrued per USD of locked notional, at a rate a year, up to a chain time."""

    accrued: int
    rate: int
    last_s: int


def _base(name: str, key: int | None = None) -> int:
    if key is None:
        return int.from_bytes(keccak(encode(["string"], [NAMESPACE + name])))
    return int.from_bytes(keccak(encode(["string", "uint128"], [NAMESPACE + name, key])))


def _mapped(key: int, slot: int) -> int:
    return int.from_bytes(keccak(encode(["uint256", "uint256"], [key, slot])))


def _signed(word: int, modulus: int = WORD) -> int:
    return word - modulus if word >= modulus // 2 else word


def _words(perps: Contract, slots: Iterable[int], block: str) -> list[int]:
    ask = perps.chain.node.rpc
    return [int(ask("eth_getStorageAt", perps.address, hex(it), block), 16) for it in slots]


def market_state(perps: Contract, market: int, block: str = "latest") -> MarketState:
    base = _base("PerpsMarket", market)
    skew, size, rate, value, last_s = _words(perps, range(base + 3, base + 8), block)
    return MarketState(_signed(skew), size, _signed(rate), _signed(value), last_s)


def position_state(
    perps: Contract, market: int, account: int, block: str = "latest"
) -> PositionState:
    base = _mapped(account, _base("PerpsMarket", market) + 11)
    first, second, interest = _words(perps, range(base, base + 3), block)
    size, funding = _signed(first >> 128, HALF), _signed(second >> 128, HALF)
    return PositionState(size, second % HALF, funding, interest)


def interest_state(perps: Contract, block: str = "latest") -> InterestState:
    base = _base("InterestRate")
    return InterestState(*_words(perps, range(base, base + 3), block))
