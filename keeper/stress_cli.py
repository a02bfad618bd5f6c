"""``keeper stress``: what a move of prices would do to the accounts that a keeper watches."""

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from keeper.ask_cli import Document, address, ask, where
from keeper.config import load
from keeper.errors import FatalError
from keeper.risk.picture import short, svg, terminal

WHOLE = "*"  # names the line of a venue as a whole


@click.command()
@where
@click.option(
    "--shock",
    "shocks",
    multiple=True,
    metavar="NAME=PCT",
    help="Move one price, by feed, market or asset: --shock ETH=-20% (again for more).",
)
@click.option("--all", "everything", metavar="PCT", help="Move all other prices: --all=-10%.")
@click.option("--map", "as_map", is_flag=True, help="Draw what sinks from -50 % to +50 % instead.")
@click.option("--svg", "file", type=click.Path(path_type=Path), help="Write the map to this file.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a line a venue and market, USD.")
@click.option(
    "--saved",
    is_flag=True,
    help="Take the accounts as last saved (state_dir) and the markets as they are on chain now.",
)
def stress(  # noqa: PLR0913 - one parameter an option
    path: Path,
    url: str | None,
    shocks: tuple[str, ...],
    everything: str | None,
    file: Path | None,
    *,
    as_json: bool,
    as_csv: bool,
    as_map: bool,
    saved: bool,
) -> None:
    """Say what a move of prices would leave under-margined or insolvent. Changes nothing.

    Exactly, by the arithmetic that decides; without a shock: how things stand now. Amounts in USD.
    Asks a running keeper, or with --saved nobody but the chain.
    """
    drawn = as_map or file is not None
    if (as_csv and (as_json or drawn)) or (drawn and (shocks or everything)) or (saved and url):
        msg = (
            "--csv, --json and --map (or --svg), shocks and --map, --saved and --url exclude each "
            "other; leave one of them out"
        )
        raise FatalError(msg)
    if saved:
        document = _of_saved(path, shocks, everything, drawn=drawn)
    else:
        query = [("shock", shock) for shock in shocks]
        query += [("all", everything)] if everything is not None else []
        what = "liquidation-map" if drawn else f"stress?{urlencode(query)}"
        document = ask(address(path, url), f"/api/v1/{what}")
    if drawn:
        _show_map(document, file, as_json=as_json, as_map=as_map)
    elif as_json:
        click.echo(json.dumps(document))
    elif as_csv:
        click.echo(as_lines(document), nl=False)
    else:
        Console().print(as_tables(document))


def _of_saved(
    path: Path, shocks: tuple[str, ...], everything: str | None, *, drawn: bool
) -> Document:
    """Work it out here, from what a keeper has saved."""
    from keeper.observe.log import configure  # noqa: PLC0415
    from keeper.saved import read_saved  # noqa: PLC0415 - it imports web3, which --help need not

    configure("error")

    async def work() -> Document:
        reader, blocks = await read_saved(load(path))
        found = await (reader.draw_map() if drawn else reader.stress(shocks, everything))
        return found | {"saved_blocks": blocks}

    try:
        return asyncio.run(work())
    except ValueError as error:
        raise FatalError(str(error)) from None


def _show_map(document: Document, file: Path | None, *, as_json: bool, as_map: bool) -> None:
    if file is not None:
        svg(document, file)
    if as_json:
        click.echo(json.dumps(document))
    elif as_map:
        console = Console()
        console.print(terminal(document, console.width))


def as_lines(document: Document) -> str:
    """Return the totals as CSV, a line a venue and market, ``*`` for a venue as a whole."""
    rows = [
        {"venue": id_, "market": market} | total
        for id_, venue in document["venues"].items()
        for market, total in ({WHOLE: venue["total"]} | venue["markets"]).items()
    ]
    written = io.StringIO()
    if rows:
        writer = csv.DictWriter(written, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return written.getvalue()


def as_tables(document: Document) -> Group:
    """Return the document for a terminal."""
    moved = [f"{name} {pct:+g} %" for name, pct in document["shocks_pct"].items()]
    parts: list[Any] = [Text(", ".join(moved) or "no shock: as things stand", "bold")]
    for id_, venue in document["venues"].items():
        parts += _venue(id_, venue)
    parts += [Text(f"{id_}: left out, {why}") for id_, why in document["left_out"].items()]
    for id_, block in document.get("saved_blocks", {}).items():
        said = f"{id_}: accounts as saved at block {block}, without those set aside by a bug then"
        parts.append(Text(said, "yellow"))
    return Group(*parts)


def _venue(id_: str, venue: Document) -> list[Any]:
    parts: list[Any] = [Text(f"\n{id_} at block {venue['block']}, USD", "bold"), _prices(venue)]
    parts.append(_totals({"all": venue["total"]} | venue["markets"]))
    sold = [f"{name} {short(amount)}" for name, amount in venue["collateral_sold_usd"].items()]
    parts.append(Text(f"collateral that would be sold: {', '.join(sold) or 'none'}"))
    if venue["top_accounts"]:
        parts += [Text("largest under-margined accounts:"), _top(venue["top_accounts"])]
    unknown = venue["unknown"]
    for count, what in (
        (unknown["unpriced_accounts"], "hold something without a price: not in these numbers"),
        (unknown["quarantined_accounts"], "are set aside by a bug: not in these numbers"),
        (unknown["accounts_worth_more"], "hold something that is not valued: worth more"),
    ):
        if count:
            parts.append(Text(f"accounts: {count} {what}", "yellow"))
    return parts


def _prices(venue: Document) -> Table:
    table = Table("price", "now", "shocked", "shock", "of the", box=None, pad_edge=False)
    for name, one in venue["prices"].items():
        now, then = (
            f"{one[key]:,.6g}" if one[key] is not None else "unknown"
            for key in ("now_usd", "shocked_usd")
        )
        table.add_row(escape(name), now, then, f"{one['shock_pct']:+g} %", one["of"])
    return table


def _totals(totals: Document) -> Table:
    table = Table("market", box=None, pad_edge=False)
    for name in ("accounts", "notional", "under-margined", "insolvent", "equity", "bad debt"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, one in totals.items():
        table.add_row(
            escape(name),
            f"{one['accounts']:,}",
            short(one["long_usd"] + one["short_usd"]),
            f"{one['under_margined_accounts']:,}: {short(one['under_margined_notional_usd'])}",
            f"{one['insolvent_accounts']:,}: {short(one['insolvent_notional_usd'])}",
            short(one["equity_usd"]),
            short(one["bad_debt_usd"]),
        )
    return table


def _top(accounts: list[Document]) -> Table:
    table = Table("account", box=None, pad_edge=False)
    for name in ("notional", "equity", "required", "bad debt"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in accounts:
        amounts = [one[f"{key}_usd"] for key in ("notional", "equity", "requirement", "bad_debt")]
        table.add_row(escape(one["account"]), *map(short, amounts))
    return table
