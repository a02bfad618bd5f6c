"""Following a chain: every new head with the logs since the last one, gaps filled, reorgs told.

A websocket only wakes the follower early; what is followed is read over HTTP, from the last head
that was handed out to the newest one. So nothing is lost while a socket was down, and without a
websocket the follower polls. A reorg is found by a parent hash that does not match (nodes do not
reliably push ``removed`` logs) and answered with the first block number that changed.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import structlog

from keeper.chain.backfill import LogReader
from keeper.chain.rpc import quantity, rpc_error
from keeper.errors import RpcError, RpcFault
from keeper.facts import ChainUpdate, Head, Log
from keeper.ports import Clock, Rpc

logger = structlog.get_logger(__name__)

CHANGED = "the chain changed while the gap was read"


def head_from_json(raw: object, seen_ms: int) -> Head:
    """Decode a block header; raises TransientRpcError when it is none."""
    try:
        assert isinstance(raw, dict)  # noqa: S101 - the except clause below is the answer
        base_fee = raw.get("baseFeePerGas")
        return Head(
            number=quantity(raw["number"]),
            hash=raw["hash"],
            parent_hash=raw["parentHash"],
            timestamp_s=quantity(raw["timestamp"]),
            base_fee_wei=quantity(base_fee) if base_fee is not None else None,
            seen_ms=seen_ms,
        )
    except (KeyError, TypeError, AssertionError):
        raise rpc_error(RpcFault.GARBAGE, f"not a block: {str(raw)[:80]!r}") from None


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """Limits of the follower; the names are those of ``[chain]`` in config.toml."""

    poll_ms: int
    reorg_depth_max: int


class ChainFollower:
    """Hands out each new head with the logs since the last one."""

    def __init__(
        self,
        rpc: Rpc,
        reader: LogReader,
        addresses: Sequence[str],
        settings: FollowSettings,
        clock: Clock,
    ) -> None:
        """Follow the logs of these contracts; the reader fills gaps."""
        self._rpc = rpc
        self._reader = reader
        self._addresses = list(addresses)
        self._settings = settings
        self._clock = clock
        self._wake = asyncio.Event()
        self.announced = False  # the last look was for a websocket's sake, not a poll's
        self._recent: deque[Head] = deque(maxlen=settings.reorg_depth_max)

    def wake(self) -> None:
        """Look for a new head now (called when a websocket announced one)."""
        self._wake.set()

    async def newest(self) -> Head:
        """Read the newest header."""
        raw = await self._rpc.call("eth_getBlockByNumber", ["latest", False])
        return head_from_json(raw, self._clock.wall_ms())

    async def start(self) -> Head:
        """Return the head to follow from: the newest one, or after an error the last handed out."""
        if not self._recent:
            self._recent.append(await self.newest())
        return self._recent[-1]

    async def updates(self) -> AsyncGenerator[ChainUpdate | None]:
        """Yield what follows ``start``, whose own logs are the caller's to read; None: nothing new.

        Raises TransientError, after which it goes on where it was.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_ms / 1000):
                    await self._wake.wait()
            self.announced = self._wake.is_set()
            self._wake.clear()
            head = await self.newest()
            if head.hash == self._recent[-1].hash:
                yield None
            else:
                yield await self._advance(head)

    async def _advance(self, head: Head) -> ChainUpdate | None:
        last = self._recent[-1]
        if head.number == last.number + 1 and head.parent_hash == last.hash:
            logs = await self._logs_at(head)
            self._recent.append(head)
            return ChainUpdate(head, tuple(logs), covers_from=head.number)
        if head.number < last.number and await self._is_ancestor(head):
            return None  # a lagging endpoint behind the same URL: not news
        common = await self._common_ancestor()
        if common is None:
            self._recent.clear()
            self._recent.append(head)
            logger.error("chain replaced beyond reorg_depth_max: reading everything again")
            return ChainUpdate(head, (), reorged_from=0, resync=True)
        if head.number <= common.number:
            return None  # read from an endpoint that is farther behind than our memory reaches
        return await self._bridge(common, head)

    async def _bridge(self, common: Head, head: Head) -> ChainUpdate:
        """Read the logs from the last block both sides share to the new head."""
        first = common.number + 1
        reorged_from = first if common.hash != self._recent[-1].hash else None
        logs: list[Log] = []
        async for done in self._reader.read(self._addresses, [range(first, head.number + 1)]):
            for covered, some in done:
                logs += some
                if covered.last == head.number and covered.hash != head.hash:
                    raise rpc_error(RpcFault.UNKNOWN_BLOCK, CHANGED)
        logs.sort(key=lambda log: log.block_number)
        headers = await self._headers(
            range(max(first, head.number - self._settings.reorg_depth_max), head.number)
        )
        if (headers[-1].hash if headers else common.hash) != head.parent_hash:
            raise rpc_error(RpcFault.UNKNOWN_BLOCK, CHANGED)
        while self._recent and self._recent[-1].number > common.number:
            self._recent.pop()
        self._recent.extend([*headers, head])
        if reorged_from is not None:
            logger.warning("reorg", first_changed=reorged_from, head=head.number)
        return ChainUpdate(head, tuple(logs), reorged_from, covers_from=first)

    async def _logs_at(self, head: Head) -> list[Log]:
        query = {"address": self._addresses, "blockHash": head.hash}
        logs: list[Log] = await self._rpc.call("eth_getLogs", [query])
        return logs

    async def _headers(self, numbers: Sequence[int]) -> list[Head]:
        answers = await self._rpc.batch(
            [("eth_getBlockByNumber", [hex(number), False]) for number in numbers]
        )
        for answer in answers:
            if isinstance(answer, RpcError):
                raise answer
        return [head_from_json(answer, self._clock.wall_ms()) for answer in answers]

    async def _is_ancestor(self, head: Head) -> bool:
        return any(known.hash == head.hash for known in self._recent)

    async def _common_ancestor(self) -> Head | None:
        """Return the newest known head that is still on the chain."""
        known = list(reversed(self._recent))
        answers = await self._rpc.batch(
            [("eth_getBlockByNumber", [hex(head.number), False]) for head in known]
        )
        for head, answer in zip(known, answers, strict=True):
            if isinstance(answer, dict) and answer.get("hash") == head.hash:
                return head
        return None
