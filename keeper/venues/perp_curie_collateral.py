"""Collateral of Perp v2 "Curie" accounts in debt: whoever pays the debt buys it at a discount.

A second job beside ``perp_curie``, on the same contracts: give it a table of its own to turn it on.
An account may have margin in other tokens than the one that is settled in. When it has too little
margin, or owes too much of the settlement token for what these tokens are worth, anyone may pay
some of the debt from the wallet and takes tokens for it, at an average price less a discount. What
selling them costs is not on chain, so it is a setting. Where the vault may not take so much from
the wallet, an approval is a step before it: of all that the wallet has, because margin and every
purchase are paid from the same allowance, and an approval of less would take from what others on
their way need. Source: ``Vault.sol``, ``CollateralManager.sol``.

The screen has one row an account for three conditions, so it is too strict between them: such an
account is assessed with every block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from keeper.capabilities import Capabilities, CapitalKind, PriceKind, RewardKind
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
    Step,
    TakenOver,
    Touched,
    VenueId,
)
from keeper.jobs import Gain, Job
from keeper.margin.rows import Row
from keeper.ports import Rpc
from keeper.units import PPM, WAD
from keeper.venues import _perp_curie_reads as reads
from keeper.venues._abi import Contract, Function, Reads, refusal, reverted
from keeper.venues._perp_curie_inventory import ALLOWANCE, APPROVE
from keeper.venues._perp_curie_markets import ADDRESS, CurieMarkets
from keeper.venues._perp_curie_math import Balance, Value
from keeper.venues._perp_curie_reads import EVENTS, CurieReader

TERMS = {
    "buffer": Function("getMmRatioBuffer()", "uint24"),
    "debt_ratio": Function("getDebtNonSettlementTokenValueRatio()", "uint24"),
    "part": Function("getLiquidationRatio()", "uint24"),
    "fee": Function("getCLInsuranceFundFeeRatio()", "uint24"),
    "dust": Function("getCollateralValueDust()", "uint256"),
}
DEBT_MAX = Function("getDebtThresholdByTrader(address)", "uint256")
FOR_SALE = Function(
    "getMaxRepaidSettlementAndLiquidatableCollateral(address,address)", "uint256,uint256"
)
LIQUIDATE = Function("liquidateCollateral(address,address,uint256,bool)", "uint256")
REASONS = {
    "V_NL": "not_liquidatable",
    "V_TINAC": "not_liquidatable",
    "V_MSAE": "no_progress",  # less is for sale than a moment ago
}


class Settings(BaseModel):
    """The ``[[venues]]`` table with ``kind = "perp_curie_collateral"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The ClearingHouse", pattern=ADDRESS)
    vault: str = Field(description="The Vault, which holds the margin", pattern=ADDRESS)
    feeds: dict[str, FeedId] = Field(description="Base token of each market → keeper feed")
    collateral: tuple[str, ...] = Field(description="Tokens that are bought", min_length=1)
    decimals: int = Field(default=6, ge=0, le=18, description="Of the settlement token")
    pay_usd_max: int = Field(
        default=10_000, ge=0, description="USD that one purchase, and all in flight, may cost"
    )
    selling_cost_ppm: int = Field(
        default=10_000, ge=0, le=PPM, description="Parts per million that selling the tokens costs"
    )


class CollateralTerms(NamedTuple):
    """The collateral manager's parameters; ``dust`` in units of the settlement token."""

    buffer: int
    debt_ratio: int
    part: int
    fee: int
    dust: int


NO_TERMS = CollateralTerms(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class CollateralMarkets(CurieMarkets):
    """Everything outside the accounts."""

    terms: CollateralTerms = NO_TERMS


@dataclass(frozen=True)
class IndebtedAccount(AccountState):
    """One account whole; ``debt_max`` in units of the settlement token."""

    balance: Balance
    debt_max: int


class PerpCurieCollateral:
    """The collateral of one clearing house's accounts. Implements ``ports.Venue``."""

    capabilities = Capabilities(
        reward=RewardKind.INVENTORY,
        price=PriceKind.PUSH,
        capital=CapitalKind.MARGIN,
        learns_from_reads=True,  # who makes which market
    )

    def __init__(self, settings: Settings, rpc: Rpc) -> None:
        """Remember where it is; nothing is read yet."""
        self.id = VenueId(settings.id)
        self._rpc = rpc
        self._settings = settings
        self._unit = int(10 ** (18 - settings.decimals))
        self._feeds = {base.lower(): feed for base, feed in settings.feeds.items()}
        self._house = Contract(rpc, settings.address)
        self._vault = Contract(rpc, settings.vault)
        tokens = [token.lower() for token in settings.collateral]
        self._reader = CurieReader(rpc, self._house.address, list(self._feeds), tokens)

    # --- reading ------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Return the vault and the clearing house."""
        return (self._vault.address, self._house.address)

    def touched(self, log: Log) -> Touched:
        """Say whose margin a log changed, and who bought some."""
        name, fields = EVENTS.read(log)
        if name == "ReferredPositionChanged":
            return Touched()
        if not name:
            self._reader.forget()
            return Touched(everything=True)
        account = AccountId(fields["trader"])
        seen: tuple[LiquidationSeen, ...] = ()
        if name == "CollateralLiquidated":
            paid, worth = self._bought(fields)
            by, at = fields["liquidator"], (log.tx_hash, log.block_number)
            seen = (LiquidationSeen(account, by, *at, worth - paid, Job.COLLATERAL),)
        makers = map(AccountId, self._reader.makers(fields.get("baseToken", "")))
        return Touched(frozenset({account, *makers}), liquidations=seen)

    def _bought(self, fields: Mapping[str, Any]) -> tuple[int, int]:
        """Return what was paid, and what was got for it at the venue's price, wads."""
        paid = (fields["repaid"] + fields["fee"]) * self._unit
        return paid, paid * PPM // (PPM - fields["discountRatio"])

    async def read_market(self, head: Head) -> CollateralMarkets:
        """Read prices, funding and parameters at the head's hash; raises as ``perp_curie``."""
        system = await self._reader.system(head)
        wiring, batch = await self._reader.wiring(head), Reads(self._rpc, head)
        for name, function in TERMS.items():
            batch.call(name, wiring.collateral_manager, function)
        terms = CollateralTerms(**await batch.answers())
        return CollateralMarkets(head, system, self._feeds, marks=str(terms), terms=terms)

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[IndebtedAccount]:
        """Read these accounts at the head's hash, in order; raises as ``read_market``."""
        if not accounts:
            return []
        balances = await self._reader.balances(accounts, head)
        wiring, batch = await self._reader.wiring(head), Reads(self._rpc, head)
        for one in accounts:
            batch.call(one, wiring.collateral_manager, DEBT_MAX, one)
        limits = await batch.answers()
        return [
            IndebtedAccount(account, head, balance, limits[account])
            for account, balance in zip(accounts, balances, strict=True)
        ]

    # --- rules --------------------------------------------------------------------------------

    def price_factors(self, market: CollateralMarkets) -> Mapping[str, FeedId]:
        """Return base tokens → keeper feeds; the factor is the oracle's price of each."""
        return market.feeds

    def index_factors(self, market: CollateralMarkets) -> Sequence[str]:
        """Return marks, funding, pool prices and prices of collateral."""
        return list(market.system.factors(0))

    def factors(self, market: CollateralMarkets, at_s: int) -> Mapping[str, float]:
        """Return the oracle's prices and what follows from the chain at this time."""
        return market.factors(at_s)

    def indices(
        self, market: CollateralMarkets, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return the marks as they would be if the oracle said so."""
        return market.indices(prices)

    def compile(
        self, account: IndebtedAccount, market: CollateralMarkets, values: Mapping[str, float]
    ) -> Row | None:
        """Compile to a row below all three conditions; none without such collateral.

        The debt may be a share of what the collateral counts, or a fixed sum: where the smaller of
        the two changes is a bound of the tokens' prices.
        """
        system, balance = market.system, account.balance
        if not balance.collateral or not system.knows(balance):
            return None
        value = system.value(balance)
        row = system.row(balance, system.mm_ppm + market.terms.buffer)
        share = value.weighted * market.terms.debt_ratio // PPM
        limit = account.debt_max * self._unit
        listed = [token for token in balance.collateral if token in system.assets]
        prices = {f"C:{token}": system.price(token) for token in listed}
        turn = {name: price * limit / share if share else 0.0 for name, price in prices.items()}
        weights, envelope, constant = dict(row.weights), dict(row.envelope), row.constant
        for name in prices:
            weight = weights.pop(name, 0.0)
            if share <= limit:
                weights[name] = weight * market.terms.debt_ratio / PPM
            if share:
                below = (0.0, turn[name]) if share <= limit else (turn[name], 1e300)
                envelope[name] = below
        constant += 0.0 if share <= limit else limit / WAD
        return Row(constant, weights, envelope)

    def assess(
        self,
        account: IndebtedAccount,
        market: CollateralMarkets,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        """Judge as the contract does; ``uses``: the token that pays most, ``takes``: what it costs.

        The equity is how far the nearest of the three conditions is away.
        """
        system, balance = market.system, account.balance
        known = system.knows(balance)
        held = balance.holdings if known else {}
        later_s = max(0, at_s - market.head.timestamp_s)
        value = system.value(balance._replace(holdings=held), later_s)
        left = self._left(account, market, value)
        due = known and bool(balance.collateral) and left < 0
        offers = {token: self._offer(account, market, value, token) for token in system.assets}
        best = max(offers, key=lambda token: offers[token][1] - offers[token][0])
        pay, worth = offers[best]
        return Assessment(
            account=account.account,
            liquidatable=due and pay >= self._unit,
            view=PriceView.CHAIN,
            equity_wad=left if balance.collateral else 0,
            requirement_wad=0,
            reward_wad=worth - pay if due else 0,
            bad_debt_wad=max(0, -value.settlement - value.full),
            feeds=tuple(dict.fromkeys(market.feeds[one] for one in held or market.feeds)),
            uses=(best,) if due else (),
            takes=(pay,) if due else (),
        )

    def _left(self, account: IndebtedAccount, market: CollateralMarkets, value: Value) -> int:
        """Return what is left until the first of three conditions; negative: it is there."""
        terms, debt = market.terms, -value.settlement  # below 0: none
        required = value.notional * (market.system.mm_ppm + terms.buffer) // PPM
        return min(
            value.exact - required,
            value.weighted * terms.debt_ratio // PPM - debt,
            (account.debt_max + 1) * self._unit - debt - 1,
        )

    def _offer(
        self, account: IndebtedAccount, market: CollateralMarkets, value: Value, token: str
    ) -> tuple[int, int]:
        """Return what can be paid for a token at most, and what is got for it; wads."""
        terms, asset = market.terms, market.system.assets[token]
        owed = max(0, -value.settlement, value.debt * market.system.im_ppm // PPM)
        part = owed * terms.part // PPM if owed > terms.dust * self._unit else owed
        pay = part * PPM // (PPM - terms.fee)
        worth = asset.value(account.balance.collateral.get(token, 0))
        most = worth * (PPM - asset.discount_ppm) // PPM
        pay = min(pay, most) // self._unit * self._unit
        return pay, pay * PPM // (PPM - asset.discount_ppm)

    # --- acting -------------------------------------------------------------------------------

    async def probe(self, wallet: str | None) -> Probe:
        """Say what the discounts are, and who has bought lately; raises TransientRpcError."""
        answers: list[Any] = [
            await self._vault.probe(reads.PAUSED),
            await self._vault.probe(reads.DECIMALS),
            await self._vault.probe(reads.GETTERS["CollateralManager"]),
        ]
        for answer in answers:
            if isinstance(answer, Probe):
                return answer
        paused, decimals, manager = answers
        if decimals != self._settings.decimals:
            return Probe(open=False, detail=f"the settlement token has {decimals} decimals")
        facts = {"buyers": await self._vault.liquidators(EVENTS.named["CollateralLiquidated"])}
        for token in self._settings.collateral:
            terms = await Contract(self._rpc, manager).probe(reads.TOKEN_CONFIG, token)
            if isinstance(terms, Probe):
                return terms
            facts[f"discount on {token}"] = f"{terms[2] / PPM:.2%}"
        said = "the vault is paused" if paused else "anyone may buy"
        return Probe(open=not paused, detail=said, facts=facts)

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Run the purchase on top of the newest block, after an approval if it needs one."""
        if not assessment.uses:
            return Refused("not_liquidatable", "there is nothing to buy")
        (token,) = assessment.uses
        try:
            return await self._buy(assessment, token, wallet, head)
        except (RpcError, ProtocolError) as error:
            return refusal(error, REASONS)

    async def _buy(
        self, assessment: Assessment, token: str, wallet: str, head: Head
    ) -> Simulated | Refused:
        wiring, batch = await self._reader.wiring(head), Reads(self._rpc, head)
        usdc, vault = wiring.settlement_token, self._vault.address
        batch.call("offer", vault, FOR_SALE, assessment.account, token)
        batch.call("wallet", usdc, reads.TOKENS_OF, wallet)
        batch.call("allowance", usdc, ALLOWANCE, wallet, vault)
        found = await batch.answers()
        flying = sum(assessment.in_flight.values())
        limit = min(self._settings.pay_usd_max * WAD, found["wallet"] * self._unit) - flying
        pay = min(found["offer"][0], limit // self._unit)
        if pay <= 0:
            return Refused("no_capital", "the wallet, or the limit, leaves nothing to pay with")
        buy = LIQUIDATE.data(assessment.account, token, pay, True)  # noqa: FBT003 - the ABI's
        calls = [Call(vault, buy)]
        if found["allowance"] < pay:
            calls.insert(0, Call(usdc, APPROVE.data(vault, found["wallet"])))
        done = await self._rpc.simulate_each(calls, wallet)
        for one in done:
            if not one.success:
                return reverted(one.output, REASONS)
        parts = self.gains(done[-1].logs, wallet)
        worth = parts.get(Gain.COLLATERAL, 0)
        jobs = [Job.PREPARE] * (len(calls) - 1) + [Job.COLLATERAL]
        steps = zip(jobs, calls, done, strict=True)
        first, *then = (Step(job, call, run.gas_used) for job, call, run in steps)
        selling = worth * self._settings.selling_cost_ppm // PPM
        taken = TakenOver(token, worth, pay * self._unit, selling)
        reward = sum(parts.values())
        return Simulated(
            first.call, first.gas, reward, 0, head, first.job, tuple(then), takes_over=taken
        )

    def gains(self, logs: Sequence[Log], wallet: str) -> Mapping[Gain, int]:
        """Return what was paid and what the tokens are worth at the venue's price."""
        found = {Gain.REPAID: 0, Gain.COLLATERAL: 0}
        for log in logs:
            name, fields = EVENTS.read(log)
            if name == "CollateralLiquidated" and fields["liquidator"] == wallet.lower():
                paid, worth = self._bought(fields)
                found[Gain.REPAID] -= paid
                found[Gain.COLLATERAL] += worth
        return {part: wad for part, wad in found.items() if wad}


def build(settings: Settings, rpc: Rpc, chain_id: int) -> PerpCurieCollateral:  # noqa: ARG001 - the loader's
    """Make the venue; the loader calls this."""
    return PerpCurieCollateral(settings, rpc)
