"""The dashboards: complete, about metrics that there are, and of Grafana's own types."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from keeper.observe.catalogue import TABLE
from tests.deploy.panels import FILES, GRAFANA, Panel, load, metrics_in, panels
from tests.deploy.test_alerts import rules
from tests.synthetix.packages import modules, node_command

# why a metric is on no dashboard and in no rule
UNUSED: dict[str, str] = {}
TYPE_CHECK_S_MAX = 120
# the types of a panel's options and of its own field settings, by the panel's type
PANEL_TYPES = {
    "stat": "Shown<Stat.Options, {}>",
    "bargauge": "Shown<Bars.Options, {}>",
    "timeseries": "Shown<Lines.Options, Lines.FieldConfig>",
    "state-timeline": "Shown<States.Options, States.FieldConfig>",
    "row": "Plain<RowPanel>",
}
TYPES = """\
import type { Dashboard, FieldConfigSource, Panel, RowPanel } from "@grafana/schema";
import type * as Bars from "RAW/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type * as Lines from "RAW/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type * as Stat from "RAW/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as States from "RAW/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";

// as JSON has it: an enum is one of its values
type Plain<T> = T extends string ? `${T}`
  : T extends number ? (`${T}` extends `${infer N extends number}` ? N : T)
  : T extends Array<infer E> ? Array<Plain<E>>
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;
type Shown<O, F> = Plain<
  Omit<Panel, "options" | "fieldConfig">
  & { options: Partial<O>; fieldConfig: FieldConfigSource<Partial<F>> }
>;
""".replace("RAW", "@grafana/schema/dist/esm/raw/composable")


def test_each_panel_says_what_it_means_and_has_a_unit() -> None:
    shown = panels()
    assert len({str(panel) for panel in shown}) == len(shown)
    for panel in shown:
        assert len(panel.body["description"]) > 60, f"{panel}: what does it mean, what is to do?"
        assert panel.body["fieldConfig"]["defaults"]["unit"], panel
        assert panel.body["datasource"]["uid"] == "${datasource}", panel


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_dashboard_has_an_address_and_the_variables(file: Path) -> None:
    dashboard = load(file)
    assert dashboard["uid"] == f"keeper-{file.stem}"
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", "instance", "venue"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("panel", panels(), ids=str)
def test_each_query_asks_for_what_is_chosen(panel: Panel) -> None:
    labels = {metric.name: set(metric.labels) for metric in TABLE}
    for query in panel.queries:
        for name in metrics_in(query):
            assert name in labels, "it is not in the catalogue"
            wanted = {"venue", "instance"} if "venue" in labels[name] else {"instance"}
            chosen = {label for label in ("venue", "instance") if f'{label}=~"${label}"' in query}
            assert wanted <= chosen, query


def test_each_metric_is_used_or_not_for_a_reason() -> None:
    queries = [query for panel in panels() for query in panel.queries]
    queries += [rule["expr"] for rule in rules()]
    used = {name for query in queries for name in metrics_in(query)}
    known = {metric.name for metric in TABLE}
    assert used <= known
    assert known - used == set(UNUSED)


def test_they_are_provisioned() -> None:
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    )["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "$PROMETHEUS_URL")
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "keeper.yaml").read_text()
    )["providers"]
    assert provider["type"] == "file"


def _checked(folder: Path, source: str) -> str:
    """Return what the compiler says of a source; "" when nothing."""
    packages = modules()
    (folder / "node_modules").symlink_to(packages)
    (folder / "check.ts").write_text(source)
    options = ("--noEmit", "--strict", "--skipLibCheck", "--module", "esnext")
    compiler = packages / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [node_command(), compiler, *options, "--moduleResolution", "bundler", "check.ts"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TYPE_CHECK_S_MAX,
        check=False,
    )
    return done.stdout + done.stderr


def test_they_are_of_grafanas_types(tmp_path: Path) -> None:
    source = TYPES
    for file in FILES:
        dashboard = load(file)
        for panel in dashboard.pop("panels"):
            name = f"{file.stem}_{panel['id']}"
            source += f"const {name}: {PANEL_TYPES[panel['type']]} = {json.dumps(panel)};\n"
        source += f"const {file.stem}: Plain<Dashboard> = {json.dumps(dashboard)};\n"
    # and what is wrong would be found
    source += '// @ts-expect-error\nconst kind: Plain<Dashboard> = { schemaVersion: "39" };\n'
    legend = {"displayMode": "chart", "placement": "right", "showLegend": True, "calcs": []}
    options = json.dumps({"legend": legend})
    source += f"// @ts-expect-error\nconst legend: Plain<Partial<Lines.Options>> = {options};\n"
    assert _checked(tmp_path, source) == ""
