"""What is in the dashboards: panels and their queries."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.tools import ROOT

GRAFANA = ROOT / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))


@dataclass(frozen=True)
class Panel:
    """A panel that shows something (no row) and the dashboard it is on."""

    dashboard: str
    body: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.body['title']}"

    @property
    def instant(self) -> bool:
        """Whether it shows the last value only."""
        return self.body["type"] in {"stat", "bargauge"}

    @property
    def queries(self) -> list[str]:
        return [target["expr"] for target in self.body["targets"]]


def load(file: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(file.read_text())
    return dashboard


def panels() -> list[Panel]:
    return [
        Panel(file.stem, body)
        for file in FILES
        for body in load(file)["panels"]
        if body["type"] != "row"
    ]


def metrics_in(query: str) -> set[str]:
    """Return the catalogue's names in a query, a histogram's without its ending."""
    return {
        re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bkeeper_\w+", query)
    }
