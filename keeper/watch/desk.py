"""One venue as the decide loop sees it: its accounts, two books, and the agenda.

The *lead* book follows the newest prices from the sources, the *chain* book the contract's own; an
account is nominated by either. Everything here is synchronous and has one writer, the decide loop.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import structlog

from keeper.decide.agenda import Agenda, Hold, HoldReason
from keeper.decide.rank import Objective, Ranking, priority
from keeper.facts import AccountId, AccountState, Assessment, FeedId, Head, MarketState, Price
from keeper.margin import MarginBook, Moved
from keeper.ports import AnyVenue, Board, Clock, Telemetry
from keeper.quarantine import Guard, Quarantine
from keeper.units import wad_to_float
from keeper.watch.access import Access
from keeper.watch.rows import Rows

logger = structlog.get_logger(__name__)

RENEW_NS = 100_000_000  # a candidate that waited longer is assessed again: its price has aged
ROWS_PER_STEP_MAX = 64  # compiled again after a change of parameters: a few milliseconds
RANKED_PER_STEP_MAX = 512  # of what became due: likewise
QUARANTINE_MS = 60_000  # a poisoned account is tried again this seldom, or when its state changes


@dataclass(frozen=True, slots=True)
class DeskRules:
    """The venue's part of config.toml that deciding needs."""

    objective: Objective
    solvency_budget_wei: int
    reward_feed: FeedId | None  # None: rewards are USD
    backoff_ms_min: int
    backoff_ms_max: int
    candidates_per_step_max: int
    probe_ms: int
    batch_accounts_max: int = 1
    optimistic: bool = False


@dataclass(frozen=True, slots=True)
class Nominated:
    """An account that the exact arithmetic calls liquidatable, on its way to the chain."""

    assessment: Assessment
    priority: tuple[int, int]
    tick_ns: int  # arrival of the price that nominated it; 0: it was not a price
    decided_ns: int
    facts: int  # the desk's count of facts it stands on


class Desk:
    """One venue's accounts and decisions."""

    def __init__(
        self,
        venue: AnyVenue,
        rules: DeskRules,
        board: Board,
        quarantine: Quarantine,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        """Start empty: nothing is nominated before a market and accounts were read."""
        self.venue = venue
        self.rules = rules
        self.agenda: Agenda[AccountId] = Agenda(rules.backoff_ms_min, rules.backoff_ms_max)
        self.states: dict[AccountId, AccountState] = {}
        self.market: MarketState | None = None
        self.loaded = False
        self.read_at: Head | None = None  # as of this head every account is as the chain has it
        self.access = Access(venue.id, rules.probe_ms, clock)
        self.suspect = ""  # why the book is not trusted: decisions need fresh reads; "": it is
        self._board = board
        self._quarantine = quarantine
        self._telemetry, self._clock = telemetry, clock
        self.factors_of: dict[FeedId, list[str]] = {}  # what follows each feed in the books
        self._rows = Rows(venue, self.guard)
        self.lead, self.chain = self._rows.lead, self._rows.chain
        self._ranking: Ranking[AccountId] = Ranking()  # what is due, worst first
        self._needs_state_at: dict[AccountId, int] = {}
        self._nominated_by: dict[AccountId, int] = {}  # tick_ns
        self._block_s = 1.0  # seconds between blocks, smoothed
        self._facts = 0  # learned so far: tells whether an assessment is still the newest

    @property
    def scope(self) -> str:
        """Return what the accounts found belong to: the venue at its first contract's address."""
        return f"{self.venue.id}@{next(iter(self.venue.addresses()))}"

    @property
    def feeds(self) -> Iterable[FeedId]:
        """Return the feeds this venue's prices come from."""
        return self.factors_of.keys()

    @property
    def head(self) -> Head | None:
        """Return the head the market was read at."""
        return self.market.head if self.market else None

    def inclusion_s(self, now_ms: int) -> int:
        """Return the chain time at which a transaction sent now would be included."""
        if self.market is None:
            return now_ms // 1000
        head = self.market.head
        elapsed_s = max(0, now_ms - head.seen_ms) / 1000
        return head.timestamp_s + int(max(elapsed_s, self._block_s) + 0.999)

    def wall_ms_at(self, chain_s: int) -> int:
        """Return the wall time at which the chain's clock will show this."""
        if self.market is None:
            return chain_s * 1000
        head = self.market.head
        return head.seen_ms + max(0, chain_s - head.timestamp_s) * 1000

    # --- what is learned ----------------------------------------------------------------------

    def learn_market(self, market: MarketState) -> None:
        """Take the venue's parameters, on-chain prices and funding of a new block."""
        before = self.market
        if before is not None and market.head.number > before.head.number:
            blocks = market.head.number - before.head.number
            step_s = max(0, market.head.timestamp_s - before.head.timestamp_s) / blocks
            self._block_s += (step_s - self._block_s) / 8
        self._facts += 1
        self.market = market
        if market.head.base_fee_wei is not None:
            self.agenda.cheaper(market.head.base_fee_wei)
        self._learn_factors(market)
        if before is not None and market.epoch != before.epoch:
            self._rows.outdated = dict.fromkeys(self.states)
        at_s = self.inclusion_s(self._clock.wall_ms())
        values = self.venue.factors(market, at_s)
        indices = {name: values[name] for name in self.venue.index_factors(market)}
        lead = self.lead.values
        prices = {name: lead[name] for name in self.venue.price_factors(market) if name in lead}
        indices |= self.venue.indices(market, at_s, prices)
        self._follow(self.chain.move(values), self.lead, tick_ns=0)
        self._follow(self.lead.move(indices), self.chain, tick_ns=0)

    def _learn_factors(self, market: MarketState) -> None:
        """Add what the venue lists newly to both books; a price that is there already counts."""
        known = set(self.lead.factors)
        feed_of = {
            factor: feed
            for factor, feed in self.venue.price_factors(market).items()
            if factor not in known
        }
        indices = [name for name in self.venue.index_factors(market) if name not in known]
        if not feed_of and not indices:
            return
        for book in (self.lead, self.chain):
            book.add_factors(list(feed_of), indices)
        for factor, feed in feed_of.items():
            self.factors_of.setdefault(feed, []).append(factor)
            price = self._board.fresh(feed, self._clock.wall_ms())
            if price is not None:
                self.lead.move({factor: wad_to_float(price.price_wad)})

    def learn_price(self, price: Price) -> None:
        """Take a new price that has passed the board."""
        self._facts += 1
        value = wad_to_float(price.price_wad)
        values = dict.fromkeys(self.factors_of.get(price.feed, ()), value)
        if self.market is not None and values:
            at_s = self.inclusion_s(self._clock.wall_ms())
            values |= self.venue.indices(self.market, at_s, values)
        started_ns = self._clock.monotonic_ns()
        moved = self.lead.move(values)
        took_s = (self._clock.monotonic_ns() - started_ns) / 1e9
        self._telemetry.observe("keeper_tick_seconds", took_s, venue=self.venue.id)
        touched = sum(map(self.lead.exposed, values))
        self._telemetry.count("keeper_evaluations_total", touched, venue=self.venue.id)
        self._follow(moved, self.chain, tick_ns=price.received_ns)

    def price_returned(self) -> None:
        """A feed that was stale has a price again: look at what waited for one."""
        self.agenda.release(HoldReason.STALE_PRICE)
        self.agenda.release(HoldReason.NO_NATIVE_PRICE)

    def learn_states(self, states: Sequence[AccountState]) -> None:
        """Take accounts as read at a block, each once.

        Readings come in order: one loop reads a venue, each batch at a newer head than the last,
        or, after a reorg, at the head that replaced it.
        """
        self._facts += len(states)
        self.states.update((state.account, state) for state in states)
        for account in self._put_all(states):
            self._quarantine.release(self.venue.id, account)
        for state in states:
            needed = self._needs_state_at.get(state.account)
            if needed is None or state.head.number >= needed:
                self._needs_state_at.pop(state.account, None)
                self.agenda.refresh(state.account)

    def settled(self, account: AccountId, *, failed: bool, block: int) -> None:
        """End the work on an account; a success waits for its state at that block."""
        if not failed:
            state = self.states.get(account)
            if state is None or state.head.number < block:
                self._needs_state_at[account] = block
        self.agenda.finish(account, failed=failed, now_ms=self._clock.wall_ms(), block=block)
        if not failed and account not in self._needs_state_at:
            self.agenda.refresh(account)

    # --- the books ----------------------------------------------------------------------------

    def _put(self, account: AccountId) -> None:
        """Compile the account at the present prices of each book and see on which side it is."""
        if self.market is None:
            return
        self._rows.put(self.states[account], self.market)
        self._nominate(account, tick_ns=0)

    def _put_all(self, states: Sequence[AccountState]) -> list[AccountId]:
        """Compile accounts and see on which side they are; return whom no bug has set aside."""
        if self.market is None:
            return [state.account for state in states]
        done: list[AccountId] = []
        for account in self._rows.put_all(states, self.market):
            with self.guard(account):
                self._nominate(account, tick_ns=0)
                done.append(account)
        return done

    def _nominate(self, account: AccountId, tick_ns: int) -> None:
        if self.lead.is_under(account) or self.chain.is_under(account) or self._is_due(account):
            if self.agenda.nominate(account, self._clock.wall_ms()):
                self._telemetry.count("keeper_nominated_total", venue=self.venue.id)
                self._nominated_by[account] = tick_ns
        else:
            self.agenda.cure(account)
            self._nominated_by.pop(account, None)

    def _is_due(self, account: AccountId) -> bool:
        until_s = self.states[account].due_until_s
        return until_s is not None and self.inclusion_s(self._clock.wall_ms()) <= until_s

    def _follow(self, moved: Moved[AccountId], other: MarginBook[AccountId], tick_ns: int) -> None:
        self._rows.expired.update(moved.expired)
        for account in moved.under:
            self._nominate(account, tick_ns)
        for account in moved.cured:
            if not other.is_under(account):
                self._nominate(account, tick_ns)

    # --- deciding -----------------------------------------------------------------------------

    @property
    def has_due(self) -> bool:
        """Say whether there is something to do at once."""
        return bool(self._rows.outdated) or self.agenda.has_due

    def _renew_rows(self) -> None:
        """Compile some of the accounts again whose parameters have changed."""
        some = islice(self._rows.outdated, ROWS_PER_STEP_MAX)
        self._put_all([self.states[account] for account in some])

    def due(self, now_ms: int) -> list[AccountId]:
        """Return the accounts to assess now, worst first, at most ``candidates_per_step_max``.

        None before all of them are ranked, for which many at once take some steps.
        """
        if self.market is None:
            return []
        self._renew_rows()
        self.agenda.wake(now_ms, self.market.head.number)
        unranked = (one for one in self.agenda.due() if one not in self._ranking)
        for account in islice(unranked, RANKED_PER_STEP_MAX):
            self._ranking.put(account, self._worst_excess(account))
        if next(unranked, None) is not None:
            return []
        worst_first = (self._ranking.pop() for _ in range(len(self._ranking)))
        due = filter(self.agenda.is_due, worst_first)  # some were cured since, or are held
        return list(islice(due, self.rules.candidates_per_step_max))

    def _worst_excess(self, account: AccountId) -> float:
        values = [book.excess(account) for book in (self.lead, self.chain) if account in book]
        return min((value for value in values if value == value), default=0.0)  # noqa: PLR0124 - NaN

    def decide(self, account: AccountId) -> Nominated | None:
        """Assess one due account; None: it is cured, held with a reason, or no longer due."""
        if not self.agenda.is_due(account):
            return None
        tick_ns = self._nominated_by.pop(account, 0)
        assessment: Assessment | None = None
        with self.guard(account):
            if account in self._rows.expired:
                self._put(account)
                if account not in self.agenda:
                    return None
            assessment = self.assess(account)
        if assessment is None:
            self.quarantined(account)
            return None
        if not assessment.liquidatable:
            self.not_yet(assessment)
            return None
        self.agenda.start(account)
        return self.nomination(assessment, tick_ns)

    def nomination(self, assessment: Assessment, tick_ns: int = 0) -> Nominated:
        """Rank an assessment just made. ``tick_ns``: the price behind it came in then (0: none)."""
        now_ns = self._clock.monotonic_ns()
        return Nominated(assessment, self._priority(assessment), tick_ns, now_ns, self._facts)

    def assess(self, account: AccountId) -> Assessment:
        """Repeat the venue's exact arithmetic with the newest facts."""
        if self.market is None:
            msg = "nothing can be assessed before the market was read"
            raise RuntimeError(msg)
        now_ms = self._clock.wall_ms()
        prices = self.fresh_prices(now_ms)
        self._telemetry.count("keeper_assessed_total", venue=self.venue.id)
        at_s = self.inclusion_s(now_ms)
        return self.venue.assess(self.states[account], self.market, prices, at_s)

    def fresh_prices(self, now_ms: int) -> Mapping[FeedId, Price]:
        """Return the venue's feeds that have a price within its age."""
        found = {feed: self._board.fresh(feed, now_ms) for feed in self.factors_of}
        return {feed: price for feed, price in found.items() if price is not None}

    def hold(self, account: AccountId, hold: Hold) -> None:
        """Hold an account; count and log why."""
        self._note_held(account, hold)
        self.agenda.hold(account, hold)

    def send_failed(self, account: AccountId) -> None:
        """Back an account off whose transaction no endpoint took."""
        self._note_held(account, Hold(HoldReason.SEND_FAILED))
        self.agenda.back_off(account, HoldReason.SEND_FAILED, self._clock.wall_ms())

    def _note_held(self, account: AccountId, hold: Hold) -> None:
        venue = self.venue.id
        self._telemetry.count("keeper_held_total", venue=venue, reason=hold.reason.value)
        logger.debug(
            "held",
            venue=venue,
            account=account,
            reason=hold.reason.value,
            until_ms=hold.until_ms,
            until_block=hold.until_block,
            detail=hold.detail,
        )

    def guard(self, account: AccountId) -> Guard:
        """Handle one account inside: a bug sets it aside and goes no further."""
        return self._quarantine.account(self.venue.id, account)

    def quarantined(self, account: AccountId) -> None:
        """Hold an account that a bug has set aside."""
        until_ms = self._clock.wall_ms() + QUARANTINE_MS
        self.hold(account, Hold(HoldReason.QUARANTINED, until_ms=until_ms))

    def failed_to_ask(self, account: AccountId, hold_ms: int) -> None:
        """Hold an account about which the chain could not be asked."""
        until_ms = self._clock.wall_ms() + hold_ms
        self.hold(account, Hold(HoldReason.SIMULATION_FAILED, until_ms=until_ms))

    def not_yet(self, assessment: Assessment) -> None:
        """Hold an account that the newest facts do not call liquidatable.

        The exact arithmetic disagrees with the screen: make the row exact here, or wait.
        """
        account, fresh = assessment.account, self.fresh_prices(self._clock.wall_ms())
        block = self.market.head.number + 1 if self.market else 0
        stale = [each for each in assessment.feeds if each not in fresh] or assessment.stale
        if stale:
            held = Hold(HoldReason.STALE_PRICE, until_block=block, detail=", ".join(stale))
            self.hold(account, held)
            return
        if assessment.until_s is not None:
            until_ms = self.wall_ms_at(assessment.until_s)
            self.hold(account, Hold(HoldReason.NO_PROGRESS, until_ms=until_ms))
            return
        self._put(account)
        if account in self.agenda:
            self._telemetry.count("keeper_disagreements_total", venue=self.venue.id, step="assess")
            self.hold(account, Hold(HoldReason.NOT_LIQUIDATABLE, until_block=block))

    def _priority(self, assessment: Assessment) -> tuple[int, int]:
        return priority(
            self.rules.objective,
            reward_wad=assessment.reward_wad,
            shortfall_wad=assessment.requirement_wad - assessment.equity_wad,
            bad_debt_wad=assessment.bad_debt_wad,
        )

    def renewed(self, nominated: Nominated) -> Nominated:
        """Return the nomination with an assessment by the newest facts."""
        waited_ns = self._clock.monotonic_ns() - nominated.decided_ns
        if nominated.facts == self._facts and waited_ns < RENEW_NS:
            return nominated
        return replace(nominated, assessment=self.assess(nominated.assessment.account))
