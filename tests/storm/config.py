"""The config.toml that a storm's keeper runs with."""

from pathlib import Path

from tests.storm.feeder import FEEDS, NATIVE
from tests.storm.form import Form
from tests.storm.node import ClockedAnvil
from tests.synthetix.world import World

STALE_BLOCKS = 4  # of a market's feed: a silent broker is noticed
NATIVE_STALE_MS = 60_000  # it only weighs gas
CONFIG = """\
[keeper]
state_dir = "state"

[log]
level = "info"
format = "json"

[http]
port = {http_port}

[chain]
id = {chain_id}
http = ["{http}"]
ws = ["{ws}"]
native_feed = "{native}"
poll_ms = 100
rpc_timeout_ms = 2000
confirmations = 1
head_silence_ms_max = 3000

[fees]
gas_limit_factor_ppm = 2_000_000

[gate]
backoff_ms_min = 250
backoff_ms_max = 2000
hold_ms = 250

[[wallets]]
key = {{ file = "wallet.key" }}

[[sources]]
kind = "mqtt"
name = "broker"
host = "127.0.0.1"
port = {mqtt_port}
prefix = "{prefix}"
reconnect_ms_max = 500
{feeds}
[[venues]]
kind = "synthetix_v3"
id = "perps"
address = "{address}"
batch_accounts_max = {together}
{pyth}
[venues.feeds]
{markets}
"""


def write_config(
    file: Path,
    form: Form,
    world: World,
    node: ClockedAnvil,
    ports: tuple[int, int],
    prefix: str,
) -> None:
    """Write it beside the wallet's key. ``ports``: of the broker, and for the keeper's server."""
    mqtt_port, http_port = ports
    pyth = world.system.pyth
    stale_ms = 1000 * form.blocks_s(STALE_BLOCKS)
    ages = dict.fromkeys(FEEDS.values(), stale_ms) | {NATIVE: NATIVE_STALE_MS}
    file.write_text(
        CONFIG.format(
            http_port=http_port,
            chain_id=int(node.rpc("eth_chainId"), 16),
            http=node.url,
            ws=node.ws_url,
            native=NATIVE,
            mqtt_port=mqtt_port,
            prefix=prefix,
            feeds="".join(
                f'[[feeds]]\nid = "{feed}"\nsources = ["broker"]\nage_ms_max = {age_ms}\n'
                for feed, age_ms in ages.items()
            ),
            address=world.perps.address,
            together=form.together,
            pyth=f'pyth = "{pyth.address}"' if pyth is not None else "",
            markets="\n".join(f'{market} = "{feed}"' for market, feed in FEEDS.items()),
        )
    )
