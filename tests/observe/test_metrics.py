"""The table, the registry and what Prometheus reads of it."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from structlog.testing import capture_logs

from keeper.facts import Outcome
from keeper.observe._metric import BUCKETS_S
from keeper.observe.catalogue import STAGES, TABLE, Given, as_markdown
from keeper.observe.metrics import UNKNOWN, Metrics

if TYPE_CHECKING:
    from keeper.ports import Telemetry

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics("1.2.3")
    metrics.know("venue", ["perps"])
    metrics.know("feed", ["ETH/USD"])
    metrics.know("source", ["mqtt"])
    metrics.know("stream", ["perps-heads"])
    return metrics


def _families(metrics: Metrics) -> dict[str, Family]:
    body, content_type = metrics.render(OPENMETRICS)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families: Iterable[Family] = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    return {family.name: family for family in families}


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The sample's value, or None when it is not there."""
    for family in _families(metrics).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


# --- the table ------------------------------------------------------------------------------------


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in TABLE]
    assert len(names) == len(set(names))
    for metric in TABLE:
        assert re.fullmatch(r"keeper_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        base = metric.name.removesuffix("_total")
        assert base.endswith(metric.unit)
        for unit in ("seconds", "wei", "usd", "bytes"):
            assert base.endswith(f"_{unit}") == (metric.unit == unit)
        assert metric.help.endswith(".")
        assert "|" not in metric.help


def test_every_label_has_a_closed_set_of_values() -> None:
    for metric in TABLE:
        for label, values in metric.labels.items():
            assert label not in {"account", "tx", "hash", "le"}
            if not isinstance(values, Given):
                assert 0 < len(values) <= 32
                assert all(re.fullmatch(r"[a-z0-9_]+", value) for value in values)


def test_outcomes_are_all_there() -> None:
    (attempts,) = [metric for metric in TABLE if metric.name == "keeper_attempts_total"]
    assert attempts.labels["outcome"] == frozenset(outcome.value for outcome in Outcome)


def test_the_markdown_has_a_row_for_each() -> None:
    rows = as_markdown().splitlines()[2:]
    assert len(rows) == len(TABLE)
    for row, metric in zip(rows, TABLE, strict=True):
        assert row.startswith(f"| `{metric.name}` | {metric.kind} |")
        assert row.count("|") == 5
        assert all(f"`{label}`" in row for label in metric.labels)


def test_the_buckets_reach_from_half_a_millisecond_to_a_minute() -> None:
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.0005, 60.0)
    assert list(BUCKETS_S) == sorted(set(BUCKETS_S))


# --- the registry ---------------------------------------------------------------------------------


def test_every_metric_of_the_table_can_be_set_and_is_rendered_with_its_type() -> None:
    metrics = Metrics("1.2.3")
    telemetry: Telemetry = metrics
    for metric in TABLE:
        labels = {}
        for label, values in metric.labels.items():
            if isinstance(values, Given):
                metrics.know(values.what, ["one"])
                labels[label] = "one"
            else:
                labels[label] = min(values)
        match metric.kind:
            case "counter":
                telemetry.count(metric.name, 2, **labels)
            case "gauge":
                telemetry.gauge(metric.name, 2, **labels)
            case "histogram":
                telemetry.observe(metric.name, 2, **labels)
        suffix = "_count" if metric.kind == "histogram" else ""
        expected = 1 if metric.kind == "histogram" else 2
        assert _value(metrics, metric.name + suffix, **labels) == expected
    families = _families(metrics)
    for metric in TABLE:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.unit) == (metric.kind, metric.unit)
        assert family.documentation == metric.help
    assert not any(sample.endswith("_created") for sample in _samples(families.values()))


def _samples(families: Iterable[Family]) -> list[str]:
    return [sample.name for family in families for sample in family.samples]


def test_counters_add_up_and_gauges_do_not(metrics: Metrics) -> None:
    for _ in range(2):
        metrics.count("keeper_reward_wei_total", 1.5e18, venue="perps")
        metrics.gauge("keeper_profit_wei", -5.0, venue="perps")
    assert _value(metrics, "keeper_reward_wei_total", venue="perps") == 3e18
    assert _value(metrics, "keeper_profit_wei", venue="perps") == -5.0


def test_labels_may_come_in_any_order(metrics: Metrics) -> None:
    metrics.count("keeper_price_updates_total", feed="ETH/USD", source="mqtt")
    metrics.count("keeper_price_updates_total", source="mqtt", feed="ETH/USD")
    assert _value(metrics, "keeper_price_updates_total", feed="ETH/USD", source="mqtt") == 2


def test_a_duration_falls_into_its_bucket(metrics: Metrics) -> None:
    metrics.observe("keeper_stage_seconds", 0.0007, venue="perps", stage="tick_to_sent")
    name, labels = "keeper_stage_seconds_bucket", {"venue": "perps", "stage": "tick_to_sent"}
    assert _value(metrics, name, le="0.0005", **labels) == 0
    assert _value(metrics, name, le="0.001", **labels) == 1
    assert _value(metrics, name, le="+Inf", **labels) == 1
    assert "tick_to_sent" in STAGES


def test_a_tick_is_measured_in_microseconds(metrics: Metrics) -> None:
    metrics.observe("keeper_tick_seconds", 8e-6, venue="perps")
    name = "keeper_tick_seconds_bucket"
    assert _value(metrics, name, le="5e-06", venue="perps") == 0
    assert _value(metrics, name, le="1e-05", venue="perps") == 1


@pytest.mark.parametrize("name", ["keeper_nonsense_total", "price_updates_total", "keeper_ready"])
def test_a_name_that_is_no_counter_of_the_table_is_a_key_error(metrics: Metrics, name: str) -> None:
    with pytest.raises(KeyError, match=name):
        metrics.count(name)


def test_gauges_and_histograms_are_told_apart_too(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        metrics.gauge("keeper_reorgs_total", 1)
    with pytest.raises(KeyError):
        metrics.observe("keeper_head_age_seconds", 1)


@pytest.mark.parametrize(
    "labels", [{}, {"venue": "perps"}, {"venue": "perps", "outcome": "won", "account": "0x1"}]
)
def test_other_labels_than_the_tables_are_refused(metrics: Metrics, labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="has labels"):
        metrics.count("keeper_attempts_total", 1, **labels)


def test_a_counter_does_not_go_back(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="incremented by non-negative"):
        metrics.count("keeper_reorgs_total", -1)


def test_strangers_cannot_grow_the_number_of_series(metrics: Metrics) -> None:
    metrics.count("keeper_price_updates_total", feed="ETH/USD", source="mqtt")
    before = len(_samples(_families(metrics).values()))
    for n in range(1000):
        labels = {"feed": f"EVIL{n}/USD", "source": "mqtt", "reason": "unknown_feed"}
        metrics.count("keeper_price_rejections_total", **labels)
    assert len(_samples(_families(metrics).values())) == before + 1
    labels = {"feed": UNKNOWN, "source": "mqtt", "reason": "unknown_feed"}
    assert _value(metrics, "keeper_price_rejections_total", **labels) == 1000
    assert sum(len(family._children) for family in metrics._counters.values()) < 100


def test_a_slip_of_ours_is_logged_once_and_a_strangers_feed_never(metrics: Metrics) -> None:
    with capture_logs() as logs:
        for n in range(3):
            metrics.count("keeper_attempts_total", venue="perps", outcome=f"triumph{n}")
            metrics.count("keeper_price_updates_total", feed=f"EVIL{n}/USD", source="mqtt")
    assert [(line["metric"], line["label"]) for line in logs] == [
        ("keeper_attempts_total", "outcome")
    ]
    assert _value(metrics, "keeper_attempts_total", venue="perps", outcome=UNKNOWN) == 3


def test_counters_that_alerts_watch_start_at_zero(metrics: Metrics) -> None:
    for outcome in Outcome:
        assert _value(metrics, "keeper_attempts_total", venue="perps", outcome=outcome.value) == 0
    assert _value(metrics, "keeper_reconnects_total", stream="perps-heads") == 0
    metrics.know("venue", ["later"])
    assert _value(metrics, "keeper_quarantined_total", venue="later", kind="venue") == 0


def test_a_gauge_is_absent_until_it_is_known(metrics: Metrics) -> None:
    assert _value(metrics, "keeper_journal_bytes") is None
    assert "keeper_journal_bytes" not in _families(metrics)
    metrics.gauge("keeper_journal_bytes", 0)
    assert _value(metrics, "keeper_journal_bytes") == 0


def test_only_sets_that_some_label_uses_can_be_known(metrics: Metrics) -> None:
    with pytest.raises(KeyError, match="account"):
        metrics.know("account", ["0x1"])


def test_the_version_and_the_process_are_there(metrics: Metrics) -> None:
    assert _value(metrics, "keeper_build_info", version="1.2.3") == 1
    assert (_value(metrics, "process_resident_memory_bytes") or 0) > 1e6


def test_registries_are_separate(metrics: Metrics) -> None:
    metrics.count("keeper_reorgs_total")
    assert _value(Metrics("1.2.3"), "keeper_reorgs_total") == 0


def test_refreshers_run_on_demand(metrics: Metrics) -> None:
    ages = iter([1.0, 2.0])
    metrics.before_render(lambda: metrics.gauge("keeper_head_age_seconds", next(ages)))
    metrics.refresh()
    assert _value(metrics, "keeper_head_age_seconds") == 1.0
    metrics.refresh()
    assert _value(metrics, "keeper_head_age_seconds") == 2.0


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "application/json"])
def test_plain_text_unless_openmetrics_is_asked_for(metrics: Metrics, accept: str) -> None:
    metrics.count("keeper_reorgs_total")
    body, content_type = metrics.render(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse_text(body.decode())}
    assert families["keeper_reorgs"].samples[0].value == 1
