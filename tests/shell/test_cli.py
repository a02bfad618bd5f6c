"""What the commands print and the codes they end with."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from keeper import __version__
from keeper.chain.journal import Journal
from keeper.check import Finding, _feed, _journal
from keeper.cli import cli
from keeper.config import json_schema, load
from keeper.facts import FeedId
from keeper.units import WAD
from tests.shell.rig import scripted_rig
from tests.shell.test_status import CONFIG

COMMANDS = ("run", "check", "demo", "journal", "config", "keys", "bench")


def test_help_names_every_command() -> None:
    said = CliRunner().invoke(cli, ["--help"])
    assert said.exit_code == 0
    assert all(f"  {command} " in said.output for command in COMMANDS), said.output
    for command in COMMANDS:
        assert CliRunner().invoke(cli, [command, "-h"]).exit_code == 0


def test_the_version_is_the_packages() -> None:
    said = CliRunner().invoke(cli, ["--version"])
    assert (said.exit_code, said.output.strip()) == (0, f"keeper, version {__version__}")


def commands(command: click.Command, path: str = "keeper") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner
            yield from commands(inner, f"{path} {name}")


def test_every_command_and_option_says_what_it_does() -> None:
    silent = [
        f"{path} {'/'.join(option.opts)}"
        for path, command in commands(cli)
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []
    assert [path for path, command in commands(cli) if not command.help] == []


def test_help_does_not_import_what_it_does_not_need() -> None:
    code = "import sys; from keeper.cli import cli; print('web3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_schema_is_printed_as_json() -> None:
    said = CliRunner().invoke(cli, ["config", "schema"])
    assert said.exit_code == 0
    assert json.loads(said.output) == json.loads(json.dumps(json_schema()))


def config_command(*arguments: str) -> tuple[int, str]:
    said = CliRunner().invoke(cli, ["config", *arguments])
    return said.exit_code, said.output


def test_config_check_reads_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    code, said = config_command("check", "--config", str(path))
    assert (code, f"{path} is valid" in said) == (0, True)
    path.write_text(CONFIG + "\n[nonsense]\n")
    assert CliRunner().invoke(cli, ["config", "check", "--config", str(path)]).exit_code == 1


def test_config_show_prints_what_is_in_effect(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    code, said = config_command("show", "--config", str(path))
    assert code == 0
    assert "chain.id = 31337" in said.splitlines()
    assert "fees.replacement_bump_ppm = 125000" in said.splitlines()
    code, said = config_command("show", "--json", "--config", str(path))
    assert json.loads(said) == load(path).show()


def test_config_diff_is_told_key_by_key(tmp_path: Path) -> None:
    path, other = tmp_path / "config.toml", tmp_path / "sub" / "new.toml"
    other.parent.mkdir()
    path.write_text(CONFIG)
    other.write_text(CONFIG)
    assert config_command("diff", str(other), "--config", str(path)) == (0, "")
    other.write_text(CONFIG.replace("id = 31337", "id = 10"))
    expected = "- chain.id = 31337\n+ chain.id = 10\n"
    assert config_command("diff", str(other), "--config", str(path)) == (1, expected)


@pytest.mark.parametrize("arguments", [["unknown"], ["run", "--unknown"], ["demo", "--speed", "0"]])
def test_a_mistake_on_the_command_line_is_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, arguments).exit_code == 2


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_mistake_in_the_configuration_is_2_and_is_told_without_a_traceback(
    command: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.replace("id = 31337", "id = 31337\npoll_m = 5\nconfirmations = 0"))
    done = subprocess.run(
        [sys.executable, "-m", "keeper", command, "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"PATH": "", "COLUMNS": "300"},
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert "poll_m" in said, "every mistake at once"
    assert "confirmations" in said


def test_check_tells_a_mistake_as_json_too(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    said = CliRunner().invoke(cli, ["check", "--json", "--config", missing])
    assert said.exit_code == 2
    told = json.loads(said.output)
    assert told["ok"] is False
    (finding,) = told["findings"]
    assert (finding["what"], finding["verdict"]) == ("config", "failed")
    assert missing in finding["detail"]


async def test_a_feed_is_found_with_its_price_or_with_why_not(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    feed = load(tmp_path / "config.toml").feeds[0]
    rig, _ = scripted_rig()
    now_ms = rig.clock.now_ms
    silent = _feed(feed, rig.board, {}, now_ms)
    assert (silent.verdict, silent.what) == ("failed", "feed ETH/USD")
    assert "nothing heard" in silent.detail
    refused = _feed(feed, rig.board, {"ETH/USD": "stale: age 9000 ms"}, now_ms)
    assert refused.detail == "stale: age 9000 ms"
    assert refused.mend
    await rig.tick("eth", 2_000 * WAD)
    heard = _feed(feed, rig.board, {FeedId("ETH/USD"): "stale"}, now_ms + 40)
    assert heard == Finding("feed ETH/USD", "ok", "2000 USD, 40 ms old, from main")


async def test_the_journal_is_looked_at_and_none_is_made(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    settings = load(tmp_path / "config.toml")
    path = settings.keeper.state_dir / "journal.sqlite"
    assert (await _journal(settings)).verdict == "ok"
    assert not path.parent.exists()
    async with Journal(path, settings.chain.id):
        running = await _journal(settings)
    assert (running.verdict, "running keeper" in running.detail) == ("warning", True)
    found = await _journal(settings)
    assert found == Finding("journal", "ok", f"{path}, 0 open attempts")
    path.unlink()
    async with Journal(path, settings.chain.id + 1):
        pass
    another = await _journal(settings)
    assert (another.verdict, bool(another.mend)) == ("failed", True)
    path.unlink()
    file = settings.model_copy(
        update={"keeper": settings.keeper.model_copy(update={"state_dir": path.parent / "a" / "b"})}
    )
    (path.parent / "a").touch()
    impossible = await _journal(file)
    assert (impossible.verdict, bool(impossible.mend)) == ("failed", True)
