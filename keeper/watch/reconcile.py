"""The book against the chain, always: a slice of accounts is read again and compared.

Events may be lost where nobody sees it (a provider that drops logs, an adapter that misreads one).
So with the heads some accounts are read although nothing touched them: half of a slice are those
nearest to liquidation, the other half goes round all of them. What differs is corrected, counted by
field and logged with both values. A venue that drifts beyond the limit, or whose implementation
behind a proxy has changed, is *suspect*: its candidates are read again before they are acted on.
"""

import dataclasses
import typing
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from keeper.facts import AccountId, AccountState, Head, VenueId
from keeper.ports import AnyVenue, Clock, Telemetry
from keeper.quarantine import Quarantine
from keeper.watch.desk import Desk

logger = structlog.get_logger(__name__)

WINDOW = 1_000  # comparisons the drift ratio is taken over
PPM = 1_000_000

Implementations = Mapping[str, str]  # contract → a mark of the code that runs behind it
ReadImplementations = Callable[[Collection[str], Head], Awaitable[Implementations]]


@dataclass(frozen=True, slots=True)
class ReconcileRules:
    """The keys of ``[reconcile]`` in config.toml."""

    every_ms: int
    accounts_max: int
    drift_ppm_max: int


@dataclass(slots=True)
class _Round:
    """How far one venue's round is."""

    next_ms: int = 0
    queue: deque[AccountId] = field(default_factory=deque)
    drifted: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    implementations: Implementations | None = None
    changed: str = ""  # the contract whose implementation was found to have changed

    @property
    def drift_ratio(self) -> float:
        return sum(self.drifted) / len(self.drifted) if self.drifted else 0.0


class Reconciler:
    """Compares slices of every venue's accounts with the chain."""

    def __init__(
        self,
        rules: ReconcileRules,
        implementations: ReadImplementations,
        quarantine: Quarantine,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        """``implementations`` asks the chain what runs behind these contracts at a head."""
        self.rules = rules
        self._implementations = implementations
        self._quarantine = quarantine
        self._telemetry = telemetry
        self._clock = clock
        self._rounds: dict[VenueId, _Round] = {}

    async def compare(
        self, desk: Desk, head: Head, waits: Callable[[AccountId], bool]
    ) -> list[AccountState]:
        """Read the next slice at the head if it is time; return the states that differ.

        ``waits``: is there a newer reading that the desk does not have yet? Raises RpcError.
        """
        venue, now_ms = desk.venue.id, self._clock.wall_ms()
        round_ = self._rounds.setdefault(venue, _Round())
        if now_ms < round_.next_ms:
            return []
        await self._look_behind(desk, head, round_)
        accounts = [
            one
            for one in self._slice(desk, round_)
            if not waits(one) and desk.states[one].head.number < head.number
        ]
        before = {account: desk.states[account] for account in accounts}
        states = await self._read(desk, accounts, head)
        unlike = [one.account for one in states if any(differences(before[one.account], one))]
        # a node may answer for a block that it is still making: only what it says twice is a drift
        again = {one.account: one for one in await self._read(desk, unlike, head)}
        states = [again.get(one.account, one) for one in states]
        round_.next_ms = now_ms + self.rules.every_ms
        corrected = [state for state in states if self._differs(venue, before, state, round_)]
        self._judge(desk, round_)
        return corrected

    async def _read(
        self, desk: Desk, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[AccountState]:
        return await self._quarantine.each_alone(
            desk.venue.id, accounts, lambda some: desk.venue.read_accounts(some, head)
        )

    async def _look_behind(self, desk: Desk, head: Head, round_: _Round) -> None:
        """Note a contract that runs other code than when the keeper started."""
        found = await self._implementations(desk.venue.addresses(), head)
        known, round_.implementations = round_.implementations, found
        changed = [one for one, mark in found.items() if known and known.get(one) != mark]
        for contract in changed:
            round_.changed = contract
            logger.error(
                "implementation changed: only fresh reads are trusted until the next start",
                venue=desk.venue.id,
                contract=contract,
                block=head.number,
            )

    def _slice(self, desk: Desk, round_: _Round) -> list[AccountId]:
        """Return the next accounts: the nearest to liquidation, then those whose turn it is."""
        half = max(1, self.rules.accounts_max // 2)
        near = [account for account, _ in desk.lead.nearest(half)]
        chosen = {account: None for account in near if account in desk.states}
        looked_at = 0
        while len(chosen) < self.rules.accounts_max and looked_at < len(desk.states):
            if not round_.queue:
                round_.queue.extend(desk.states)
            account = round_.queue.popleft()
            looked_at += 1
            if account in desk.states:
                chosen[account] = None
        return list(chosen)

    def _differs(
        self,
        venue: VenueId,
        before: Mapping[AccountId, AccountState],
        state: AccountState,
        round_: _Round,
    ) -> bool:
        drift = dict(differences(before[state.account], state))
        round_.drifted.append(bool(drift))
        for name, (book, chain) in drift.items():
            self._telemetry.count("keeper_reconcile_corrected_total", venue=venue, field=name)
            logger.warning(
                "book corrected",
                venue=venue,
                account=state.account,
                field=name,
                book=str(book),
                chain=str(chain),
                book_block=before[state.account].head.number,
                block=state.head.number,
            )
        return bool(drift)

    def _judge(self, desk: Desk, round_: _Round) -> None:
        venue, ratio = desk.venue.id, round_.drift_ratio
        suspect = ""
        if round_.changed:
            suspect = f"the implementation of {round_.changed} changed"
        elif ratio * PPM > self.rules.drift_ppm_max:
            suspect = f"{ratio:.2%} of the accounts compared had drifted"
        if bool(suspect) != bool(desk.suspect):
            if suspect:
                logger.error("venue suspect", venue=venue, reason=suspect)
            else:
                logger.info("venue no longer suspect", venue=venue)
        desk.suspect = suspect
        self._telemetry.gauge("keeper_reconcile_drift_ratio", ratio, venue=venue)
        self._telemetry.gauge("keeper_venue_suspect", 1 if suspect else 0, venue=venue)


def differences(
    before: object, after: object, path: str = ""
) -> Iterator[tuple[str, tuple[object, object]]]:
    """Yield the fields of two states that differ, by name, with both values; heads do not count."""
    names = _fields(type(before)) if type(before) is type(after) else ()
    if not names:
        if before != after:
            yield path or "state", (before, after)
        return
    for name in names:
        if path or name != "head":
            inner = f"{path}.{name}".removeprefix(".")
            yield from differences(getattr(before, name), getattr(after, name), inner)


def fields_of(venue: AnyVenue) -> set[str]:
    """Return the names that ``differences`` gives to the fields of a venue's accounts."""
    (state,) = typing.get_args(typing.get_type_hints(type(venue).read_accounts)["return"])
    return {"state", *_paths(state, "")}


def _paths(kind: object, path: str) -> Iterator[str]:
    names = _fields(kind) if isinstance(kind, type) else ()
    if not names:
        yield path
        return
    hints = typing.get_type_hints(kind)
    for name in names:
        if path or name != "head":
            yield from _paths(hints[name], f"{path}.{name}".removeprefix("."))


def _fields(kind: type) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(one.name for one in dataclasses.fields(kind))
    return getattr(kind, "_fields", ())
