"""The smallest complete venue, to be copied: isolated margin, one position per market and trader.

README, "Add a venue in an afternoon", says what usually differs and where it is changed. This one
works as it stands, with ``tests/venues/isolated.vy``:

    markets(address market) -> (uint256 price, uint256 maintenance_bps, uint256 reward_bps)
    positions(address market, address trader) -> (int256 size, uint256 entry_price, int256 margin)
    liquidate(address market, address trader)    # pays the caller reward_bps of the notional
    paused() -> bool

Liquidatable: equity = margin + size × (price − entry price) < notional × maintenance_bps / 10,000.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from keeper import facts
from keeper.capabilities import Capabilities, PriceKind, RewardKind
from keeper.margin.rows import Row
from keeper.ports import Rpc
from keeper.units import WAD, div_trunc
from keeper.venues._abi import Contract, Events, Function

Values = Mapping[str, float]
Prices = Mapping[facts.FeedId, facts.Price]
Verdict = facts.Assessment
Ids = Sequence[facts.AccountId]
Answer = facts.Simulated | facts.Refused

# What the contract calls things.
READ_MARKET = Function("markets(address)", "uint256,uint256,uint256")
READ_POSITION = Function("positions(address,address)", "int256,uint256,int256")
READ_PAUSED = Function("paused()", "bool")
LIQUIDATE = Function("liquidate(address,address)", "")
EVENTS = Events(
    "PositionChanged(address indexed market, address indexed trader)",
    "PositionLiquidated(address indexed market, address indexed trader,"
    " address indexed liquidator, uint256 reward)",
)
# What it says when it reverts → facts.Refused.reason, a closed set.
REASONS = {"healthy": "not_liquidatable", "no price": "oracle"}

# Its units: how much of each is one.
SIZE = 10**18
PRICE = 10**8
MONEY = 10**6  # margin and rewards: a token
RATE = 10_000  # maintenance and reward rates: basis points


class Settings(BaseModel):
    """The venue's table in config.toml. Every key is used, every key is described."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The contract", pattern=r"^0x[0-9a-fA-F]{40}$")
    feeds: dict[str, facts.FeedId] = Field(
        description="Market address → feed that its oracle follows"
    )


@dataclass(frozen=True)
class Market(facts.MarketState):
    """Everything outside the accounts at one block, by market: price, maintenance, reward."""

    terms: Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Position(facts.AccountState):
    """One account, here one trader's position in one market; ``account`` is "market:trader"."""

    size: int
    entry_price: int
    margin: int

    @property
    def market(self) -> str:
        """Return the market's address."""
        return self.account.partition(":")[0]

    def notional(self, price: int) -> int:
        """Return its size in money, as the contract rounds it."""
        return abs(self.size) * price * MONEY // (SIZE * PRICE)

    def equity(self, price: int) -> int:
        """Return margin and profit in money, as the contract rounds them."""
        gained = self.size * (price - self.entry_price)
        return self.margin + div_trunc(gained * MONEY, SIZE * PRICE)


class TemplateVenue:
    """Implements ``ports.Venue``."""

    capabilities = Capabilities(reward=RewardKind.CASH, price=PriceKind.PUSH)

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        """Remember where it is; nothing is asked before the keeper runs."""
        self.id = facts.VenueId(settings.id)
        self._contract = Contract(rpc, settings.address)
        self._feeds = {market.lower(): feed for market, feed in settings.feeds.items()}

    def addresses(self) -> Sequence[str]:
        """Return the contracts whose logs matter, lower case."""
        return (self._contract.address,)

    def touched(self, log: facts.Log) -> facts.Touched:
        """Say what a log changed; whatever is not understood changes everything."""
        name, fields = EVENTS.read(log)
        if not name:
            return facts.Touched(everything=True)
        account = facts.AccountId(f"{fields['market']}:{fields['trader']}")
        if name != "PositionLiquidated":
            return facts.Touched(frozenset({account}))
        who, reward_wad = fields["liquidator"], fields["reward"] * WAD // MONEY
        seen = facts.LiquidationSeen(account, who, log.tx_hash, log.block_number, reward_wad)
        return facts.Touched(frozenset({account}), liquidations=(seen,))

    async def read_market(self, head: facts.Head) -> Market:
        """Read price and rates of every market in the config, at the head's hash."""
        each = [(market,) for market in self._feeds]
        terms = await self._contract.read_each(READ_MARKET, each, head)
        return Market(head, dict(zip(self._feeds, terms, strict=True)))

    async def read_accounts(self, accounts: Ids, head: facts.Head) -> Sequence[Position]:
        """Read positions at the head's hash, in the order asked for."""
        each = [account.split(":") for account in accounts]
        answers = await self._contract.read_each(READ_POSITION, each, head)
        return [Position(a, head, *found) for a, found in zip(accounts, answers, strict=True)]

    def price_factors(self, market: Market) -> Mapping[str, facts.FeedId]:
        """Return the names in the book and the feed each follows."""
        return self._feeds

    def index_factors(self, market: Market) -> Sequence[str]:
        """Return the funding indices: there are none."""
        return ()

    def factors(self, market: Market, at_s: int) -> Values:
        """Return the contract's own prices; none for a market that has none yet."""
        return {name: price / PRICE for name, (price, _, _) in market.terms.items() if price}

    def indices(self, market: Market, at_s: int, prices: Values) -> Values:
        """Return the indices that move with prices: there are none."""
        return {}

    def compile(self, account: Position, market: Market, values: Values) -> Row | None:
        """Compile to equity − requirement as a line in the price; it may never be too lax."""
        name = account.market
        if not account.size or name not in market.terms:
            return None  # nothing to liquidate, or a market that is not in the config
        size, rate = account.size / SIZE, market.terms[name][1] / RATE
        constant = account.margin / MONEY - size * account.entry_price / PRICE
        return Row(constant - 2 / MONEY, {name: size - abs(size) * rate})  # 2: its roundings

    def assess(self, account: Position, market: Market, prices: Prices, at_s: int) -> Verdict:
        """Repeat the contract's integers, rounding included, at its own price."""
        price, maintenance, reward = market.terms.get(account.market, (0, 0, 0))
        notional, equity = account.notional(price), account.equity(price)
        required = notional * maintenance // RATE
        under = account.size != 0 and price != 0 and equity < required
        return facts.Assessment(
            account=account.account,
            liquidatable=under,
            view=facts.PriceView.CHAIN,
            equity_wad=equity * WAD // MONEY,
            requirement_wad=required * WAD // MONEY,
            reward_wad=notional * reward // RATE * WAD // MONEY if under else 0,
            bad_debt_wad=max(0, -equity) * WAD // MONEY,
            feeds=(self._feeds[account.market],) if account.market in self._feeds else (),
        )

    async def probe(self, wallet: str | None) -> facts.Probe:
        """Ask whether this wallet may act now: roles, switches, whitelists; and what is paid."""
        paused = await self._contract.probe(READ_PAUSED)
        if isinstance(paused, facts.Probe):
            return paused  # which says why this is not the contract it should be
        event = EVENTS.named["PositionLiquidated"]
        told = {"liquidators": await self._contract.liquidators(event)}
        for name, feed in self._feeds.items():
            _, maintenance, reward = await self._contract.read(READ_MARKET, name)
            told[feed] = f"maintenance {maintenance / RATE:.2%}, reward {reward / RATE:.2%}"
        return facts.Probe(not paused, "paused" if paused else "anyone may liquidate", told)

    async def simulate(self, assessment: facts.Assessment, wallet: str, head: facts.Head) -> Answer:
        """Run the very call that would be sent; its event says what it paid."""
        arguments = assessment.account.split(":")
        done = await self._contract.dry_run(LIQUIDATE, arguments, wallet, REASONS)
        if isinstance(done, facts.Refused):
            return done
        paid = [fields["reward"] for log in done.logs if (fields := EVENTS.read(log)[1])]
        reward_wad = sum(paid) * WAD // MONEY if paid else assessment.reward_wad
        return facts.Simulated(done.call, done.gas, reward_wad, oracle_fee_wei=0, head=head)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> TemplateVenue:  # noqa: ARG001 - the loader's
    """Make the venue; ``chain_id`` is for those whose signatures depend on it."""
    return TemplateVenue(settings, rpc)
