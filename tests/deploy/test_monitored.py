"""A keeper at work, scraped by a real Prometheus: every panel has data, a death is heard of."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.monitors import (
    Server,
    running_alertmanager,
    running_prometheus,
    running_webhook,
)
from tests.deploy.panels import Panel, metrics_in, panels
from tests.deploy.test_alerts import FOLDER, rules
from tests.e2e.rig import KeeperProcess, Options, Rig
from tests.e2e.runs import until
from tests.market_chain import START_PRICES

SCRAPE = "1s"
PATIENCE = "5s"  # of every rule; a scrape that a busy machine misses is no death
# what Grafana puts in for its variables
GRAFANA = {"$__rate_interval": "5s", "$__range": "10m", "$instance": ".+", "$venue": ".+"}
LIQUIDATED_S_MAX = 30.0
DATA_S_MAX = 30.0
ALERT_S_MAX = 60.0
FALLS_PERCENT = (4, 9, 14)  # of the price, that sink an account each
FEED_ETH = 0
BUDGETS = """
[gate]
gas_usd_per_day_max = 10_000
pause_file = "pause"
"""
# what this keeper has no occasion to export, and why
ELSEWHERE = {"keeper_gains_usd": "the venue hands no positions over: nothing but cash is gained"}


@dataclass
class Watched:
    """A keeper that has liquidated, and those that watch it."""

    keeper: KeeperProcess
    prometheus: Server
    alerts: list[dict[str, Any]]  # that the webhook got
    began_s: float = field(default_factory=time.time)


def example(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return config


def hasty_rules(folder: Path) -> Path:
    """Write the rules with less patience than an operator has."""
    file = folder / "rules.yaml"
    text = (FOLDER / "rules.yaml").read_text()
    file.write_text(re.sub(r"\bfor: \w+$", f"for: {PATIENCE}", text, flags=re.MULTILINE))
    return file


def prometheus_config(keeper: KeeperProcess, alertmanager: Server, folder: Path) -> dict[str, Any]:
    """Return the example, for this keeper, in a hurry."""
    config = example("prometheus.yaml")
    config["global"] |= {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    config["global"]["scrape_timeout"] = SCRAPE
    config["rule_files"] = [str(hasty_rules(folder))]
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{keeper.http_port}"]}]
    (managers,) = config["alerting"]["alertmanagers"]
    managers["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager.port}"]}]
    return config


def alertmanager_config(webhook: str) -> dict[str, Any]:
    """Return the example, for this webhook, in a hurry."""
    config = example("alertmanager.yaml")
    config["route"]["group_wait"] = "100ms"
    (receiver,) = config["receivers"]
    (hook,) = receiver["webhook_configs"]
    hook["url"] = webhook
    return config


@pytest.fixture(scope="module")
def watched(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    here = tmp_path_factory.mktemp
    with (
        running_webhook() as (url, alerts),
        running_alertmanager(here("alertmanager"), alertmanager_config(url)) as alertmanager,
        rig.keeper(Options(venue=BUDGETS)) as keeper,
    ):
        keeper.until_ready()
        config = prometheus_config(keeper, alertmanager, here("rules"))
        with running_prometheus(here("prometheus"), config) as prometheus:
            seen = Watched(keeper, prometheus, alerts)
            until(lambda: prometheus.values("keeper_ready") == [1], DATA_S_MAX, str)
            # more than one, apart: a series that begins with its first event shows no increase
            accounts = {fall: rig.open_under(equity_part=fall + 1.0) for fall in FALLS_PERCENT}
            keeper.until(lambda: known(keeper) == len(FALLS_PERCENT), LIQUIDATED_S_MAX)
            for wave, fall in enumerate(FALLS_PERCENT):
                make_a_wave(rig, keeper, accounts[fall], 99 - fall)
                until(lambda: scraped(prometheus) > 2 * wave + 1, DATA_S_MAX, str)  # noqa: B023
            yield seen


def make_a_wave(rig: Rig, keeper: KeeperProcess, sinking: int, price_percent: int) -> None:
    """Let one account sink with the price, another be held for a while, a message be refused."""
    rig.oracle.set(FEED_ETH, START_PRICES[FEED_ETH] * price_percent // 100)
    keeper.until(lambda: rig.liquidated(sinking), LIQUIDATED_S_MAX)
    pause = keeper.config.parent / "pause"
    pause.touch()
    keeper.until(lambda: keeper.metric("keeper_paused") == 1, LIQUIDATED_S_MAX)
    held = keeper.metric("keeper_held_total")
    under = rig.open_under()
    keeper.until(lambda: keeper.metric("keeper_held_total") > held, LIQUIDATED_S_MAX)
    pause.unlink()
    keeper.until(lambda: rig.liquidated(under), LIQUIDATED_S_MAX)
    rig.oracle.send("prices/ETH-USD", b"junk")


def known(keeper: KeeperProcess) -> float:
    return keeper.metric("keeper_accounts")


def scraped(prometheus: Server) -> float:
    return sum(prometheus.values('keeper_liquidations_seen_total{by="us"}'))


def filled(query: str) -> str:
    for name, value in GRAFANA.items():
        query = query.replace(name, value)
    return query


def data(watched: Watched, panel: Panel, query: str) -> list[float]:
    """Return the numbers that the query has given since the keeper began."""
    if panel.instant:
        found = watched.prometheus.values(filled(query))
    else:
        span = {"start": f"{watched.began_s:.3f}", "end": f"{time.time():.3f}", "step": "1"}
        found = watched.prometheus.values(filled(query), **span)
    return [value for value in found if value == value]  # noqa: PLR0124 - NaN is no data


@pytest.mark.parametrize("panel", panels(), ids=str)
def test_each_query_has_data(watched: Watched, panel: Panel) -> None:
    for query in panel.queries:
        if not metrics_in(query) & set(ELSEWHERE):
            until(lambda: bool(data(watched, panel, query)), DATA_S_MAX, lambda: query)  # noqa: B023


def test_each_metric_is_in_the_exposition(watched: Watched) -> None:
    queries = [query for panel in panels() for query in panel.queries]
    queries += [rule["expr"] for rule in rules()]
    _, body = watched.keeper.get("/metrics")
    exported = {
        name
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        for name in metrics_in(sample.name)
    }
    assert {name for query in queries for name in metrics_in(query)} - exported == set(ELSEWHERE)


def test_each_rule_is_evaluated_and_none_fires_in_peace(watched: Watched) -> None:
    groups = json.loads(watched.prometheus.ask("/api/v1/rules"))["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert health == {rule["alert"]: "ok" for rule in rules()}
    firing = 'ALERTS{alertstate="firing"}'
    until(lambda: not watched.prometheus.values(firing), DATA_S_MAX, lambda: firing)


def test_a_keeper_that_dies_is_heard_of(watched: Watched) -> None:
    labels = {"alertname": "KeeperDown", "instance": f"127.0.0.1:{watched.keeper.http_port}"}

    def told() -> list[dict[str, Any]]:
        return [one for one in watched.alerts if labels.items() <= one["labels"].items()]

    assert told() == []
    watched.keeper.kill()
    until(lambda: bool(told()), ALERT_S_MAX, lambda: str(watched.alerts))
    (alert, *_) = told()
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "critical"
    assert "runbook" not in alert["labels"]
    link = alert["annotations"]["runbook_url"]
    assert (
        link == f"{example('prometheus.yaml')['global']['external_labels']['runbook']}#it-is-down"
    )
