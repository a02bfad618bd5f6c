"""The contracts between the rooms: small Protocols, written from the core's needs."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from keeper.capabilities import Capabilities
from keeper.coverage import Covered
from keeper.decide.agenda import HoldReason
from keeper.decide.economics import DataFee, Fee, Spend
from keeper.errors import RpcError
from keeper.facts import (
    AccountId,
    AccountState,
    Assessment,
    Attempt,
    Call,
    ChainUpdate,
    Execution,
    FeedId,
    Head,
    Log,
    MarketState,
    Mined,
    NotSent,
    Plan,
    Price,
    Probe,
    Refused,
    Rejected,
    Settled,
    Simulated,
    Step,
    Tick,
    Touched,
    VenueId,
)
from keeper.jobs import Gain
from keeper.margin.rows import Row


class PriceSource(Protocol):
    """A stream of ticks. Reconnecting is its own business; it ends only when cancelled."""

    name: str

    def ticks(self) -> AsyncGenerator[Tick | Rejected | None]:
        """Yield what arrives, None now and then when nothing does: a sign of life.

        A slow consumer gets the newest of each feed.
        """
        ...

    async def check(self) -> str:
        """Connect once and say what answered; raises TransientError with the reason."""
        ...


class Board(Protocol):
    """One gated price per feed."""

    def affected(self, feed: FeedId) -> Sequence[FeedId]:
        """Return the feeds whose price moves with this one's, itself first."""
        ...

    def offer(self, tick: Tick) -> Sequence[Price | Rejected]:
        """Pass the tick through the gates: the prices after it, and why it does not count."""
        ...

    def fresh(self, feed: FeedId, now_ms: int) -> Price | None:
        """Return the feed's price unless there is none that has passed every gate."""
        ...

    def age_ms(self, feed: FeedId, now_ms: int) -> int | None:
        """Return the age of the last accepted price by its publisher; None: no price yet."""
        ...


class Rpc(Protocol):
    """JSON-RPC to one chain; fail-over, retries and error classification are behind it.

    Results are JSON, of eth_getLogs lists of Log. All raise RpcError (Transient… if it may pass).
    """

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        """Return the result of one request."""
        ...

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        """Return the results in order; an item that failed alone is an RpcError in its place."""
        ...

    async def simulate(self, call: Call, sender: str) -> Execution:
        """Run a call on the newest block: eth_simulateV1, else eth_call + eth_estimateGas."""
        ...

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        """Run calls one on the other on the newest block; UNSUPPORTED: no eth_simulateV1."""
        ...


MarketT = TypeVar("MarketT", bound=MarketState)
AccountT = TypeVar("AccountT", bound=AccountState)
MarketOut_co = TypeVar("MarketOut_co", bound=MarketState, covariant=True)
AccountOut_co = TypeVar("AccountOut_co", bound=AccountState, covariant=True)
MarketIn_contra = TypeVar("MarketIn_contra", bound=MarketState, contravariant=True)
AccountIn_contra = TypeVar("AccountIn_contra", bound=AccountState, contravariant=True)


class VenueReader(Protocol[MarketOut_co, AccountOut_co]):
    """How a venue's state is found and read."""

    def addresses(self) -> Sequence[str]:
        """Return the contracts whose logs matter, lower case."""
        ...

    def touched(self, log: Log) -> Touched:
        """Say what a log changed; a log that cannot be decoded touches everything."""
        ...

    async def read_market(self, head: Head) -> MarketOut_co:
        """Read parameters, on-chain prices and funding, whole, at the head's hash."""
        ...

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[AccountOut_co]:
        """Read these accounts whole at the head's hash, in the same order."""
        ...


class VenueRules(Protocol[MarketIn_contra, AccountIn_contra]):
    """A venue's arithmetic: pure, no I/O, no clock."""

    def price_factors(self, market: MarketIn_contra) -> Mapping[str, FeedId]:
        """Return the book's price factors and the feed each follows; more may come later."""
        ...

    def index_factors(self, market: MarketIn_contra) -> Sequence[str]:
        """Return the book's index factors (funding); more may come later."""
        ...

    def factors(self, market: MarketIn_contra, at_s: int) -> Mapping[str, float]:
        """Return the contract's own prices and indices at chain time ``at_s``."""
        ...

    def indices(
        self, market: MarketIn_contra, at_s: int, prices: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return the indices that other prices than the contract's own would change.

        ``prices``: some price factors, at values the sources give. A venue whose indices accrue at
        the stored price returns nothing.
        """
        ...

    def compile(
        self, account: AccountIn_contra, market: MarketIn_contra, values: Mapping[str, float]
    ) -> Row | None:
        """Compile an account to a book row that is exact at these factor values.

        A factor without a value is taken from the market. None: nothing to liquidate in it.
        """
        ...

    def assess(
        self,
        account: AccountIn_contra,
        market: MarketIn_contra,
        prices: Mapping[FeedId, Price],
        at_s: int,
    ) -> Assessment:
        """Repeat the venue's arithmetic, at the contract's and at the newest signed price."""
        ...


class VenueActions(Protocol):
    """What can be done at a venue."""

    async def probe(self, wallet: str | None) -> Probe:
        """Ask the chain whether this wallet may liquidate here; raises TransientError."""
        ...

    async def simulate(
        self, assessment: Assessment, wallet: str, head: Head
    ) -> Simulated | Refused:
        """Ask the chain what the liquidation would do from ``wallet`` on top of the head."""
        ...


class Venue(VenueReader[MarketT, AccountT], VenueRules[MarketT, AccountT], VenueActions, Protocol):
    """One protocol on one chain: a reader, its rules, its actions."""

    id: VenueId
    capabilities: Capabilities


AnyVenue = Venue[Any, Any]


@runtime_checkable
class Accounting(Protocol):
    """A venue where a job leaves us with more than a reward in cash: positions, tokens."""

    def gains(self, logs: Sequence[Log], wallet: str) -> Mapping[Gain, int]:
        """Return what the logs of one transaction left a wallet with, by part, USD wads.

        Their sum is what changed of its assets at the venue; a position counts at what it cost.
        """
        ...


class Chain(Protocol):
    """The head of the chain and what was logged since the last one."""

    announced: bool  # the last look at the head was for a websocket's sake, not a poll's

    async def start(self) -> Head:
        """Return the head to follow from."""
        ...

    def updates(self) -> AsyncGenerator[ChainUpdate | None]:
        """Yield what follows, None when nothing did; raises TransientError, then go on calling."""
        ...


class Memory(Protocol):
    """What survives a restart of what was found in the logs."""

    async def cover(
        self,
        scope: str,
        ranges: Sequence[Covered],
        touched: Mapping[AccountId, int],
        *,
        everything: int | None = None,
        cut_from: int | None = None,
    ) -> bool:
        """Note ranges whose logs have been read and the newest block that touched each account.

        ``everything``: a block that touched all. ``cut_from``: the first block that a reorg
        replaced; what was read from there on is forgotten first. Returns whether it was written.
        """
        ...


class History(Protocol):
    """What a restart learns of the blocks that were read before."""

    async def known(self, scope: str) -> list[AccountId]:
        """Return the accounts found in what has been read."""
        ...

    async def touched_since(self, scope: str, block: int) -> list[AccountId]:
        """Return the accounts that were touched after a block: all, if something touched all."""
        ...


class Submitter(Protocol):
    """Turns plans into attempts; the only owner of its wallets' nonces."""

    @property
    def wallets(self) -> Sequence[str]:
        """Return the addresses that pay and are paid; none in a dry run."""
        ...

    def wallets_of(self, venue: VenueId) -> Sequence[str]:
        """Return the addresses that may act at a venue."""
        ...

    def wallet_for(self, venue: VenueId) -> str | None:
        """Return the wallet that is to send next at a venue; None when all are parked."""
        ...

    @property
    def open_attempts(self) -> Sequence[Attempt]:
        """Return what is in flight."""
        ...

    def is_ours(self, tx_hash: str) -> bool:
        """Say whether we signed a transaction lately: some venues do not log who liquidated."""
        ...

    def attempt_of(self, venue: VenueId, account: AccountId) -> Attempt | None:
        """Return the account's open attempt."""
        ...

    def first_fee(self, venue: VenueId, head: Head, spend: Spend) -> Fee | HoldReason:
        """Return the fee of a first try, or why there is none."""
        ...

    async def data_fees(self, steps: Sequence[Step]) -> Sequence[DataFee] | None:
        """Return what each costs on a rollup beside its execution; None when it is not known."""
        ...

    async def submit(self, plan: Plan, wallet: str, fee: Fee, head: Head) -> Attempt | NotSent:
        """Open an attempt from a wallet: nonce, signature, journal, broadcast."""
        ...


class Broadcaster(Protocol):
    """Gives signed transactions to the chain, whichever endpoints that takes."""

    @property
    def trouble(self) -> str:
        """Say why nothing can be sent now; "" while something can."""
        ...

    def due(self, attempt: Attempt, head: Head) -> bool:
        """Say whether the newest transaction of an attempt has to be sent again at this head."""
        ...

    async def send(self, attempt: Attempt, head: Head) -> RpcError | None:
        """Send its newest transaction; None once accepted, else the refusal that is least sure."""
        ...


class Tracker(Protocol):
    """Follows attempts to their end."""

    @property
    def open_attempts(self) -> Sequence[Attempt]:
        """Return what is in flight."""
        ...

    async def reopen(self, first: int, head: Head) -> Sequence[Attempt]:
        """Return what was settled by a block from ``first`` on that is gone: in flight again."""
        ...

    async def reappeared(self, head: Head) -> Sequence[Attempt]:
        """Return what was given up lately and is on the chain after all: in flight again."""
        ...

    async def poll(self, head: Head) -> Sequence[Mined]:
        """Return the attempts whose nonce is consumed deep enough."""
        ...

    def overdue(self, head: Head) -> Sequence[Attempt]:
        """Return the attempts whose newest transaction has waited too long, by nonce."""
        ...

    def is_stuck(self, attempt: Attempt, head: Head) -> bool:
        """Say whether an attempt was to be replaced long ago, and holds up all behind it."""
        ...

    def waiting(self, head: Head) -> Sequence[Attempt]:
        """Return the attempts in flight that are neither overdue nor being cancelled, by nonce."""
        ...

    def replacement_fee(self, attempt: Attempt, head: Head, spend: Spend) -> Fee | None:
        """Return a fee that replaces what is in flight; None when it would cost too much."""
        ...

    async def replace(self, attempt: Attempt, plan: Plan, fee: Fee, head: Head) -> None:
        """Send a dearer transaction at the attempt's nonce; raises TransientError."""
        ...

    async def cancel(self, attempt: Attempt, head: Head, cost_wei_max: int) -> bool:
        """Take the nonce with a transfer of nothing; False: too dear. Raises TransientError."""
        ...

    async def fill_gaps(self, head: Head, may: Callable[[Plan, Fee], bool]) -> None:
        """Use up the nonces that all later ones wait for; ``may`` says which of it is paid for."""
        ...

    async def top_up(self, head: Head, may: Callable[[Plan, Fee], bool]) -> None:
        """Send wallets that are low what they pay gas with; raises TransientError."""
        ...

    async def close(self, settled: Sequence[Settled]) -> None:
        """Write the end of an attempt, for each of its accounts, and forget it."""
        ...


class Clock(Protocol):
    """Wall and monotonic time; chain time comes with each head."""

    def wall_ms(self) -> int:
        """Return milliseconds since the epoch."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never jumps."""
        ...


class Telemetry(Protocol):
    """Counters, gauges and histograms by name; the closed set is in ``observe/metrics.py``."""

    def count(self, metric: str, amount: float = 1.0, /, **labels: str) -> None:
        """Add to a counter."""
        ...

    def gauge(self, metric: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        """Put a duration into a histogram."""
        ...
