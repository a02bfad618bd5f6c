"""House rules that no linter knows."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from keeper.config import Settings, find_module, kinds
from keeper.config.settings import SourceCommon, VenueCommon
from keeper.observe.catalogue import TABLE, as_markdown

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "keeper").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "config.toml"),
    *("keeper", "tests", "deploy", "grafana"),
}
SKIPS = {  # for what is no component of the product
    "'the shared minutes are not on this machine'",
    "'the shared tables are not on this machine'",
    "'only Linux ties a child to its parent'",
}
BANNED = {
    r"except Exception\b": "name the errors; the one broad guard is in quarantine.py",
    r"except\s*:": "name the errors",
    r"except BaseException\b(?!.*\n(.*\n){1,4}?.*\braise\b)": "re-raise it",
    r"\basyncio\.(create_task|gather|ensure_future)\b": "tasks belong to a TaskGroup",
    r"\btime\.sleep\b": "it blocks the loop",
    r"\b(TODO|FIXME|XXX)\b": "do it, or open an issue",
    r"\bNotImplementedError\b": "no stubs",
    r"^\s*print\(": "structlog, or click.echo",
    r"# type: ignore(?!\[)": "say which error",
    r"# noqa(?!: [A-Z]+\d+)": "say which rule",
}


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True, text=True
    )
    return [name for name in listed.stdout.split("\0") if name]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_modules_and_functions_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    assert text.count("\n") <= MODULE_LINES_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_banned_things_do_not_occur(path: Path) -> None:
    text = path.read_text()
    for pattern, why in BANNED.items():
        found = re.search(pattern, text, re.MULTILINE)
        assert found is None, f"line {text.count(chr(10), 0, found.start()) + 1}: {why}"


@pytest.mark.parametrize("path", TESTS, ids=named)
def test_no_mock_library_and_no_silent_skip(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.name for alias in node.names]
            assert "mock" not in f"{getattr(node, 'module', '')} {names}"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in {"skip", "skipif", "xfail"}:
            reasons = {ast.unparse(word.value) for word in node.keywords if word.arg == "reason"}
            allowed = "KEEPER_REQUIRE_ALL" in path.read_text() or reasons & SKIPS
            assert allowed, "what is missing fails under KEEPER_REQUIRE_ALL=1"


def fields(model: type[BaseModel]) -> Iterator[str]:
    """Yield every leaf key below a table of the configuration."""
    for name, field in model.model_fields.items():
        inner = [
            part
            for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        tables = [part for part in inner if part.__name__.endswith("Settings")]
        for part in tables:
            yield from fields(part)
        if not tables:
            yield name


def test_every_config_key_has_a_reader() -> None:
    readers = "\n".join(path.read_text() for path in MODULES if "keeper/config" not in str(path))
    keys = {*fields(Settings), *fields(SourceCommon), *fields(VenueCommon)} - {"options"}
    for room in ("prices", "venues"):
        for kind in kinds(room):
            keys |= set(fields(find_module(room, kind).Settings))
    unread = [key for key in sorted(keys) if not re.search(rf"\.{key}\b", readers)]
    assert unread == []


def test_the_readme_shows_the_metrics_that_exist() -> None:
    assert as_markdown() in (ROOT / "README.md").read_text()


def test_metrics_named_anywhere_exist() -> None:
    known = {metric.name for metric in TABLE}
    histograms = {metric.name for metric in TABLE if metric.kind == "histogram"}
    known |= {name + end for name in histograms for end in ("_bucket", "_sum", "_count")}
    for name in tracked():
        if name.startswith(("grafana/", "deploy/")) or name.endswith(".md"):
            used = set(re.findall(r"\bkeeper_[a-z0-9_]+[a-z0-9]\b", (ROOT / name).read_text()))
            assert used <= known, f"{name} names metrics that do not exist: {used - known}"


def test_a_test_looks_at_every_metric_where_it_is_written() -> None:
    looked_at = "\n".join(path.read_text() for path in TESTS if "observe" not in path.parts)
    written = "\n".join(path.read_text() for path in MODULES if path.name != "catalogue.py")
    for name in {metric.name for metric in TABLE} - {"keeper_build_info"}:  # set by Metrics itself
        assert re.search(rf'"{name}"', written), f"nothing writes {name}"
        assert re.search(rf"\b{name}(_count)?\b", looked_at), f"no test looks at {name}"


def test_the_top_level_holds_what_the_owner_fixed() -> None:
    top = {name.split("/")[0] for name in tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", readme)
    assert found, "README.md marks the test command"
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_no_tracked_file_names_a_registry() -> None:
    hosts = "|".join(
        ["py" + "pi.org", "registry.np" + "mjs", "python" + "hosted", "--index" + "-url"]
    )
    for name in tracked():
        path = ROOT / name
        if path.is_file() and path.suffix not in {".gz", ".png"}:
            assert not re.search(hosts, path.read_text(errors="ignore")), name


def test_lock_files_are_hashed() -> None:
    for path in sorted((ROOT / "deploy").glob("requirements*.txt")):
        pins = re.findall(
            r"^[a-z0-9][^\n]*==[^\n]*\\\n(    --hash=sha256:)", path.read_text(), re.MULTILINE
        )
        lines = re.findall(r"^[a-z0-9].*==", path.read_text(), re.MULTILINE)
        assert len(lines) == len(pins) > 0, path.name
