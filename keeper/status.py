"""What the operator sees: readiness with its reasons, the status document, the gauges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keeper.decide.budget import Unit
from keeper.units import WAD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keeper.act.brakes import Brakes
    from keeper.act.settle import Settlement
    from keeper.chain.endpoints import Endpoints
    from keeper.chain.journal import Journal
    from keeper.chain.lanes import Lanes
    from keeper.chain.submit import Lane
    from keeper.clock import SystemClock
    from keeper.config import Settings
    from keeper.decide.agenda import Hold
    from keeper.decide.budget import Limit
    from keeper.facts import Attempt, FeedId, Head, Settled, VenueId
    from keeper.lease.leadership import Leadership
    from keeper.observe.metrics import Metrics
    from keeper.pipeline import Pipeline
    from keeper.prices.board import PriceBoard
    from keeper.quarantine import Quarantine
    from keeper.supervise import Heartbeats
    from keeper.watch.desk import Desk

NEAREST = 20  # accounts in the status document
RECENT = 20  # settled attempts in it


@dataclass
class Status:
    """Reads the parts; changes nothing but gauges. ``settings``: those in effect."""

    settings: Settings
    pipeline: Pipeline
    board: PriceBoard
    lanes: Lanes
    endpoints: Endpoints
    brakes: Brakes
    journal: Journal
    settlement: Settlement
    quarantine: Quarantine
    heartbeats: Heartbeats
    metrics: Metrics
    clock: SystemClock
    leadership: Leadership | None = None  # None: it is the only keeper
    restart_keys: Sequence[str] = ()  # of the config file; they take effect with the next start

    def budgets_left(self) -> Mapping[Limit, int | None]:
        """Return what each budget has left; None for USD while the native price is unknown."""
        return self.pipeline.execution.spending.left(self.lanes.open_attempts)

    def needed_feeds(self) -> set[FeedId]:
        """Return the feeds without which something cannot be decided."""
        feeds = {self.settings.chain.native_feed}
        for desk in self.pipeline.desks.values():
            feeds.update(desk.feeds)
            if desk.rules.reward_feed is not None:
                feeds.add(desk.rules.reward_feed)
        return feeds

    def unready(self) -> list[str]:
        """Return why the keeper is not liquidating; empty when it is ready."""
        now_ms = self.clock.wall_ms()
        reasons: list[str] = []
        head = self.pipeline.head
        if head is None:
            reasons.append(f"chain: no head yet{self._endpoint_trouble()}")
        elif now_ms - head.seen_ms > self.settings.chain.head_age_ms_max:
            age_s = (now_ms - head.seen_ms) / 1000
            said = f"chain: head {head.number} is {age_s:.0f} s old"
            reasons.append(said + self._endpoint_trouble())
        for venue, desk in self.pipeline.desks.items():
            reasons += self._venue_trouble(venue, desk) + self._unfollowed(venue, desk)
        configured = {feed.id for feed in self.settings.feeds}
        needed = sorted(self.needed_feeds() & configured)
        troubles = {feed: self.board.trouble(feed, now_ms) for feed in needed}
        reasons += [f"feed {feed}: {trouble}" for feed, trouble in troubles.items() if trouble]
        for entry in self.quarantine.entries()[:NEAREST]:
            what = f"account {entry.account}" if entry.account else "its loop"
            reasons.append(f"venue {entry.venue}: {what} is in quarantine: {entry.error}")
        if self.journal.trouble:
            reasons.append(f"journal: cannot be written ({self.journal.trouble}); nothing is sent")
        return [*reasons, *self._sending_trouble(), *self._wallet_trouble()]

    @property
    def standby(self) -> str:
        """Say who sends instead of this keeper; "" when it is this one, or nobody is known to."""
        lead = self.leadership
        if lead is None or lead.term is not None:
            return ""
        return f"{lead.holder or 'nobody'} has the lease"

    def _venue_trouble(self, venue: VenueId, desk: Desk) -> list[str]:
        if not desk.loaded:
            return [f"venue {venue}: book not loaded yet"]
        if not desk.access.open:
            return [f"venue {venue}: closed to this wallet; watching only{_said(desk)}"]
        if self.brakes.is_open(venue):
            return [f"venue {venue}: too many transactions reverted in a row; it rests"]
        return []

    def _unfollowed(self, venue: VenueId, desk: Desk) -> list[str]:
        """Return what the venue lists and no feed follows: its other accounts are worked."""
        configured = {feed.id for feed in self.settings.feeds}
        return [
            f"venue {venue}: no feed follows {', '.join(factors)}, what needs a price of it waits; "
            f'add a [[feeds]] table with the id "{feed}", or name a feed for it in venues.feeds'
            for feed, factors in desk.factors_of.items()
            if feed not in configured
        ]

    def _sending_trouble(self) -> list[str]:
        trouble = self.lanes.sending_trouble if self.lanes.wallets else ""
        found = [f"chain: nothing can be sent: {trouble}"] if trouble else []
        lead, paused = self.leadership, self.brakes.paused
        if lead is not None and lead.term is None and lead.trouble:
            found.append(f"{lead.trouble}; nothing is sent")
        return [*found, f"paused: {paused}"] if paused else found

    def _wallet_trouble(self) -> list[str]:
        """Return why nothing can be sent. While one lane is free, others only cost pace."""
        lanes = self.lanes.lanes
        if not all(lane.trouble for lane in lanes):
            return []
        return [f"wallet {lane.name} ({lane.address}): {lane.trouble}" for lane in lanes]

    def _endpoint_trouble(self) -> str:
        trouble = self.pipeline.chain_trouble
        return f" ({trouble})" if trouble else ""

    def summary(self) -> str:
        """Say in a few words what is going on."""
        head = self.pipeline.head
        desks = self.pipeline.desks.values()
        return ", ".join(
            [
                *(["dry run"] if not self.lanes.wallets else []),
                *([f"standby: {self.standby}"] if self.standby else []),
                f"head {head.number}" if head else "no head",
                f"{sum(len(desk.states) for desk in desks)} accounts",
                f"{sum(len(desk.agenda) for desk in desks)} under-margined",
                f"{len(self.lanes.open_attempts)} attempts open",
            ]
        )

    def snapshot(self) -> dict[str, object]:
        """Return the status document of ``/api/v1/status``."""
        now_ms = self.clock.wall_ms()
        head = self.pipeline.head
        latencies = sorted(self.lanes.tick_to_sent_ms)
        unready = self.unready()
        return {
            "chain_id": self.settings.chain.id,
            "now_ms": now_ms,
            "ready": not unready,
            "unready": unready,
            "dry_run": not self.lanes.wallets,
            "paused": self.brakes.paused,
            "lease": self._lease(),
            "config": {
                "digest": self.settings.digest[:12],
                "restart_keys": list(self.restart_keys),
            },
            "wallets": [_wallet(lane) for lane in self.lanes.own],
            "head": _head(head, now_ms, self.pipeline.head_how) if head else None,
            "prices": {feed.id: self._price(feed.id, now_ms) for feed in self.settings.feeds},
            "venues": {venue: self._venue(desk) for venue, desk in self.pipeline.desks.items()},
            "accounts": self._nearest(),
            "endpoints": self.endpoints.report(),
            "loops": self._loops(),
            "attempts": [
                *(_open(attempt) for attempt in self.lanes.open_attempts),
                *(
                    _settled(done)
                    for done in list(self.settlement.tally.recent)[: -RECENT - 1 : -1]
                ),
            ],
            "totals": {
                "outcomes": dict(self.settlement.tally.outcomes),
                "profit_wei": {v: str(wei) for v, wei in self.settlement.tally.profit_wei.items()},
            },
            "liquidations": {venue: self._captured(venue) for venue in self.pipeline.desks},
            "budgets": [
                {
                    "budget": limit.name,
                    "unit": limit.unit.value,
                    "most": limit.most / WAD,
                    "left": None if left is None else left / WAD,
                }
                for limit, left in self.budgets_left().items()
            ],
            "latency_ms": {
                "p50": _quantile(latencies, 0.5),
                "p99": _quantile(latencies, 0.99),
                "count": len(latencies),
            },
        }

    def _lease(self) -> dict[str, object] | None:
        lead = self.leadership
        if lead is None:
            return None
        leads = lead.term is not None
        return {"leads": leads, "holder": lead.holder, "trouble": lead.trouble}

    def _price(self, feed: FeedId, now_ms: int) -> dict[str, object]:
        price = self.board.fresh(feed, now_ms)
        return {
            "price": price.price_wad / WAD if price else None,
            "age_ms": self.board.age_ms(feed, now_ms),
            "trouble": self.board.trouble(feed, now_ms),
        }

    def _loops(self) -> dict[str, object]:
        """Return when each loop was last seen alive; beyond its limit it fails ``/healthz``."""
        limits, late = self.heartbeats.limits(), self.heartbeats.late()
        return {
            loop: {"age_s": round(age_s, 3), "limit_s": limits[loop], "late": loop in late}
            for loop, age_s in self.heartbeats.ages().items()
        }

    def _venue(self, desk: Desk) -> dict[str, object]:
        return {
            "loaded": desk.loaded,
            "open": desk.access.open,
            "probe": _probed(desk),
            "capabilities": desk.venue.capabilities.as_text(),
            "breaker_open": self.brakes.is_open(desk.venue.id),
            "accounts": len(desk.states),
            "in_book": len(desk.lead),
            "under_margined": len(desk.agenda),
            "odds": self.pipeline.execution.spending.odds(desk.venue.id).why,
        }

    def _captured(self, venue: VenueId) -> dict[str, object]:
        """Return whose the liquidations seen since the start were; the rate is None without any."""
        us, other = (
            int(self.metrics.counted("keeper_liquidations_seen_total", venue=venue, by=by))
            for by in ("us", "other")
        )
        rate = us / (us + other) if us + other else None
        return {"us": us, "other": other, "capture_rate": rate}

    def _nearest(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = [
            {
                "venue": venue,
                "account": account,
                "distance_pct": distance if abs(distance) != float("inf") else None,
                "why": desk.agenda.why(account),
                **_held(desk.agenda.hold_of(account)),
            }
            for venue, desk in self.pipeline.desks.items()
            for account, distance in desk.lead.nearest(NEAREST)
        ]
        rows.sort(key=lambda row: _number(row["distance_pct"]))
        return rows[:NEAREST]

    def set_gauges(self) -> None:
        """Bring the gauges up to date, before they are rendered."""
        now_ms = self.clock.wall_ms()
        gauge = self.metrics.gauge
        for feed in self.settings.feeds:
            gauge("keeper_price_age_limit_seconds", feed.age_ms_max / 1000, feed=feed.id)
            age_ms = self.board.age_ms(feed.id, now_ms)
            if age_ms is not None:
                gauge("keeper_price_age_seconds", age_ms / 1000, feed=feed.id)
            price = self.board.fresh(feed.id, now_ms)
            if price is not None:
                gauge("keeper_price_usd", price.price_wad / WAD, feed=feed.id)
        for venue, desk in self.pipeline.desks.items():
            gauge("keeper_accounts", len(desk.states), venue=venue)
            gauge("keeper_under_margined_accounts", len(desk.agenda), venue=venue)
            gauge("keeper_venue_open", desk.access.open, venue=venue)
            gauge("keeper_unpriced_accounts", len(desk.lead.unpriced), venue=venue)
            gauge("keeper_watched_accounts", desk.lead.watched, venue=venue)
            open_ = self.brakes.is_open(venue)
            gauge("keeper_breaker_open", 1 if open_ else 0, venue=venue)
            gauge("keeper_profit_wei", self.settlement.tally.profit_wei.get(venue, 0), venue=venue)
        gauge("keeper_head_age_limit_seconds", self.settings.chain.head_age_ms_max / 1000)
        head = self.pipeline.head
        if head is not None:
            gauge("keeper_head_block", head.number)
            gauge("keeper_head_age_seconds", (now_ms - head.seen_ms) / 1000)
        for wallet in self.settings.wallets:
            least_wei = wallet.balance_wei_min
            gauge("keeper_wallet_balance_limit_wei", least_wei, wallet=wallet.name)
        for lane in self.lanes.own:
            gauge("keeper_wallet_balance_wei", lane.balance_wei, wallet=lane.name)
            gauge("keeper_wallet_parked", 1 if lane.parked else 0, wallet=lane.name)
        self._set_budgets()
        gauge("keeper_open_attempts", len(self.lanes.open_attempts))
        gauge("keeper_journal_bytes", self.journal.size_bytes())
        gauge("keeper_journal_writable", 0 if self.journal.trouble else 1)
        gauge("keeper_ready", 0 if self.unready() else 1)
        gauge("keeper_paused", 1 if self.brakes.paused else 0)
        gauge("keeper_lease_held", 0 if self.standby else 1)
        gauge("keeper_dry_run", 0 if self.lanes.wallets else 1)
        self.endpoints.set_gauges()
        self.heartbeats.publish(self.metrics)
        self.quarantine.publish(self.metrics, list(self.pipeline.desks))

    def _set_budgets(self) -> None:
        gauge = self.metrics.gauge
        for limit, left in self.budgets_left().items():
            if limit.unit is Unit.USD:
                gauge("keeper_budget_limit_usd", limit.most / WAD, budget=limit.name)
                if left is not None:
                    gauge("keeper_budget_left_usd", left / WAD, budget=limit.name)
            else:
                gauge("keeper_budget_limit_wei", limit.most, budget=limit.name)
                if left is not None:
                    gauge("keeper_budget_left_wei", left, budget=limit.name)


def _head(head: Head, now_ms: int, how: str) -> dict[str, object]:
    """Say how old the newest block is, and how long after its time stamp it was learned of."""
    delay_ms = max(0, head.seen_ms - head.timestamp_s * 1000)
    age_ms = now_ms - head.seen_ms
    return {"block": head.number, "age_ms": age_ms, "delay_ms": delay_ms, "how": how}


def _held(hold: Hold | None) -> dict[str, object]:
    """Say what ends a hold: a wall-clock time or a block, whichever is first."""
    if hold is None:
        return {}
    parts = {
        "until_ms": hold.until_ms,
        "until_block": hold.until_block,
        "detail": hold.detail or None,
    }
    return {name: value for name, value in parts.items() if value is not None}


def _said(desk: Desk) -> str:
    probe = desk.access.probe
    return f" ({probe.detail})" if probe else ""


def _probed(desk: Desk) -> dict[str, object] | None:
    """Return what the venue's probe last said; None: it was not asked yet."""
    probe = desk.access.probe
    return {"detail": probe.detail, "facts": dict(probe.facts)} if probe else None


def _number(distance: object) -> float:
    return distance if isinstance(distance, float) else float("inf")


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _wallet(lane: Lane) -> dict[str, object]:
    return {
        "name": lane.name,
        "address": lane.address,
        "balance_wei": str(lane.balance_wei),
        "open_attempts": len(lane.open_attempts),
        "parked": lane.parked,
    }


def _open(attempt: Attempt) -> dict[str, object]:
    return {
        "id": attempt.id,
        "venue": attempt.plan.venue,
        "account": attempt.plan.account,
        "state": "broadcast" if attempt.sent_ms else "signed",
        "wallet": attempt.wallet,
        "nonce": attempt.nonce,
        "transactions": len(attempt.transactions),
        "expected_wei": str(attempt.plan.expected.expected_wei),
    }


def _settled(done: Settled) -> dict[str, object]:
    return {
        "id": done.attempt.id,
        "venue": done.attempt.plan.venue,
        "account": done.attempt.plan.account,
        "state": done.outcome.value,
        "detail": done.detail,
        "nonce": done.attempt.nonce,
        "transactions": len(done.attempt.transactions),
        "tx": done.receipt.tx_hash if done.receipt else None,
        "block": done.receipt.block_number if done.receipt else None,
        "reward_wei": str(done.reward_wei),
        "cost_wei": str(done.cost_wei),
    }
