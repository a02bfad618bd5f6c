"""One liquidation, told everywhere the same: chain, MQTT, metrics, status, log, journal."""

import json
import queue
from collections.abc import Iterator
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from keeper.observe.catalogue import STAGES
from keeper.units import WAD
from tests.e2e.rig import ANSWER_S_MAX, ETHER, KeeperProcess, Rig
from tests.market_chain import FEE_WEI, FEEDS

TOLD_S_MAX = 10.0
ETH = FEEDS.index("ETH/USD")


@pytest.fixture
def outcomes(rig: Rig) -> Iterator["queue.SimpleQueue[MQTTMessage]"]:
    """What anybody at the broker hears of the keeper's outcomes."""
    heard: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
    subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: heard.put(message)
    client.on_subscribe = lambda *_: subscribed.put(True)  # noqa: FBT003 - a queue's item
    client.connect(rig.broker.host, rig.broker.port)
    client.loop_start()
    client.subscribe(f"{rig.prefix}/venues/+/liquidations", qos=1)
    assert subscribed.get(timeout=ANSWER_S_MAX)
    yield heard
    client.disconnect()
    client.loop_stop()


def attempt_line(keeper: KeeperProcess) -> dict[str, Any]:
    lines = [json.loads(line) for line in keeper.run.stderr.splitlines()]
    (line,) = [line for line in lines if line["event"] == "attempt"]
    return dict(line)


def test_an_outcome_is_told_everywhere_the_same(
    rig: Rig, outcomes: "queue.SimpleQueue[MQTTMessage]"
) -> None:
    with rig.keeper() as keeper:
        keeper.until_ready()
        account = rig.open_safe()
        keeper.until(lambda: keeper.metric("keeper_accounts") == 1, TOLD_S_MAX)
        rig.oracle.set(ETH, rig.oracle.prices[ETH] * 95 // 100)
        heard = outcomes.get(timeout=TOLD_S_MAX)
        keeper.until(
            lambda: keeper.metric("keeper_liquidations_seen_total", by="us") == 1, TOLD_S_MAX
        )

        told = json.loads(heard.payload)
        (event,) = [one for one in rig.liquidations() if one["account"] == account]
        spent_wei = 10 * ETHER - int(rig.node.rpc("eth_getBalance", keeper.wallet, "latest"), 16)
        earned_wei = rig.usd(keeper.wallet) * WAD // rig.oracle.prices[ETH]

        assert heard.topic == f"{rig.prefix}/venues/demo/liquidations"
        assert not heard.retain
        assert set(told) == {
            *("id", "account", "outcome", "tx", "block", "reward_wei", "cost_wei", "ts")
        }
        assert (told["account"], told["outcome"]) == (str(account), "won")
        assert told["tx"] == event["tx"]
        assert int(told["cost_wei"]) == spent_wei > FEE_WEI
        assert int(told["reward_wei"]) == earned_wei > 0

        line = attempt_line(keeper)
        for key in ("id", "account", "outcome", "tx", "block"):
            assert line[key] == told[key], key
        assert (line["reward_wei"], line["cost_wei"]) == (earned_wei, spent_wei)

        assert keeper.metric("keeper_attempts_total", outcome="won") == 1
        assert keeper.metric("keeper_reward_wei_total") == pytest.approx(earned_wei)
        gas_wei = keeper.metric("keeper_gas_spent_wei_total")
        oracle_wei = keeper.metric("keeper_oracle_fee_wei_total")
        assert oracle_wei == FEE_WEI, "one price was brought along"
        assert gas_wei + oracle_wei == pytest.approx(spent_wei, rel=1e-12)
        assert keeper.metric("keeper_profit_wei") == pytest.approx(earned_wei - spent_wei)
        assert keeper.metric("keeper_wallet_balance_wei", wallet="main") == pytest.approx(
            10 * ETHER - spent_wei
        )
        assert keeper.metric("keeper_journal_bytes") > 0
        for stage in STAGES:
            assert keeper.metric("keeper_stage_seconds_count", stage=stage) >= 1, stage
        totals = json.loads(keeper.get("/api/v1/status")[1])["totals"]
        assert totals["profit_wei"] == {"demo": str(earned_wei - spent_wei)}
        assert totals["outcomes"] == {"won": 1}

        keeper.stop()
        (row,) = keeper.journal()
    assert (row.id, row.tx_hash) == (told["id"], told["tx"])
    assert (row.reward_wei, row.cost_wei) == (earned_wei, spent_wei)
    assert row.reward_wad == event["reward"]
