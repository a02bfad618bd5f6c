"""The demo market's state as the venue ``demo_market`` reads it, and what follows from it.

Pure: the wire format of the two views and of a signed price, funding, freshness, the next step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeper.errors import ProtocolError
from keeper.facts import AccountId, AccountState, FeedId, Head, MarketState, Price
from keeper.margin.model import (
    Account,
    AssetTerms,
    Margin,
    MarketTerms,
    Position,
    ReserveTerms,
    Terms,
    Tier,
    reserve_for,
)
from keeper.units import div_trunc, mul_wad

CLOCK_SKEW_S = 60  # the contract's: how far ahead of a block a price may be published
DAY_S = 86_400
OPEN_END = 2**256 - 1

UPDATE = "(uint256,uint256,uint256,uint256,uint256,uint256)"
UPDATE_BYTES = 6 * 32
TIERS = "(uint256,uint256)[]"
MARKET_VIEW = (
    "(uint256,uint256,uint256,(uint256,uint256,uint256),uint256,(string,uint256,uint256)[],"
    f"(string,uint256,{TIERS},int256,uint256,uint256,int256,uint256)[],(string,uint256,{TIERS})[])"
)
ACCOUNT_VIEWS = "(uint256,address,int256,uint256[4],(int256,uint256,int256)[8])[]"


@dataclass(frozen=True, slots=True)
class StoredPrice:
    """A feed as the contract holds it; ``price`` 0: none yet."""

    name: str
    feed: FeedId
    price: int
    published_ms: int


@dataclass(frozen=True, slots=True)
class PerpMarket:
    """A market's parameters and funding; ``feed`` is an index into the feeds."""

    name: str
    feed: int
    tiers: tuple[Tier, ...]
    skew: int
    skew_scale: int
    funding_rate_max: int  # per day
    index_last: int
    t_last: int

    def funding_index(self, stored_price: int, at_s: int) -> int:
        """Return the index at chain time ``at_s``; it grows at the *stored* price until then."""
        ceiling = self.funding_rate_max
        rate = min(max(div_trunc(self.skew * ceiling, self.skew_scale), -ceiling), ceiling)
        elapsed = max(0, at_s - self.t_last)
        return self.index_last + div_trunc(mul_wad(stored_price, rate) * elapsed, DAY_S)


@dataclass(frozen=True, slots=True)
class Asset:
    """A collateral asset's parameters; ``feed`` is an index into the feeds."""

    name: str
    feed: int
    haircuts: tuple[Tier, ...]


@dataclass(frozen=True)
class DemoMarketState(MarketState):
    """The whole contract outside its accounts."""

    max_price_age_s: int
    update_fee_wei: int
    whole_below: int
    reserve: ReserveTerms
    account_count: int
    feeds: tuple[StoredPrice, ...]
    markets: tuple[PerpMarket, ...]
    assets: tuple[Asset, ...]

    def depends_on(self, account: Account) -> list[int]:
        """Return the feeds whose age decides about the account."""
        return sorted(
            {self.markets[int(name)].feed for name in account.positions}
            | {self.assets[int(name)].feed for name in account.collateral}
        )

    def is_fresh(self, stored: StoredPrice, at_s: int) -> bool:
        """Tell whether the contract acts on this price at chain time ``at_s``."""
        expires_ms = stored.published_ms + self.max_price_age_s * 1000
        return stored.price != 0 and at_s * 1000 <= expires_ms

    def terms(self, prices: Sequence[int], at_s: int) -> Terms:
        """Return the margin model's terms at these prices (by feed), funding up to ``at_s``."""
        return Terms(
            markets={
                str(i): MarketTerms(
                    prices[market.feed],
                    market.tiers,
                    market.funding_index(self.feeds[market.feed].price, at_s),
                )
                for i, market in enumerate(self.markets)
            },
            assets={
                str(i): AssetTerms(prices[asset.feed], asset.haircuts)
                for i, asset in enumerate(self.assets)
            },
            reserve=self.reserve,
        )


@dataclass(frozen=True)
class DemoAccountState(AccountState):
    """An account; ``holdings`` names markets and assets by index, without empty ones."""

    owner: str
    holdings: Account


def _tiers(view: Sequence[tuple[int, int]]) -> tuple[Tier, ...]:
    return tuple(Tier(None if up_to == OPEN_END else up_to, rate) for up_to, rate in view)


def market_from(
    view: Any,  # noqa: ANN401 - a decoded tuple
    head: Head,
    mapping: Mapping[str, str],
) -> DemoMarketState:
    """Make the state of a decoded ``market_view``; ``mapping``: contract feed → keeper feed.

    Raises ProtocolError when names repeat: the book's factors could not be told apart.
    """
    age_s, fee_wei, whole_below, reserve, count, feeds, markets, assets = view
    names = [feed[0] for feed in feeds] + [f"F:{market[0]}" for market in markets]
    if len(set(names)) != len(names):
        msg = f"demo market: feed or market names are not unique: {sorted(names)}"
        raise ProtocolError(msg)
    return DemoMarketState(
        head=head,
        max_price_age_s=age_s,
        update_fee_wei=fee_wei,
        whole_below=whole_below,
        reserve=ReserveTerms(*reserve),
        account_count=count,
        feeds=tuple(
            StoredPrice(name, FeedId(mapping.get(name, name)), price, published_ms)
            for name, price, published_ms in feeds
        ),
        markets=tuple(
            PerpMarket(name, feed, _tiers(tiers), *funding)
            for name, feed, tiers, *funding in markets
        ),
        assets=tuple(Asset(name, feed, _tiers(cuts)) for name, feed, cuts in assets),
    )


def account_from(view: Any, head: Head) -> DemoAccountState:  # noqa: ANN401 - a decoded tuple
    """Make the state of one entry of ``account_views``, without what is zero."""
    number, owner, cash, collateral, positions = view
    held = {str(i): amount for i, amount in enumerate(collateral) if amount}
    open_ = {str(i): Position(*position) for i, position in enumerate(positions) if position[0]}
    return DemoAccountState(
        account=AccountId(str(number)),
        head=head,
        owner=owner.lower(),
        holdings=Account(cash, held, open_),
    )


def decoded_update(payload: bytes | None) -> tuple[int, ...] | None:
    """Return the six words of a signed price; None when it is none."""
    if payload is None or len(payload) != UPDATE_BYTES:
        return None
    return tuple(int.from_bytes(payload[at : at + 32], "big") for at in range(0, UPDATE_BYTES, 32))


def newer_price(
    stored: StoredPrice, number: int, price: Price | None, at_s: int
) -> StoredPrice | None:
    """Return what the contract would store of a signed price; None: nothing, or it would revert."""
    update = decoded_update(price.payload) if price is not None else None
    if update is None:
        return None
    feed, wad, published_ms = update[:3]
    in_time = published_ms // 1000 <= at_s + CLOCK_SKEW_S
    if feed != number or wad == 0 or not in_time or published_ms <= stored.published_ms:
        return None
    return replace(stored, price=wad, published_ms=published_ms)


def step_reward(account: Account, found: Margin, terms: Terms, whole_below: int) -> int:
    """Return the reward of the next step: all of it if small or far under, else half."""
    whole = found.notional <= whole_below or found.equity * 2 < found.maintenance
    closed = sum(
        mul_wad(abs(p.size) if whole else abs(p.size) // 2, terms.markets[name].price)
        for name, p in account.positions.items()
    )
    return reserve_for(closed, terms.reserve)
