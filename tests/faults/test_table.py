"""The table of faults names tests that exist, and every test of this folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.faults.table import TABLE

TESTS = Path(__file__).parent.parent


def functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[:5] == "test_":
            yield f"{path.relative_to(TESTS)}::{node.name}"


def test_it_names_tests_that_exist() -> None:
    named = {name for case in TABLE for name in case.shown_by}
    files = {TESTS / name.partition("::")[0] for name in named}
    assert named <= {name for file in files for name in functions(file)}


def test_it_leaves_no_test_of_this_folder_out() -> None:
    files = set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)}
    there = {name for file in files for name in functions(file)}
    assert there <= {name for case in TABLE for name in case.shown_by}
