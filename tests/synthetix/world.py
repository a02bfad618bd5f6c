"""Accounts, trades, prices and readings on a deployed market, for a test or a keeper's run.

    world = World(deploy(node, Setup(oracle="pull")))
    world.create({11: 10_000 * WAD})
    world.trade([Order(11, 100, 40 * WAD)])
    world.set_prices({100: 1_780 * WAD})
    world.survey([11]).accounts[11].can_liquidate

Dev account 0 owns the market, 1 publishes prices, 2 trades for every account, 3 settles orders;
the others are free. Every role sends its transactions one after another, many calls in each.
On a node with its own clock set ``world.chain.prompt = False`` once a run has begun.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from keeper.units import WAD
from tests.synthetix.chain import Contract, Event, RevertedError
from tests.synthetix.deploy import NOBODY, USD, System, signed_update

BUNDLE_CALLS_MAX = 18  # settling an order takes up to 0.9 M gas, a block has 30 M
BUNDLE_GAS = 25_000_000
SURVEY_CALLS_MAX = 400
SURVEY_GAS = 200_000_000  # eth_call is not bound by the block's limit
PRICE_SLACK = 2


@dataclass(frozen=True, slots=True)
class Order:
    """A change of one account's position; size in wads, signed.

    It is settled at ``limit`` or better, in wads; by default twice the price or half of it.
    """

    account: int
    market: int
    size: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a bundle."""

    contract: Contract
    name: str
    arguments: tuple[object, ...] = ()
    value_wei: int = 0

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.contract.interface.encode(self.name, *self.arguments)[2:])

    def parts(self, *, required: bool) -> tuple[str, bool, int, bytes]:
        """Return the call as the forwarder takes it."""
        return self.contract.address, required, self.value_wei, self.data


@dataclass(frozen=True, slots=True)
class Refused:
    """A view's revert, by the name of its error."""

    error: str


@dataclass(frozen=True, slots=True)
class AccountReading:
    """What the contract says of one account; amounts of USD in wads.

    ``initial`` and ``maintenance`` include ``reward``. Under a price that is too old the views
    revert: then they are Refused.
    """

    can_liquidate: bool | Refused
    can_liquidate_margin_only: bool | Refused
    available_margin: int | Refused
    initial: int | Refused
    maintenance: int | Refused
    reward: int | Refused
    collateral: int
    sizes: Mapping[int, int]  # by market; open positions only
    flagged: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """Size that may still be liquidated in a market's window, and of how much at most."""

    now: int
    window: int
    last_s: int  # chain time of the last liquidation, 0 for none


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything read at one block."""

    block: int
    block_hash: str
    timestamp_s: int
    flagged: frozenset[int]
    capacity: Mapping[int, Capacity]
    accounts: Mapping[int, AccountReading]


@dataclass
class World:
    """The roles around one deployed market."""

    system: System
    prices: dict[int, int] = field(default_factory=dict)  # newest, published or not; wads

    def __post_init__(self) -> None:
        self.prices = {it.id: it.price for it in self.system.setup.markets} | self.prices
        self.chain = self.system.chain
        self.perps = self.system.perps
        self.owner, self.publisher, self.trader, self.settler = self.chain.dev[:4]

    # --- accounts and trades ----------------------------------------------------------------------

    def create(self, margins: Mapping[int, int]) -> None:
        """Create accounts, each with its margin of USD; no margin for 0."""
        self.bundle((Call(self.perps, "createAccount", (it,)) for it in margins), self.trader)
        self.deposit({account: usd for account, usd in margins.items() if usd})

    def deposit(self, margins: Mapping[int, int]) -> None:
        """Add new USD to the margin of accounts, or take it out where negative."""
        added = sum(amount for amount in margins.values() if amount > 0)
        self.system.usd.send("mint", self.trader, added)
        calls = (Call(self.perps, "modifyCollateral", (it, USD, v)) for it, v in margins.items())
        self.bundle(calls, self.trader)

    def trade(self, orders: Iterable[Order]) -> list[Event]:
        """Commit and settle at the newest prices, publishing them; return what was settled.

        An account has one order at a time, so its second order waits for the first.
        """
        left, settled = list(orders), list[Event]()
        while left:
            now: dict[int, Order] = {}
            for order in left:
                now.setdefault(order.account, order)
            left = [order for order in left if now[order.account] is not order]
            self.publish()
            self.commit(now.values())
            self.chain.pass_time(self.system.setup.settlement_delay_s)
            self.publish()
            settled += self.settle(now)
        return settled

    def commit(self, orders: Iterable[Order], *, required: bool = True) -> None:
        """Commit orders at the newest prices; one open order for an account.

        What is not required may be refused, as for an account that may be liquidated by now.
        """

        def request(order: Order) -> tuple[object, ...]:
            price = self.prices[order.market]
            limit = price * PRICE_SLACK if order.size > 0 else price // PRICE_SLACK
            limit = limit if order.limit is None else order.limit
            return order.market, order.account, order.size, 0, limit, bytes(32), NOBODY

        calls = (Call(self.perps, "commitOrder", (request(order),)) for order in orders)
        self.bundle(calls, self.trader, required=required)

    def settle(
        self,
        accounts: Iterable[int],
        *,
        prices: Mapping[int, int] | None = None,
        required: bool = True,
    ) -> list[Event]:
        """Settle open orders at the newest prices or at those given; return OrderSettled events."""
        feeds = self.system.markets
        calls = [
            Call(self.system.benchmark, "set", (feeds[market].feed, price))
            for market, price in (self.prices | dict(prices or {})).items()
        ]
        calls += [Call(self.perps, "settleOrder", (account,)) for account in accounts]
        receipts = self.bundle(calls, self.settler, required=required)
        events = [event for receipt in receipts for event in self.perps.events(receipt)]
        return [event for event in events if event.name == "OrderSettled"]

    # --- prices -----------------------------------------------------------------------------------

    def set_prices(self, prices: Mapping[int, int], *, publish: bool = True) -> None:
        """Take new prices (wads) and put them on chain; unpublished they are known off chain."""
        self.prices.update(prices)
        if publish:
            self.publish()

    def publish(self) -> None:
        """Put the newest prices on chain, as of now."""
        if self.system.pyth is None:
            answers = self.system.aggregators.items()
            calls = [Call(feed, "setAnswer", (self.prices[it],)) for it, feed in answers]
            self.bundle(calls, self.publisher)
            return
        updates = self.updates()
        fee_wei = self.system.setup.update_fee_wei * len(updates)
        self.system.pyth.send("updatePriceFeeds", updates, sender=self.publisher, value_wei=fee_wei)

    def updates(self, published_s: int | None = None) -> list[bytes]:
        """Return signed updates of the newest prices, one a market, for the Pyth contract.

        It takes none that is not later than what it has. Without a time they are as of the head,
        or a second after what the contract has when that is later: a little ahead of the chain.
        """
        if published_s is None:
            published_s = max(self.chain.now_s(), self.published_s() + 1)
        feeds = self.system.markets
        return [
            signed_update(feeds[market].feed, price, published_s)
            for market, price in self.prices.items()
        ]

    def published_s(self) -> int:
        """Return the latest publish time of the prices on chain; 0 where prices are pushed."""
        if self.system.pyth is None:
            return 0
        feeds = [market.feed for market in self.system.setup.markets]
        quotes = [self.system.pyth.call("getPriceUnsafe", feed) for feed in feeds]
        return max(int(quote["publishTime"]) for quote in quotes)

    # --- many calls at once -----------------------------------------------------------------------

    def bundle(
        self, calls: Iterable[Call], sender: str, *, required: bool = True
    ) -> list[dict[str, Any]]:
        """Send calls through the forwarder, as from the sender; return the receipts.

        Raises RevertedError when one of the required calls is refused.
        """
        receipts = []
        for part in _chunks(calls, BUNDLE_CALLS_MAX):
            sent = self.begin(part, sender, required=required)
            receipts.append(self._finish(sent, part))
        return receipts

    def begin(self, calls: Sequence[Call], sender: str, *, required: bool = True) -> str:
        """Send one transaction with these calls without waiting for it; return its hash."""
        value_wei = sum(call.value_wei for call in calls)
        made = [call.parts(required=required) for call in calls]
        return self.system.forwarder.begin(
            "aggregate3Value", made, sender=sender, value_wei=value_wei, gas=BUNDLE_GAS
        )

    def _finish(self, sent: str, calls: Sequence[Call]) -> dict[str, Any]:
        receipt = self.chain.receipts([sent])[0]
        if receipt["status"] != "0x1":
            data = self.chain.revert_data(sent)
            raise calls[-1].contract.interface.refusal(data)  # errors of the rest are its own too
        return receipt

    def view(
        self, calls: Sequence[Call], block: int, *, applying: Sequence[bytes] = ()
    ) -> list[Any]:
        """Return what views answer at a block, or Refused; after price updates where given.

        The updates are applied in the call only, nothing of them stays.
        """
        first = []
        if self.system.pyth is not None and applying:
            fee_wei = self.system.setup.update_fee_wei * len(applying)
            first = [Call(self.system.pyth, "updatePriceFeeds", (list(applying),), fee_wei)]
        answers = []
        for part in _chunks(calls, SURVEY_CALLS_MAX):
            made = [call.parts(required=False) for call in (*first, *part)]
            message = {
                "from": self.publisher,
                "to": self.system.forwarder.address,
                "data": self.system.forwarder.interface.encode("aggregate3Value", made),
                "value": hex(sum(call.value_wei for call in first)),
                "gas": hex(SURVEY_GAS),
            }
            raw = self.chain.node.rpc("eth_call", message, hex(block))
            decoded = self.system.forwarder.interface.decode(
                "aggregate3Value", bytes.fromhex(raw[2:])
            )
            answers += [
                _answer(call, result)
                for call, result in zip(part, decoded[len(first) :], strict=True)
            ]
        return answers

    # --- readings ---------------------------------------------------------------------------------

    def survey(
        self,
        accounts: Sequence[int],
        block: int | None = None,
        *,
        applying: Sequence[bytes] = (),
    ) -> Survey:
        """Read accounts and the market at one block (the head), after price updates if given."""
        header = self.chain.head("latest" if block is None else block)
        number = int(header["number"], 16)
        markets = list(self.prices)
        common = [Call(self.perps, "flaggedAccounts")]
        common += [Call(self.perps, "liquidationCapacity", (market,)) for market in markets]
        each = [call for account in accounts for call in self._questions(account, markets)]
        answers = self.view([*common, *each], number, applying=applying)
        flagged = frozenset(answers[0])
        step = len(each) // len(accounts) if accounts else 0
        starts = range(len(common), len(answers), step or 1)
        return Survey(
            number,
            header["hash"],
            int(header["timestamp"], 16),
            flagged,
            {it: Capacity(*answers[1 + i]) for i, it in enumerate(markets)},
            {
                account: _reading(answers[start : start + step], markets, account in flagged)
                for account, start in zip(accounts, starts, strict=True)
            },
        )

    def _questions(self, account: int, markets: Iterable[int]) -> list[Call]:
        names = (
            "canLiquidate",
            "canLiquidateMarginOnly",
            "getAvailableMargin",
            "getRequiredMargins",
        )
        calls = [Call(self.perps, name, (account,)) for name in names]
        calls.append(Call(self.perps, "getCollateralAmount", (account, USD)))
        sizes = ((account, market) for market in markets)
        return [*calls, *(Call(self.perps, "getOpenPositionSize", pair) for pair in sizes)]

    def events(self, first: int, last: int | None = None) -> list[Event]:
        """Return the market's events of a range of blocks, to the head by default."""
        return self.perps.logs(first, self.chain.number() if last is None else last)


def _answer(call: Call, result: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any ABI value
    if result["success"]:
        return call.contract.interface.decode(call.name, result["returnData"])
    refusal: RevertedError = call.contract.interface.refusal(result["returnData"].hex())
    return Refused(refusal.name)


def _reading(answers: Sequence[Any], markets: Sequence[int], flagged: bool) -> AccountReading:  # noqa: FBT001 - a fact
    can, margin_only, available, required, collateral, *sizes = answers
    initial, maintenance, reward = required if isinstance(required, tuple) else (required,) * 3
    held = {market: size for market, size in zip(markets, sizes, strict=True) if size}
    return AccountReading(
        can, margin_only, available, initial, maintenance, reward, collateral, held, flagged
    )


def _chunks(calls: Iterable[Call], size: int) -> Iterator[list[Call]]:
    rest = iter(calls)
    take: Callable[[], list[Call]] = lambda: list(islice(rest, size))  # noqa: E731 - for iter()
    return iter(take, [])


def usd(amount: float) -> int:
    """Return an amount of USD or of an asset in wads."""
    return round(amount * 10**6) * (WAD // 10**6)
