"""The command line; other commands are in journal_cli, ask_cli, stress_cli and bench_cli.

Exit codes: 0 stopped or passed, 1 a bug or a failed check, 2 a mistake in the configuration.
"""

import asyncio
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keeper import __version__
from keeper.ask_cli import explain, pause, resume, status
from keeper.bench_cli import bench
from keeper.config import ConfigFile, difference, flat, json_schema, load, load_chains, read_private
from keeper.errors import ConfigError, FatalError
from keeper.journal_cli import journal
from keeper.stress_cli import stress

CONFIG = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("config.toml"),
    show_default=True,
    help="The configuration file.",
)
STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keeper")
def cli() -> None:
    """Watch the accounts of perpetual-futures venues and liquidate the under-margined ones."""


@cli.command()
@click.option(
    "--config",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    default=[Path("config.toml")],
    show_default="config.toml",
    help="The configuration file; again for every further chain, each in a file of its own.",
)
@click.option("--dry-run", is_flag=True, help="Decide and simulate, but sign and send nothing.")
def run(paths: tuple[Path, ...], dry_run: bool) -> None:  # noqa: FBT001 - click passes flags like this
    """Run the keeper until SIGTERM or SIGINT.

    Several chains run side by side in one process, each by its own file: wallets, venues, state_dir
    and HTTP port. How it logs is said by the first file. On SIGHUP every file is read again: keys
    marked [live] are taken over, others are named and need a restart.
    """
    from keeper.app import main_loop  # noqa: PLC0415 - it imports web3, which --help need not
    from keeper.observe.log import configure, last_words  # noqa: PLC0415
    from keeper.reload import Reloading  # noqa: PLC0415

    chains = load_chains(paths)
    if dry_run:
        chains = [settings.model_copy(update={"wallets": ()}) for settings in chains]
    secrets = [secret for settings in chains for secret in settings.secret_values()]
    first = chains[0].log
    log_at = partial(configure, style=first.format, secrets=secrets)
    log_at(first.level)
    sys.excepthook = last_words
    reloading = [
        Reloading(ConfigFile(path, dry_run), log_at if path == paths[0] else lambda _level: None)
        for path in paths
    ]
    sys.exit(main_loop(chains, reloading=reloading))


@cli.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def check(path: Path, as_json: bool) -> None:  # noqa: FBT001
    """Ask everything the keeper depends on, and say what would keep it from working."""
    from keeper.check import Finding, preflight  # noqa: PLC0415
    from keeper.observe.log import blank, configure  # noqa: PLC0415

    configure("error")
    code = 0
    try:
        settings = load(path)
        configure("error", secrets=settings.secret_values())
        findings = [Finding("config", "ok", f"{path} is valid")]
        findings += asyncio.run(preflight(settings))
    except ConfigError as error:
        findings = [Finding("config", "failed", problem) for problem in error.problems]
        code = 2
    failed = any(finding.verdict == "failed" for finding in findings)
    if as_json:
        told = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
        click.echo(blank(json.dumps(told)))
    else:
        table = Table("", "what", "found", "mend", box=None, pad_edge=False)
        for finding in findings:
            verdict = f"[{STYLES[finding.verdict]}]{finding.verdict}[/]"
            words = (finding.what, finding.found, finding.mend)
            table.add_row(verdict, *(escape(blank(text)) for text in words))
        Console().print(table)
    sys.exit(code or (1 if failed else 0))


@cli.command()
@click.option(
    "--accounts",
    default=300,
    show_default=True,
    type=click.IntRange(1, 5000),
    help="Traders in the market.",
)
@click.option("--seed", default=1, show_default=True, help="Of the accounts and the price path.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path),
    help="Play these minutes (CSV or CSV.gz: timestamp, open, high, low, close) instead.",
)
@click.option(
    "--speed",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.1, 10.0),
    help="Price minutes per second; one block each.",
)
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(5.0, 600.0),
    help="How long prices move.",
)
@click.option("--json", "as_json", is_flag=True, help="No live view; the last line is the summary.")
def demo(
    accounts: int,
    seed: int,
    prices: Path | None,
    speed: float,
    seconds: float,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Run the whole keeper against a chain, a broker and a market of its own.

    Needs no account and no key. Exit code 0 only if the contract itself confirms the summary.
    """
    from keeper.demo.run import DemoOptions, main_loop  # noqa: PLC0415

    options = DemoOptions(
        accounts=accounts, seed=seed, prices=prices, speed=speed, seconds=seconds, json=as_json
    )
    sys.exit(main_loop(options))


@cli.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
def schema() -> None:
    """Print the JSON schema of config.toml, for editors.

    Saved beside it, the first line "#:schema ./config.schema.json" makes editors complete and lint.
    """
    click.echo(json.dumps(json_schema(), indent=2))


@config.command("check")
@CONFIG
def config_check(path: Path) -> None:
    """Read the file and tell every mistake in it; asks no endpoint and reads no secret."""
    settings = load(path)
    click.echo(f"{path} is valid: {len(flat(settings))} keys, digest {settings.digest[:12]}")


@config.command()
@CONFIG
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, shaped like the file."
)
def show(path: Path, as_json: bool) -> None:  # noqa: FBT001
    """Print every key in effect, defaults included; secrets are starred."""
    settings = load(path)
    if as_json:
        click.echo(json.dumps(settings.show(), indent=2))
        return
    for key, value in flat(settings).items():
        click.echo(f"{key} = {value}")


@config.command()
@CONFIG
@click.argument("other", type=click.Path(path_type=Path))
def diff(path: Path, other: Path) -> None:
    """Print what would change, key by key, if OTHER took the place of the file in use.

    Exit code 0 when nothing would, 1 when something would.
    """
    changes = difference(load(path), load(other, base=path.parent))
    for change in changes:
        if change.before is not None:
            click.echo(f"- {change.key} = {change.before}")
        if change.after is not None:
            click.echo(f"+ {change.key} = {change.after}")
    sys.exit(1 if changes else 0)


@cli.group()
def keys() -> None:
    """Make, import and check encrypted keystores (Web3 Secret Storage, version 3).

    A private key or a password is never an argument: it would stay in the shell's history.
    """


KEYSTORE = click.argument("keystore", type=click.Path(path_type=Path))
PASSWORD_FILE = click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="File (mode 600) with the password; without it you are asked.",
)


@keys.command()
@KEYSTORE
@PASSWORD_FILE
def new(keystore: Path, password_file: Path | None) -> None:
    """Make a new key and write it, encrypted, to a new file of mode 600; prints the address."""
    from keeper.keystore import create, new_key  # noqa: PLC0415

    click.echo(create(keystore, new_key(), _password(password_file, confirm=True)))


@keys.command("import")
@KEYSTORE
@PASSWORD_FILE
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="File (mode 600) with the private key in hexadecimal; without it you are asked.",
)
def import_key(keystore: Path, password_file: Path | None, key_file: Path | None) -> None:
    """Encrypt a key you have into a new file of mode 600; prints the address."""
    from keeper.keystore import create  # noqa: PLC0415

    key = (
        read_private(key_file).strip()
        if key_file
        else click.prompt("private key", hide_input=True, err=True)
    )
    click.echo(create(keystore, key, _password(password_file, confirm=True)))


@keys.command("check")
@KEYSTORE
@PASSWORD_FILE
def check_key(keystore: Path, password_file: Path | None) -> None:
    """Open a keystore with its password, refuse one that others can read; prints the address."""
    from keeper.keystore import address_of, unlock  # noqa: PLC0415

    click.echo(address_of(unlock(keystore, _password(password_file, confirm=False))))


def _password(path: Path | None, *, confirm: bool) -> str:
    if path is not None:
        return read_private(path).strip()
    asked: str = click.prompt("password", hide_input=True, confirmation_prompt=confirm, err=True)
    return asked


cli.add_command(bench)
cli.add_command(journal)
cli.add_command(status)
cli.add_command(explain)
cli.add_command(pause)
cli.add_command(resume)
cli.add_command(stress)


def main() -> None:
    """Run a command; mistakes of the operator's come out as lines, not as tracebacks."""
    try:
        cli()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        sys.exit(2)
    except FatalError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
