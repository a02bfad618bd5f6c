"""The config.toml that the demo's keeper runs with."""

import json
from dataclasses import dataclass
from pathlib import Path

from keeper.demo.publisher import PREFIX
from keeper.demo.terms import FEED_ETH, FEEDS

VENUE = "demo"
CONFIG_NAME = "config.toml"
KEY_NAME = "wallet.key"
STATE_NAME = "state"

_CONFIG = """\
# Written by `keeper demo`; removed when it ends.
[keeper]
state_dir = "{state}"

[log]
level = "info"
format = "console"

[http]
host = "127.0.0.1"
port = {http_port}

[chain]
id = {chain_id}
http = [{http_url}]
ws = [{ws_url}]
native_feed = {native_feed}
poll_ms = {poll_ms}
confirmations = 1
head_silence_ms_max = {silence_ms}

[gate]
open_attempts_max = 64
backoff_ms_min = {backoff_ms}

[[wallets]]
key = {{ file = "{key}" }}

[[sources]]
kind = "mqtt"
name = "broker"
host = "127.0.0.1"
port = {mqtt_port}
prefix = "{prefix}"
reconnect_ms_max = {reconnect_ms}
{feeds}
[[venues]]
kind = "demo_market"
id = "{venue}"
address = "{market}"
start_block = {start_block}
"""

_FEED = """
[[feeds]]
id = {feed}
sources = ["broker"]
"""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where everything is that the keeper connects to."""

    chain_id: int
    http_url: str
    ws_url: str
    mqtt_port: int
    http_port: int  # the keeper's own
    market: str
    start_block: int
    block_time_s: float


def write_config(folder: Path, wiring: Wiring) -> Path:
    """Write config.toml into ``folder``, where the key file is too; return its path."""
    text = _CONFIG.format(
        state=STATE_NAME,
        http_port=wiring.http_port,
        chain_id=wiring.chain_id,
        http_url=json.dumps(wiring.http_url),
        ws_url=json.dumps(wiring.ws_url),
        native_feed=json.dumps(FEEDS[FEED_ETH]),
        poll_ms=min(max(round(wiring.block_time_s * 250), 20), 500),
        backoff_ms=max(100, round(wiring.block_time_s * 2_000)),
        silence_ms=max(2_000, round(wiring.block_time_s * 8_000)),  # a restarted node is noticed
        reconnect_ms=max(200, round(wiring.block_time_s * 2_000)),  # back soon after the broker
        key=KEY_NAME,
        mqtt_port=wiring.mqtt_port,
        prefix=PREFIX,
        feeds="".join(_FEED.format(feed=json.dumps(feed)) for feed in FEEDS),
        venue=VENUE,
        market=wiring.market,
        start_block=wiring.start_block,
    )
    path = folder / CONFIG_NAME
    path.write_text(text, encoding="utf-8")
    return path


def journal_path(folder: Path) -> Path:
    """Return where the keeper of this config keeps its journal."""
    return folder / STATE_NAME / "journal.sqlite"
