"""What the README shows is run."""

import ast
import re
from pathlib import Path

from keeper.config import load

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_python_examples_do_what_they_say() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        names: dict[str, object] = {}
        code = compile(example, "README.md", "exec", ast.PyCF_ONLY_AST)
        assert isinstance(code, ast.Module)
        claimed = 0
        for statement in code.body:  # one after the other: each says what it is then
            source = ast.unparse(statement)
            line = example.splitlines()[statement.lineno - 1]
            says = re.search(r"  # → (.*?)(?: \(.*)?$", line)
            if says is None:
                exec(source, names)  # noqa: S102 - our own text
                continue
            name, _, expression = source.rpartition(" = ")
            found = names[name] = eval(expression, names)  # noqa: S307
            assert repr(found) == says[1], line
            claimed += 1
        assert claimed >= 4


def test_every_command_is_there() -> None:
    from keeper.cli import cli  # noqa: PLC0415 - the shell, only for this test

    for name, command in cli.commands.items():
        assert f"keeper {name}" in README
        for parameter in command.params:
            if name in {"run", "check", "demo"}:
                assert parameter.opts[0] in README, f"keeper {name} {parameter.opts[0]}"


def test_the_examples_of_config_are_accepted(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    shipped = (Path(__file__).parent.parent / "config.toml").read_text()
    off = re.compile(r"^# (\w+ = )", re.MULTILINE)  # a key written as a comment
    written = [
        off.sub(r"\1", example) if "[[sources]]" in example else example for example in examples
    ]
    (tmp_path / "config.toml").write_text("\n".join([shipped, *written]))
    found = load(tmp_path / "config.toml")
    assert [source.kind for source in found.sources] == [
        *("mqtt", "hermes", "binance", "chainlink", "replay")
    ]
    assert [venue.kind for venue in found.venues] == [
        "demo_market",
        "perp_curie",
        "synthetix_v3",
    ]
