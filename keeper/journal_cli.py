"""``keeper journal``: what the keeper did and why, read from its journal while it runs or later."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keeper.config import load
from keeper.facts import Outcome
from keeper.units import GWEI, WAD

if TYPE_CHECKING:
    import sqlite3

    from keeper.chain.journal_read import Wanted

OUTCOMES = ("open", *(outcome.value for outcome in Outcome))
ID_CHARS = 12  # of an id in a table; `show` takes the beginning of one
SPAN = re.compile(r"(\d+)([smhd])")
SPANS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
EXACT = Context(prec=80)


def _since(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Read "6h" (ago) or "2026-11-25T05:00" (UTC) as milliseconds since the epoch."""
    if value is None:
        return None
    span = SPAN.fullmatch(value)
    if span:
        ago = timedelta(**{SPANS[span[2]]: int(span[1])})
        return int((datetime.now(UTC) - ago).timestamp() * 1000)
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        msg = f"{value!r}: write 90s, 30m, 6h, 2d (ago) or 2026-11-25T05:00 (UTC)"
        raise click.BadParameter(msg) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which attempts."""
    for option in (
        click.option("--since", "since_ms", callback=_since, help="Opened since: 6h, 2026-11-25."),
        click.option("--wallet", help="Address that sent it."),
        click.option("--outcome", type=click.Choice(OUTCOMES), help="How it ended."),
        click.option("--account", help="Account, as the venue names it."),
        click.option("--venue", help="Id of the venue."),
    ):
        command = option(command)
    return command


@click.group()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("config.toml"),
    show_default=True,
    help="The configuration file of the keeper.",
)
@click.option("--file", type=click.Path(path_type=Path), help="Read this journal instead.")
@click.pass_context
def journal(ctx: click.Context, config: Path, file: Path | None) -> None:
    """Look at what the keeper did and why. Reads only; the keeper may run meanwhile."""
    ctx.obj = file, config  # looked at by the commands: their --help needs neither


@contextmanager
def _reading(ctx: click.Context) -> "Iterator[tuple[sqlite3.Connection, Path]]":
    from keeper.chain.journal_read import reading  # noqa: PLC0415 - it imports what signs

    file, config = ctx.obj
    path = file or load(config).keeper.state_dir / "journal.sqlite"
    with reading(path) as db:
        yield db, path


def _wanted(options: dict[str, Any]) -> "Wanted":
    from keeper.chain.journal_read import Wanted  # noqa: PLC0415

    return Wanted(**options)


@journal.command("list")
@filters
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1), help="The newest so many."
)
@click.pass_context
def list_(ctx: click.Context, /, limit: int, **options: Any) -> None:  # noqa: ANN401
    """List attempts, oldest first."""
    from keeper.chain.journal_read import find  # noqa: PLC0415

    table = Table("opened (UTC)", "id", "venue", "account", "nonce", "job", box=None)
    for name in ("outcome", "signed", "block", "reward", "cost"):
        right = name not in {"outcome", "block"}
        table.add_column(name, justify="right" if right else "left")
    with _reading(ctx) as (db, _):
        for row in find(db, _wanted(options), limit):
            state = f"open ({row['state']})" if row["outcome"] == "open" else row["outcome"]
            cells: list[object] = [_time(row["opened_ms"]), str(row["id"])[:ID_CHARS]]
            cells += [row[name] for name in ("venue", "account", "nonce", "job")]
            cells += [state, row["transactions"], row["included_block"] or ""]
            cells += [_native(row[name]) for name in ("reward_wei", "cost_wei")]
            table.add_row(*(escape(str(cell)) for cell in cells))
    width = None if sys.stdout.isatty() else 200  # not cut when it goes into a file
    Console(width=width).print(table)


@journal.command()
@click.argument("attempt")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.pass_context
def show(ctx: click.Context, attempt: str, as_json: bool) -> None:  # noqa: FBT001
    """Tell the whole story of one ATTEMPT: its id, the beginning of it, or a transaction's hash."""
    from keeper.chain.journal_read import story  # noqa: PLC0415

    with _reading(ctx) as (db, path):
        told = story(db, path, attempt)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for line in _told(told):
        click.echo(line)


@journal.command()
@filters
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="How it is written.",
)
@click.option("--output", type=click.File("w"), default="-", help="File; -: standard output.")
@click.pass_context
def export(ctx: click.Context, /, form: str, output: TextIO, **options: Any) -> None:  # noqa: ANN401
    """Write attempts as CSV (a row each) or JSON (a line each, with transactions and history).

    Amounts are whole numbers in wei or wads (1e-18), as text in JSON.
    """
    from keeper.chain.journal_read import find, whole  # noqa: PLC0415

    with _reading(ctx) as (db, _):
        rows = find(db, _wanted(options))
        if form == "json":
            output.writelines(json.dumps(whole(db, row)) + "\n" for row in rows)
            return
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(output, list(row))
                writer.writeheader()
            writer.writerow(row)


# --- in words -------------------------------------------------------------------------------------


def _told(told: dict[str, Any]) -> Iterator[str]:
    opened_ms = told["opened_ms"]
    yield f"attempt {told['id']}: {told['outcome']}"
    others = f" and {told['accounts'] - 1} more" if told["accounts"] > 1 else ""
    yield f"  account {told['account']}{others} at {told['venue']}, job {told['job']}"
    yield f"  wallet {told['wallet']}, nonce {told['nonce']}, opened {_time(opened_ms)} UTC"
    for line in told["history"]:
        yield f"{_after(line['at_ms'] - opened_ms):>12}  {line['event']:<9}  {_line(line)}".rstrip()
    if told["outcome"] == "open":
        worst = max(int(signed["cost_wei_max"]) for signed in told["transactions"])
        yield f"  in flight; it may cost {_native(worst)} at most"
        return
    gain = int(told["reward_wei"]) - int(told["cost_wei"])
    usd = f" ({_native(told['reward_wad'])} USD)" if int(told["reward_wad"]) else ""
    for share in told["shares"]:
        reward, cost = _native(share["reward_wei"]), _native(share["cost_wei"])
        ended = ", ".join(word for word in (share["outcome"], share["detail"]) if word)
        yield f"  account {share['account']}: {ended}; reward {reward} - cost {cost}"
    yield (
        f"  reward {_native(told['reward_wei'])}{usd} - cost {_native(told['cost_wei'])}"
        f" = {_native(gain)} native tokens"
    )


def _line(line: dict[str, Any]) -> str:
    """Say in words what one line of the history holds; what an older journal did not write, not."""
    facts, words = line["facts"], []
    match line["event"]:
        case "planned" if facts:
            chance = f"p(win) {facts['p_win_ppm'] / 10_000:g} %"
            words = [f"for {_native(facts['reward_wei'])} at {chance}"]
            words.append(f"at most {_native(facts['cost_wei_max'])} to spend")
            how = "not simulated, decided" if facts.get("optimistic") else "simulated"
            words.append(f"{how} on block {line['block']}")
        case "signed":
            words = [facts["kind"], line["tx_hash"]]
            words += [f"for {', '.join(facts['accounts'])}"] if "accounts" in facts else []
            if "cost_wei_max" in facts:
                words.append(f"max fee {_gwei(facts['max_fee_wei'])} gwei")
                words.append(f"priority {_gwei(facts['priority_fee_wei'])}")
                words.append(f"costs at most {_native(facts['cost_wei_max'])}")
            words.append(f"head {line['block']}")
        case "broadcast" if "tick_to_sent_ms" in facts:
            words = [f"{facts['tick_to_sent_ms']:.1f} ms after the price"]
        case "included":
            words = [f"block {line['block']}", line["tx_hash"]]
            words.append("succeeded" if facts["success"] else "reverted")
            words.append(f"{facts['gas_used']} gas at {_gwei(facts['gas_price_wei'])} gwei")
        case "settled":
            words = [facts["outcome"], facts.get("detail", "")]
    return ", ".join(word for word in words if word)


def _time(ms: Any) -> str:  # noqa: ANN401 - a cell
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S.") + f"{ms % 1000:03d}"


def _after(ms: int) -> str:
    return f"+{ms / 1000:.3f} s"


def _native(wei: Any) -> str:  # noqa: ANN401 - a cell
    return "" if wei is None else _decimal(wei, WAD)


def _gwei(wei: str) -> str:
    return _decimal(wei, GWEI)


def _decimal(amount: Any, unit: int) -> str:  # noqa: ANN401 - text or a number
    exact = EXACT.divide(Decimal(int(amount)), Decimal(unit))
    text = f"{exact:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
