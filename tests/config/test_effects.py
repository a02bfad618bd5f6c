"""Every key of config.toml does something: with another value something else happens.

A key is written as an operator writes it, mapped by the composition root, and looked at where it
acts. What needs a broker, a chain or a process is shown by the tests that ``ELSEWHERE`` names.
"""

import ast
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from eth_account import Account
from eth_typing import HexStr
from structlog.testing import capture_logs

from keeper.app import _loops
from keeper.chain.endpoints import Role
from keeper.config import json_schema
from keeper.facts import Outcome
from keeper.units import GWEI, WAD
from tests.config import looks
from tests.config.looks import Keys, Look, part
from tests.config.support import read
from tests.config.test_example import ARRAYS, TABLES, resolved

ROOT = Path(__file__).parents[2]
KEY, OTHER_KEY = "0x" + "42" * 32, "0x" + "43" * 32
OTHER_WALLET = str(Account.from_key(OTHER_KEY).address)
PASSWORD = looks.TOKEN  # of a keystore made here
SIGNING: Keys = {"wallets.key": {"file": "one.key"}}
REMOTE: Keys = {"wallets.signer": "http://127.0.0.1:8", "wallets.address": "0x" + "1" * 40}
TWO_WALLETS: Keys = {
    "wallets": [
        {"name": "main", "key": {"file": "one.key"}},
        {"name": "spare", "key": {"file": "other.key"}},
    ]
}
WS: Keys = {"chain.ws": ["ws://127.0.0.1:1"]}
RELAY: Keys = {"relays.url": "http://127.0.0.3:3"}
UNPAYABLE = "cannot pay for another attempt; fund it"
START = {"eth": 2_000 * WAD, "btc": 60_000 * WAD}  # of the fake market
SOLVENCY: Keys = {"venues.objective": "solvency"}
HIGH = {"price_wad": 2_100 * WAD}
APART = ({"price_wad": 2_000 * WAD}, {"source": "spare", "price_wad": 2_020 * WAD})
BITCOIN = {"feed": "BTC/USD", "price_wad": 2 * WAD}
TWO: Keys = {"feeds.sources": ["main", "spare"]}
INVERSE: Keys = {"feeds.sources": [], "feeds.denominator": "BTC/USD"}
EVENING: Keys = {"feeds.market_hours": ["Mon-Sun 20:00-24:00"]}  # the test's clock shows 22:13


@dataclass(frozen=True)
class Effect:
    """What is seen once ``key`` has this value, and is not seen without it.

    ``also``: keys that are set either way. Keys are ``table.key``, of the first table of an array.
    """

    key: str
    value: object
    look: Look
    seen: object
    also: Keys = field(default_factory=dict)


EFFECTS = [
    Effect("gate.transaction_cost_wei_max", 1, looks.why, "cost_cap"),
    Effect("gate.transaction_cost_wei_max", 1, looks.replacement_fee, None),
    Effect("gate.gas_wei_per_hour_max", 1, looks.why, "budget"),
    Effect("gate.gas_wei_per_day_max", 1, looks.why, "budget"),
    Effect("gate.gas_usd_per_hour_max", 0, looks.why, "budget"),
    Effect("gate.gas_usd_per_day_max", 0, looks.why, "budget"),
    Effect("gate.loss_wei_per_hour_max", 1, looks.why, "budget"),
    Effect("gate.loss_wei_per_day_max", 1, looks.why, "budget"),
    Effect("gate.loss_usd_per_hour_max", 0, looks.why, "budget"),
    Effect("gate.loss_usd_per_day_max", 0, looks.why, "budget"),
    Effect("gate.p_win_ppm_min", 700_000, looks.learned(Outcome.REVERTED), (700_000, 1_000_000)),
    Effect("gate.p_win_ppm_max", 950_000, looks.learned(Outcome.WON), (950_000, 100_000)),
    Effect("gate.revert_gas_max", 300_000, looks.learned(Outcome.REVERTED), (500_000, 300_000)),
    Effect("gate.profit_wei_min", WAD, looks.why, "unprofitable"),
    Effect(
        "gate.p_win_ppm",
        500_000,
        looks.planned(lambda _, lane: lane.plans[0].expected.p_win_ppm),
        500_000,
    ),
    Effect("gate.p_win_ppm", 1_000, looks.why, "unprofitable"),
    Effect("gate.revert_gas", 200_000, looks.planned(looks.revert_gas), 200_000),
    Effect("gate.open_attempts_max", 2, looks.attempts_of_three, 2),
    Effect("gate.candidates_per_step_max", 2, looks.due_of_three, 2),
    Effect("gate.paused", True, looks.why, "paused"),  # noqa: FBT003
    Effect("gate.pause_file", "pause", looks.why_beside_a_file, "paused"),
    Effect("gate.reverts_in_a_row_max", 2, looks.why_after(2, 0), "breaker_open"),
    Effect("gate.breaker_ms", 1_000, looks.why_after(5, 2_000), "in_flight"),
    Effect("gate.backup_delay_blocks", 2, looks.why, "backup_delay"),
    Effect("gate.candidate_ms_max", 500, looks.why_a_second_later, "candidate_expired"),
    Effect("http.token", {"file": "password"}, looks.answer_to_a_pause, (200, "paused over HTTP")),
    Effect("gate.hold_ms", 3_000, looks.held_ms, 3_000),
    Effect("gate.backoff_ms_min", 3_000, looks.backed_off_ms(1), 3_000),
    Effect("gate.backoff_ms_max", 50_000, looks.backed_off_ms(9), 50_000),
    Effect("gate.simulations_at_once_max", 3, looks.simulations_at_once, 3),
    Effect("fees.priority_fee_wei", 7, looks.first_fee(100), (207, 7)),
    Effect("fees.rollup", "op_stack", looks.rollup_asked, None),
    Effect("fees.strategy", "percentile", looks.first_fee(100), "fee_unknown"),
    Effect("fees.strategy", "percentile", looks.first_fee(100, 5 * 10**6), (5_000_200, 5_000_000)),
    Effect(
        "fees.percentile",
        80,
        looks.percentile_asked,
        ["eth_feeHistory", ["0x5", "latest", [80]]],
        {"fees.strategy": "percentile"},
    ),
    Effect(
        "fees.profit_share_ppm",
        400_000,
        looks.first_fee(2 * GWEI),
        (7_200_000_000, 3_200_000_000),
        {"fees.strategy": "profit_share"},
    ),
    Effect("venues.fee_strategy", "percentile", looks.first_fee(100), "fee_unknown"),
    Effect("fees.base_fee_headroom_ppm", 3 * 10**6, looks.first_fee(GWEI), (3_001 * 10**6, 10**6)),
    Effect(
        "fees.max_fee_per_gas_wei_max", GWEI + 10**6, looks.first_fee(GWEI), (GWEI + 10**6, 10**6)
    ),
    Effect("fees.max_fee_per_gas_wei_max", GWEI, looks.first_fee(GWEI), "cost_cap"),
    Effect("fees.max_fee_per_gas_wei_max", 2 * GWEI, looks.replacement_fee, None),
    Effect(
        "fees.replacement_bump_ppm",
        500_000,
        looks.replacement_fee,
        (3 * GWEI + 1, 3 * GWEI // 2 + 1),
    ),
    Effect("fees.replace_after_blocks", 5, looks.blocks_until_overdue, 5, SIGNING),
    Effect(
        "fees.gas_limit_factor_ppm",
        2_000_000,
        looks.planned(lambda _, lane: lane.plans[0].gas_limit),
        400_000,
    ),
    Effect("chain.id", 10, looks.chain_signed_for, 10, SIGNING),
    Effect(
        "chain.http",
        ["http://127.0.0.2:2", "http://127.0.0.1:1"],
        looks.rpc_part(lambda rpc: [each.url for each in rpc.endpoints.ranked(Role.READ)]),
        ["http://127.0.0.2:2", "http://127.0.0.1:1"],
    ),
    Effect(
        "chain.send",
        ["http://127.0.0.2:2"],
        looks.rpc_part(lambda rpc: [each.url for each in rpc.endpoints.ranked(Role.SEND)]),
        ["http://127.0.0.2:2"],
    ),
    Effect(
        "chain.public_after_blocks",
        7,
        looks.broadcast_part(lambda b: b._rules.public_after_blocks),
        7,
    ),
    Effect(
        "relays.url",
        "http://127.0.0.3:3",
        looks.rpc_part(lambda rpc: [each.url for each in rpc.endpoints.ranked(Role.PRIVATE)]),
        ["http://127.0.0.3:3"],
    ),
    Effect(
        "relays.protocol",
        "bundle",
        looks.broadcast_part(looks.relay_method),
        "eth_sendBundle",
        RELAY,
    ),
    Effect(
        "relays.signing_key",
        {"file": "other.key"},
        looks.broadcast_part(looks.relay_address),
        OTHER_WALLET,
        RELAY,
    ),
    Effect("chain.probe_ms", 700, looks.rpc_part(lambda rpc: rpc.endpoints.rules.probe_ms), 700),
    Effect("chain.head_lag_blocks_max", 7, looks.rpc_part(looks.state_of(lag=5)), "healthy"),
    Effect("chain.latency_ms_max", 50, looks.rpc_part(looks.state_of(latency_ms=60.0)), "slow"),
    Effect(
        "chain.ws", ["ws://127.0.0.1:1"], part(lambda p: sorted(set(_loops(p)) & {"ws0"})), ["ws0"]
    ),
    Effect(
        "chain.native_feed",
        "BTC/USD",
        looks.planned(lambda _, lane: lane.plans[0].expected.reward_wei),
        200 * WAD * WAD // START["btc"],
    ),
    Effect("chain.poll_ms", 70, part(lambda p: p.follower._settings.poll_ms), 70),
    Effect(
        "chain.rpc_timeout_ms",
        70,
        looks.rpc_part(lambda rpc: rpc.endpoints.client.timeout.total),
        0.07,
    ),
    Effect("chain.rpc_attempts_max", 2, looks.requests_of_a_call, 2),
    Effect("chain.confirmations", 4, looks.blocks_until_settled, 4, SIGNING),
    Effect("chain.reorg_depth_max", 7, part(lambda p: p.follower._settings.reorg_depth_max), 7),
    Effect("chain.reorg_depth_max", 7, part(looks.blocks_remembered), 7),
    Effect("chain.log_range_max", 7, part(lambda p: looks.finder(p)._reader._span), 7),
    Effect("chain.log_range_max", 7, part(lambda p: p.follower._reader._span), 7),
    Effect("chain.log_queries_at_once_max", 7, looks.queries_at_once, 7),
    Effect(
        "chain.log_queries_per_s_max",
        1_000,
        part(lambda p: looks.finder(p)._reader._rules.log_queries_per_s_max),
        1_000,
    ),
    Effect("chain.head_age_ms_max", 1_000, looks.why_two_seconds_after_the_head, "stale_head"),
    Effect(
        "chain.sequencer_feed",
        "0x" + "a" * 40,
        part(lambda p: sorted(set(_loops(p)) & {"sequencer"})),
        ["sequencer"],
    ),
    Effect(
        "chain.head_silence_ms_max", 700, part(lambda p: looks.listening(p).silence_ms_max), 700, WS
    ),
    Effect(
        "chain.pending_logs",
        value=True,
        look=part(lambda p: looks.listening(p).pending_logs),
        seen=True,
        also=WS,
    ),
    Effect("keeper.state_dir", "elsewhere", part(looks.folder_of_the_journal), "elsewhere"),
    Effect("keeper.state_dir", "elsewhere", part(looks.folder_of_the_ledger), "elsewhere"),
    Effect("keeper.state_dir", "elsewhere", part(looks.folder_of_the_snapshots), "elsewhere"),
    Effect("keeper.snapshot_s", 7, part(looks.seconds_between_snapshots), 7),
    Effect("keeper.journal_days_max", 9, part(lambda p: p.status.journal._days_max), 9),
    Effect("reconcile.every_ms", 600, part(lambda p: looks.reconciling(p).every_ms), 600),
    Effect("reconcile.accounts_max", 7, part(lambda p: looks.reconciling(p).accounts_max), 7),
    Effect("reconcile.drift_ppm_max", 7, part(lambda p: looks.reconciling(p).drift_ppm_max), 7),
    Effect("wallets.key", {"file": "other.key"}, looks.wallet, OTHER_WALLET),
    Effect(
        "wallets.keystore",
        "keystore.json",
        looks.wallet,
        OTHER_WALLET,
        {"wallets.password": {"file": "password"}},
    ),
    Effect("wallets.name", "left", looks.wallet_names, ["left"], SIGNING),
    Effect("wallets.signer", "http://127.0.0.1:9", looks.signer_of, "127.0.0.1:9", REMOTE),
    Effect("wallets.address", OTHER_WALLET.lower(), looks.wallet, OTHER_WALLET, REMOTE),
    Effect("wallets.signer_timeout_ms", 70, looks.signer_timeout_s, 0.07, REMOTE),
    Effect("wallets.balance_wei_min", WAD + 1, looks.parked_with_one_token, UNPAYABLE, SIGNING),
    Effect("feeds.sources", ["spare", "main"], looks.priced({"source": "spare"}), "taken"),
    Effect("feeds.age_ms_max", 1_000, looks.priced(later_ms=2_000), "too old"),
    Effect("feeds.future_ms_max", 400, looks.priced({"published_ms": looks.AHEAD_MS}), "future"),
    Effect("feeds.conf_ppm_max", 1_000, looks.priced({"conf_wad": 10 * WAD}), "wide_confidence"),
    Effect("feeds.change_ppm_max", 40_000, looks.priced(HIGH), "jump"),
    Effect("feeds.rule", "median", looks.fused(*APART), 2_010, TWO),
    Effect("feeds.quorum", 2, looks.fused(APART[0]), None, TWO),
    Effect("feeds.deviation_ppm_max", 4_000, looks.fused(*APART), None, TWO),
    Effect("feeds.contract_source", "spare", looks.fused(*APART), 2_020, TWO),
    Effect("feeds.numerator", "BTC/USD", looks.fused(BITCOIN), 1.0, INVERSE),
    Effect("feeds.market_hours", ["Mon-Sun 00:00-00:01"], looks.fused(*APART), None, TWO),
    Effect("feeds.market_timezone", "Asia/Tokyo", looks.fused(*APART), None, EVENING),
    Effect("venues.id", "acme", part(lambda p: list(p.desks)), ["acme"]),
    Effect("venues.objective", "solvency", looks.first_of_two, looks.ALICE),
    Effect("venues.solvency_budget_wei", WAD, looks.why_at_a_loss, "in_flight", SOLVENCY),
    Effect("venues.start_block", 7, part(lambda p: looks.finder(p)._start_blocks), {"perps": 7}),
    Effect("venues.probe_ms", 24_000, looks.probed_again_after_ms, 24_000),
    Effect(
        "venues.reward_feed",
        "BTC/USD",
        looks.planned(lambda _, lane: lane.plans[0].expected.reward_wei),
        200 * START["btc"] * WAD // START["eth"],
    ),
    Effect("venues.wallets", ["spare"], looks.wallets_of_the_venue, ["spare"], TWO_WALLETS),
    Effect(
        "venues.batch_accounts_max",
        2,
        looks.accounts_of_the_first_attempt,
        (looks.ALICE, looks.BOB),
    ),
    Effect("venues.optimistic", value=True, look=looks.simulated_after_three_won, seen=[]),
    Effect("venues.address", "0x" + "b" * 40, part(looks.addresses), ["0x" + "b" * 40]),
    Effect("sources.client_id", "keeper-7", looks.greeting(looks.client_id), "keeper-7"),
    Effect("sources.keepalive_s", 7, looks.greeting(looks.keepalive_s), 7),
]
PROCESS = "tests/e2e/test_settings.py::test_where_it_listens_and_how_it_talks"
TREASURY = "tests/chain/test_treasury.py::test_"
CONNECTION = "tests/prices/test_mqtt_connection.py::test_"
TLS = "tests/e2e/test_http_api.py::test_a_certificate_of_nobody_we_trust_is_refused"
ELSEWHERE = {
    "log.level": PROCESS,
    "keeper.watch_config": "tests/config/test_reload.py::"
    "test_a_watched_file_is_read_once_it_stays_the_same_for_a_look",
    "log.format": PROCESS,
    "http.host": PROCESS,
    "http.port": PROCESS,
    "http.tls_cert": TLS,
    "http.tls_key": TLS,
    "wallets.password": "tests/chain/test_signer.py::test_a_keystore_opens_with_its_password_only",
    "treasury.wallet": TREASURY + "the_treasury_acts_nowhere",
    **dict.fromkeys(
        [f"treasury.{key}" for key in ("below_wei", "to_wei", "top_up_wei_max", "wei_per_day_max")],
        TREASURY + "a_low_wallet_is_topped_up_within_the_cap_of_one_and_of_a_day",
    ),
    "treasury.wrapped_native": TREASURY
    + "what_a_low_wallet_holds_of_the_wrapped_token_is_unwrapped_first",
    "chain.sequencer_grace_s": "tests/chain/test_sequencer.py::"
    "test_no_price_counts_while_it_is_down_and_for_the_grace_after",
    "sources.kind": "tests/config/test_config.py::test_unknown_kind_lists_the_kinds",
    "sources.name": "tests/config/test_config.py::test_feeds_of_a_venue_must_exist",
    "sources.host": CONNECTION + "tls_verifies_the_broker",
    "sources.port": CONNECTION + "a_socket_that_stays_open_and_falls_silent_is_replaced",
    "sources.prefix": "tests/e2e/test_outcome.py::test_an_outcome_is_told_everywhere_the_same",
    "sources.user": CONNECTION + "a_password_lets_in_and_a_wrong_one_is_reported_and_tried_again",
    "sources.password": CONNECTION
    + "a_password_lets_in_and_a_wrong_one_is_reported_and_tried_again",
    "sources.tls": CONNECTION + "plain_text_to_a_tls_port_and_tls_to_a_plain_one_fail",
    "sources.tls_ca": CONNECTION + "tls_verifies_the_broker",
    "sources.silence_ms_max": CONNECTION + "a_socket_that_stays_open_and_falls_silent_is_replaced",
    "sources.reconnect_ms_min": CONNECTION + "delays_grow_with_jitter_up_to_the_maximum",
    "sources.reconnect_ms_max": CONNECTION + "delays_grow_with_jitter_up_to_the_maximum",
    "sources.payload_bytes_max": "tests/prices/test_mqtt.py::"
    "test_unknown_feeds_and_large_messages_are_refused_unread",
    "feeds.denominator": "tests/prices/test_fusing.py::test_derived_prices_are_quotients",
    "feeds.id": "tests/e2e/test_junk.py::test_junk_is_refused_and_counted",
    "lease.kind": "tests/lease/test_settings.py::test_a_kind_makes_a_lease",
    "lease.ttl_s": "tests/lease/test_settings.py::test_rules_are_those_of_the_config",
    "lease.renew_s": "tests/lease/test_settings.py::test_rules_are_those_of_the_config",
    "lease.name": "tests/lease/test_settings.py::test_where_the_object_is",
    "lease.namespace": "tests/lease/test_settings.py::test_where_the_object_is",
    "lease.url": "tests/lease/test_settings.py::test_where_the_object_is",
    "lease.token": "tests/lease/test_kubernetes.py::test_the_config_goes_first",
    "lease.ca": "tests/lease/test_settings.py::test_authorities_and_logins_are_read",
    "lease.credentials": "tests/lease/test_settings.py::test_authorities_and_logins_are_read",
    "lease.servers": "tests/lease/test_nats.py::test_it_is_created_read_and_replaced_by_revision",
    "lease.bucket": "tests/lease/test_nats.py::test_the_bucket_is_made_as_the_config_says",
    "lease.replicas": "tests/lease/test_nats.py::test_the_bucket_is_made_as_the_config_says",
    "venues.kind": "tests/config/test_config.py::test_unknown_kind_lists_the_kinds",
    "venues.feeds": "tests/venues/test_demo_market.py::test_factors_follow_the_mapping",
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the config goes, with keys beside it."""
    keystore = Account.encrypt(HexStr(OTHER_KEY), PASSWORD, kdf="pbkdf2", iterations=1)
    secrets: Mapping[str, str] = {
        "one.key": KEY,
        "other.key": OTHER_KEY,
        "password": PASSWORD,
        "keystore.json": json.dumps(keystore),
    }
    for name, text in secrets.items():
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text)
    return tmp_path / "config.toml"


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.key)
async def test_another_value_changes_what_happens(file: Path, effect: Effect) -> None:
    if effect.key != "wallets.keystore":  # without it the password has nothing to open
        before = await effect.look(read(file, looks.text_of(effect.also)))
        shutil.rmtree(file.parent / "state", ignore_errors=True)
        assert before != effect.seen, "seen without the key too"
    after = await effect.look(read(file, looks.text_of({**effect.also, effect.key: effect.value})))
    assert after == effect.seen


def test_every_key_has_an_effect() -> None:
    schema = json_schema()
    keys: set[str] = set()
    for name in (*TABLES, *ARRAYS):
        node = resolved(schema, schema["properties"][name])
        items = node.get("items", node)
        wanted = {"sources": "mqtt", "venues": "demo_market"}.get(name)
        for arm in (resolved(schema, each) for each in items.get("oneOf", [items])):
            if arm["properties"].get("kind", {}).get("const") == wanted:
                keys |= {f"{name}.{key}" for key in arm["properties"]}
    assert {effect.key for effect in EFFECTS} | set(ELSEWHERE) == keys


@pytest.mark.parametrize("place", sorted(set(ELSEWHERE.values())))
def test_what_is_shown_elsewhere_is_there(place: str) -> None:
    path, name = place.split("::")
    tree = ast.parse((ROOT / path).read_text())
    assert name in {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
