"""Preflight: everything that can be asked before money is at stake, asked once, told at once."""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import aiohttp

from keeper import __version__
from keeper.app import build_board, build_broadcast, build_rpc, build_sources
from keeper.chain.announcements import Ears, listen
from keeper.chain.endpoints import Endpoint, Role
from keeper.chain.heads import head_from_json
from keeper.chain.journal import Journal, JournalError, JournalInUseError
from keeper.chain.rpc import HttpRpc, quantity
from keeper.chain.sequencer import sequencer_trouble
from keeper.chain.signer import RemoteSigner, SigningError, Wallet, load_wallets
from keeper.chain_parts import build_venue, listen_rules
from keeper.clock import SystemClock
from keeper.config import FeedSettings, Settings, VenueSettings
from keeper.config.lease import LeaseSettings
from keeper.config.settings import ChainSettings
from keeper.errors import ConfigError, EndpointState, ProtocolError, RpcError, TransientError
from keeper.facts import FeedId, Rejected
from keeper.lease_parts import open_lease
from keeper.observe.metrics import Metrics
from keeper.observe.tls import server_tls
from keeper.ports import PriceSource
from keeper.prices.board import PriceBoard
from keeper.units import WAD, wad_to_float

LISTEN_S_MAX = 10.0  # for the first price of every feed
Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: what was asked, how it went, what would mend it."""

    what: str
    verdict: Verdict
    detail: str
    mend: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def found(self) -> str:
        """Return the detail and the facts in one line."""
        return "; ".join([self.detail, *(f"{name}: {it}" for name, it in self.facts.items())])


async def preflight(settings: Settings) -> list[Finding]:
    """Ask endpoints, wallet, journal, venues, sources and feeds; what fails is a finding."""
    clock, metrics = SystemClock(), Metrics(__version__)
    findings: list[Finding] = []
    async with aiohttp.ClientSession() as session:
        findings += _http(settings)
        wallets = await _wallets(settings, session, findings)
        rpc = build_rpc(settings, session, metrics)
        alive = await _endpoints(rpc, settings, findings)
        findings += _relay_keys(settings, rpc, metrics)
        await _websockets(settings, findings)
        if alive:
            await _balances(settings, rpc, wallets, findings)
            await _sequencer(settings.chain, rpc, findings)
            for venue in settings.venues:
                own: list[str | None] = [
                    one.address
                    for one in wallets
                    if one.name != settings.treasury.wallet
                    and (not venue.wallets or one.name in venue.wallets)
                ]
                findings += [
                    await _venue(settings, venue, rpc, address) for address in own or [None]
                ]
        findings.append(await _journal(settings))
        findings += await _lease(settings.lease)
        sources = build_sources(settings, clock, metrics, rpc)
        reachable = [await _source(source) for source in sources.values()]
        findings += reachable
        if all(finding.verdict == "ok" for finding in reachable):
            findings += await _feeds(settings, list(sources.values()), clock)
    return findings


def _http(settings: Settings) -> list[Finding]:
    """Say what keeps the server from its certificate; nothing where it is fine or has none."""
    try:
        server_tls(settings.http)
    except ConfigError as error:
        return [Finding("http", "failed", problem) for problem in error.problems]
    return []


async def _wallets(
    settings: Settings, session: aiohttp.ClientSession, findings: list[Finding]
) -> list[Wallet]:
    if not settings.wallets:
        said = "none: a dry run, nothing is sent"
        findings.append(Finding("wallets", "warning", said, "add a [[wallets]] table to act"))
        return []
    mend = "see [[wallets]] in the example config.toml"
    try:
        wallets = load_wallets(settings.wallets, session)
    except ConfigError as error:
        findings += [Finding("wallets", "failed", problem, mend) for problem in error.problems]
        return []
    for wallet in wallets:
        finding = Finding(f"wallet {wallet.name}", "ok", wallet.address)
        if isinstance(wallet.signer, RemoteSigner):
            try:
                await wallet.signer.check()
            except SigningError as error:
                finding = Finding(finding.what, "failed", str(error), mend)
        findings.append(finding)
    return wallets


async def _endpoints(rpc: HttpRpc, settings: Settings, findings: list[Finding]) -> bool:
    """Probe every endpoint; return whether one that is read from answers."""
    await rpc.endpoints.probe_all()
    for each in rpc.endpoints.all:
        what = f"endpoint {each.label} ({', '.join(sorted(each.roles))})"
        state = rpc.endpoints.state(each)
        if each.failures:
            mend = "mend or remove it in [chain]"
            findings.append(Finding(what, "failed", f"{state}: {each.trouble}", mend))
            continue
        detail = f"{state}: {_seen(each, settings.chain.id)}"
        if state is EndpointState.HEALTHY:
            findings.append(Finding(what, "ok", detail))
        else:
            mend = f"{each.lag} blocks behind the others; it is asked after them"
            findings.append(Finding(what, "warning", detail, mend))
    return any(not each.failures for each in rpc.endpoints.all if Role.READ in each.roles)


def _seen(endpoint: Endpoint, chain_id: int) -> str:
    if endpoint.latency_ms is None:
        return "answers, and knows only how to take transactions"
    block = f", block {endpoint.head}" if endpoint.head is not None else ""
    return f"chain {chain_id}{block}, {endpoint.latency_ms:.0f} ms"


def _relay_keys(settings: Settings, rpc: HttpRpc, metrics: Metrics) -> list[Finding]:
    try:
        build_broadcast(settings, rpc, metrics)
    except ConfigError as error:
        mend = "put the key that signs requests there"
        return [Finding("relay key", "failed", problem, mend) for problem in error.problems]
    return []


def _polled(chain: ChainSettings) -> str:
    return f"heads are polled every {chain.poll_ms} ms, and seen up to that much later"


async def _websockets(settings: Settings, findings: list[Finding]) -> None:
    """Wait for one announced head, or for as long as the keeper would."""
    chain = settings.chain
    if not chain.ws:
        findings.append(Finding("heads", "ok", f"{_polled(chain)}; chain.ws tells at once"))
    for number, endpoint in enumerate(chain.ws):
        announced = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                url = endpoint.read().get_secret_value()
                ears = Ears(announced.set, lambda _: None, lambda: None)
                task = group.create_task(
                    listen(url, listen_rules(chain, ()), ears), name=f"ws{number}"
                )
                await announced.wait()
                task.cancel()
            finding = Finding(f"websocket ws{number}", "ok", "announces heads")
        except* (TransientError, ConfigError) as lost:
            detail = "; ".join(str(error) for error in lost.exceptions)
            mend = f"mend or remove it in chain.ws: without it {_polled(chain)}"
            finding = Finding(f"websocket ws{number}", "failed", detail, mend)
        findings.append(finding)


async def _balances(
    settings: Settings, rpc: HttpRpc, wallets: Sequence[Wallet], findings: list[Finding]
) -> None:
    try:
        head = head_from_json(await rpc.call("eth_getBlockByNumber", ["latest", False]), 0)
        findings.append(Finding("head", "ok", f"block {head.number}"))
        for wallet in wallets:
            balance = quantity(await rpc.call("eth_getBalance", [wallet.address, "latest"]))
            findings.append(_balance(settings, wallet, balance))
    except RpcError as error:
        findings.append(Finding("head", "failed", str(error), "see the endpoints above"))


async def _sequencer(chain: ChainSettings, rpc: HttpRpc, findings: list[Finding]) -> None:
    if chain.sequencer_feed is None:
        return
    try:
        trouble = await sequencer_trouble(rpc, chain.sequencer_feed, chain.sequencer_grace_s)
    except TransientError as error:
        trouble = str(error)
    mend = "no price counts until it is up; if it is, see chain.sequencer_feed" if trouble else ""
    verdict: Verdict = "failed" if trouble else "ok"
    findings.append(Finding("sequencer", verdict, trouble or "up, and past its grace", mend))


def _balance(settings: Settings, wallet: Wallet, balance_wei: int) -> Finding:
    what, cap = f"balance {wallet.name}", settings.gate.transaction_cost_wei_max
    detail = f"{balance_wei / WAD:.6f} native tokens"
    if balance_wei >= max(cap, wallet.balance_wei_min):
        return Finding(what, "ok", detail)
    if balance_wei < wallet.balance_wei_min:
        below = f"at {wallet.balance_wei_min / WAD:.6f} it starts (balance_wei_min)"
    else:
        below = f"one attempt may cost {cap / WAD:.6f} (gate.transaction_cost_wei_max)"
    return Finding(what, "failed", detail, f"fund {wallet.address}: {below}")


async def _venue(
    settings: Settings, venue: VenueSettings, rpc: HttpRpc, wallet: str | None
) -> Finding:
    what = f"venue {venue.id}"
    try:
        made = build_venue(venue, rpc, settings.chain.id)
        probe = await made.probe(wallet)
    except (TransientError, RpcError, ProtocolError) as error:
        return Finding(what, "failed", str(error), "see the endpoints above")
    except ConfigError as error:
        return Finding(what, "failed", str(error), "see its [[venues]] table")
    if not probe.found:
        return Finding(what, "failed", probe.detail, "check the address and the chain")
    kinds = {f"{name} kind": kind for name, kind in made.capabilities.as_text().items()}
    facts = {**kinds, **probe.facts}
    if not probe.open:
        detail = f"closed to this wallet: {probe.detail}"
        mend = "it is only watched; probed again when it runs, it may open"
        return Finding(what, "warning", detail, mend, facts)
    if probe.lacks:
        detail = f"{probe.detail}; {probe.lacks}"
        return Finding(what, "warning", detail, f"name one in the feeds of {what}", facts)
    return Finding(what, "ok", probe.detail, facts=facts)


async def _journal(settings: Settings) -> Finding:
    path = settings.keeper.state_dir / "journal.sqlite"
    if not path.exists():
        return _journal_to_be(path)
    try:
        async with Journal(path, settings.chain.id) as journal:
            waiting = len(await journal.open_attempts())
    except JournalInUseError:
        mend = "right if that is the keeper of this config; a second one will not start"
        return Finding("journal", "warning", f"{path} is in use by a running keeper", mend)
    except JournalError as error:
        return Finding("journal", "failed", str(error), "see keeper.state_dir")
    return Finding("journal", "ok", f"{path}, {waiting} open attempts")


def _journal_to_be(path: Path) -> Finding:
    """Say whether the first start can make the journal. A check leaves nothing behind.

    It may run as another user than the keeper, or with a chain id that is still wrong.
    """
    folder = next(parent for parent in path.parents if parent.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Finding("journal", "ok", f"{path}: none yet, the first start makes it")
    mend = "make keeper.state_dir a folder that the keeper's user may write to"
    return Finding("journal", "failed", f"{path} cannot be made below {folder}", mend)


async def _lease(lease: LeaseSettings) -> list[Finding]:
    """Read the lease; nothing is written, since its holder may be at work."""
    if lease.kind == "none":
        return []
    what, mend = f"lease {lease.name}", "see [lease]; without it this keeper sends nothing"
    try:
        async with open_lease(lease) as store, asyncio.timeout(2 * lease.renew_s):
            record = await store.read() if store is not None else None
    except ConfigError as error:
        return [Finding(what, "failed", problem, mend) for problem in error.problems]
    except TransientError as error:
        return [Finding(what, "failed", str(error), mend)]
    except TimeoutError:
        return [Finding(what, "failed", f"no answer in {2 * lease.renew_s} s", mend)]
    if record is None:
        held = "none yet, who starts first makes it"
    else:
        held = f"last held by {record.holder}" if record.holder else "given up, and free"
    return [Finding(what, "ok", f"{held}; may be read, whether it may be written was not tried")]


async def _source(source: PriceSource) -> Finding:
    what = f"source {source.name}"
    try:
        return Finding(what, "ok", await source.check())
    except (TransientError, ConfigError) as error:
        return Finding(what, "failed", str(error), "see its [[sources]] table")


async def _feeds(
    settings: Settings, sources: list[PriceSource], clock: SystemClock
) -> list[Finding]:
    """Listen as the keeper would until every feed has a price, or for ``LISTEN_S_MAX``."""
    board = build_board(settings, clock)
    refused: dict[str, str] = {}

    def waiting() -> list[FeedId]:
        now_ms = clock.wall_ms()
        return [feed.id for feed in settings.feeds if board.fresh(feed.id, now_ms) is None]

    async def listen(source: PriceSource, done: asyncio.Event) -> None:
        async for tick in source.ticks():
            if tick is None:
                continue
            for each in [tick] if isinstance(tick, Rejected) else board.offer(tick):
                if isinstance(each, Rejected):
                    refused[each.feed] = f"{each.reason}: {each.detail}"
            if not waiting():
                done.set()

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(listen(source, done), name=f"prices/{source.name}")
            for source in sources
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S_MAX):
                await done.wait()
        for task in tasks:
            task.cancel()
    return [_feed(feed, board, refused, clock.wall_ms()) for feed in settings.feeds]


def _feed(
    feed: FeedSettings, board: PriceBoard, refused: Mapping[str, str], now_ms: int
) -> Finding:
    what = f"feed {feed.id}"
    price = board.fresh(feed.id, now_ms)
    if price is not None:
        age_ms = now_ms - price.published_ms
        detail = f"{wad_to_float(price.price_wad):g} USD, {age_ms} ms old, from {price.source}"
        return Finding(what, "ok", detail)
    silence = f"{board.trouble(feed.id, now_ms)}; nothing heard in {LISTEN_S_MAX:g} s"
    detail = refused.get(feed.id, silence)
    return Finding(what, "failed", detail, "is its publisher running, and are both clocks right?")
