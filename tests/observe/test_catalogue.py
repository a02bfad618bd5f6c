"""Every metric the code writes is in the table, under its own kind and labels, and the reverse."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.observe.catalogue import TABLE, Given

KEEPER = Path(__file__).resolve().parents[2] / "keeper"
KINDS = {"count": "counter", "gauge": "gauge", "observe": "histogram"}
BY_NAME = {metric.name: metric for metric in TABLE}


class Use:
    """One call that writes a metric by its literal name."""

    def __init__(self, path: Path, call: ast.Call, method: str, name: str) -> None:
        self.where = f"{path.relative_to(KEEPER.parent)}:{call.lineno}"
        self.kind = KINDS[method]
        self.name = name
        self.labels = {keyword.arg: keyword.value for keyword in call.keywords}


def _uses() -> Iterator[Use]:
    for path in sorted(KEEPER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function, first = node.func, node.args[0]
            method = getattr(function, "attr", getattr(function, "id", ""))
            name = first.value if isinstance(first, ast.Constant) else None
            if method in KINDS and isinstance(name, str) and name.startswith("keeper_"):
                yield Use(path, node, method, name)


USES = list(_uses())


def test_every_metric_of_the_table_is_written_somewhere() -> None:
    assert BY_NAME.keys() - {use.name for use in USES} == set()


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.where} {use.name}")
def test_what_is_written_is_in_the_table(use: Use) -> None:
    metric = BY_NAME[use.name]
    assert metric.kind == use.kind
    if None in use.labels:  # **labels: known at run time only
        return
    assert use.labels.keys() == metric.labels.keys()
    for label, value in use.labels.items():
        values = metric.labels[str(label)]
        if isinstance(value, ast.Constant) and not isinstance(values, Given):
            assert value.value in values
