"""Synthetix V3 perps-market: cross margin over several markets, staged liquidation, USD rewards.

Anyone may liquidate, unless the operator of a deployment closes the feature. An account under its
margin is flagged and closed as far as its markets' *windows* have room, which all accounts share;
the rest follows when they have room again, and only the first step pays much. Prices are read by an
oracle manager: on chain already (push), or from Pyth (pull, with ``pyth`` set), which a liquidation
asks to be younger than the views do; a newer one is taken along by a forwarder that the protocol
trusts (ERC-2771), so that the wallet is paid. A liquidation of what is flagged needs fresh prices
too, whatever they are. Accounts and markets go by their numbers; the factors of market 100 are
``100`` (price) and ``F:100`` (funding), ``I`` is interest. The arithmetic is in
``_synthetix_v3_math.py``, the reading in ``_synthetix_v3_reads.py``.

``liquidateFlagged`` is not called: it takes whoever stands first in the queue, with or without room
in its markets; naming the accounts takes those that there is room for.

Collateral other than USD is not valued: such an account is called under too early, by its USD
alone, and the simulation decides. Who liquidated is not logged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from keeper.batching import SimulatedBatch
from keeper.capabilities import BatchKind, Capabilities, PriceKind, RewardKind
from keeper.errors import ProtocolError, RpcError
from keeper.facts import (
    AccountId,
    AccountState,
    Assessment,
    Call,
    FeedId,
    Head,
    LiquidationSeen,
    Log,
    Price,
    PriceView,
    Probe,
    Refused,
    Simulated,
    Touched,
    VenueId,
)
from keeper.margin.rows import Row
from keeper.margin.solvency import Exposure
from keeper.ports import Rpc
from keeper.units import WAD, wad_to_float
from keeper.venues import _synthetix_v3_reads as reads
from keeper.venues._abi import Contract, refusal
from keeper.venues._pyth import BUNDLE, UPDATE_FEE, Quote, bundled
from keeper.venues._synthetix_v3_actions import (
    GAS_DENOMINATOR,
    GAS_NUMERATOR,
    REASONS,
    Forwarder,
    step_of,
)
from keeper.venues._synthetix_v3_markets import (
    ADDRESS,
    FEATURE,
    FORWARDER,
    IS_ALLOWED,
    NOBODY,
    SynthetixMarkets,
    read_markets,
)
from keeper.venues._synthetix_v3_math import INTEREST, Holding
from keeper.venues._synthetix_v3_reads import EVENTS, QUIET, PerpsReader


class Settings(BaseModel):
    """The ``[[venues]]`` table with ``kind = "synthetix_v3"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The perps-market proxy", pattern=ADDRESS)
    feeds: dict[str, FeedId] = Field(
        description="Market id → keeper feed; a market without one is acted on at its own price"
    )
    pyth: str | None = Field(
        default=None,
        description="Pyth contract that updates go to; none: prices are pushed",
        pattern=ADDRESS,
    )
    forwarder: str = Field(
        default=FORWARDER, description="ERC-2771 forwarder that the proxy trusts", pattern=ADDRESS
    )
    batch_accounts_max: int = Field(default=1, description="As of every venue: the keeper's own")


@dataclass(frozen=True)
class SynthetixAccount(AccountState):
    """An account, and whether it waits for its liquidation to be finished."""

    holding: Holding
    flagged: bool


class SynthetixV3:
    """One perps-market. Implements ``ports.Venue``."""

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        """Remember where it is; nothing is read yet."""
        self.id = VenueId(settings.id)
        kind = PriceKind.PULL if settings.pyth else PriceKind.PUSH
        self.capabilities = Capabilities(RewardKind.CASH, kind, batch=BatchKind.MULTICALL)
        self._feeds = settings.feeds
        self._rpc = rpc
        self._perps = Contract(rpc, settings.address)
        self._pyth = Contract(rpc, settings.pyth) if settings.pyth else None
        self._forwarder = settings.forwarder.lower()
        self._several = Forwarder(rpc, self._forwarder, self._perps.address, self._pyth)
        self._forwards = settings.pyth is not None or settings.batch_accounts_max > 1
        self._reader = PerpsReader(rpc, self._perps.address, settings.pyth)

    # --- reading ------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Return the proxy."""
        return (self._perps.address,)

    def touched(self, log: Log) -> Touched:
        """Say what a log changed; parameters and what is not known change everything."""
        name, fields = EVENTS.read(log)
        if name in QUIET:
            return Touched()
        if "accountId" not in fields:
            return Touched(everything=True)
        account = AccountId(str(fields["accountId"]))
        seen: tuple[LiquidationSeen, ...] = ()
        # one that closed and paid nothing is none; liquidateMarginOnly logs an attempt as well
        if name == "AccountLiquidationAttempt" and (fields["reward"] or fields["fullLiquidation"]):
            reward = fields["reward"]
            seen = (LiquidationSeen(account, "", log.tx_hash, log.block_number, reward),)
        return Touched(frozenset({account}), liquidations=seen)

    async def read_market(self, head: Head) -> SynthetixMarkets:
        """Read everything outside the accounts at the head's hash.

        Raises RpcError; ProtocolError for another contract's answer.
        """
        return await read_markets(self._reader, self._feeds, head)

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[SynthetixAccount]:
        """Read these accounts at the head's hash, in order; raises as ``read_market``."""
        if not accounts:
            return []
        holdings, flagged = await self._reader.accounts([int(one) for one in accounts], head)
        return [
            SynthetixAccount(account, head, holding, int(account) in flagged)
            for account, holding in zip(accounts, holdings, strict=True)
        ]

    # --- rules --------------------------------------------------------------------------------

    def price_factors(self, market: SynthetixMarkets) -> Mapping[str, FeedId]:
        """Return market ids → keeper feeds."""
        return {str(key): feed for key, feed in market.feeds.items()}

    def index_factors(self, market: SynthetixMarkets) -> Sequence[str]:
        """Return the funding of each market, and interest."""
        return [*(f"F:{key}" for key in market.feeds), INTEREST]

    def factors(self, market: SynthetixMarkets, at_s: int) -> Mapping[str, float]:
        """Return prices on chain, fresh or not (none for a market that has none), and indices."""
        prices = {key: quote.price for key, quote in market.quotes.items()}
        values = {str(key): wad_to_float(price) for key, price in prices.items() if price}
        for key, one in market.system.markets.items():
            values[f"F:{key}"] = wad_to_float(one.funding_at(prices[key], at_s))
        return values | {INTEREST: wad_to_float(market.system.interest.at(at_s))}

    def indices(
        self, market: SynthetixMarkets, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return the funding at other prices: what is not recorded yet accrues at the present."""
        found = {int(name): round(value * WAD) for name, value in prices.items()}
        return {
            f"F:{key}": wad_to_float(market.system.markets[key].funding_at(price, at_s))
            for key, price in found.items()
            if key in market.system.markets
        }

    def compile(
        self, account: SynthetixAccount, market: SynthetixMarkets, values: Mapping[str, float]
    ) -> Row | None:
        """Compile an account to a row; one that is flagged is under whatever the prices."""
        if account.flagged:
            return Row(-1.0)
        held = account.holding.positions
        prices = {
            key: round(values.get(str(key), 0.0) * WAD) or market.quotes[key].price for key in held
        }
        missing = [str(key) for key, price in prices.items() if not price]
        if missing:  # the row waits for a price, and then expires and is compiled again
            return Row(0.0, {}, dict.fromkeys(missing, (0.0, 0.0)))
        return market.system.row(account.holding, prices, market.head.timestamp_s)

    def assess(
        self,
        account: SynthetixAccount,
        market: SynthetixMarkets,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        """Judge at the prices on chain and at the newest signed ones, as the contract would.

        Under at both: without updates if those on chain surely last until inclusion. Under at those
        on chain only: without updates in any case, they would cure it.
        """
        signed, carried, expiring = dict(market.quotes), list[Price](), False
        held = account.holding.positions
        for key, newest, price, lasts in market.newer(held, prices, at_s):
            signed[key] = newest
            differs = newest.price != market.quotes[key].price and not account.flagged
            expiring = expiring or not lasts
            carried += [] if lasts and not differs else [price]
        by_chain = self._verdict(account, market, market.quotes, at_s)
        by_signed = replace(self._verdict(account, market, signed, at_s), view=PriceView.SIGNED)
        if not carried or (by_chain.liquidatable and not (expiring and by_signed.liquidatable)):
            return by_chain
        return replace(by_signed, updates=tuple(carried)) if by_signed.liquidatable else by_signed

    def _verdict(
        self,
        account: SynthetixAccount,
        market: SynthetixMarkets,
        quotes: Mapping[int, Quote],
        at_s: int,
    ) -> Assessment:
        """Judge at these prices as if they were on chain."""
        held, system = sorted(account.holding.positions), market.system
        found = system.margin(account.holding, {key: quotes[key].price for key in held}, at_s)
        under = account.flagged or found.available < found.required
        room = [key for key in held if system.markets[key].capacity(at_s) != 0]
        waits = account.flagged and not room
        stale = [market.feeds[key] for key in held if not market.reliable(key, quotes[key], at_s)]
        reward = system.flagged_reward() if account.flagged else found.reward
        reopens = [system.markets[key].reopens_s(at_s) for key in held] if waits else []
        return Assessment(
            account=account.account,
            liquidatable=under and not stale and not waits,
            view=PriceView.CHAIN,
            equity_wad=found.available,
            requirement_wad=found.required,
            reward_wad=reward if under and not waits else 0,
            bad_debt_wad=max(0, -found.available),
            feeds=tuple(dict.fromkeys(market.feeds[key] for key in held)),
            stale=tuple(dict.fromkeys(stale)) if under and not waits else (),
            uses=tuple(str(key) for key in held),
            takes=tuple(abs(account.holding.positions[key].size) for key in held),
            # as of the head: a window may open a second later than we reckon, never earlier
            room=tuple(system.markets[key].capacity(market.head.timestamp_s) for key in held),
            alone=account.flagged,
            until_s=min(reopens, default=None),
        )

    # --- at other prices ----------------------------------------------------------------------

    def markets(self, market: SynthetixMarkets) -> Mapping[str, FeedId]:
        """Return market ids and feeds."""
        return self.price_factors(market)

    def prices(self, market: SynthetixMarkets) -> Mapping[FeedId, int]:
        """Return the prices on chain, fresh or not."""
        return {market.feeds[key]: quote.price for key, quote in market.quotes.items()}

    def valued_at(
        self, market: SynthetixMarkets, prices: Mapping[FeedId, int], at_s: int
    ) -> Callable[[SynthetixAccount], Exposure | None]:
        """Return how an account stands; funding not recorded yet accrues at these prices too."""
        values = {
            key: prices.get(market.feeds[key], quote.price) for key, quote in market.quotes.items()
        }

        def exposure(account: SynthetixAccount) -> Exposure | None:
            return market.exposure(account.holding, values, at_s, flagged=account.flagged)

        return exposure

    # --- acting -------------------------------------------------------------------------------

    async def probe(self, wallet: str | None) -> Probe:
        """Ask whether the feature is open to this wallet, and what is paid.

        Raises TransientRpcError.
        """
        answers: list[Any] = [
            await self._perps.probe(reads.GUARDS),
            await self._perps.probe(IS_ALLOWED, FEATURE, wallet or NOBODY),
            await self._perps.probe(reads.FLAGGED),
            await self._perps.probe(reads.MARKETS),
        ]
        for answer in answers:
            if isinstance(answer, Probe):
                return answer
        guards, allowed, flagged, markets = answers
        minimum, profit, maximum, scaling = (number / WAD for number in guards)
        facts = {
            "reward": f"cost + {minimum:g} USD or cost + {profit:.0%} at least",
            "reward cap": f"{maximum:g} USD, {scaling:.0%} of the collateral",
            "flagged accounts": str(len(flagged)),
            "markets": ", ".join(self._named(key) for key in markets) or "none",
            "liquidators": await self._perps.liquidators(EVENTS.named["AccountLiquidationAttempt"]),
        }
        if self._forwards:
            code = await self._rpc.call("eth_getCode", [self._forwarder, "latest"])
            facts["forwarder"] = self._forwarder
            if code in {None, "", "0x", "0x0"}:
                return Probe(open=False, detail=f"no forwarder at {self._forwarder}", facts=facts)
        payee = f"rewards go to {wallet}" if wallet else "no wallet: watching"
        said = "liquidations are open" if allowed else "the feature perpsSystem is closed to us"
        return Probe(bool(allowed), f"{said}; {payee}", facts, lacks=self._unfed(markets))

    def _unfed(self, markets: Sequence[int]) -> str:
        without = [str(market) for market in markets if str(market) not in self._feeds]
        if not without:
            return ""
        return f"no feed follows market {', '.join(without)}: accounts with a position there wait"

    def _named(self, market: int) -> str:
        return f"{market} ({self._feeds.get(str(market), 'no feed')})"

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Run the liquidation on top of the newest block, with the updates it must carry.

        One that would do nothing is held for a block: by then the windows have been read again, and
        the assessment knows when they open.
        """
        function, argument = step_of(assessment)
        call = Call(self._perps.address, function.data(argument))
        updates = list(dict.fromkeys(one.payload for one in assessment.updates if one.payload))
        fee_wei = 0
        try:
            if updates and self._pyth:
                fee_wei = await self._pyth.read(UPDATE_FEE, updates)
                call = bundled(self._forwarder, self._pyth.address, updates, fee_wei, call)
            answer = BUNDLE if updates else function
            done = await self._perps.run(answer, call, wallet, REASONS)
            if isinstance(done, Refused):
                return done
            reward = function.decoded(done.returned[-1][1]) if updates else done.returned
        except (RpcError, ProtocolError) as error:
            return refusal(error, REASONS)
        closed = any(EVENTS.read(log)[0] == "PositionLiquidated" for log in done.logs)
        if reward == 0 and not closed:
            return Refused("no_progress", "nothing would be closed and nothing paid")
        gas = done.gas * GAS_NUMERATOR // GAS_DENOMINATOR
        return Simulated(done.call, gas, reward, fee_wei, head)

    async def simulate_batch(
        self, assessments: Sequence[Assessment], wallet: str, head: Head
    ) -> SimulatedBatch | Refused:
        """Run all liquidations through the forwarder, behind the updates; each may fail alone."""
        return await self._several.simulate(assessments, wallet, head)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> SynthetixV3:  # noqa: ARG001 - the loader's
    """Make the venue; the loader calls this."""
    return SynthetixV3(settings, rpc)
