"""A changed file while the keeper runs: what is taken over, what needs a restart, what is wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from keeper.act.spending import Past
from keeper.app import Parts, build
from keeper.config import ConfigFile, difference, json_schema, with_live
from keeper.config.table import LIVE
from keeper.decide.economics import Spend
from keeper.errors import ConfigError
from keeper.facts import Outcome
from keeper.jobs import Job
from keeper.reload import Reload, Reloading, adopt, adopt_deciding
from keeper.rules import lane_rules
from keeper.units import WAD
from tests.config import looks
from tests.config.looks import Keys
from tests.config.support import read
from tests.config.test_effects import EFFECTS, SIGNING, TWO, Effect, file
from tests.config.test_example import ARRAYS, TABLES, resolved
from tests.shell.venue import VENUE

__all__ = ["file"]  # the fixture

MQTT = {"kind": "mqtt", "name": "main", "host": "127.0.0.1"}
SPARE = MQTT | {"name": "spare"}
ETH, BTC = ({"id": feed, "sources": ["main"]} for feed in ("ETH/USD", "BTC/USD"))
ADDRESS = "0x" + "aa" * 20
SYNTHETIX = {"kind": "synthetix_v3", "id": "perps", "address": ADDRESS, "feeds": {}}
KEYSTORE: Keys = {"wallets.keystore": "keystore.json", "wallets.password": {"file": "password"}}
# what changes the keys whose effect is shown elsewhere
OTHERS: dict[str, Keys] = {
    "log.format": {"log.format": "json"},
    "http.host": {"http.host": "127.0.0.2"},
    "http.port": {"http.port": 9_465},
    "http.tls_cert": {"http.tls_cert": "a.pem", "http.tls_key": "a.key"},
    "http.tls_key": {"http.tls_cert": "a.pem", "http.tls_key": "a.key"},
    "keeper.watch_config": {"keeper.watch_config": True},
    "wallets.keystore": KEYSTORE,
    "wallets.password": KEYSTORE,
    "chain.sequencer_grace_s": {"chain.sequencer_grace_s": 7},
    "treasury.wallet": {
        "wallets": [
            {"name": "main", "key": {"file": "one.key"}},
            {"name": "spare", "key": {"file": "other.key"}},
        ],
        "treasury.wallet": "spare",
    },
    "lease.kind": {"lease.kind": "nats", "lease.servers": ["nats://127.0.0.1:7"]},
    "lease.ttl_s": {"lease.ttl_s": 70},
    "lease.renew_s": {"lease.renew_s": 4},
    "lease.bucket": {"lease.bucket": "other"},
    "lease.ca": {"lease.ca": "ca.pem"},
    "lease.credentials": {"lease.credentials": "keeper.creds"},
    "lease.name": {"lease.name": "other"},
    "lease.namespace": {"lease.namespace": "keepers"},
    "lease.replicas": {"lease.replicas": 5},
    "lease.servers": {"lease.servers": ["nats://127.0.0.1:7"]},
    "lease.token": {"lease.token": {"file": "token"}},
    "lease.url": {"lease.url": "https://127.0.0.1:7"},
    "treasury.below_wei": {"treasury.below_wei": 7},
    "treasury.to_wei": {"treasury.to_wei": 7 * 10**17},
    "treasury.top_up_wei_max": {"treasury.top_up_wei_max": 7},
    "treasury.wei_per_day_max": {"treasury.wei_per_day_max": 7},
    "treasury.wrapped_native": {"treasury.wrapped_native": ADDRESS},
    "sources.kind": {"sources": [{"kind": "replay", "name": "main", "file": "a.csv"}, SPARE]},
    "sources.name": {"sources": [MQTT, SPARE, MQTT | {"name": "third"}]},
    "sources.host": {"sources.host": "127.0.0.2"},
    "sources.port": {"sources.port": 1_884},
    "sources.prefix": {"sources.prefix": "other"},
    "sources.user": {"sources.user": "me"},
    "sources.password": {"sources.user": "me", "sources.password": {"file": "password"}},
    "sources.tls": {"sources.tls": True},
    "sources.tls_ca": {"sources.tls": True, "sources.tls_ca": "ca.pem"},
    "sources.silence_ms_max": {"sources.silence_ms_max": 70_000},
    "sources.reconnect_ms_min": {"sources.reconnect_ms_min": 70},
    "sources.reconnect_ms_max": {"sources.reconnect_ms_max": 7_000},
    "sources.payload_bytes_max": {"sources.payload_bytes_max": 700},
    "feeds.id": {"feeds": [ETH, BTC, ETH | {"id": "SOL/USD"}]},
    "feeds.denominator": {"feeds": [ETH, BTC, {"id": "USD/ETH", "denominator": "ETH/USD"}]},
    "venues.kind": {"venues": [SYNTHETIX]},
    "venues.feeds": {"venues.feeds": {"ETH": "BTC/USD"}},
}


def keys_of(*, live: bool) -> set[str]:
    """Return the keys of config.toml that the schema shows as live, or the others."""
    schema = json_schema()
    found: set[str] = set()
    for name in (*TABLES, *ARRAYS):
        node = resolved(schema, schema["properties"][name])
        items = node.get("items", node)
        wanted = {"sources": "mqtt", "venues": "demo_market"}.get(name)
        for arm in (resolved(schema, each) for each in items.get("oneOf", [items])):
            if arm["properties"].get("kind", {}).get("const") == wanted:
                for key, told in arm["properties"].items():
                    if told["description"].endswith(LIVE) is live:
                        found.add(f"{name}.{key}")
    return found


LIVE_KEYS, OTHER_KEYS = keys_of(live=True), keys_of(live=False)
LIVE_EFFECTS = [effect for effect in EFFECTS if effect.key in LIVE_KEYS]
FIXED = {effect.key: effect for effect in EFFECTS if effect.key not in {*LIVE_KEYS, *OTHERS}}


@pytest.mark.parametrize("effect", LIVE_EFFECTS, ids=lambda effect: effect.key)
async def test_a_live_key_takes_effect_in_what_runs(file: Path, effect: Effect) -> None:
    before = read(file, looks.text_of(effect.also))
    wanted = read(file, looks.text_of({**effect.also, effect.key: effect.value}))
    taken = with_live(before, wanted)
    assert difference(taken, wanted) == []
    with capture_logs(), looks.started_with(before):
        assert await effect.look(taken) == effect.seen


def test_every_live_key_is_among_those() -> None:
    # how much is logged only a whole process shows: tests/e2e/test_reload.py
    assert {effect.key for effect in LIVE_EFFECTS} == LIVE_KEYS - {"log.level"}


@pytest.mark.parametrize("key", sorted(OTHER_KEYS))
def test_any_other_key_is_named_and_changes_nothing(file: Path, key: str) -> None:
    effect = FIXED.get(key)
    also: Keys = effect.also if effect else {}
    changes: Keys = {effect.key: effect.value} if effect else OTHERS[key]
    before = read(file, looks.text_of(also))
    wanted = read(file, looks.text_of({**also, **changes}))
    taken = with_live(before, wanted)
    assert taken == before
    table, _, name = key.partition(".")
    named = [change.key for change in difference(taken, wanted)]
    assert any(one.startswith(f"{table}.") and f"{one}.".find(f".{name}.") > 0 for one in named)


def test_a_feed_that_gets_another_source_keeps_its_old_limits_till_then(file: Path) -> None:
    before = read(file, looks.text_of({}))
    keys = {"feeds.sources": ["main", "spare"], "feeds.quorum": 2, "gate.hold_ms": 7}
    wanted = read(file, looks.text_of(keys))
    taken = with_live(before, wanted)
    assert (taken.feeds[0].quorum, taken.gate.hold_ms) == (1, 7)
    named = [change.key for change in difference(taken, wanted)]
    assert named == ["feeds.ETH/USD.sources", "feeds.ETH/USD.quorum"]


# --- what runs takes it over ----------------------------------------------------------------------


def rules_in(parts: Parts) -> list[object]:
    """Return what every part goes by."""
    status, (desk,), (lane,) = parts.status, parts.desks.values(), parts.lanes.lanes
    execution, (breaker,) = parts.pipeline.execution, status.brakes._breakers.values()
    return [
        *(execution.rules, execution.spending._rules, execution.spending._record.prior),
        execution.spending._budget.limits,
        *(status.brakes._rules, breaker.reverts_in_a_row_max, breaker.open_ms),
        *(desk.rules, desk.agenda._backoff_ms_min, desk.agenda._backoff_ms_max),
        desk.access.probe_ms,
        *(parts.lanes._rules, lane.rules, lane.wallet.balance_wei_min),
        *(status.board._rules, status.endpoints.rules, parts.pipeline.reading.reconciler.rules),
        status.settings,
    ]


async def test_a_reload_reaches_every_part(file: Path) -> None:
    started: Keys = {**SIGNING, **TWO}
    before = read(file, looks.text_of(started))
    keys = {effect.key: effect.value for effect in LIVE_EFFECTS}
    wanted = read(file, looks.text_of({**started, **keys}))
    async with build(wanted) as parts:
        there = rules_in(parts)
    async with build(before) as parts:
        assert [a for a, b in zip(rules_in(parts), there, strict=True) if a == b] == []
        adopt(parts.status, wanted)
        assert rules_in(parts) == there


async def test_what_a_limit_held_is_tried_at_once_when_it_is_raised(file: Path) -> None:
    before = read(file, looks.text_of({"gate.gas_wei_per_day_max": 1}))
    rig, lane = await looks.attempted(before)
    assert rig.why(looks.ALICE) == "budget"
    await rig.tried()
    assert lane.plans == []
    adopt_deciding(rig.pipeline, read(file, looks.text_of({})))
    await rig.tried()
    assert [plan.account for plan in lane.plans] == [looks.ALICE]


async def test_what_was_spent_counts_on(file: Path) -> None:
    before = read(file, looks.text_of({}))
    rig, _ = await looks.attempted(before)
    spent = Past(
        VENUE, Job.LIQUIDATE, Outcome.REVERTED, rig.clock.now_ms, 0, WAD // 10, 2_000 * WAD, None
    )
    rig.execution.spending.note(spent)
    adopt_deciding(rig.pipeline, read(file, looks.text_of({"gate.gas_usd_per_day_max": 500})))
    left = rig.execution.spending.left([])
    (usd,) = [wad for limit, wad in left.items() if limit.unit.value == "usd"]
    assert usd == (500 - 2_000 // 10) * WAD  # although it was no budget when it was spent


async def test_a_lowered_cap_binds_the_replacement_of_what_is_in_flight(file: Path) -> None:
    before = read(file, looks.text_of(SIGNING))
    spend = Spend(WAD, 200_000, 300_000, 0)
    async with looks.lanes_for(before) as lanes:
        attempt = await looks.flying(lanes.lanes[0])
        assert lanes.replacement_fee(attempt, looks.head(), spend) is not None
        lower = {**SIGNING, "fees.max_fee_per_gas_wei_max": attempt.transactions[0].max_fee_wei}
        lanes.adopt(lane_rules(read(file, looks.text_of(lower))), {})
        assert lanes.replacement_fee(attempt, looks.head(), spend) is None


# --- the file -------------------------------------------------------------------------------------


@dataclass
class Running:
    """A keeper of which the decide loop runs, and the reload of its file."""

    file: Path
    parts: Parts
    reload: Reload
    levels: list[str] = field(default_factory=list)

    def write(self, keys: Keys) -> None:
        self.file.write_text(looks.text_of(keys))

    def remove(self) -> None:
        self.file.unlink()

    def shown(self, series: str) -> float:
        text = self.parts.metrics.render("")[0].decode()
        (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
        return float(line.rpartition(" ")[2])

    def counted(self, result: str) -> float:
        return self.shown(f'keeper_config_reloads_total{{result="{result}"}}')


@asynccontextmanager
async def running(file: Path, keys: Keys) -> AsyncIterator[Running]:
    settings = read(file, looks.text_of(keys))
    async with build(settings) as parts:
        for loop in ("decide", "config"):
            parts.heartbeats.register(loop, 15.0)
        levels: list[str] = []
        source = Reloading(ConfigFile(file), levels.append)
        reload = Reload(source, parts.status, lambda: parts.heartbeats.beat("config"))
        decide = asyncio.create_task(parts.pipeline.decide())
        try:
            yield Running(file, parts, reload, levels)
        finally:
            decide.cancel()
            await asyncio.wait([decide])


async def test_the_difference_is_logged_key_by_key_and_shown(file: Path) -> None:
    async with running(file, {}) as keeper:
        before = keeper.shown("keeper_config_hash")
        keeper.write(
            {
                "gate.hold_ms": 7,
                "log.level": "debug",
                "chain.http": ["http://127.0.0.9:9/v3/s3cr3t"],
            }
        )
        with capture_logs() as logs:
            await keeper.reload.reload()
        told = [(line["event"], line["key"], line["before"], line["after"]) for line in logs[:-1]]
        assert told == [
            ("config", "log.level", '"info"', '"debug"'),
            ("config", "gate.hold_ms", "2000", "7"),
            (
                "config needs a restart",
                "chain.http",
                '["http://127.0.0.1:1"]',
                '["http://127.0.0.9:9/***"]',
            ),
        ]
        assert "s3cr3t" not in str(logs)
        assert keeper.levels == ["debug"]
        assert keeper.counted("restart_needed") == 1
        assert keeper.shown("keeper_config_restart_keys") == 1
        settings = keeper.parts.status.settings
        assert (settings.gate.hold_ms, settings.chain.http) == (7, keeper.parts.settings.chain.http)
        assert keeper.shown("keeper_config_hash") == int(settings.digest[:12], 16) != before
        shown: Any = keeper.parts.status.snapshot()["config"]
        assert shown == {"digest": settings.digest[:12], "restart_keys": ["chain.http"]}

        keeper.write({"gate.hold_ms": 7, "log.level": "debug"})
        await keeper.reload.reload()
        assert keeper.counted("unchanged") == 1
        assert keeper.shown("keeper_config_restart_keys") == 0


async def test_an_invalid_file_changes_nothing_and_every_mistake_is_told(file: Path) -> None:
    async with running(file, {}) as keeper:
        before = keeper.parts.status.settings
        keeper.write({"gate.hold_ms": 0, "gate.paused": True, "fees.percentil": 50})
        with capture_logs() as logs:
            await keeper.reload.reload()
        assert keeper.parts.status.settings is before
        assert keeper.parts.status.brakes.paused == ""
        told = [line["problem"] for line in logs if line["log_level"] == "error"]
        assert len(told) == 2
        assert any(f"{file}:" in one and "gate.hold_ms" in one and "1" in one for one in told)
        assert any("fees.percentil" in one and "percentile" in one for one in told)
        assert keeper.counted("invalid") == 1
        keeper.remove()
        await keeper.reload.reload()
        assert keeper.counted("invalid") == 2


class Script(Exception):  # noqa: N818 - no error
    """The script has ended."""


class ScriptedFile:
    """A file that looks so, one look after the other, and says when it was read."""

    def __init__(self, looks_so: str) -> None:
        self.read_at: list[int] = []
        self._stamps = list(looks_so)
        self._looked = 0

    def stamp(self) -> str:
        if self._looked == len(self._stamps):
            raise Script
        self._looked += 1
        return self._stamps[self._looked - 1]

    def read(self) -> NoReturn:
        self.read_at.append(self._looked - 1)
        raise ConfigError(["a mistake"])


@pytest.mark.parametrize(
    ("watched", "hung_up", "read_at"),
    [(True, False, [5, 8]), (False, False, []), (False, True, [1])],
)
async def test_a_watched_file_is_read_once_it_stays_the_same_for_a_look(
    file: Path,
    watched: bool,  # noqa: FBT001
    hung_up: bool,  # noqa: FBT001
    read_at: list[int],
) -> None:
    async with running(file, {"keeper.watch_config": watched}) as keeper:
        script = ScriptedFile("AABCDDDAAA")
        source = Reloading(script, keeper.levels.append)  # type: ignore[arg-type]
        reload = Reload(source, keeper.parts.status, lambda: None)
        if hung_up:
            reload.hang_up()
        with pytest.raises(Script):
            await reload.watch(look_s=0.001)
        assert script.read_at == read_at


def test_a_file_that_is_written_or_replaced_looks_otherwise(file: Path) -> None:
    config = ConfigFile(file)
    assert config.stamp() is None
    seen = set()
    for text in ("a", "ab"):
        file.write_text(text)
        seen.add(config.stamp())
    (file.parent / "new").write_text("ab")
    (file.parent / "new").replace(file)
    seen.add(config.stamp())
    assert len(seen) == 3


def test_the_wallets_of_a_dry_run_do_not_count(file: Path) -> None:
    file.write_text(looks.text_of(SIGNING))
    assert ConfigFile(file).read().wallets != ()
    assert ConfigFile(file, dry_run=True).read().wallets == ()
