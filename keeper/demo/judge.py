"""Judges the keeper by the contract alone, block by block, sharing no code with it.

*liquidatable*  the contract, given the newest signed price that the broker had, says so for two
                consecutive blocks: after the one, and after the other or, for an account that is
                liquidated in it, when it begins
*missed*        liquidatable and not liquidated by the end of the run's grace, in which the last
                prices stand; to have been cured meanwhile is no excuse
*wrong*         touched in a block for which neither its parent's state nor its own, with any price
                published by then that the contract would still take, makes it liquidatable
*blocks late*   from the first of those two blocks to the inclusion
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from keeper.demo.contract import Market, SignedPrice
from keeper.demo.jsonrpc import NodeError, NodeRpc, NodeUnreachableError
from keeper.demo.processes import DemoError
from keeper.demo.publisher import PriceRecord, newest_first_pairs
from keeper.demo.terms import FEED_BTC, FEED_ETH, MAX_PRICE_AGE_S
from keeper.demo.verdicts import Liquidation, Verdicts

IDS_PER_CALL = 256  # the contract's limit
CALLS_PER_BATCH = 64
RETRY_S = 0.1
T = TypeVar("T")
HASHES_ONLY = False  # of eth_getBlockByNumber: no whole transactions
NOBODY = "0x" + 40 * "0"  # the only sender that preview_liquidatable answers
_FEEDS_IN_VIEW, _PUBLISHED_IN_FEED = 5, 2  # of market_view()


@dataclass(frozen=True, slots=True)
class Block:
    """A block as the judge needs it; ``seen_ms``: when the node announced it."""

    number: int
    hash: str
    parent_hash: str
    timestamp_s: int
    seen_ms: int


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged: which accounts of which market, and whose transactions are the keeper's."""

    market: Market
    address: str
    accounts: Sequence[int]
    wallet: str


@dataclass(slots=True)
class Findings:
    """What the chain shows, apart from the verdicts."""

    liquidations: list[Liquidation] = field(default_factory=list)
    wrong: list[Liquidation] = field(default_factory=list)
    bad_debt: int = 0  # USD wads
    transactions: int = 0  # of the keeper, included
    reverted: int = 0  # of those, failed
    gas_wei: int = 0  # paid by the keeper, reverted ones too


class Judge:
    """Follows the chain and judges every block from the first announced one on."""

    def __init__(self, rpc: NodeRpc, ws_url: str, case: Case, record: PriceRecord) -> None:
        """Judge with a connection and with knowledge of its own."""
        self.verdicts = Verdicts()
        self.findings = Findings()
        self.judged: Block | None = None
        self._rpc = rpc
        self._ws_url = ws_url
        self._case = case
        self._record = record
        self._announced: list[Block] = []
        self._news = asyncio.Event()
        self._progress = asyncio.Condition()

    async def run(self) -> None:
        """Judge until cancelled; the node may be away for a while. Raises DemoError."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="judge heads")
            group.create_task(self._work(), name="judge blocks")

    async def caught_up(self, number: int) -> None:
        """Wait until block ``number`` has been judged; bound it with a timeout."""
        async with self._progress:
            await self._progress.wait_for(
                lambda: self.judged is not None and self.judged.number >= number
            )

    # --- following the chain ----------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                async with self._rpc.session.ws_connect(self._ws_url) as socket:
                    await socket.send_json(
                        {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe"}
                        | {"params": ["newHeads"]}
                    )
                    latest = await self._rpc.call("eth_getBlockByNumber", "latest", HASHES_ONLY)
                    await self._announce(latest, _now_ms())  # nobody announces it any more
                    async for message in socket:
                        body = message.json()
                        if "params" in body:
                            await self._announce(body["params"]["result"], _now_ms())
            except (aiohttp.ClientError, NodeUnreachableError):
                pass  # being restarted; the next connection catches up with what it mined meanwhile
            await asyncio.sleep(RETRY_S)

    async def _announce(self, raw: dict[str, Any], seen_ms: int) -> None:
        head = _block(raw, seen_ms)
        last = self._announced[-1] if self._announced else self.judged
        for number in range(last.number + 1 if last else head.number, head.number):
            missing = await self._rpc.call("eth_getBlockByNumber", hex(number), HASHES_ONLY)
            # its timestamp has only whole seconds: it was there by the end of that one
            latest_ms = int(missing["timestamp"], 16) * 1000 + 999
            self._append(_block(missing, min(seen_ms, latest_ms)))
        if last is None or head.number > last.number:
            self._append(head)

    def _append(self, block: Block) -> None:
        last = self._announced[-1] if self._announced else self.judged
        if last is not None and block.parent_hash != last.hash:
            msg = f"the chain was reorganised at block {block.number}: it cannot be judged"
            raise DemoError(msg)
        self._announced.append(block)
        self._news.set()

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._announced:
                block = self._announced[0]
                try:
                    await self._judge(block)
                except NodeUnreachableError:
                    await asyncio.sleep(RETRY_S)
                    continue
                self.judged = block
                del self._announced[0]
                async with self._progress:
                    self._progress.notify_all()

    # --- judging ----------------------------------------------------------------------------------

    async def _judge(self, block: Block) -> None:
        """Ask first, note after: a node that goes away in between leaves nothing half counted."""
        newest = self._record.newest(block.seen_ms)
        chunks = list(_chunks(self._case.accounts, IDS_PER_CALL))
        calls = [self._preview(block.hash, block, ids, newest) for ids in chunks]
        *answers, receipts = await self._ask(
            [*calls, ("eth_getBlockReceipts", [hex(block.number)])]
        )
        liquidatable: set[int] = set()
        for ids, answer in zip(chunks, answers, strict=True):
            said = self._case.market.result("preview_liquidatable", answer)
            liquidatable.update(account for account, yes in zip(ids, said, strict=True) if yes)
        liquidations = [self._liquidation(log) for log in self._logs(receipts, "Liquidated")]
        touched = {liquidation.account for liquidation in liquidations}
        opening = await self._opening(block, sorted(touched)) if touched else set()
        unjustified = await self._unjustified(block, sorted(touched)) if touched else set()
        self.verdicts.block(block.number, liquidatable, touched, opening)
        self.findings.liquidations += liquidations
        self.findings.wrong += [one for one in liquidations if one.account in unjustified]
        self._note(receipts)

    def _note(self, receipts: list[dict[str, Any]]) -> None:
        for log in self._logs(receipts, "BadDebt"):
            self.findings.bad_debt += int(log["data"], 16)
        for receipt in receipts:
            if receipt["from"] == self._case.wallet:
                self.findings.transactions += 1
                self.findings.reverted += int(receipt["status"], 16) == 0
                price, gas = receipt["effectiveGasPrice"], receipt["gasUsed"]
                self.findings.gas_wei += int(price, 16) * int(gas, 16)

    def _logs(self, receipts: list[dict[str, Any]], event: str) -> Iterator[dict[str, Any]]:
        topic = self._case.market.topic(event)
        for receipt in receipts:
            for log in receipt["logs"]:
                if log["address"] == self._case.address and log["topics"][0] == topic:
                    yield log

    def _liquidation(self, log: dict[str, Any]) -> Liquidation:
        data = bytes.fromhex(log["data"][2:])
        reward, closed, full = (int.from_bytes(data[at : at + 32]) for at in (0, 32, 64))
        return Liquidation(
            account=int(log["topics"][1], 16),
            liquidator="0x" + log["topics"][2][-40:],
            block=int(log["blockNumber"], 16),
            tx_hash=log["transactionHash"],
            reward=reward,
            closed_notional=closed,
            full=bool(full),
        )

    async def _opening(self, block: Block, accounts: list[int]) -> set[int]:
        """Return those liquidatable when the block began: its parent's state, the newest price."""
        newest = self._record.newest(block.seen_ms)
        (answer,) = await self._ask([self._preview(block.parent_hash, block, accounts, newest)])
        said = self._case.market.result("preview_liquidatable", answer)
        return {account for account, yes in zip(accounts, said, strict=True) if yes}

    async def _unjustified(self, block: Block, accounts: list[int]) -> set[int]:
        """Return those for which no price published by then made the contract say yes."""
        newest = self._record.newest(block.seen_ms)
        likely = await self._justified(block, accounts, [newest, ()])
        left = [account for account in accounts if account not in likely]
        if not left:
            return set()
        pairs = newest_first_pairs(
            await self._usable(block, FEED_BTC), await self._usable(block, FEED_ETH)
        )
        for some in _chunks(pairs, CALLS_PER_BATCH // 2):
            found = await self._justified(block, left, some)
            left = [account for account in left if account not in found]
            if not left:
                break
        return set(left)

    async def _usable(self, block: Block, feed: int) -> list[SignedPrice]:
        """Return a feed's prices that the parent's state would still have taken in this block."""
        view = self._case.market.data("market_view")
        call = {"to": self._case.address, "data": view}
        (answer,) = await self._ask([("eth_call", [call, {"blockHash": block.parent_hash}])])
        feeds = self._case.market.result("market_view", answer)[_FEEDS_IN_VIEW]
        too_old = (block.timestamp_s - MAX_PRICE_AGE_S) * 1000
        stored = feeds[feed][_PUBLISHED_IN_FEED]
        return self._record.usable(feed, max(too_old, stored + 1), block.seen_ms)

    async def _justified(
        self, block: Block, accounts: list[int], choices: Sequence[Sequence[SignedPrice]]
    ) -> set[int]:
        answers = await self._ask(
            [
                self._preview(state, block, accounts, updates)
                for updates in choices
                for state in (block.parent_hash, block.hash)
            ]
        )
        return {
            account
            for answer in answers
            for account, yes in zip(
                accounts, self._case.market.result("preview_liquidatable", answer), strict=True
            )
            if yes
        }

    def _preview(
        self, state: str, block: Block, ids: Sequence[int], updates: Sequence[SignedPrice]
    ) -> tuple[str, list[object]]:
        """Ask at a block's state, but at the time of the judged block: funding and ages are its."""
        data = self._case.market.preview(ids, updates)
        call = {"from": NOBODY, "to": self._case.address, "data": data}
        time_override = {"time": hex(block.timestamp_s)}
        return "eth_call", [call, {"blockHash": state}, {}, time_override]

    async def _ask(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        answers = await self._rpc.batch(requests)
        for answer in answers:
            if isinstance(answer, NodeError):
                msg = f"the chain does not answer the judge: {answer}"
                raise DemoError(msg) from answer
        return answers


def _block(raw: dict[str, Any], seen_ms: int) -> Block:
    return Block(
        number=int(raw["number"], 16),
        hash=raw["hash"],
        parent_hash=raw["parentHash"],
        timestamp_s=int(raw["timestamp"], 16),
        seen_ms=seen_ms,
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
