"""The closed table of metrics: names, types, labels, help texts.

Plain data, so that the README, dashboards and alerts can be checked against it.
"""

from keeper.decide.agenda import HoldReason
from keeper.decide.budget import Sort, Span
from keeper.facts import Outcome, Rejection, TxKind
from keeper.jobs import Gain
from keeper.observe._metric import TICK_BUCKETS_S, Given, Metric
from keeper.observe._metric import counter as _counter
from keeper.observe._metric import gauge as _gauge
from keeper.observe._metric import histogram as _histogram
from keeper.observe._metric import one_of as _set
from keeper.observe.catalogue_chain import CHAIN
from keeper.observe.catalogue_risk import RISK

__all__ = ["TABLE", "Given", "Metric", "as_markdown"]

FEED = Given("feed")
SOURCE = Given("source")
VENUE = Given("venue")
LOOP = Given("loop")
STREAM = Given("stream")
VERSION = Given("version")

STAGES = _set(
    [
        "price_to_decided",
        "waiting",
        "simulate",
        "gate",
        "sign",
        "journal",
        "decided_to_signed",
        "signed_to_sent",
        "sent_to_included",
        "tick_to_sent",
    ]
)
SIMULATED = _set(
    [
        "ok",
        "not_liquidatable",
        "no_progress",
        "no_capital",
        "oracle",
        "fee",
        "unknown",
        "unreachable",
    ],
)
STEPS = _set(["assess", "simulate"])
BUDGETS = _set([f"{sort}_{span}" for sort in Sort for span in Span])

_PRICES = (
    _counter(
        "price_updates_total",
        "Prices that passed every gate.",
        zeroed=False,
        feed=FEED,
        source=SOURCE,
    ),
    _counter(
        "price_rejections_total",
        "Messages of price sources that were not used, by reason.",
        zeroed=False,
        feed=FEED,
        source=SOURCE,
        reason=_set(Rejection),
    ),
    _counter(
        "price_conflated_total",
        "Prices of a source that a newer one of their feed replaced before they were taken.",
        stream=STREAM,
    ),
    _counter(
        "price_refusals_shed_total",
        "Refused messages of a price source that came too fast to be counted by reason.",
        stream=STREAM,
    ),
    _gauge(
        "price_age_seconds",
        "Age of the feed's last accepted price, by the publisher's clock.",
        unit="seconds",
        feed=FEED,
    ),
    _gauge(
        "price_age_limit_seconds",
        "Age beyond which the feed's price is stale.",
        unit="seconds",
        feed=FEED,
    ),
    _gauge("price_usd", "The feed's last accepted price in US dollars.", unit="usd", feed=FEED),
)
_ACCOUNTS = (
    _gauge("accounts", "Accounts in the book.", venue=VENUE),
    _gauge(
        "under_margined_accounts",
        "Accounts that the screen holds to be under-margined now.",
        venue=VENUE,
    ),
    _gauge(
        "unpriced_accounts",
        "Accounts that wait for the first price of one of their feeds.",
        venue=VENUE,
    ),
    _gauge(
        "watched_accounts",
        "Accounts near enough to their edge that a price may have to be held against them.",
        venue=VENUE,
    ),
    _histogram(
        "tick_seconds",
        "Time the book took to follow a price: who is under-margined now.",
        buckets_s=TICK_BUCKETS_S,
        venue=VENUE,
    ),
    _counter(
        "evaluations_total",
        "Accounts that stood on a price, each time a new one of it was followed.",
        venue=VENUE,
    ),
    _counter(
        "fence_rebuilds_total",
        "Times that prices or indices left their fence, so that more accounts were looked at.",
        venue=VENUE,
    ),
    _gauge(
        "venue_open",
        "1 when the venue lets this wallet act, 0 when it is only watched.",
        venue=VENUE,
    ),
    _counter("nominated_total", "Accounts that the screen nominated.", venue=VENUE),
    _counter("assessed_total", "Accounts assessed with the venue's exact rule.", venue=VENUE),
    _counter(
        "simulated_total",
        "Liquidations simulated at the head, by what the chain answered.",
        zeroed=False,
        venue=VENUE,
        result=SIMULATED,
    ),
    _counter(
        "optimistic_total", "Liquidations sent without waiting for a simulation.", venue=VENUE
    ),
    _counter(
        "disagreements_total",
        "Accounts nominated and not liquidatable by the exact rule (step assess), or by that rule "
        "and not for the chain (step simulate).",
        venue=VENUE,
        step=STEPS,
    ),
    _counter(
        "liquidations_seen_total",
        "Liquidations found in the venue's logs, by us or by another liquidator.",
        venue=VENUE,
        by=_set(["us", "other"]),
    ),
)
_RECONCILE = (
    _gauge(
        "reconcile_drift_ratio",
        "Share of the last 1,000 accounts compared with the chain that the book had otherwise.",
        unit="ratio",
        venue=VENUE,
    ),
    _counter(
        "reconcile_corrected_total",
        "Fields of accounts that differed from the chain and were corrected.",
        venue=VENUE,
        field=Given("field"),
    ),
    _gauge(
        "venue_suspect",
        "1 when drift or a changed implementation lets decisions go on with fresh reads only.",
        venue=VENUE,
    ),
)
_ATTEMPTS = (
    _counter(
        "held_total",
        "Candidates held back, by reason.",
        zeroed=False,
        venue=VENUE,
        reason=_set(HoldReason),
    ),
    _counter(
        "attempts_total",
        "Attempts that ended, by outcome.",
        venue=VENUE,
        outcome=_set(Outcome),
    ),
    _counter(
        "reopened_attempts_total",
        "Attempts counted as ended that were not (orphaned, or included after all): ended anew.",
        venue=VENUE,
        outcome=_set(Outcome),
    ),
    _counter(
        "taken_back_wei_total",
        "What the counters of rewards, losses and costs had from such attempts, in wei.",
        unit="wei",
        venue=VENUE,
        part=_set(["reward", "loss", "cost"]),
    ),
    _counter(
        "replacements_total",
        "Transactions signed for a nonce that had one already, by kind.",
        kind=_set(TxKind) - {str(TxKind.FIRST)},
    ),
    _gauge("open_attempts", "Attempts that are not settled."),
    _gauge(
        "budget_left_wei",
        "What a budget has left, less the worst case of everything in flight, in wei.",
        unit="wei",
        budget=BUDGETS,
    ),
    _gauge(
        "budget_left_usd",
        "The same of the budgets in US dollars, where configured and the native price is known.",
        unit="usd",
        budget=BUDGETS,
    ),
    _gauge(
        "budget_limit_wei", "What may be spent of a budget, in wei.", unit="wei", budget=BUDGETS
    ),
    _gauge("budget_limit_usd", "The same in US dollars.", unit="usd", budget=BUDGETS),
    _counter("reward_wei_total", "Rewards received, in wei.", unit="wei", venue=VENUE),
    _counter(
        "losses_wei_total",
        "Rewards below zero, as those of getting out of a position, in wei.",
        unit="wei",
        venue=VENUE,
    ),
    _gauge(
        "gains_usd",
        "What our jobs left us with since the start where that is more than cash, by part, in USD.",
        unit="usd",
        venue=VENUE,
        part=_set(Gain),
    ),
    _counter(
        "gas_spent_wei_total",
        "Paid for inclusion, data fees of layer 2 included, in wei.",
        unit="wei",
        venue=VENUE,
    ),
    _counter(
        "oracle_fee_wei_total",
        "Paid for price updates carried along, in wei.",
        unit="wei",
        venue=VENUE,
    ),
    _gauge(
        "profit_wei",
        "Rewards less all costs since the journal began, in wei; negative for a loss.",
        unit="wei",
        venue=VENUE,
    ),
    _histogram(
        "stage_seconds",
        "Time an attempt spent in each stage; tick_to_sent is the whole of what the keeper can "
        "hurry.",
        venue=VENUE,
        stage=STAGES,
    ),
    _counter(
        "outcomes_shed_total",
        "Outcomes not published over MQTT because the broker did not take them in time.",
        stream=STREAM,
    ),
)
_PROCESS = (
    _gauge("ready", "1 when /readyz says so, else 0."),
    _gauge("dry_run", "1 when nothing is sent, else 0."),
    _gauge("paused", "1 while the keeper is paused by config, file or hand, else 0."),
    _gauge("lease_held", "1 while this keeper may send, 0 while another leads; 1 without a lease."),
    _counter("lease_changes_total", "Times this keeper took the lease or lost it."),
    _gauge(
        "breaker_open",
        "1 while the venue rests after too many reverts in a row, else 0.",
        venue=VENUE,
    ),
    _gauge("journal_bytes", "Size of the journal on disk.", unit="bytes"),
    _gauge(
        "journal_writable", "0 while the journal cannot be written and nothing is sent, else 1."
    ),
    _gauge(
        "loop_heartbeat_age_seconds",
        "Seconds since the loop was last seen alive.",
        unit="seconds",
        loop=LOOP,
    ),
    _gauge(
        "loop_heartbeat_limit_seconds",
        "Age of a heartbeat beyond which /healthz fails.",
        unit="seconds",
        loop=LOOP,
    ),
    _gauge("quarantine_entries", "Accounts, and the venue's loop, set aside now.", venue=VENUE),
    _counter(
        "quarantined_total",
        "Bugs that set an account or a venue's loop aside.",
        venue=VENUE,
        kind=_set(["account", "venue"]),
    ),
    _counter("reconnects_total", "Connections lost and built again.", stream=STREAM),
    _counter(
        "config_reloads_total",
        "Times the config file was read again, by what came of it.",
        result=_set(["applied", "restart_needed", "unchanged", "invalid"]),
    ),
    _gauge(
        "config_hash", "First 48 bits of the SHA-256 of the configuration in effect, as a number."
    ),
    _gauge(
        "config_restart_keys", "Keys of the config file that take effect with the next start only."
    ),
    _gauge("build_info", "Always 1; the label says which version runs.", version=VERSION),
)

TABLE: tuple[Metric, ...] = (
    *_PRICES,
    *_ACCOUNTS,
    *RISK,
    *_RECONCILE,
    *_ATTEMPTS,
    *CHAIN,
    *_PROCESS,
)


def as_markdown() -> str:
    """Return the table as the README shows it: name, type, labels, help."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in TABLE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)
