"""What changed at one venue and must be read again: events nominate, reads decide."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from msgspec.structs import replace

from keeper.coverage import Covered
from keeper.facts import AccountId, ChainUpdate, Head, LiquidationSeen, Log
from keeper.ports import AnyVenue

LOGS_MAX = (
    100_000  # posted and not folded: beyond it reading everything is cheaper than keeping them
)
HINTS_MAX = 10_000  # kept for their block; what is beyond it comes with the block's own logs
COVERED_MAX = 10_000  # ranges kept for a ledger that cannot be written; older ones are read again


class Intake:
    """The dirty accounts of one venue and the head to read them at.

    Level-driven: what is taken out and could not be read is given back; an account touched while it
    is being read is dirty again. The accounts touched by recent blocks are remembered, so that a
    reorg dirties exactly what the orphaned blocks touched.
    """

    def __init__(self, venue: AnyVenue, reorg_depth_max: int) -> None:
        """Start without a head; ``wait`` returns with the first one."""
        self._venue = venue
        self._depth = reorg_depth_max
        self._dirty: dict[AccountId, None] = {}  # in the order they were touched
        self._addresses = frozenset(venue.addresses())
        self._updates: list[ChainUpdate] = []
        self._logs = 0
        self._hints: list[Log] = []
        self.hinted = 0  # accounts dirtied by a hint alone, in the last ``fold``
        self._touched_at: defaultdict[int, set[AccountId]] = defaultdict(set)
        self._changed = asyncio.Event()
        self.everything = True
        self.gap = False  # logs were lost: accounts opened in them have to be looked for
        self.head: Head | None = None
        self.covered: list[Covered] = []  # folded in and not yet noted in the ledger
        self.touched: dict[AccountId, int] = {}  # likewise: read at this block
        self.cut_from: int | None = None  # first block replaced by a reorg since then

    def post(self, update: ChainUpdate) -> None:
        """Take a chain update in. No venue code runs here: ``fold`` does that in its loop."""
        self._updates.append(update)
        self._logs += len(update.logs)
        if self._logs > LOGS_MAX:
            self._updates.clear()
            self._logs = 0
            self.everything = self.gap = True
        self.advance(update.head)

    def hint(self, log: Log) -> None:
        """Take in a log that was only announced: its accounts are read again at its block.

        Unless the block's own logs, which come by themselves, have named them by then.
        """
        if log.address not in self._addresses or len(self._hints) >= HINTS_MAX:
            return
        if not log.block_number and self.head is not None:
            log = replace(log, block_number=self.head.number + 1)
        self._hints.append(log)

    def fold(self) -> list[LiquidationSeen]:
        """Work the posted updates into the dirty accounts; return the liquidations they show."""
        updates, self._updates, self._logs = self._updates, [], 0
        seen: list[LiquidationSeen] = []
        for update in updates:
            self.everything = self.everything or update.resync
            self.gap = self.gap or update.resync
            if update.reorged_from is not None:
                self._orphan(update.reorged_from)
            for log in update.logs:
                seen += self._fold_log(log)
            if update.covers_from is not None:
                head = update.head
                self.covered.append(Covered(update.covers_from, head.number, head.hash))
                del self.covered[:-COVERED_MAX]
            oldest = update.head.number - self._depth
            for number in [n for n in self._touched_at if n < oldest]:
                del self._touched_at[number]
        self._fold_hints()
        return seen

    def _fold_hints(self) -> None:
        head = self.head.number if self.head else 0
        hints, self._hints = self._hints, []
        self.hinted = 0
        for log in hints:
            if head < log.block_number <= head + self._depth:
                self._hints.append(log)
                continue
            known = self._touched_at.get(log.block_number, ())
            new = self._venue.touched(log).accounts.difference(known, self._dirty)
            self.hinted += len(new)
            self.mark(new)

    def _orphan(self, first: int) -> None:
        """Dirty what blocks touched that a reorg has replaced, and take them out of the ledger."""
        for number in [n for n in self._touched_at if n >= first]:
            self.mark(self._touched_at.pop(number))
        self.covered = [one for one in self.covered if one.last < first]
        self.cut_from = first if self.cut_from is None else min(first, self.cut_from)

    def _fold_log(self, log: Log) -> tuple[LiquidationSeen, ...]:
        if log.address not in self._addresses:
            return ()
        touched = self._venue.touched(log)
        if touched.everything:
            self.everything = True
        for account in touched.accounts:
            self._dirty[account] = None
            self._touched_at[log.block_number].add(account)
        return touched.liquidations

    def advance(self, head: Head) -> None:
        """Take a new head without logs of its own."""
        self.head = head
        self._changed.set()

    def mark(self, accounts: Iterable[AccountId]) -> None:
        """Note that these accounts must be read again."""
        self._dirty.update(dict.fromkeys(accounts))

    def unmark(self, accounts: Iterable[AccountId]) -> None:
        """Note that these accounts are known as of the head."""
        for account in accounts:
            self._dirty.pop(account, None)

    async def wait(self) -> Head:
        """Return the newest head once there is one that was not waited for yet."""
        await self._changed.wait()
        self._changed.clear()
        if self.head is None:
            msg = "woken without a head"
            raise RuntimeError(msg)
        return self.head

    def take(self) -> list[AccountId]:
        """Return the dirty accounts, first touched first, and forget them."""
        dirty, self._dirty = list(self._dirty), {}
        return dirty

    def noted(self) -> None:
        """Forget what is in the ledger by now."""
        self.covered, self.touched, self.cut_from = [], {}, None

    def retry(self) -> None:
        """Wake the reader again although no head came."""
        self._changed.set()
