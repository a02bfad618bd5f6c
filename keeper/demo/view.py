"""What a person sees: a live view of the run, fed by the keeper's own HTTP status and the judge.

The status document is read as the keeper of any version may give it: what is missing stays blank.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from keeper.demo.judge import Findings
from keeper.demo.path import Prices
from keeper.demo.report import Report
from keeper.demo.terms import FEED_BTC, FEED_ETH, FEEDS
from keeper.demo.verdicts import Verdicts
from keeper.demo.world import World
from keeper.units import WAD

REFRESH_S = 0.25
STATUS_LIMIT_S = 2.0
ROWS = 8
_WEI_PER_ETH = 10**18
_STYLE = {
    "won": "green",
    "lost": "yellow",
    "reverted": "red",
    "dropped": "red",
    "expired": "red",
    "cancelled": "yellow",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What the demo itself knows of the run."""

    http_url: str  # of the keeper
    start: Prices
    verdicts: Verdicts
    findings: Findings


async def show(world: World, console: Console) -> None:
    """Draw until cancelled."""
    judge = world.parts.judge
    scene = Scene(world.http_url, world.parts.path.start, judge.verdicts, judge.findings)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(render(scene, await _status(world)), refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _status(world: World) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=STATUS_LIMIT_S)
    url = f"{world.http_url}/api/v1/status"
    try:
        async with world.parts.rpc.session.get(url, timeout=timeout) as answer:
            body = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return {}  # being restarted, or busy: the next picture will have it
    return body if isinstance(body, dict) else {}


def render(scene: Scene, status: Mapping[str, Any]) -> RenderableType:
    """Return the whole picture."""
    return Group(
        _headline(scene, status),
        Panel(_prices(scene, status), title="prices", title_align="left"),
        Panel(_accounts(status), title="nearest to liquidation", title_align="left"),
        Panel(_attempts(status), title="attempts", title_align="left"),
        _judged(scene, status),
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _headline(scene: Scene, status: Mapping[str, Any]) -> Text:
    head = _mapping(status.get("head"))
    ready = status.get("ready")
    text = Text.assemble(
        ("keeper demo ", "bold"),
        f"block {head.get('block', '…')}  ",
        ("ready", "green") if ready else ("not ready", "red" if ready is False else "dim"),
        f"  {scene.http_url}  /metrics /healthz /readyz /api/v1/status",
    )
    reasons = status.get("unready")
    if isinstance(reasons, list) and reasons:
        text.append(f"\n{reasons[0]}", "red")
    return text


def _prices(scene: Scene, status: Mapping[str, Any]) -> Table:
    table = _table("feed", "USD", "since start", "age")
    start = {FEEDS[FEED_BTC]: scene.start.btc, FEEDS[FEED_ETH]: scene.start.eth}
    for feed, raw in _mapping(status.get("prices")).items():
        entry = _mapping(raw)
        price, age_ms = _number(entry.get("price")), _number(entry.get("age_ms"))
        move = None
        if price is not None and feed in start:
            move = 100 * (price * WAD / start[feed] - 1)
        table.add_row(
            feed,
            "" if price is None else f"{price:,.2f}",
            "" if move is None else Text(f"{move:+.2f} %", "red" if move < 0 else "green"),
            "" if age_ms is None else f"{age_ms:.0f} ms",
        )
    return table


def _accounts(status: Mapping[str, Any]) -> Table:
    table = _table("account", "distance", "")
    for entry in _mappings(status.get("accounts"))[:ROWS]:
        distance = _number(entry.get("distance_pct"))
        table.add_row(
            str(entry.get("account", "")),
            "" if distance is None else Text(f"{distance:.2f} %", "red" if distance <= 0 else ""),
            Text(str(entry.get("why") or ""), "dim"),
        )
    return table


def _attempts(status: Mapping[str, Any]) -> Table:
    table = _table("account", "state", "block", "profit ETH", "")
    for entry in _mappings(status.get("attempts"))[:ROWS]:
        state = str(entry.get("state", ""))
        reward, cost = _number(entry.get("reward_wei")), _number(entry.get("cost_wei"))
        profit = "" if reward is None or cost is None else f"{(reward - cost) / _WEI_PER_ETH:.5f}"
        table.add_row(
            str(entry.get("account", "")),
            Text(state, _STYLE.get(state, "cyan")),
            str(entry.get("block") or ""),
            profit,
            Text(str(entry.get("detail") or ""), "dim"),
        )
    return table


def _judged(scene: Scene, status: Mapping[str, Any]) -> Text:
    verdicts, findings = scene.verdicts, scene.findings
    latency = _mapping(status.get("latency_ms"))
    p50, p99 = _number(latency.get("p50")), _number(latency.get("p99"))
    totals = _mapping(status.get("totals"))
    profits = [_number(wei) or 0.0 for wei in _mapping(totals.get("profit_wei")).values()]
    profit = sum(profits) / _WEI_PER_ETH
    missed, wrong = len(verdicts.cured), len(findings.wrong)
    return Text.assemble(
        ("by the contract: ", "bold"),
        f"{len(findings.liquidations)} liquidations, {len(verdicts.pending)} liquidatable now, ",
        (f"{missed} missed, ", "red" if missed else ""),
        (f"{wrong} wrong", "red" if wrong else ""),
        f"; {findings.reverted} reverted; latest {max(verdicts.late, default=0)} blocks late\n",
        ("by the keeper:   ", "bold"),
        f"tick to sent p50 {_ms(p50)}, p99 {_ms(p99)}; profit {profit:.4f} ETH",
    )


def summary(report: Report) -> RenderableType:
    """Return the summary of a finished run."""
    table = Table(box=None, pad_edge=False, show_header=False)
    late = ", ".join(f"{blocks}: {count}" for blocks, count in report.blocks_late.items())
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.items())
    latency = report.tick_to_sent_ms
    for name, value in (
        ("accounts", f"{report.accounts} (seed {report.seed})"),
        ("blocks judged, ticks published", f"{report.blocks}, {report.ticks}"),
        ("due for liquidation", f"{report.due}, {report.liquidatable} of them for two blocks"),
        ("liquidated", f"{report.liquidated} in {report.liquidations} steps"),
        ("dealt with in time", f"{report.in_time} (blocks late: {late or 'none'})"),
        ("missed", f"{report.missed} ({report.escaped} times cured before)"),
        ("wrong", str(report.wrong)),
        ("attempts", f"{report.attempts} ({outcomes or 'none'}), {report.replacements} replaced"),
        ("reverted transactions", str(report.reverted)),
        ("rewards", f"{report.rewards_usd:,.2f} USD; bad debt {report.bad_debt_usd:,.2f} USD"),
        ("profit", f"{report.profit_wei / _WEI_PER_ETH:.6f} ETH"),
        ("tick to sent", f"p50 {_ms(latency.p50)}, p99 {_ms(latency.p99)}"),
    ):
        table.add_row(Text(name, "bold"), value)
    if report.holds:
        verdict = Text("The contract agrees: nobody missed, nobody touched wrongly.", "bold green")
    else:
        verdict = Text("The run does not hold:", "bold red")
        for problem in report.problems:
            verdict.append(f"\n  {problem}", "red")
    return Group(table, verdict)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> Sequence[Mapping[str, Any]]:
    return [_mapping(entry) for entry in value] if isinstance(value, list) else []


def _number(value: object) -> float | None:
    try:
        return None if value is None else float(str(value))
    except ValueError:
        return None
