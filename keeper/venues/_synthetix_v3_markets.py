"""A Synthetix V3 perps-market outside its accounts: parameters, prices, and which of them last."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keeper.facts import AccountId, FeedId, Head, MarketState, Price
from keeper.margin.solvency import Exposure
from keeper.units import mul_wad
from keeper.venues._abi import Function
from keeper.venues._pyth import Quote, read_update
from keeper.venues._synthetix_v3_math import Holding, System
from keeper.venues._synthetix_v3_reads import PerpsReader, Source

FEATURE = b"perpsSystem".ljust(32, b"\0")
ADDRESS = r"^0x[0-9a-fA-F]{40}$"
FORWARDER = "0xE2C5658cC5C448B48141168f3e475dF8f65A1e3e"  # TrustedMulticallForwarder
NOBODY = "0x" + "00" * 20

IS_ALLOWED = Function("isFeatureAllowed(bytes32,address)", "bool")

INCLUSION_S_MAX = 12  # a price that may be too old by then is sent along
LATE_S = 2  # a price to rely on outlives the expected block by this: it may be the one after


@dataclass(frozen=True)
class SynthetixMarkets(MarketState):
    """Everything outside the accounts. ``feeds``, ``sources`` and ``quotes`` are by market."""

    system: System
    feeds: Mapping[int, FeedId]
    sources: Mapping[int, Source]
    quotes: Mapping[int, Quote]
    flagged: Sequence[int] = ()

    @property
    def listed(self) -> Sequence[AccountId]:
        """Return the accounts that wait for their liquidation to be finished."""
        return [AccountId(str(one)) for one in self.flagged]

    @property
    def epoch(self) -> str:
        """Return a digest of the parameters that rows are compiled from."""
        terms = [(key, market.terms) for key, market in self.system.markets.items()]
        parts = terms, self.system.guards, self.system.costs.rounded_up()
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def exposure(
        self, holding: Holding, prices: Mapping[int, int], at_s: int, *, flagged: bool
    ) -> Exposure | None:
        """Work out an account at these prices, by market; None: one that it needs is missing.

        What it has beside USD is not valued.
        """
        held = holding.positions
        if not all(prices[key] for key in held):
            return None
        found = self.system.margin(holding, prices, at_s)
        return Exposure(
            under=flagged or found.available < found.required,
            equity=found.available,
            requirement=found.required,
            net_value=found.available,
            notional={str(key): mul_wad(one.size, prices[key]) for key, one in held.items()},
            whole=not holding.others,
            feeds=tuple(dict.fromkeys(self.feeds[key] for key in held)),
        )

    def outlives(self, market: int, quote: Quote, until_s: int) -> bool:
        """Tell whether a liquidation would take this price at a time."""
        age_s_max = self.sources[market].age_s_max
        return bool(quote.price) and (age_s_max is None or until_s <= quote.published_s + age_s_max)

    def reliable(self, market: int, quote: Quote, at_s: int) -> bool:
        """Tell whether it would take it even if the block is a little late."""
        age_s_max = self.sources[market].age_s_max or 0
        return self.outlives(market, quote, at_s + min(LATE_S, age_s_max // 2))

    def newer(
        self, keys: Iterable[int], prices: Mapping[FeedId, Price], at_s: int
    ) -> Iterator[tuple[int, Quote, Price, bool]]:
        """Yield market, price and its tick where that is newer than the one on chain.

        And whether the one on chain would be taken all the same, for as long as inclusion takes.
        """
        for key in keys:
            stored, price = self.quotes[key], prices.get(self.feeds[key])
            newest = _signed(self.sources[key], price)
            if newest is None or price is None or newest.published_s <= stored.published_s:
                continue
            if self.reliable(key, newest, at_s):
                yield key, newest, price, self.outlives(key, stored, at_s + INCLUSION_S_MAX)


async def read_markets(
    reader: PerpsReader, feeds: Mapping[str, FeedId], head: Head
) -> SynthetixMarkets:
    """Read everything outside the accounts at the head's hash.

    ``feeds``: market id → keeper feed. Raises RpcError, and ProtocolError for another contract.
    """
    found = await reader.snapshot(head)
    named = {key: feeds.get(str(key), FeedId(str(key))) for key in found.sources}
    return SynthetixMarkets(head, found.system, named, found.sources, found.quotes, found.flagged)


def _signed(source: Source, price: Price | None) -> Quote | None:
    """Return what the tick's update would put on chain; its own price does not count."""
    if price is None or not price.payload or not source.pyth_id:
        return None
    return read_update(price.payload).get(source.pyth_id)
