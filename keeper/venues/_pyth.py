"""Pyth as a pull oracle: what is on chain, what an update carries, how it goes along with a call.

An update is one ``bytes`` of ``updatePriceFeeds(bytes[])``: an accumulator update as Hermes serves
it, or the flat encoding of the SDK (a price feed and its previous publish time), which private
deployments use. Nothing is verified here: the contract does that when the call is simulated.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keeper.facts import Call
from keeper.units import div_trunc
from keeper.venues._abi import Function, integers

GET_PRICE = Function("getPriceUnsafe(bytes32)", "(int64,uint64,int32,uint256)")
UPDATE_FEE = Function("getUpdateFee(bytes[])", "uint256")
UPDATE = Function("updatePriceFeeds(bytes[])", "")
BUNDLE = Function("aggregate3Value((address,bool,uint256,bytes)[])", "(bool,bytes)[]")

ACCUMULATOR = b"PNAU\x01"  # magic and major version
PRICE_MESSAGE = 0  # its first byte
MESSAGE_BYTES = 61  # up to the publish time; the rest is not used
FLAT_WORDS = 10  # id, price, conf, expo, time, the same of the moving average, previous time
MERKLE_BYTES = 20
WAD_DECIMALS = 18


class Quote(NamedTuple):
    """A price in wads; 0: none. ``published_s``: chain time, a whole second."""

    price: int
    published_s: int


def quote(price: int, exponent: int, published_s: int) -> Quote:
    """Return what ``price × 10^exponent`` is in wads; none for a price that is not positive."""
    shift = WAD_DECIMALS + exponent
    scaled = price * 10**shift if shift >= 0 else div_trunc(price, 10**-shift)
    return Quote(max(0, scaled), published_s)


def read_update(update: bytes) -> dict[bytes, Quote]:
    """Return the prices inside an update, by feed id; empty for what is none."""
    if update.startswith(ACCUMULATOR):
        return _read_accumulator(_Reader(update, len(ACCUMULATOR)))
    if len(update) != FLAT_WORDS * 32:
        return {}
    _, price, _, exponent, published_s, *_ = map(_signed, integers(update))
    plain = abs(exponent) <= WAD_DECIMALS
    return {update[:32]: quote(price, exponent, published_s)} if plain else {}


def bundled(
    forwarder: str, oracle: str, updates: Sequence[bytes], fee_wei: int, call: Call
) -> Call:
    """Return one call that brings the updates and then makes ``call``, as from the sender.

    ``forwarder`` appends the sender to what it passes on (ERC-2771); a contract that trusts it pays
    the sender. Each part is required: a refusal comes back as it is.
    """
    first = (oracle, True, fee_wei, UPDATE.data(updates))
    then = (call.to, True, call.value_wei, call.data)
    return Call(forwarder, BUNDLE.data([first, then]), fee_wei + call.value_wei)


class _Reader:
    """Big-endian numbers one after another; raises IndexError past the end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            msg = f"{count} bytes expected at {self._at}"
            raise IndexError(msg)
        self._at += count
        return taken

    def number(self, count: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "big", signed=signed)


def _read_accumulator(reader: _Reader) -> dict[bytes, Quote]:
    found: dict[bytes, Quote] = {}
    try:
        reader.take(1)  # minor version
        reader.take(reader.number(1))  # trailing header
        reader.take(1)  # kind of update; there is one
        reader.take(reader.number(2))  # the signed root
        for _ in range(reader.number(1)):
            message = reader.take(reader.number(2))
            reader.take(reader.number(1) * MERKLE_BYTES)
            if message[0] == PRICE_MESSAGE and len(message) >= MESSAGE_BYTES:
                found |= _read_message(_Reader(message, 1))
    except IndexError:
        return {}
    return found


def _read_message(reader: _Reader) -> dict[bytes, Quote]:
    feed, price, _ = reader.take(32), reader.number(8, signed=True), reader.take(8)
    exponent, published_s = reader.number(4, signed=True), reader.number(8)
    plain = abs(exponent) <= WAD_DECIMALS
    return {feed: quote(price, exponent, published_s)} if plain else {}


def _signed(word: int) -> int:
    return word - 2**256 if word >= 2**255 else word
