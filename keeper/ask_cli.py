"""``keeper status`` and ``keeper explain``: ask a running keeper over its HTTP API."""

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import click
from pydantic import SecretStr
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from keeper.config import load
from keeper.errors import FatalError

TIMEOUT_S = 10
REFRESH_S = 1.0
FAR_PCT = 10_000  # no factor ever moves so far while an account stands
WEI = 10**18
VENUE_COLUMNS = (
    *("venue", "accounts", "in book", "under-margined"),
    *("liquidated by us", "capture rate", "profit (native)"),
)

Document = Mapping[str, Any]


def where(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which keeper is asked."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the answer as it came."),
        click.option("--url", help="Address of the keeper, if it is not the config's [http]."),
        click.option(
            "--config",
            "path",
            type=click.Path(path_type=Path),
            default=Path("config.toml"),
            show_default=True,
            help="The configuration file; only [http] is used.",
        ),
    ):
        command = option(command)
    return command


class Address(NamedTuple):
    """Where a keeper listens, and the certificate by which it is known beside the system's."""

    url: str
    trusted: Path | None = None

    def tls(self) -> ssl.SSLContext:
        """Return how its certificate is verified."""
        context = ssl.create_default_context()
        if self.trusted is not None:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be an authority's
            context.load_verify_locations(self.trusted)
        return context


def address(path: Path, url: str | None) -> Address:
    """Return where the keeper listens: ``url``, or what [http] says."""
    if url is not None:
        if not url.startswith(("http://", "https://")):
            msg = "--url should start with http:// or https://"
            raise FatalError(msg)
        return Address(url.rstrip("/"))
    http = load(path).http
    if http.port == 0:
        msg = f"{path}: http.port is 0, any free one; take it from the keeper's log and give --url"
        raise FatalError(msg)
    host = f"[{http.host}]" if ":" in http.host else http.host
    scheme = "https" if http.tls_cert else "http"
    return Address(f"{scheme}://{host}:{http.port}", http.tls_cert)


def ask(base: Address, path: str, token: SecretStr | None = None) -> Document:
    """Return the JSON that the keeper answers; raises FatalError with its reason, or the mend.

    ``token``: it is told to do something, by POST.
    """
    body = None if token is None else b""  # with one it is a POST
    request = Request(base.url + path, body)  # noqa: S310 - http(s), see address
    if token is not None:
        request.add_header("Authorization", f"Bearer {token.get_secret_value()}")
    try:
        with urlopen(request, timeout=TIMEOUT_S, context=base.tls()) as answer:  # noqa: S310
            document: Document = json.load(answer)
            return document
    except HTTPError as error:
        with error:
            raise FatalError(_reason(error)) from None
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        msg = f"no keeper answers at {base.url} ({reason}); is it running? or give --url"
        raise FatalError(msg) from None
    except ValueError:
        msg = f"{base.url} does not answer like a keeper; give --url"
        raise FatalError(msg) from None


def _reason(error: HTTPError) -> str:
    try:
        said = json.load(error)["error"]
    except (ValueError, KeyError, TypeError):
        said = f"{error.code} {error.reason}"
    return f"{error.url}: {said}"


@click.command()
@where
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
def status(path: Path, url: str | None, as_json: bool, watch: bool) -> None:  # noqa: FBT001
    """Show what a running keeper sees and does: prices, nearest accounts, attempts, wallets."""
    base = address(path, url)
    document = ask(base, "/api/v1/status")
    if as_json:
        click.echo(json.dumps(document))
        return
    if not watch:
        Console().print(_status(document))
        return
    pause = threading.Event()  # never set
    with Live(_status(document), screen=True, auto_refresh=False) as live:
        try:
            while True:
                pause.wait(REFRESH_S)
                live.update(_status(ask(base, "/api/v1/status")), refresh=True)
        except KeyboardInterrupt:
            return


@click.command()
@where
@click.option("--venue", help="Id of the venue; needed when several know the account.")
@click.argument("account")
def explain(account: str, path: Path, url: str | None, venue: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Say why ACCOUNT is being liquidated, or why not: its margin term by term, its holds."""
    base = address(path, url)
    venues = [venue] if venue else list(ask(base, "/api/v1/status")["venues"])
    found = []
    refusals = []
    for name in venues:
        try:
            found.append(ask(base, f"/api/v1/accounts/{quote(name)}/{quote(account, safe='')}"))
        except FatalError as error:
            refusals.append(str(error))
    if not found:
        raise FatalError("\n".join(refusals))
    for document in found:
        if as_json:
            click.echo(json.dumps(document))
        else:
            Console().print(_explained(document))


@click.command()
@where
def pause(path: Path, url: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Have a running keeper start nothing until `keeper resume`, or until it is started again.

    It watches on, and what is in flight is followed to its end. Needs http.token in the config.
    """
    _switch("/api/v1/pause", path, url, as_json=as_json)


@click.command()
@where
def resume(path: Path, url: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Have a running keeper go on after `keeper pause`. Needs http.token in the config."""
    _switch("/api/v1/resume", path, url, as_json=as_json)


def _switch(order: str, path: Path, url: str | None, *, as_json: bool) -> None:
    token = load(path).http.token
    if token is None:
        msg = (
            f"{path}: http.token is missing; set it, in the keeper's config as well, and restart: "
            'token = { file = "path" }'
        )
        raise FatalError(msg)
    document = ask(address(path, url), order, token.read())
    if as_json:
        click.echo(json.dumps(document))
    else:
        click.echo(f"paused: {document['paused']}" if document["paused"] else "running")


def _led(lease: Document) -> Text:
    if lease["leads"]:
        return Text("leader: it has the lease", "green")
    return Text(f"standby: {lease['holder'] or 'nobody'} has the lease", "yellow")


def _headline(document: Document) -> list[Text]:
    """Return what concerns the keeper as a whole."""
    head, wait = document["head"], document["latency_ms"]
    ready = Text("ready", "bold green") if document["ready"] else Text("not ready", "bold red")
    lines = [ready, *(Text(f"  {reason}", "red") for reason in document["unready"])]
    if document["dry_run"]:
        lines.append(Text("dry run: nothing is sent", "yellow"))
    if document["lease"]:
        lines.append(_led(document["lease"]))
    if document["config"]["restart_keys"]:
        keys = ", ".join(document["config"]["restart_keys"])
        lines.append(Text(f"changed in the config, with the next start: {keys}", "yellow"))
    lines += [
        Text(f"loop {loop}: no sign of life for {one['age_s']:.0f} s", "bold red")
        for loop, one in document["loops"].items()
        if one["late"]
    ]
    if head:
        age_s, delay_s = head["age_ms"] / 1000, head["delay_ms"] / 1000
        late = f"{head['how']} {delay_s:.1f} s after its time stamp"
        lines.append(Text(f"block {head['block']}, {age_s:.1f} s old, {late}"))
    if wait["count"]:
        said = f"tick to sent: p50 {wait['p50']:.1f} ms, p99 {wait['p99']:.1f} ms"
        lines.append(Text(f"{said} of {wait['count']}"))
    return lines


def _status(document: Document) -> Group:
    profit = {
        venue: f"{int(wei) / WEI:,.6f}" for venue, wei in document["totals"]["profit_wei"].items()
    }
    prices = [
        (feed, _number(price["price"]), _age(price["age_ms"]))
        for feed, price in document["prices"].items()
    ]
    venues = [
        (
            *(venue, one["accounts"], one["in_book"], one["under_margined"]),
            *_captured(document["liquidations"][venue]),
            profit.get(venue, "0"),
        )
        for venue, one in document["venues"].items()
    ]
    lanes = [
        (
            *(one["name"], one["address"], f"{int(one['balance_wei']) / WEI:,.6f}"),
            *(one["open_attempts"], one["parked"] or "free"),
        )
        for one in document["wallets"]
    ]
    endpoints = [
        (one["endpoint"], one["state"], one["lag_blocks"], _number(one["latency_ms"]))
        for one in document["endpoints"]
    ]
    budgets = [
        (
            *(one["budget"].replace("_", " a "), "USD" if one["unit"] == "usd" else "native"),
            *(_number(one["left"]), _number(one["most"])),
        )
        for one in document["budgets"]
    ]
    nearest = [
        (one["venue"], one["account"], _number(one["distance_pct"]), one["why"])
        for one in document["accounts"]
    ]
    attempts = [
        (one["venue"], one["account"], one["state"], one["nonce"], one.get("tx") or "")
        for one in document["attempts"]
    ]
    return Group(
        *_headline(document),
        _table(("feed", "price", "age"), prices),
        _table(VENUE_COLUMNS, venues),
        _table(("wallet", "address", "balance (native)", "open attempts", "lane"), lanes),
        _table(("endpoint", "state", "blocks behind", "latency ms"), endpoints),
        _table(("budget", "unit", "left", "of"), budgets),
        _table(("venue", "account", "distance %", "why not liquidated"), nearest),
        _table(("venue", "account", "attempt", "nonce", "transaction"), attempts),
    )


def _explained(document: Document) -> Group:
    lines = [Text(f"{document['venue']}, account {document['account']}: {document['why']}", "bold")]
    hold = document["hold"]
    if hold:
        ends = [
            f"in {hold['left_ms'] / 1000:.1f} s" if hold["until_ms"] is not None else "",
            f"at block {hold['until_block']}" if hold["until_block"] is not None else "",
        ]
        lines.append(
            Text(f"held: {hold['reason']}; looked at again {' or '.join(filter(None, ends))}")
        )
    if document["failures_in_a_row"]:
        lines.append(Text(f"failed {document['failures_in_a_row']} times in a row"))
    if document["quarantine"]:
        lines.append(Text(f"in quarantine: {document['quarantine']}", "red"))
    exact = document["assessment"]
    if exact:
        verdict = "liquidatable" if exact["liquidatable"] else "not liquidatable"
        if exact["stale_on_chain"]:
            verdict += f" (too old on the chain: {', '.join(exact['stale_on_chain'])})"
        lines.append(
            Text(
                f"exactly: {verdict} by the {exact['by']} price; equity {exact['equity_usd']:,.2f}"
                f" - requirement {exact['requirement_usd']:,.2f} = {exact['excess_usd']:,.2f} USD;"
                f" reward {exact['reward_usd']:,.2f} USD, bad debt {exact['bad_debt_usd']:,.2f} USD"
            )
        )
    tables = [
        _terms(title, document[key])
        for title, key in (
            ("at the sources' prices", "at_source_prices"),
            ("at the contract's prices", "at_contract_prices"),
        )
        if document[key]
    ]
    state = json.dumps(document["state"], indent=1)
    read = Text(f"as read at block {document['read_at_block']}, in the contract's units:\n{state}")
    return Group(*lines, *tables, read)


def _terms(title: str, book: Document) -> Table:
    side = "under-margined" if book["under"] else "above its margin"
    table = _table(
        ("factor", "value", "weight", "USD", "alone to zero at"),
        [
            (
                row["factor"],
                _number(row["value"]),
                f"{row['weight']:,.6g}",
                _number(row["usd"]),
                _move(row["move_pct"]),
            )
            for row in book["terms"]
        ]
        + [("constant", "", "", _number(book["constant_usd"]), "")]
        + [("excess", "", "", _number(book["excess_usd"]), "")],
    )
    table.title = f"{title}: {side}"
    table.title_justify = "left"
    return table


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    table = Table(*names, box=None, pad_edge=False, title_style="")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


def _number(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.2f}" if abs(number) >= 1 or number == 0 else f"{number:.4g}"


def _captured(seen: Document) -> tuple[str, str]:
    """Return how many of the liquidations seen were ours, and their share."""
    us, rate = seen["us"], seen["capture_rate"]
    return f"{us} of {us + seen['other']}", "-" if rate is None else f"{100 * rate:.1f} %"


def _move(move_pct: float | None) -> str:
    reachable = move_pct is not None and -FAR_PCT < move_pct < FAR_PCT
    return f"{move_pct:+.2f} %" if reachable else "never"


def _age(age_ms: int | None) -> str:
    return "never" if age_ms is None else f"{age_ms / 1000:.1f} s"
