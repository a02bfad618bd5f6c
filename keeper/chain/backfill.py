"""Reading logs by range: as wide as the provider allows, several at once, within a rate limit."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import structlog

from keeper.chain.ledger import Ledger
from keeper.chain.rpc import rpc_error
from keeper.coverage import Covered
from keeper.errors import RpcError, RpcFault
from keeper.facts import AccountId, Head, Log, VenueId
from keeper.ports import AnyVenue, Rpc, Telemetry
from keeper.watch.desk import Desk

logger = structlog.get_logger(__name__)

HEADERS_PER_BATCH_MAX = 100  # providers cap batches
Progress = Callable[[VenueId, int, int], None]  # venue, blocks read, blocks to read in all


@dataclass(frozen=True, slots=True)
class ReadRules:
    """Limits of log queries; the names are those of ``[chain]`` in config.toml."""

    log_range_max: int
    log_queries_at_once_max: int
    log_queries_per_s_max: int


class LogReader:
    """Reads the logs of block ranges and learns how many blocks a query may span.

    Providers word "too many results" differently, and some just let the query time out: whatever
    refuses a wide range is answered by halving it, and only a single block that fails is an error.
    What succeeds lets the next queries grow again, by a quarter so that few are refused.
    """

    def __init__(self, rpc: Rpc, rules: ReadRules) -> None:
        """Begin with the widest range; nothing is asked yet."""
        self._rpc = rpc
        self._rules = rules
        self._span = rules.log_range_max
        self._next_query_s = 0.0  # on the loop's clock

    async def read(
        self, addresses: Sequence[str], ranges: Sequence[range]
    ) -> AsyncIterator[list[tuple[Covered, list[Log]]]]:
        """Yield what was read, some ranges at a time, not always in the order of the blocks.

        Raises the RpcError of a single block that fails.
        """
        todo = list(reversed(ranges))  # a stack: lowest blocks on top
        while todo:
            wave = self._wave(todo)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._query(addresses, blocks)) for blocks in wave]
            answers = [(blocks, task.result()) for blocks, task in zip(wave, tasks, strict=True)]
            refused = [(blocks, said) for blocks, said in answers if isinstance(said, RpcError)]
            for blocks, refusal in reversed(refused):
                todo.append(blocks)
                self._narrow(blocks, refusal)
            if not refused:
                self._span = min(self._rules.log_range_max, self._span + self._span // 4 + 1)
            yield [said for _, said in answers if not isinstance(said, RpcError)]

    def _wave(self, todo: list[range]) -> list[range]:
        """Take the next queries' ranges from the stack."""
        wave: list[range] = []
        while todo and len(wave) < self._rules.log_queries_at_once_max:
            blocks = todo.pop()
            wave.append(blocks[: self._span])
            if rest := blocks[self._span :]:
                todo.append(rest)
        return wave

    def _narrow(self, blocks: range, refusal: RpcError) -> None:
        if len(blocks) == 1:
            raise refusal
        self._span = min(self._span, len(blocks) // 2)
        logger.info("log range halved", blocks=self._span, reason=str(refusal))

    async def _query(
        self, addresses: Sequence[str], blocks: range
    ) -> tuple[Covered, list[Log]] | RpcError:
        """Read one range between two looks at its last block, or return why that failed."""
        await self._pace()
        first, last = hex(blocks[0]), hex(blocks[-1])
        query = {"address": list(addresses), "fromBlock": first, "toBlock": last}
        header = ("eth_getBlockByNumber", [last, False])
        try:
            before, logs, after = await self._rpc.batch([header, ("eth_getLogs", [query]), header])
            for answer in (before, logs, after):
                if isinstance(answer, RpcError):
                    return answer
            return Covered(blocks[0], blocks[-1], _same_hash(before, after)), logs
        except RpcError as error:
            return error

    async def _pace(self) -> None:
        now_s = asyncio.get_running_loop().time()
        turn_s = max(now_s, self._next_query_s)
        self._next_query_s = turn_s + 1 / self._rules.log_queries_per_s_max
        await asyncio.sleep(turn_s - now_s)


def _same_hash(before: object, after: object) -> str:
    """Return the hash both headers have; raises TransientRpcError when there is no such."""
    hashes = {str(one.get("hash")) if isinstance(one, dict) else "" for one in (before, after)}
    if len(hashes) > 1 or "" in hashes:
        raise rpc_error(RpcFault.UNKNOWN_BLOCK, "the chain changed while its logs were read")
    return hashes.pop()


class Finder:
    """Finds a venue's accounts: those the ledger knows, then those in the logs it has not read."""

    def __init__(
        self,
        rpc: Rpc,
        reader: LogReader,
        ledger: Ledger,
        start_blocks: Mapping[VenueId, int],
        telemetry: Telemetry,
        progress: Progress,
    ) -> None:
        """``start_blocks``: where a venue's logs begin. ``progress`` hears how far we are."""
        self._rpc = rpc
        self._reader = reader
        self._ledger = ledger
        self._start_blocks = start_blocks
        self._telemetry = telemetry
        self._progress = progress

    async def find(self, desk: Desk, head: Head) -> AsyncIterator[list[AccountId]]:
        """Yield accounts until all logs up to the head are read; the ledger grows meanwhile.

        Raises RpcError; what was read by then is kept.
        """
        venue, scope = desk.venue, desk.scope
        await self._cut_replaced(scope)
        yield await self._ledger.known(scope)
        gaps = await self._ledger.gaps(scope, self._start_blocks[venue.id], head.number)
        total = left = sum(map(len, gaps))
        self._telemetry.gauge("keeper_backfill_blocks_left", left, venue=venue.id)
        async for done in self._reader.read(venue.addresses(), gaps):
            for covered, _ in done:
                if covered.last == head.number and covered.hash != head.hash:
                    raise rpc_error(RpcFault.UNKNOWN_BLOCK, "the head changed while logs were read")
            touched, everything = _touched(venue, [log for _, logs in done for log in logs])
            ranges = [covered for covered, _ in done]
            await self._ledger.cover(scope, ranges, touched, everything=everything)
            left -= sum(one.last - one.first + 1 for one in ranges)
            self._telemetry.gauge("keeper_backfill_blocks_left", left, venue=venue.id)
            self._progress(venue.id, total - left, total)
            yield sorted(touched)

    async def _cut_replaced(self, scope: str) -> None:
        """Forget the ranges whose last block is no longer on the chain."""
        ranges = await self._ledger.covered(scope)
        for start in range(0, len(ranges), HEADERS_PER_BATCH_MAX):
            some = ranges[start : start + HEADERS_PER_BATCH_MAX]
            asked = [("eth_getBlockByNumber", [hex(one.last), False]) for one in some]
            for one, answer in zip(some, await self._rpc.batch(asked), strict=True):
                if isinstance(answer, RpcError):
                    raise answer
                if not isinstance(answer, dict) or answer.get("hash") != one.hash:
                    logger.warning(
                        "history changed: reading logs again", scope=scope, **asdict(one)
                    )
                    await self._ledger.cut(scope, one.first)
                    return


def _touched(venue: AnyVenue, logs: Sequence[Log]) -> tuple[dict[AccountId, int], int | None]:
    """Return the newest block that touched each account, and the newest that touched all."""
    newest: dict[AccountId, int] = {}
    everything: int | None = None
    for log in logs:
        touched = venue.touched(log)
        for account in touched.accounts:
            newest[account] = max(log.block_number, newest.get(account, 0))
        if touched.everything:
            everything = max(log.block_number, everything or 0)
    return newest, everything
