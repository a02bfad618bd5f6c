"""Perp v2 "Curie" in exact integers: account values, requirements, sizes to liquidate, rows.

Pure, so that it can be compared with the contracts by itself. Amounts, prices and sizes are wads,
ratios parts per million, ``_x96`` has 96 binary decimals. Signed divisions truncate toward zero, as
the contracts' do. Sources, in the package ``@perp/curie-contract`` 2.8.4: ``AccountBalance.sol``,
``Vault.sol``, ``OrderBook.sol``, ``lib/Funding.sol``, ``ClearingHouse.sol``; Uniswap's ``TickMath``
and ``LiquidityAmounts``.

The mark price lags behind the pool and moves with time alone, so it is a factor of its own, as are
funding, the pool's price and those of collateral. A row is linear in the mark: no envelope. What
orders hold follows the pool's price, and such a row ends as soon as that moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import NamedTuple

from keeper.margin.rows import Row
from keeper.units import PPM, WAD, div_trunc, mul_wad

Q96 = 2**96
DAY_S = 86_400
DUST = 10  # below this a size is zero
WHOLE_WAD_MAX = 100 * WAD  # a position of at most this value is liquidated whole
SLACK = 4  # wads by which the truncations of one market or asset may lower a value
TICK_FACTORS = (  # TickMath: 1.0001^(-2^n / 2), at 2^128, for the bits of a tick from the second on
    0xFFF97272373D413259A46990580E213A,
    0xFFF2E50F5F656932EF12357CF3C7FDCC,
    0xFFE5CACA7E10E4E61C3624EAA0941CD0,
    0xFFCB9843D60F6159C9DB58835C926644,
    0xFF973B41FA98C081472E6896DFB254C0,
    0xFF2EA16466C96A3843EC78B326B52861,
    0xFE5DEE046A99A2A811C461F1969C3053,
    0xFCBE86C7900A88AEDCFFC83B479AA3A4,
    0xF987A7253AC413176F2B074CF7815E54,
    0xF3392B0822B70005940C7A398E4B70F3,
    0xE7159475A2C29B7443B29C7FA6E889D9,
    0xD097F3BDFD2022B8845AD8F792AA5825,
    0xA9F746462D870FDF8A65DC1F90E061E5,
    0x70D869A156D2A1B890BB3DF62BAF32F7,
    0x31BE135F97D08FD981231505542FCFA6,
    0x9AA508B5B7A84E1C677DE54F3E99BC9,
    0x5D6AF8DEDB81196699C329225EE604,
    0x2216E584F5FA1EA926041BEDFE98,
    0x48A170391F7DC42444E8FA2,
)
FIRST_FACTOR = 0xFFFCB933BD6FAD37AA2D162D1A594001


class Market(NamedTuple):
    """One market at a block. ``settled``: its price if it is paused or closed, None: it is open."""

    oracle: int  # the index price
    market_15s: int  # time-weighted prices of the pool
    market_30m: int
    premium: int  # 15 minutes of pool over index
    spot_x96: int  # square root of the pool's price
    growth_x96: int  # funding: time-weighted premium so far, USD-seconds a unit of base
    growth_rate_x96: int  # a second, from now on
    settled: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is traded, and positions in it can be liquidated."""
        return self.settled is None

    @property
    def mark(self) -> int:
        """The price that positions are valued at."""
        return self.mark_at(self.oracle)

    def mark_at(self, oracle: int) -> int:
        """Return the mark price if the oracle said so."""
        if self.settled is not None:
            return self.settled
        three = sorted((self.market_15s, self.market_30m, max(0, oracle + self.premium)))
        return three[1]

    def at_price(self, oracle: int) -> "Market":
        """Return the market once its oracle and, as far, its pool have moved; a settled stays."""
        if not self.oracle or not self.is_open:
            return self
        return self._replace(
            oracle=oracle,
            market_15s=self.market_15s * oracle // self.oracle,
            market_30m=self.market_30m * oracle // self.oracle,
            premium=div_trunc(self.premium * oracle, self.oracle),
            spot_x96=isqrt(self.spot_x96**2 * oracle // self.oracle),
        )

    def growth_at(self, later_s: int) -> int:
        """Return the funding growth so many seconds on, if nobody trades."""
        return self.growth_x96 + self.growth_rate_x96 * later_s


class Asset(NamedTuple):
    """A collateral token at a block: ``price`` with ``price_decimals``, a 15 minutes' average."""

    price: int
    price_decimals: int
    decimals: int
    ratio_ppm: int  # of its value that counts
    discount_ppm: int  # for who buys it from an account in debt

    def value(self, amount: int) -> int:
        """Return what an amount is worth at its price, USD wads."""
        ten: int = 10**self.price_decimals
        if self.decimals > 18:  # noqa: PLR2004 - a wad's
            return amount * self.price // ten // int(10 ** (self.decimals - 18))
        return amount * int(10 ** (18 - self.decimals)) * self.price // ten


class Order(NamedTuple):
    """A maker's liquidity between two ticks."""

    liquidity: int
    low: int
    high: int

    def base(self, spot_x96: int) -> int:
        """Return how much base it holds."""
        high = sqrt_price(self.high)
        low = max(spot_x96, sqrt_price(self.low))
        return (self.liquidity * Q96 * (high - low) // high) // low if low < high else 0

    def quote(self, spot_x96: int) -> int:
        """Return how much quote it holds."""
        low, high = sqrt_price(self.low), min(spot_x96, sqrt_price(self.high))
        return self.liquidity * (high - low) // Q96 if high > low else 0


class AsRead:
    """Numbers of one reading that change without an event: two of them are never told apart."""

    __slots__ = ("numbers",)

    def __init__(self, *numbers: int) -> None:
        """Keep them."""
        self.numbers = numbers

    def __eq__(self, other: object) -> bool:
        """Say that nothing is known to have changed."""
        return isinstance(other, AsRead)

    def __hash__(self) -> int:
        """Return the same for all, as they are equal."""
        return 0


NO_FUNDING = AsRead(0, 0)


class Holding(NamedTuple):
    """What an account has in one market.

    ``order_funding``: what is owed for its orders, and the funding growth when that was read.
    """

    size: int  # as a taker
    open_notional: int
    growth_x96: int  # funding is settled up to here
    orders: tuple[Order, ...] = ()
    base_debt: int = 0  # of the orders
    quote_debt: int = 0
    order_funding: AsRead = NO_FUNDING

    def total_size(self, spot_x96: int) -> int:
        """Return the size with what the orders hold."""
        size = self.size + sum(one.base(spot_x96) for one in self.orders) - self.base_debt
        return size if abs(size) >= DUST else 0

    def quote(self, spot_x96: int) -> int:
        """Return the quote balance with what the orders hold."""
        return (
            self.open_notional + sum(one.quote(spot_x96) for one in self.orders) - self.quote_debt
        )

    def funding(self, spot_x96: int, growth_x96: int) -> int:
        """Return the funding owed at a growth; that of orders is exact where it was read."""
        base = self.size - self.base_debt
        pooled = sum(one.base(spot_x96) for one in self.orders)
        owed, read_x96 = self.order_funding.numbers
        since = div_trunc(pooled * (growth_x96 - read_x96), Q96)
        taker = div_trunc(base * (growth_x96 - self.growth_x96), Q96)
        return div_trunc(owed + since + taker, DAY_S)


class Balance(NamedTuple):
    """An account: ``cash`` includes realised PnL, and makers' fees as of when it was read."""

    cash: int
    collateral: Mapping[str, int]  # in each token's own decimals
    holdings: Mapping[str, Holding]

    @property
    def has_orders(self) -> bool:
        """Whether anything stands in a pool."""
        return any(one.orders for one in self.holdings.values())


class Value(NamedTuple):
    """What an account is worth at a block."""

    settlement: int  # cash, PnL and funding
    weighted: int  # other collateral as far as it counts
    full: int  # the same at its price
    notional: int  # of all positions
    sizes: Mapping[str, int]
    debt: int  # what the initial margin is asked for
    unrealised: int

    @property
    def exact(self) -> int:
        """The account value before it is rounded to the settlement token."""
        return self.settlement + self.weighted


@dataclass(frozen=True, slots=True)
class System:
    """Everything outside the accounts at a block."""

    markets: Mapping[str, Market]
    assets: Mapping[str, Asset]
    unit: int  # the settlement token's smallest unit, in wads
    mm_ppm: int
    im_ppm: int
    penalty_ppm: int

    def knows(self, balance: Balance) -> bool:
        """Say whether every market that the account is in was read."""
        return all(base in self.markets for base in balance.holdings)

    def value(self, balance: Balance, later_s: int = 0) -> Value:
        """Value an account so many seconds after the block.

        Collateral that is not listed counts for nothing. Raises KeyError for a market not read.
        """
        unrealised = funding = notional = base_debt = quotes = 0
        sizes: dict[str, int] = {}
        for base, one in balance.holdings.items():
            market = self.markets[base]
            sizes[base] = size = one.total_size(market.spot_x96)
            worth = mul_wad(size, market.mark)
            unrealised += worth + one.quote(market.spot_x96)
            funding += one.funding(market.spot_x96, market.growth_at(later_s))
            notional += abs(worth)
            base_debt -= min(0, mul_wad(one.size - one.base_debt, market.mark))
            quotes += one.open_notional - one.quote_debt
        full = weighted = 0
        for token, amount in balance.collateral.items():
            asset = self.assets.get(token)
            worth = asset.value(amount) if asset else 0
            full += worth
            weighted += worth * asset.ratio_ppm // PPM if asset else 0
        cash = balance.cash - funding
        debt = base_debt - min(0, quotes)
        return Value(cash + unrealised, weighted, full, notional, sizes, debt, unrealised)

    def account_value(self, value: Value) -> int:
        """Return what liquidations go by: rounded down to the settlement token."""
        return value.exact // self.unit * self.unit

    def requirement(self, value: Value) -> int:
        """Return the maintenance margin."""
        return value.notional * self.mm_ppm // PPM

    def free(self, value: Value) -> int:
        """Return the collateral that is free for new positions; negative: too little."""
        held = min(value.exact - value.unrealised, value.exact)
        return (held - value.debt * self.im_ppm // PPM) // self.unit * self.unit

    def liquidatable(self, value: Value, base: str) -> int:
        """Return the size in a market that may be liquidated now, 0: none."""
        equity, required, size = (
            self.account_value(value),
            self.requirement(value),
            value.sizes[base],
        )
        if equity >= required or not size:
            return 0
        worth = abs(mul_wad(size, self.markets[base].mark))
        if worth <= WHOLE_WAD_MAX or equity < required // 2:
            return size
        return div_trunc(size * min(PPM, value.notional * PPM // (worth * 2)), PPM)

    def discount(self, value: Value, size: int, base: str) -> int:
        """Return what a liquidator is paid: half of the penalty, all of it from bad debt."""
        penalty = abs(mul_wad(size, self.markets[base].mark)) * self.penalty_ppm // PPM
        return penalty if self.account_value(value) < 0 else penalty // 2

    def price(self, token: str) -> float:
        """Return a token's price, USD."""
        return float(self.assets[token].price / 10 ** self.assets[token].price_decimals)

    def row(self, balance: Balance, mm_ppm: int) -> Row:
        """Compile to ``excess ≥ constant + Σ weight × factor`` with a maintenance margin ratio.

        Factors of a market: its mark price under ``M:`` and its name, its funding under ``F:``, the
        root of its pool's price under ``P:``; a token's price under ``C:``.
        """
        constant, weights = balance.cash - self.unit, dict[str, float]()
        envelope: dict[str, tuple[float, float]] = {}
        for base, one in balance.holdings.items():
            market = self.markets[base]
            size, spot = one.total_size(market.spot_x96), market.spot_x96
            pooled = sum(order.base(spot) for order in one.orders)
            owing = one.size - one.base_debt
            owed, read_x96 = one.order_funding.numbers
            funded = owing * one.growth_x96 + pooled * read_x96 - owed * Q96
            constant += one.quote(spot) + funded // Q96 // DAY_S - SLACK
            weights[f"M:{base}"] = (size * PPM - mm_ppm * abs(size)) / (PPM * WAD)
            weights[f"F:{base}"] = -(owing + pooled) / WAD
            if one.orders:
                envelope[f"P:{base}"] = (root(spot), root(spot))
        for token, amount in balance.collateral.items():
            if token in self.assets:
                asset = self.assets[token]
                weights[f"C:{token}"] = amount * asset.ratio_ppm / PPM / 10**asset.decimals
                constant -= SLACK
        return Row(constant / WAD, weights, envelope)

    def factors(self, later_s: int) -> dict[str, float]:
        """Return the values of all factors of rows."""
        values: dict[str, float] = {}
        for base, market in self.markets.items():
            values[f"M:{base}"] = market.mark / WAD
            values[f"F:{base}"] = market.growth_at(later_s) / (Q96 * DAY_S)
            values[f"P:{base}"] = root(market.spot_x96)
        for token in self.assets:
            values[f"C:{token}"] = self.price(token)
        return values


def root(spot_x96: int) -> float:
    """Return a square root of a price as a factor's value."""
    return spot_x96 / Q96


@cache
def sqrt_price(tick: int) -> int:
    """Return the square root of the price at a tick, at 2^96, as ``TickMath`` does."""
    ratio = FIRST_FACTOR if abs(tick) & 1 else 2**128
    for bit, factor in enumerate(TICK_FACTORS, start=1):
        if abs(tick) & 1 << bit:
            ratio = ratio * factor >> 128
    if tick > 0:
        ratio = (2**256 - 1) // ratio
    return -(-ratio >> 32)


def price_of_root(sqrt_x96: int) -> int:
    """Return the price behind a square root, a wad."""
    return sqrt_x96 * sqrt_x96 // Q96 * WAD // Q96


def premium_rate(market_x96: int, index: int, rate_ppm_max: int) -> int:
    """Return the funding growth a second: pool over index, within a share of the index."""
    index_x96 = index * Q96 // WAD
    limit = index_x96 * rate_ppm_max // PPM
    return max(-limit, min(limit, market_x96 - index_x96))
