"""The runbook speaks of commands, keys, metrics, reasons and log lines that there are."""

import re
from pathlib import Path

import click
import pytest

from keeper.cli import cli
from keeper.config.settings import Settings
from keeper.decide.agenda import HoldReason
from keeper.facts import Outcome
from keeper.observe.catalogue import as_markdown

ROOT = Path(__file__).parent.parent
RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text()
QUOTED = set(re.findall(r"`([^`\n]+)`", RUNBOOK))
SOURCE = "".join(path.read_text() for path in (ROOT / "keeper").rglob("*.py"))
TABLES = {"keeper", "log", "http", "chain", "lease", "fees", "gate", "reconcile"}


def test_every_hold_is_in_its_table_and_every_outcome_that_went_wrong_somewhere() -> None:
    rows = [line.split("|")[1] for line in RUNBOOK.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(HoldReason)
    wrong = {Outcome.REVERTED, Outcome.LOST, Outcome.EXPIRED, Outcome.DROPPED}
    assert {outcome.value for outcome in wrong} <= QUOTED


def test_every_metric_is_exported() -> None:
    known = as_markdown()
    metrics = {name for name in QUOTED if re.fullmatch(r"keeper_\w+", name)}
    assert metrics
    assert [name for name in metrics if f"`{name}`" not in known] == []


def test_every_key_is_there() -> None:
    named = [name.split(" = ")[0].split(".") for name in QUOTED if "." in name]
    keys = [pair for pair in named if len(pair) == 2 and pair[0] in TABLES]
    assert len(keys) > 10
    fields = {name: field.annotation for name, field in Settings.model_fields.items()}
    assert [(t, k) for t, k in keys if k not in fields[t].model_fields] == []  # type: ignore[union-attr]


def _commands() -> set[str]:
    fenced = "\n".join(re.findall(r"```sh\n(.*?)```", RUNBOOK, re.DOTALL))
    lines = [line.split("#")[0].strip() for line in fenced.splitlines()]
    return {one for one in {*lines, *QUOTED} if re.match(r"keeper [a-z]", one)}


@pytest.mark.parametrize("line", sorted(_commands()))
def test_every_command_takes_what_it_is_given(line: str) -> None:
    command: click.Command = cli
    for word in line.split()[1:]:
        if word.startswith("--"):
            assert any(word in option.opts for option in command.params), word
        elif isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
        elif isinstance(command, click.Group):
            assert word == "FILE", f"{word} is no command"


def test_every_log_line_is_written_somewhere() -> None:
    said = re.findall(r"log lines? ((?:`[^`]+`(?:, )?)+)", RUNBOOK)
    lines = {line for some in said for line in re.findall(r"`([^`]+)`", some)}
    assert len(lines) > 10
    assert [line for line in lines if f'"{line}"' not in SOURCE] == []


def test_every_link_leads_somewhere() -> None:
    titles = re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE)
    anchors = {title.lower().replace(" ", "-") for title in titles}
    links = set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK))
    assert links - anchors == set()
