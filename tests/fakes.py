"""Hand-written fakes for what a test must be able to set: time, what was counted, what is sent."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from keeper.act.spending import Past
from keeper.batching import accounts_of
from keeper.coverage import Covered
from keeper.decide.agenda import HoldReason
from keeper.decide.economics import DataFee, Fee, Spend
from keeper.errors import RpcError, RpcFault
from keeper.facts import (
    AccountId,
    Attempt,
    Call,
    Head,
    Mined,
    NotSent,
    Plan,
    Receipt,
    Rejected,
    Settled,
    SignedTx,
    Step,
    Tick,
    TxKind,
    VenueId,
)
from keeper.ports import Rpc
from keeper.units import GWEI


class ManualClock:
    def __init__(self) -> None:
        self.now_ns = 5_000_000_000
        self.now_ms = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)
        self.now_ms += int(seconds * 1e3)


class CountingTelemetry:
    """Counts calls by (metric, *label values); ``totals`` adds up the amounts."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.totals: Counter[tuple[str, ...]] = Counter()
        self.gauges: dict[tuple[str, ...], float] = {}
        self.seconds: dict[tuple[str, ...], list[float]] = {}

    def count(self, metric: str, amount: float = 1.0, /, **labels: str) -> None:
        self.counts[metric, *labels.values()] += 1
        self.totals[metric, *labels.values()] += int(amount)

    def gauge(self, metric: str, value: float, /, **labels: str) -> None:
        self.gauges[metric, *labels.values()] = value

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        self.seconds.setdefault((metric, *labels.values()), []).append(seconds)


class ListedSource:
    """A price source that says what it was given and ends, so that a loop over it ends too."""

    name = "main"

    def __init__(self, ticks: Iterable[Tick | Rejected]) -> None:
        self._ticks = list(ticks)

    async def ticks(self) -> AsyncGenerator[Tick | Rejected]:
        for tick in self._ticks:
            yield tick

    async def check(self) -> str:
        return f"{len(self._ticks)} ticks"


class NoRpc:
    """A chain that must not be asked. Implements ``ports.Rpc``."""

    async def call(self, method: str, params: Sequence[object] = ()) -> NoReturn:
        raise AssertionError(method, params)

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> NoReturn:
        raise AssertionError(requests)

    async def simulate(self, call: Call, sender: str) -> NoReturn:
        raise AssertionError(call, sender)

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> NoReturn:
        raise AssertionError(calls, sender)


class ListedMemory:
    """What was noted, in a list. Implements ``ports.Memory`` and ``History``."""

    def __init__(self) -> None:
        self.full = False
        self._touched: dict[AccountId, int] = {}
        self.noted: list[tuple[list[Covered], set[AccountId], int | None]] = []

    async def cover(
        self,
        scope: str,
        ranges: Sequence[Covered],
        touched: Mapping[AccountId, int],
        *,
        everything: int | None = None,
        cut_from: int | None = None,
    ) -> bool:
        assert scope
        assert everything is None, "the finder's business"
        if self.full:
            return False
        self._touched.update(touched)
        self.noted.append((list(ranges), set(touched), cut_from))
        return True

    async def known(self, scope: str) -> list[AccountId]:
        return await self.touched_since(scope, -1)

    async def touched_since(self, scope: str, block: int) -> list[AccountId]:
        assert scope
        return [account for account, at in self._touched.items() if at > block]


class PlainBroadcaster:
    """Sends through a client, as if that were the only endpoint. Implements ``Broadcaster``."""

    def __init__(self, rpc: Rpc) -> None:
        self.trouble = ""
        self._rpc = rpc

    def due(self, attempt: Attempt, _head: Head) -> bool:
        return attempt.sent_ms is None

    async def send(self, attempt: Attempt, _head: Head) -> RpcError | None:
        raw = "0x" + attempt.transactions[-1].raw.hex()
        try:
            await self._rpc.call("eth_sendRawTransaction", [raw])
        except RpcError as error:
            return None if error.fault is RpcFault.ALREADY_KNOWN else error
        return None


class ScriptedBooks:
    """What a journal says was earned and spent. Implements ``tally.Books``."""

    def __init__(self) -> None:
        self.profits: dict[str, int] = {}
        self.settled: list[Past] = []

    async def profit_wei(self) -> Mapping[str, int]:
        return self.profits

    async def past(self, _since_ms: int) -> Sequence[Past]:
        return self.settled


class ScriptedLane:
    """A wallet that does what the test says. Implements ``ports.Submitter`` and ``Tracker``."""

    name = "main"

    def __init__(self, wallet: str | None) -> None:
        self.wallet = wallet
        self.fee: Fee | HoldReason = Fee(2 * GWEI, GWEI)
        self.data_fee: DataFee | None = DataFee()
        self.refuse: NotSent | None = None
        self.during_submit: Callable[[Attempt], None] = lambda _attempt: None
        self.mined: list[Mined] = []
        self.late: list[Attempt] = []
        self.stuck: list[Attempt] = []
        self.dearer: Fee | None = Fee(3 * GWEI, 2 * GWEI)
        self.can_cancel = True
        self.plans: list[Plan] = []
        self.replaced: list[tuple[Attempt, Plan, Fee]] = []
        self.cancelled: list[Attempt] = []
        self.topped_up: list[Head] = []
        self.cancel_wei_max: list[int] = []
        self.gaps: list[Plan] = []
        self.orphaned: list[Attempt] = []
        self.reopened_from: list[int] = []
        self.filled: list[Plan] = []
        self.closed: list[Settled] = []
        self.parked = ""
        self.sending_trouble = ""
        self.balance_wei = 10**18
        self.tick_to_sent_ms: list[float] = []
        self._open: dict[tuple[VenueId, AccountId], Attempt] = {}

    @property
    def lanes(self) -> "Sequence[ScriptedLane]":
        return [self] if self.wallet else []

    @property
    def own(self) -> "Sequence[ScriptedLane]":
        return self.lanes

    @property
    def address(self) -> str:
        assert self.wallet is not None
        return self.wallet

    @property
    def wallets(self) -> Sequence[str]:
        return [self.wallet] if self.wallet else []

    @property
    def trouble(self) -> str:
        return self.parked

    def wallets_of(self, _venue: VenueId) -> Sequence[str]:
        return self.wallets

    def wallet_for(self, _venue: VenueId) -> str | None:
        return None if self.parked else self.wallet

    @property
    def open_attempts(self) -> Sequence[Attempt]:
        return tuple(self._open.values())

    def is_ours(self, tx_hash: str) -> bool:
        return any(tx.hash == tx_hash for a in self.open_attempts for tx in a.transactions)

    def attempt_of(self, venue: VenueId, account: AccountId) -> Attempt | None:
        for (at, _), attempt in self._open.items():
            if at == venue and account in accounts_of(attempt.plan):
                return attempt
        return None

    def first_fee(self, _venue: VenueId, _head: Head, _spend: Spend) -> Fee | HoldReason:
        return self.fee

    async def data_fees(self, steps: Sequence[Step]) -> Sequence[DataFee] | None:
        return None if self.data_fee is None else [self.data_fee for _ in steps]

    async def submit(self, plan: Plan, _wallet: str, fee: Fee, head: Head) -> Attempt | NotSent:
        if self.wallet is None:
            return NotSent.NO_WALLET
        if self.refuse is not None:
            return self.refuse
        if (plan.venue, plan.account) in self._open:
            msg = f"account {plan.account} has an open attempt"
            raise ValueError(msg)
        self.plans.append(plan)
        attempt = self.resume(plan, fee, head)
        self.during_submit(attempt)
        return attempt

    def resume(self, plan: Plan, fee: Fee, head: Head) -> Attempt:
        """Have an attempt in flight, as a journal would say after a restart."""
        assert self.wallet is not None
        nonce = len(self.plans)
        tx_hash = f"0x{nonce:064x}"
        signed = SignedTx(
            tx_hash,
            b"",
            TxKind.FIRST,
            fee.max_fee_wei,
            fee.priority_fee_wei,
            0,
            head.number,
            plan.job,
        )
        attempt = Attempt(f"attempt{nonce}", plan, self.wallet, nonce, (signed,), 1, 2)
        self._open[plan.venue, plan.account] = attempt
        return attempt

    def mine(self, attempt: Attempt, receipt: Receipt | None, kind: TxKind | None) -> None:
        """Let the next poll find the nonce consumed; ``kind`` None: by nothing we signed."""
        signed = replace(attempt.transactions[-1], kind=kind) if kind else None
        self.mined.append(Mined(attempt, signed, receipt, attempt.plan.call.value_wei))

    async def reopen(self, first: int, _head: Head) -> Sequence[Attempt]:
        self.reopened_from.append(first)
        gone, self.orphaned = self.orphaned, []
        for attempt in gone:
            self._open[attempt.plan.venue, attempt.plan.account] = attempt
        return gone

    async def reappeared(self, _head: Head) -> Sequence[Attempt]:
        return ()

    async def poll(self, _head: Head) -> Sequence[Mined]:
        return [done for done in self.mined if done.attempt.id in self._ids()]

    def _ids(self) -> set[str]:
        return {attempt.id for attempt in self._open.values()}

    def overdue(self, _head: Head) -> Sequence[Attempt]:
        return [attempt for attempt in self.late if attempt.id in self._ids()]

    def is_stuck(self, attempt: Attempt, _head: Head) -> bool:
        return attempt in self.stuck

    def waiting(self, _head: Head) -> Sequence[Attempt]:
        return [attempt for attempt in self._open.values() if attempt not in self.late]

    def replacement_fee(self, _attempt: Attempt, _head: Head, _spend: Spend) -> Fee | None:
        return self.dearer

    async def replace(self, attempt: Attempt, plan: Plan, fee: Fee, _head: Head) -> None:
        self.replaced.append((attempt, plan, fee))

    async def fill_gaps(self, _head: Head, may: Callable[[Plan, Fee], bool]) -> None:
        assert isinstance(self.fee, Fee)
        fee = self.fee
        self.filled += [plan for plan in self.gaps if may(plan, fee)]

    async def cancel(self, attempt: Attempt, _head: Head, cost_wei_max: int) -> bool:
        self.cancel_wei_max.append(cost_wei_max)
        if self.can_cancel:
            self.cancelled.append(attempt)
        return self.can_cancel

    async def top_up(self, head: Head, _may: Callable[[Plan, Fee], bool]) -> None:
        self.topped_up.append(head)

    async def close(self, settled: Sequence[Settled]) -> None:
        self.closed += settled
        plan = settled[0].attempt.plan
        self._open.pop((plan.venue, plan.account), None)
