"""What the operator sees: why it is not ready, and the status document."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from keeper.chain.journal import Journal
from keeper.config import load
from keeper.facts import AccountId, TxKind
from keeper.observe.metrics import Metrics
from keeper.status import Status
from keeper.units import WAD
from tests.chain.conftest import endpoints_of
from tests.fakes import ScriptedLane
from tests.shell.market import ADDRESS, set_account
from tests.shell.rig import DESK_RULES, WALLET, Rig, receipt_of, scripted_rig
from tests.shell.venue import FEEDS, VENUE

ALICE, BOB = AccountId("alice"), AccountId("bob")
CONFIG = f"""
[chain]
id = 31337
http = ["http://127.0.0.1:8545"]
native_feed = "ETH/USD"

[[wallets]]
key = {{ env = "KEY" }}
balance_wei_min = 7

[[sources]]
kind = "mqtt"
name = "main"
host = "127.0.0.1"

[[feeds]]
id = "ETH/USD"
sources = ["main"]

[[feeds]]
id = "BTC/USD"
sources = ["main"]

[[venues]]
kind = "demo_market"
id = "{VENUE}"
address = "{ADDRESS}"
"""


@dataclass
class Seen:
    """A shell, its lane, and what an operator sees of it."""

    rig: Rig
    lane: ScriptedLane
    status: Status
    metrics: Metrics

    async def ready(self) -> None:
        await self.rig.started(set_account(ALICE, -17_500, eth=10), set_account(BOB, 100))
        await self.rig.tried()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def seen(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Seen]:
    (tmp_path / "config.toml").write_text(CONFIG)
    rig, lane = scripted_rig()
    metrics = Metrics("1.2.3")
    metrics.know("feed", FEEDS.values())
    metrics.know("venue", [VENUE])
    metrics.know("wallet", ["main"])
    metrics.know("endpoint", ["http0:127.0.0.1"])
    url = "http://127.0.0.1:8545/my-api-key"
    endpoints = endpoints_of(session, metrics, url, clock=rig.clock)
    async with Journal(tmp_path / "journal.sqlite", 31337) as journal:
        status = Status(
            settings=load(tmp_path / "config.toml"),
            pipeline=rig.pipeline,
            board=rig.board,
            lanes=lane,  # type: ignore[arg-type]
            endpoints=endpoints,
            brakes=rig.execution.brakes,
            journal=journal,
            settlement=rig.settlement,
            quarantine=rig.quarantine,
            heartbeats=rig.heartbeats,
            metrics=metrics,
            clock=rig.clock,  # type: ignore[arg-type]
        )
        yield Seen(rig, lane, status, metrics)


def test_at_first_nothing_is_ready(seen: Seen) -> None:
    assert seen.status.unready() == [
        "chain: no head yet",
        f"venue {VENUE}: book not loaded yet",
        "feed ETH/USD: no price yet",
    ]
    seen.rig.pipeline.chain_trouble = "connection refused"
    assert seen.status.unready()[0] == "chain: no head yet (connection refused)"


def test_the_feed_of_the_reward_token_is_needed(seen: Seen) -> None:
    seen.rig.desk.rules = replace(DESK_RULES, reward_feed=FEEDS["btc"])
    assert "feed BTC/USD: no price yet" in seen.status.unready()


async def test_a_market_that_no_feed_follows_is_named_with_the_mend_and_the_others_are_worked(
    seen: Seen,
) -> None:
    eth = [feed for feed in seen.status.settings.feeds if feed.id == FEEDS["eth"]]
    seen.status.settings = seen.status.settings.model_copy(update={"feeds": eth})
    await seen.rig.started(set_account(ALICE, -19_500, eth=10), prices=["eth"])
    await seen.rig.tried()
    said = (
        f"venue {VENUE}: no feed follows btc, what needs a price of it waits; add a [[feeds]] "
        'table with the id "BTC/USD", or name a feed for it in venues.feeds'
    )
    assert seen.status.unready() == [said]
    assert [plan.account for plan in seen.lane.plans] == [ALICE]


async def test_ready_when_nothing_is_missing(seen: Seen) -> None:
    await seen.ready()
    assert seen.status.unready() == []
    assert seen.status.snapshot()["ready"] is True


async def test_that_nothing_can_be_sent_is_told_with_the_reason(seen: Seen) -> None:
    await seen.ready()
    seen.lane.sending_trouble = "http0:node down: connection refused"
    said = "chain: nothing can be sent: http0:node down: connection refused"
    assert seen.status.unready() == [said]


async def test_an_old_head_and_old_prices_are_named(seen: Seen) -> None:
    await seen.ready()
    seen.rig.clock.advance(31)
    assert seen.status.unready() == [
        "chain: head 100 is 31 s old",
        "feed BTC/USD: price is 31.0 s old",
        "feed ETH/USD: price is 31.0 s old",
    ]


async def test_a_closed_venue_is_named(seen: Seen) -> None:
    seen.rig.chain.state.open = False
    await seen.ready()
    said = f"for {WALLET}"
    unready = f"venue {VENUE}: closed to this wallet; watching only ({said})"
    assert seen.status.unready() == [unready]
    assert 'keeper_venue_open{venue="perps"} 0.0' in gauges(seen)
    venues = seen.status.snapshot()["venues"]
    assert isinstance(venues, dict)
    shown = venues[VENUE]
    assert (shown["open"], shown["probe"]) == (False, {"detail": said, "facts": {}})
    assert shown["capabilities"] == {
        "reward": "cash",
        "price": "push",
        "discovery": "events",
        "action": "transaction",
        "capital": "none",
        "batch": "none",
    }


async def test_what_is_in_quarantine_is_named(seen: Seen) -> None:
    seen.rig.venue.poisoned = {("compile", ALICE)}
    await seen.ready()
    (reason,) = seen.status.unready()
    assert reason.startswith(f"venue {VENUE}: account alice is in quarantine: ZeroDivisionError")


async def test_a_parked_wallet_is_named_and_a_dry_run_is_not(seen: Seen) -> None:
    await seen.ready()
    seen.lane.parked = "cannot pay for another attempt; fund it"
    assert seen.status.unready() == [f"wallet main ({WALLET}): {seen.lane.parked}"]
    assert seen.status.snapshot()["wallets"] == [
        {
            "name": "main",
            "address": WALLET,
            "balance_wei": str(WAD),
            "open_attempts": 0,
            "parked": seen.lane.parked,
        }
    ]
    assert 'keeper_wallet_parked{wallet="main"} 1.0' in gauges(seen)
    seen.lane.wallet = None
    assert seen.status.unready() == []
    assert seen.status.snapshot()["dry_run"] is True


async def test_what_stops_sending_on_purpose_is_named(seen: Seen) -> None:
    await seen.ready()
    brakes = seen.rig.execution.brakes
    brakes.pause(on=True)
    assert seen.status.unready() == ["paused: paused over HTTP"]
    assert seen.status.snapshot()["paused"] == "paused over HTTP"
    assert "keeper_paused 1.0" in gauges(seen)
    brakes.pause(on=False)
    for _ in range(3):
        brakes._breakers[VENUE].ended(reverted=True, now_ms=seen.rig.clock.now_ms)
    assert seen.status.unready() == [
        f"venue {VENUE}: too many transactions reverted in a row; it rests"
    ]
    assert f'keeper_breaker_open{{venue="{VENUE}"}} 1.0' in gauges(seen)


async def test_the_status_document_is_json_and_says_how_it_stands(seen: Seen) -> None:
    rig, lane = seen.rig, seen.lane
    json.dumps(seen.status.snapshot(), allow_nan=False)
    await rig.started(set_account(ALICE, -19_500, eth=10), set_account(BOB, -1_000, eth=1))
    await rig.tried()
    lane.tick_to_sent_ms = [3.0, 1.0, 2.0]
    shown = json.loads(json.dumps(seen.status.snapshot(), allow_nan=False))
    assert shown["venues"][VENUE].pop("odds").startswith("p(win) 100 %: won 0 of 0 in 7 days")
    assert shown["venues"][VENUE] == {
        "loaded": True,
        "open": True,
        "probe": {"detail": f"for {WALLET}", "facts": {}},
        "capabilities": rig.venue.capabilities.as_text(),
        "breaker_open": False,
        "accounts": 2,
        "in_book": 2,
        "under_margined": 1,
    }
    assert shown["head"] == {"block": 100, "age_ms": 0, "delay_ms": 0, "how": "polled"}
    assert shown["prices"]["ETH/USD"] == {"price": 2000.0, "age_ms": 0, "trouble": ""}
    assert shown["latency_ms"] == {"p50": 2.0, "p99": 3.0, "count": 3}
    nearest, next_one = shown["accounts"]
    assert (nearest["account"], nearest["why"]) == (ALICE, "in_flight")
    assert nearest["distance_pct"] < 0 < next_one["distance_pct"]
    (flying,) = shown["attempts"]
    assert (flying["account"], flying["state"]) == (ALICE, "broadcast")
    attempt = lane.open_attempts[0]
    lane.mine(attempt, receipt_of(rig, attempt), TxKind.FIRST)
    await rig.publish()
    await rig.turn()
    shown = json.loads(json.dumps(seen.status.snapshot(), allow_nan=False))
    (done,) = shown["attempts"]
    assert (done["state"], done["block"]) == ("won", 101)
    assert done["reward_wei"] == str(WAD // 10)
    assert shown["totals"]["outcomes"] == {"won": 1}
    assert int(shown["totals"]["profit_wei"][VENUE]) == WAD // 10 - int(done["cost_wei"])


async def test_a_feed_without_a_price_says_why_and_a_loop_that_is_late_is_told(seen: Seen) -> None:
    beats = seen.status.heartbeats
    for loop, limit_s in (("quick", 5.0), ("slow", 60.0)):
        beats.register(loop, limit_s)
    seen.rig.clock.advance(6)
    shown = json.loads(json.dumps(seen.status.snapshot(), allow_nan=False))
    assert shown["prices"]["BTC/USD"] == {"price": None, "age_ms": None, "trouble": "no price yet"}
    assert shown["loops"]["quick"] == {"age_s": 6.0, "limit_s": 5.0, "late": True}
    assert shown["loops"]["slow"] == {"age_s": 6.0, "limit_s": 60.0, "late": False}


async def test_an_account_that_no_price_moves_has_no_distance(seen: Seen) -> None:
    """``Infinity`` is no JSON."""
    await seen.ready()
    rows = seen.rig.desk.lead
    rows.put(BOB, type(rows.row(ALICE))(constant=5.0))
    shown = json.loads(json.dumps(seen.status.snapshot(), allow_nan=False))
    assert {row["account"]: row["distance_pct"] for row in shown["accounts"]}[BOB] is None


def gauges(seen: Seen) -> list[str]:
    seen.metrics.before_render(seen.status.set_gauges)
    seen.metrics.refresh()
    return seen.metrics.render("")[0].decode().splitlines()


async def test_gauges_follow(seen: Seen) -> None:
    await seen.ready()
    seen.rig.settlement.tally.profit_wei[VENUE] = -12
    seen.rig.clock.advance(2)
    found = gauges(seen)
    for line in (
        "keeper_ready 1.0",
        "keeper_dry_run 0.0",
        "keeper_paused 0.0",
        f'keeper_breaker_open{{venue="{VENUE}"}} 0.0',
        "keeper_head_block 100.0",
        "keeper_head_age_seconds 2.0",
        "keeper_head_age_limit_seconds 30.0",
        f'keeper_accounts{{venue="{VENUE}"}} 2.0',
        f'keeper_under_margined_accounts{{venue="{VENUE}"}} 0.0',
        'keeper_price_usd{feed="ETH/USD"} 2000.0',
        'keeper_price_age_seconds{feed="BTC/USD"} 2.0',
        'keeper_price_age_limit_seconds{feed="BTC/USD"} 5.0',
        f'keeper_unpriced_accounts{{venue="{VENUE}"}} 0.0',
        f'keeper_watched_accounts{{venue="{VENUE}"}} {seen.rig.desk.lead.watched}.0',
        f'keeper_venue_open{{venue="{VENUE}"}} 1.0',
        f'keeper_profit_wei{{venue="{VENUE}"}} -12.0',
        'keeper_wallet_balance_wei{wallet="main"} 1e+18',
        'keeper_wallet_balance_limit_wei{wallet="main"} 7.0',
        'keeper_wallet_parked{wallet="main"} 0.0',
        "keeper_open_attempts 0.0",
    ):
        assert line in found, line


async def test_accounts_without_a_price_are_counted(seen: Seen) -> None:
    await seen.rig.started(set_account(ALICE, 100, eth=1), set_account(BOB, 100, btc=1), prices=[])
    await seen.rig.tried()
    assert f'keeper_unpriced_accounts{{venue="{VENUE}"}} 2.0' in gauges(seen)


async def test_a_journal_that_cannot_be_written_is_told_and_measured(seen: Seen) -> None:
    await seen.ready()
    assert "keeper_journal_writable 1.0" in gauges(seen)
    seen.status.journal.trouble = "database or disk is full"
    seen.metrics.refresh()
    assert "keeper_journal_writable 0.0" in seen.metrics.render("")[0].decode()
    assert seen.status.unready() == [
        "journal: cannot be written (database or disk is full); nothing is sent"
    ]
