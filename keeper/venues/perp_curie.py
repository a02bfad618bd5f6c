"""Perp v2 "Curie": cross margin in several tokens, pools of Uniswap v3, positions taken over.

Anyone may liquidate, with margin of its own: it is handed the position at the mark price less a
discount (half of a penalty, all of it from an account in bad debt), and has to get out of it again
in the pool. Between half of the maintenance margin and all of it at most half of an account's
notional is handed over. While a maker has orders they are cancelled first, which anyone may do.

Accounts are addresses, markets go by their base tokens. The oracle pushes its price; positions are
valued at a mark that lags behind it (``_perp_curie_math.py``), so a feed's new price shows where
the mark would go if the oracle took it over. What is asked of the contracts is in
``_perp_curie_reads.py``, our own margin and positions are in ``_perp_curie_inventory.py``.

An account in a market that ``feeds`` does not name is not judged. Collateral that is not named
counts for nothing: its owner is called under too early, and the simulation decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

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
    Touched,
    VenueId,
)
from keeper.jobs import Gain, Job
from keeper.margin.rows import Row
from keeper.margin.solvency import Exposure
from keeper.ports import Rpc
from keeper.units import PPM, mul_wad
from keeper.venues import _perp_curie_reads as reads
from keeper.venues._abi import Contract, Function, refusal, reverted
from keeper.venues._perp_curie_inventory import (
    FOREVER_S,
    REASONS,
    Own,
    Policy,
    Room,
    add_margin,
    close,
    close_now,
    due,
    find_room,
    gains,
    taken_over,
)
from keeper.venues._perp_curie_markets import ADDRESS, CurieMarkets
from keeper.venues._perp_curie_math import AsRead, Balance
from keeper.venues._perp_curie_reads import EVENTS, CurieReader

LIQUIDATE = Function("liquidate(address,address)", "")
LIQUIDATE_PART = Function("liquidate(address,address,int256)", "")
CANCEL_ORDERS = Function("cancelAllExcessOrders(address,address)", "")


class Settings(Policy):
    """The ``[[venues]]`` table with ``kind = "perp_curie"``."""

    id: str = Field(description="Name of the venue in logs, metrics and topics")
    address: str = Field(description="The ClearingHouse", pattern=ADDRESS)
    vault: str = Field(description="The Vault, which holds the margin", pattern=ADDRESS)
    feeds: dict[str, FeedId] = Field(description="Base token of each market → keeper feed")
    collateral: tuple[str, ...] = Field(
        default=(), description="Tokens beside the settlement token that count as margin"
    )


@dataclass(frozen=True)
class CurieAccount(AccountState):
    """One account whole. ``own``: it is ours; None: it is not. ``is_due``: for its upkeep."""

    balance: Balance
    own: Own | None = None
    is_due: bool = False

    @property
    def due_until_s(self) -> int | None:
        """Return a time that never comes as long as our own account needs a look."""
        return FOREVER_S if self.is_due else None


class PerpCurie:
    """One clearing house. Implements ``ports.Venue``."""

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
        self._feeds = {base.lower(): feed for base, feed in settings.feeds.items()}
        self._house = Contract(rpc, settings.address)
        self._vault = settings.vault.lower()
        tokens = [token.lower() for token in settings.collateral]
        self._reader = CurieReader(rpc, self._house.address, list(self._feeds), tokens)
        self._policy: Policy = settings
        self._ours: set[AccountId] = set()  # the wallets that probes were asked for

    # --- reading ------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Return the clearing house and the vault."""
        return (self._house.address, self._vault)

    def touched(self, log: Log) -> Touched:
        """Say what a log changed; a trade also changes what the makers of its pool have."""
        name, fields = EVENTS.read(log)
        if name == "ReferredPositionChanged":
            return Touched()
        if not name:
            self._reader.forget()
            return Touched(everything=True)
        account = AccountId(fields["trader"])
        seen: tuple[LiquidationSeen, ...] = ()
        if name == "PositionLiquidated":
            # half of the penalty; from bad debt it is all, which this log does not tell
            by, reward = fields["liquidator"], fields["liquidationFee"] // 2
            seen = (LiquidationSeen(account, by, log.tx_hash, log.block_number, reward),)
        makers = map(AccountId, self._reader.makers(fields.get("baseToken", "")))
        return Touched(frozenset({account, *makers}), liquidations=seen)

    async def read_market(self, head: Head) -> CurieMarkets:
        """Read prices, pools, funding and parameters at the head's hash.

        Raises RpcError; ProtocolError for another contract's answer.
        """
        system = await self._reader.system(head)
        return CurieMarkets(head, system, self._feeds, tuple(sorted(self._ours)))

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[CurieAccount]:
        """Read these accounts at the head's hash, in order; raises as ``read_market``."""
        if not accounts:
            return []
        balances = await self._reader.balances(accounts, head)
        ours = [account for account in accounts if account in self._ours]
        wallets = await self._reader.wallets(ours, head) if ours else {}
        return [
            self._state(account, head, balance, wallets.get(account))
            for account, balance in zip(accounts, balances, strict=True)
        ]

    def _state(
        self, account: AccountId, head: Head, balance: Balance, wallet: int | None
    ) -> CurieAccount:
        if wallet is None:
            return CurieAccount(account, head, balance)
        own = Own(AsRead(wallet))
        return CurieAccount(account, head, balance, own, own.is_due(balance, self._policy))

    # --- rules --------------------------------------------------------------------------------

    def price_factors(self, market: CurieMarkets) -> Mapping[str, FeedId]:
        """Return base tokens → keeper feeds; the factor is the oracle's price of each."""
        return market.feeds

    def index_factors(self, market: CurieMarkets) -> Sequence[str]:
        """Return marks, funding, pool prices and prices of collateral."""
        return list(market.system.factors(0))

    def factors(self, market: CurieMarkets, at_s: int) -> Mapping[str, float]:
        """Return the oracle's prices and what follows from the chain at this time."""
        return market.factors(at_s)

    def indices(
        self, market: CurieMarkets, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return the marks as they would be if the oracle said so."""
        return market.indices(prices)

    def compile(
        self, account: CurieAccount, market: CurieMarkets, values: Mapping[str, float]
    ) -> Row | None:
        """Compile an account to a row; none without positions, if it is ours or not judged."""
        balance, system = account.balance, market.system
        if account.own is not None or not balance.holdings or not system.knows(balance):
            return None
        return system.row(balance, system.mm_ppm)

    def assess(
        self,
        account: CurieAccount,
        market: CurieMarkets,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        """Judge as the contract does, and name the market in which most can be liquidated.

        ``uses``: that market, then every market whose orders must be cancelled first; ``takes``:
        the size that is handed over.
        """
        system, balance = market.system, account.balance
        if not system.knows(balance):
            return _verdict(account.account)
        if account.own is not None:
            step = due(account.own, balance, system, self._policy, at_s)
            bases = (step.close,) if step.close else ()
            acting = bool(bases) or step.margin
            return _verdict(account.account, acting=acting, uses=bases, until_s=step.until_s)
        value = system.value(balance, max(0, at_s - market.head.timestamp_s))
        worth = {
            base: abs(mul_wad(system.liquidatable(value, base), one.mark))
            for base, one in system.markets.items()
            if one.is_open and base in balance.holdings
        }
        best = max(worth, key=lambda base: worth[base], default="")
        size = system.liquidatable(value, best) if best else 0
        ordered = [base for base in worth if balance.holdings[base].orders]
        return Assessment(
            account=account.account,
            liquidatable=size != 0,
            view=PriceView.CHAIN,
            equity_wad=system.account_value(value),
            requirement_wad=system.requirement(value),
            reward_wad=system.discount(value, size, best) if size else 0,
            bad_debt_wad=max(0, -value.settlement - value.full),
            feeds=tuple(dict.fromkeys(market.feeds[base] for base in balance.holdings)),
            uses=(best, *ordered) if size else (),
            takes=(size,) if size else (),
        )

    # --- at other prices ----------------------------------------------------------------------

    def markets(self, market: CurieMarkets) -> Mapping[str, FeedId]:
        """Return base tokens and feeds."""
        return market.feeds

    def prices(self, market: CurieMarkets) -> Mapping[FeedId, int]:
        """Return the oracle's prices, and those of collateral by token."""
        return market.prices()

    def valued_at(
        self, market: CurieMarkets, prices: Mapping[FeedId, int], at_s: int
    ) -> Callable[[CurieAccount], Exposure | None]:
        """Return how an account stands once pools and averages, which lag, are at these prices.

        Our own is never liquidated by us.
        """
        moved, later_s = market.at_prices(prices), max(0, at_s - market.head.timestamp_s)

        def exposure(account: CurieAccount) -> Exposure | None:
            return moved.exposure(account.balance, later_s, ours=account.own is not None)

        return exposure

    # --- acting -------------------------------------------------------------------------------

    async def probe(self, wallet: str | None) -> Probe:
        """Say what is paid and asked for, and who has liquidated lately.

        From then on the wallet's own account there is looked after. Raises TransientRpcError.
        """
        if wallet:
            self._ours.add(AccountId(wallet.lower()))
        answers: list[Any] = [
            await self._house.probe(reads.GETTERS["Vault"]),
            await self._house.probe(reads.GETTERS["ClearingHouseConfig"]),
            await self._house.probe(reads.PAUSED),
        ]
        for answer in answers:
            if isinstance(answer, Probe):
                return answer
        vault, config, paused = answers
        if vault != self._vault:
            return Probe(open=False, detail=f"its vault is {vault}, not {self._vault}: mend vault")
        penalty = await Contract(self._rpc, config).probe(reads.PENALTY)
        if isinstance(penalty, Probe):
            return penalty
        facts = {
            "reward": f"a discount of {penalty / 2 / PPM:.2%} of what is taken over",
            "liquidators": await self._house.liquidators(EVENTS.named["PositionLiquidated"]),
        }
        if wallet:
            margin = await Contract(self._rpc, vault).probe(reads.MARGIN, wallet)
            facts["our free margin"] = f"{margin} units of the settlement token"
        said = "the protocol is paused" if paused else "anyone with margin may liquidate"
        return Probe(open=not paused, detail=said, facts=facts)

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Run every step on top of the newest block: of a liquidation, or for our own account."""
        try:
            if assessment.account in self._ours:
                return await self._upkeep(assessment, wallet, head)
            if assessment.uses:
                return await self._take_over(assessment, wallet, head)
        except (RpcError, ProtocolError) as error:
            return refusal(error, REASONS)
        return Refused("not_liquidatable", "there is nothing to take over")

    async def _take_over(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Simulate a liquidation, cut to what margin and limits allow, and getting out again."""
        base, *ordered = assessment.uses
        wiring = await self._reader.wiring(head)
        room = await find_room(self._rpc, wiring, wallet, list(self._feeds), head)
        taking = self._liquidation(assessment, room, base)
        if taking is None:
            return Refused("no_capital", "no free margin, or the exposure limit is reached")
        house = self._house.address
        cancels = [Call(house, CANCEL_ORDERS.data(assessment.account, one)) for one in ordered]
        calls = [*cancels, taking, Call(house, close(base))]
        done = await self._rpc.simulate_each(calls, wallet)
        for one in done:
            if not one.success:
                return reverted(one.output, REASONS)
        taken = taken_over(done[-2].logs, done[-1].logs, wallet, base, room)
        if isinstance(taken, Refused):
            return taken
        reward, position = taken
        jobs = [Job.PREPARE] * len(cancels) + [Job.LIQUIDATE, Job.FLATTEN]
        steps = zip(jobs, calls, done, strict=True)
        first, *then = (Step(job, call, run.gas_used) for job, call, run in steps)
        return Simulated(
            first.call, first.gas, reward, 0, head, first.job, tuple(then), takes_over=position
        )

    async def _upkeep(self, assessment: Assessment, wallet: str, head: Head) -> Simulated | Refused:
        """Simulate what our own account needs; a closing waits for what is on its way there."""
        if wallet.lower() != assessment.account:
            return Refused("unknown", f"the account of another wallet than {wallet}")
        if any(base in assessment.in_flight for base in assessment.uses):
            return Refused("no_progress", "more is being taken over in this market")
        wiring = await self._reader.wiring(head)
        if not assessment.uses:
            return await add_margin(self._rpc, wiring, wallet, self._policy, head)
        (base,) = assessment.uses
        return await close_now(self._rpc, wiring, wallet, base, self._policy, head)

    def gains(self, logs: Sequence[Log], wallet: str) -> Mapping[Gain, int]:
        """Return what a transaction left us with: see ``Gain``."""
        return gains(logs, wallet)

    def _liquidation(self, assessment: Assessment, room: Room, base: str) -> Call | None:
        """Return the call that takes over as much as there is room for; None: there is none."""
        (size,) = assessment.takes
        notional = room.notional_max(base, self._policy, assessment.in_flight)
        whole = abs(mul_wad(size, room.marks[base]))
        if notional >= whole:
            return Call(self._house.address, LIQUIDATE.data(assessment.account, base))
        part = size * notional // whole if notional > 0 else 0
        if not part:
            return None
        return Call(self._house.address, LIQUIDATE_PART.data(assessment.account, base, part))


def _verdict(
    account: AccountId,
    *,
    acting: bool = False,
    uses: tuple[str, ...] = (),
    until_s: int | None = None,
) -> Assessment:
    """Return the verdict on an account that is ours, or cannot be judged."""
    return Assessment(account, acting, PriceView.CHAIN, 0, 0, 0, 0, (), uses=uses, until_s=until_s)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> PerpCurie:  # noqa: ARG001 - the loader's
    """Make the venue; the loader calls this."""
    return PerpCurie(settings, rpc)
