"""Copy this file to ``keeper/venues/acme.py`` and change it: that is all a new venue takes.

``[[venues]] kind = "acme"`` in config.toml then finds it by its file name, and the contract suite
(``tests/venues/test_contract.py``) picks it up by itself; it fails, and says how to make one, until
there is a recording of the contract's answers. The tools for EVM contracts are in ``_abi.py``.

Tell here, for the people who come later, what the protocol is and what its contract looks like.
This one works as it stands, for a market with one instrument, an isolated margin for each position,
and an oracle that pushes its price:

    terms() -> (uint256 price, uint256 maintenance_rate, uint256 reward, uint256 expires_s)
    position(uint256 id) -> (int256 size, uint256 entry_price, int256 margin)
    liquidate(uint256 id) -> uint256                        # the reward, in USD to the caller
    event PositionChanged(uint256 indexed id)               # opened, traded, topped up
    event Liquidated(uint256 indexed id, address indexed liquidator, uint256 reward)
    event TermsChanged()

All amounts have 18 decimals. A position is liquidatable while the price has not expired and
margin + size * (price - entry_price) < maintenance_rate * |size| * price + reward.

The order of work: ``Settings`` · ``touched`` and the reads (what is there) · ``compile`` and
``assess`` (its arithmetic, to the last unit) · ``simulate`` (the chain has the last word) ·
``probe`` (may we at all). Then a test beside ``tests/venues/test_template.py`` that compares
``assess`` with the contract itself, on a local chain, in many random states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from keeper.capabilities import Capabilities, PriceKind, RewardKind
from keeper.facts import (
    AccountId,
    AccountState,
    Assessment,
    FeedId,
    Head,
    LiquidationSeen,
    Log,
    MarketState,
    Price,
    PriceView,
    Probe,
    Refused,
    Simulated,
    Touched,
    VenueId,
)
from keeper.margin.model import Account, MarketTerms, Position, ReserveTerms, Terms, Tier, margin
from keeper.margin.rows import MarketFactors, Row, compile_row
from keeper.ports import Rpc
from keeper.units import WAD, wad_to_float
from keeper.venues._abi import Contract, Events, Function

# The ABI as text: short enough to read here, and nothing to load.
READ_TERMS = Function("terms()", "uint256,uint256,uint256,uint256")
READ_POSITION = Function("position(uint256)", "int256,uint256,int256")
LIQUIDATE = Function("liquidate(uint256)", "uint256")
EVENTS = Events(
    "PositionChanged(uint256 indexed id)",
    "Liquidated(uint256 indexed id, address indexed liquidator, uint256 reward)",
    "TermsChanged()",
)

THE_MARKET = "perp"  # the only one there is

# What the contract says when it reverts → facts.Refused.reason, a closed set.
REASONS = {"healthy": "not_liquidatable", "price expired": "oracle"}


class Settings(BaseModel):
    """The venue's table in config.toml. Every key is used, every key is described."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The market contract", pattern=r"^0x[0-9a-fA-F]{40}$")
    # As a FeedId it must be one of [[feeds]]: the loader of config.toml checks that.
    feed: FeedId = Field(description="Keeper feed that the contract's oracle follows")


@dataclass(frozen=True)
class TemplateMarket(MarketState):
    """Everything outside the accounts, at one block."""

    price: int  # 0: none yet
    maintenance_rate: int
    reward: int
    expires_s: int

    def terms(self, price: int) -> Terms:
        """Return the margin model's terms at this price."""
        tiers = (Tier(None, self.maintenance_rate),)
        reserve = ReserveTerms(rate=0, minimum=self.reward, maximum=self.reward)
        return Terms({THE_MARKET: MarketTerms(price, tiers)}, {}, reserve)


@dataclass(frozen=True)
class TemplatePosition(AccountState):
    """One account, here one position, at one block."""

    holdings: Account


class TemplateVenue:
    """Implements ``ports.Venue``."""

    # A venue declares what it is; with INVENTORY or PULL other parts of the keeper come into play.
    capabilities = Capabilities(reward=RewardKind.CASH, price=PriceKind.PUSH)

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        """Remember where it is. No I/O here: ``build`` is called before anything is connected."""
        self.id = VenueId(settings.id)
        self._contract = Contract(rpc, settings.address)
        self._feed = settings.feed

    # --- what is there: events nominate, reads decide -----------------------------------------

    def addresses(self) -> Sequence[str]:
        """Return the contracts whose logs matter, lower case."""
        return (self._contract.address,)

    def touched(self, log: Log) -> Touched:
        """Say what a log changed. In doubt everything: reading too much costs little."""
        name, fields = EVENTS.read(log)
        if name == "PositionChanged":
            return Touched(frozenset({AccountId(str(fields["id"]))}))
        if name == "Liquidated":
            account, liquidator = AccountId(str(fields["id"])), fields["liquidator"]
            block, reward_wad = log.block_number, fields["reward"]
            seen = LiquidationSeen(account, liquidator, log.tx_hash, block, reward_wad)
            return Touched(frozenset({account}), liquidations=(seen,))
        return Touched(everything=True)  # TermsChanged, an upgraded proxy, an event of the future

    async def read_market(self, head: Head) -> TemplateMarket:
        """Read at the block's *hash* (EIP-1898): a number may mean another block by then."""
        return TemplateMarket(head, *await self._contract.read(READ_TERMS, head=head))

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[TemplatePosition]:
        """Read whole accounts in the order asked for, in batches. One failure fails all of it."""
        each = [(int(account),) for account in accounts]
        states: list[TemplatePosition] = []
        answers = await self._contract.read_each(READ_POSITION, each, head)
        for account, (size, entry_price, cash) in zip(accounts, answers, strict=True):
            positions = {THE_MARKET: Position(size, entry_price)} if size else {}
            states.append(TemplatePosition(account, head, Account(cash, {}, positions)))
        return states

    # --- its arithmetic: pure, no I/O, no clock -----------------------------------------------

    def price_factors(self, market: TemplateMarket) -> Mapping[str, FeedId]:
        """Return the names in the book and the feed each follows."""
        return {self._feed: self._feed}

    def index_factors(self, market: TemplateMarket) -> Sequence[str]:
        """Return the funding indices: this market has no funding."""
        return ()

    def factors(self, market: TemplateMarket, at_s: int) -> Mapping[str, float]:
        """Return the contract's own price; no value while there is none."""
        return {self._feed: wad_to_float(market.price)} if market.price else {}

    def indices(
        self, market: TemplateMarket, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return the indices that move with prices: there are none."""
        return {}

    def compile(
        self, account: TemplatePosition, market: TemplateMarket, values: Mapping[str, float]
    ) -> Row | None:
        """Compile to a row for the fast screen: it may be too strict, never too lax."""
        if not account.holdings.positions:
            return None
        price = round(values[self._feed] * WAD) if self._feed in values else market.price
        if not price:
            # waits for a price, and then expires and is compiled again
            return Row(0.0, {}, {self._feed: (0.0, 0.0)})
        terms = market.terms(price)
        factors = MarketFactors(terms.markets[THE_MARKET], self._feed)
        return compile_row(account.holdings, {THE_MARKET: factors}, {}, terms.reserve)

    def assess(
        self,
        account: TemplatePosition,
        market: TemplateMarket,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        """Repeat the contract's integers, rounding included. A pull venue judges twice."""
        found = margin(account.holdings, market.terms(market.price))
        held = bool(account.holdings.positions)
        under = held and found.excess < 0
        return Assessment(
            account=account.account,
            liquidatable=under and bool(market.price) and at_s <= market.expires_s,
            view=PriceView.CHAIN,
            equity_wad=found.equity,
            requirement_wad=found.maintenance + found.reserve,
            reward_wad=market.reward if under else 0,
            bad_debt_wad=max(0, -found.net_value),
            feeds=(self._feed,) if held else (),
        )

    # --- what can be done ---------------------------------------------------------------------

    async def probe(self, wallet: str | None) -> Probe:
        """Ask the chain whether acting is possible: roles, switches, whitelists, what is paid."""
        terms = await self._contract.probe(READ_TERMS)
        if isinstance(terms, Probe):
            return terms  # which says why this is not the contract it should be
        _, rate, reward, _ = terms
        facts = {
            "maintenance": f"{rate / WAD:.2%}",
            "reward": f"{reward / WAD:g} USD",
            "liquidators": await self._contract.liquidators(EVENTS.named["Liquidated"]),
        }
        return Probe(open=True, detail="anyone may liquidate", facts=facts)

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Run the very call that would be sent, and read its reward from what the chain answers."""
        account = int(assessment.account)
        done = await self._contract.dry_run(LIQUIDATE, [account], wallet, REASONS)
        if isinstance(done, Refused):
            return done
        return Simulated(done.call, done.gas, done.returned, oracle_fee_wei=0, head=head)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> TemplateVenue:  # noqa: ARG001 - the loader's
    """Make the venue. ``chain_id`` is for venues whose signatures or addresses depend on it."""
    return TemplateVenue(settings, rpc)
