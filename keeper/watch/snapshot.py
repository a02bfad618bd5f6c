"""Snapshots: a venue's account states on disk, so that a start reads only what has changed since.

A file a venue: a line an account, then a line about them. It is written whole beside the old one
and renamed over it. At a start it counts only if its checksum, version, fields and block are right;
otherwise it is refused, that is said, and all is read as if there were none. The rows of the book
are not kept: they are compiled from the states with the parameters of the day.
"""

import asyncio
import hashlib
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from keeper.collector import at_rest, leave_alone
from keeper.facts import AccountState
from keeper.ports import AnyVenue, History, Rpc
from keeper.quarantine import Quarantine
from keeper.watch.desk import Desk
from keeper.watch.reconcile import fields_of

logger = structlog.get_logger(__name__)

VERSION = 1
LINES_AT_ONCE = 256  # encoded in one go: the other loops run in between


class Header(msgspec.Struct, frozen=True):
    """The last line: what the file holds, and as of which block."""

    version: int
    scope: str
    fields: list[str]  # of an account's state: another keeper's may have others
    block: int
    hash: str
    accounts: int
    sha256: str  # of all lines before this one


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Account states that were complete as of a block; none of them is of a later one."""

    block: int
    hash: str
    states: Sequence[AccountState]


class SnapshotError(Exception):
    """A file that cannot be used; the message says why."""


class Snapshots:
    """The snapshots of all venues, in one folder."""

    def __init__(self, folder: Path, chain_id: int, quarantine: Quarantine) -> None:
        """Remember where; accounts in quarantine are left out, so that a start reads them."""
        self._folder = folder
        self._chain_id = chain_id
        self._quarantine = quarantine

    def path(self, desk: Desk) -> Path:
        """Return where a venue's snapshot is."""
        return self._folder / f"snapshot-{self._chain_id}-{desk.venue.id}.jsonl"

    async def save(self, desk: Desk) -> bool:
        """Write what the desk has; False when that is nothing of use, or it cannot be written."""
        head, venue = desk.read_at, desk.venue.id
        if head is None or desk.venue.capabilities.learns_from_reads:
            return False
        states = [
            state
            for account, state in desk.states.items()
            if not self._quarantine.is_quarantined(venue, account)
        ]
        header = Header(
            VERSION, desk.scope, _fields(desk.venue), head.number, head.hash, len(states), ""
        )
        try:
            size = await asyncio.to_thread(_write, self.path(desk), header, states)
        except (OSError, SnapshotError) as error:
            logger.warning("snapshot not written", venue=venue, error=str(error))
            return False
        logger.info(
            "snapshot written", venue=venue, accounts=len(states), block=head.number, bytes=size
        )
        return True

    async def save_all(self, desks: Sequence[Desk]) -> None:
        """Write what every desk has."""
        for desk in desks:
            await self.save(desk)

    async def keep(self, desks: Sequence[Desk], every_s: int, beat: Callable[[], None]) -> NoReturn:
        """Write snapshots for ever, so many seconds apart."""
        while True:
            for _ in range(every_s):
                beat()
                await asyncio.sleep(1)
            for desk in desks:
                beat()
                await self.save(desk)

    async def load(self, desk: Desk) -> Snapshot | None:
        """Read a venue's snapshot; None when there is none that can be used."""
        path = self.path(desk)
        if not path.exists():
            return None
        try:
            return await asyncio.to_thread(_read, path, desk.scope, desk.venue)
        except (SnapshotError, OSError) as error:
            logger.error(  # noqa: TRY400 - no bug of ours
                "snapshot refused: reading everything",
                venue=desk.venue.id,
                path=str(path),
                why=str(error),
            )
            return None


def _fields(venue: AnyVenue) -> list[str]:
    return sorted(fields_of(venue))


def _state_type(venue: AnyVenue) -> type[AccountState]:
    (kind,) = typing.get_args(typing.get_type_hints(type(venue).read_accounts)["return"])
    return kind  # type: ignore[no-any-return]


def _write(path: Path, header: Header, states: Sequence[AccountState]) -> int:
    """Write the file whole and rename it; returns its size in bytes."""
    encode, digest = msgspec.json.encode, hashlib.sha256()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        for some in _slices(states):
            try:
                lines = b"".join(encode(state) + b"\n" for state in some)
            except TypeError as error:
                msg = f"the venue's accounts are of a kind that cannot be written: {error}"
                raise SnapshotError(msg) from None
            digest.update(lines)
            file.write(lines)
        file.write(encode(msgspec.structs.replace(header, sha256=digest.hexdigest())) + b"\n")
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    part.replace(path)
    return size


def _read(path: Path, scope: str, venue: AnyVenue) -> Snapshot:
    whole = path.read_bytes()
    body_end = whole.rfind(b"\n", 0, -1) + 1
    body, last = whole[:body_end], whole[body_end:]
    try:
        header = msgspec.json.decode(last, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"its last line does not describe it, it is damaged: {error}"
        raise SnapshotError(msg) from None
    _judge(header, body, scope, _fields(venue))
    decode: Callable[[bytes], AccountState] = msgspec.json.Decoder(_state_type(venue)).decode
    try:
        with at_rest():
            states = [decode(line) for line in body.splitlines()]
            leave_alone()  # before it begins to look
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"an account cannot be decoded: {error}"
        raise SnapshotError(msg) from None
    of_then = [state for state in states if state.head.number <= header.block]
    return Snapshot(header.block, header.hash, of_then)


def _judge(header: Header, body: bytes, scope: str, fields: list[str]) -> None:
    """Raise SnapshotError unless the file is whole and of this keeper and venue."""
    msg = ""
    if header.version != VERSION:
        msg = f"it is of version {header.version}, wanted {VERSION}"
    elif header.scope != scope:
        msg = f"it is of {header.scope}, wanted {scope}"
    elif header.fields != fields:
        msg = "its accounts have other fields"
    elif hashlib.sha256(body).hexdigest() != header.sha256:
        msg = "its checksum is wrong: it is damaged"
    elif body.count(b"\n") != header.accounts:
        msg = f"it has {body.count(bytes([10]))} accounts, says {header.accounts}"
    if msg:
        raise SnapshotError(msg)


class WarmStart:
    """Which of a snapshot's states still hold: those that nothing has touched since."""

    def __init__(self, rpc: Rpc, ledger: History, snapshots: Snapshots) -> None:
        """Ask the chain for the snapshot's block, the ledger for what was touched after it."""
        self._rpc = rpc
        self._ledger = ledger
        self._snapshots = snapshots

    async def states(self, desk: Desk) -> list[AccountState]:
        """Return the states to start with, none if there is no use of the snapshot.

        To be called when the ledger covers all blocks up to the head. Raises RpcError.
        """
        if desk.venue.capabilities.learns_from_reads:
            return []
        found = await self._snapshots.load(desk)
        if found is None:
            return []
        header = await self._rpc.call("eth_getBlockByNumber", [hex(found.block), False])
        if not isinstance(header, dict) or header.get("hash") != found.hash:
            logger.error("snapshot refused: its block is not on the chain", venue=desk.venue.id)
            return []
        known = set(await self._ledger.known(desk.scope))
        known.difference_update(await self._ledger.touched_since(desk.scope, found.block))
        kept = [state for state in found.states if state.account in known]
        logger.info("warm start", venue=desk.venue.id, kept=len(kept), of=len(found.states))
        return kept


def _slices(items: Sequence[typing.Any]) -> Iterable[Sequence[typing.Any]]:
    for start in range(0, len(items), LINES_AT_ONCE):
        yield items[start : start + LINES_AT_ONCE]
