"""The alert rules, by Prometheus' own tools, and one alert from a dead keeper to a webhook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.monitors import monitor
from tests.deploy.tools import DEPLOY, run

FOLDER = DEPLOY / "prometheus"
RULES = FOLDER / "rules.yaml"
CASES = FOLDER / "rules_test.yaml"
RUNBOOK_LABEL = "{{ $externalLabels.runbook }}#"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_prometheus_takes_the_rules_and_the_example() -> None:
    promtool = monitor("promtool")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES)
    run(promtool, "check", "config", "--lint=all", "--lint-fatal", FOLDER / "prometheus.yaml")


def test_every_case_ends_as_it_says() -> None:
    run(monitor("promtool"), "test", "rules", CASES)


def test_a_case_that_does_not_would_be_found(tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("keeper_ready == 0", "vector(1)"))
    cases = yaml.safe_load(CASES.read_text())
    cases["tests"] = [group for group in cases["tests"] if group["name"] == "KeeperNotReady"]
    (tmp_path / CASES.name).write_text(yaml.safe_dump(cases))
    promtool = monitor("promtool")
    with pytest.raises(AssertionError, match="alertname: KeeperNotReady"):
        run(promtool, "test", "rules", tmp_path / CASES.name)


def test_alertmanager_takes_the_example() -> None:
    assert "1 receivers" in run(monitor("amtool"), "check-config", FOLDER / "alertmanager.yaml")


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    silent: set[str] = set()
    firing: set[str] = set()
    for group in yaml.safe_load(CASES.read_text())["tests"]:
        for case in group["alert_rule_test"]:
            (firing if case["exp_alerts"] else silent).add(case["alertname"])
    alerts = [rule["alert"] for rule in rules()]
    assert set(alerts) == silent == firing
    assert len(alerts) == len(set(alerts))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    titles = re.findall(r"^## (.+)$", (DEPLOY / "RUNBOOK.md").read_text(), re.MULTILINE)
    anchors = {title.lower().replace(" ", "-") for title in titles}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    link = rule["annotations"]["runbook_url"]
    assert link.startswith(RUNBOOK_LABEL)
    assert link.removeprefix(RUNBOOK_LABEL) in anchors
