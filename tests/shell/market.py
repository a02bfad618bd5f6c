"""A chain in memory with one perps market on it: what the shell is tested against.

Arithmetic of its own, in integers: sizes are whole units, prices and cash USD wads. An account is
under when ``cash + Σ size × (price − index) < Σ rate(notional) × notional``.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from keeper.facts import Call, Head, Log
from keeper.units import GWEI, PPM, WAD

ADDRESS = "0x" + "aa" * 20
BLOCK_S = 12
RATE_PPM, STEEP_PPM, STEEP_ABOVE_WAD = 50_000, 100_000, 400_000 * WAD
REWARD_PPM = 10_000
WHOLE_BELOW_WAD = 100_000 * WAD  # a larger account is closed by halves
AGE_S_MAX = 60  # of a stored price, on a pull market
UPDATE_FEE_WEI = 1_000
GAS, REVERT_GAS, TRANSFER_GAS = 200_000, 50_000, 21_000
GAS_OF_EACH = 150_000  # of an account among several
RIVAL = "0x" + "bb" * 20
SIMULATED = "0x"  # hash of a transaction that is none


class Revert(Exception):  # noqa: N818 - what a contract does, by its name
    """The contract refuses; the text is its reason."""


@dataclass(frozen=True)
class Holding:
    cash_wad: int
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Stored:
    price_wad: int
    at_s: int


@dataclass
class State:
    """The chain after a block."""

    holdings: dict[str, Holding]
    stored: dict[str, Stored]
    index: dict[str, int]
    nonces: dict[str, int] = field(default_factory=dict)
    balances: dict[str, int] = field(default_factory=dict)
    open: bool = True
    orders: frozenset[str] = frozenset()  # accounts whose orders have to be cancelled first
    idle: bool = False  # the window is used up: a liquidation succeeds and does nothing

    def copy(self) -> "State":
        return replace(
            self,
            holdings=dict(self.holdings),
            stored=dict(self.stored),
            index=dict(self.index),
            nonces=dict(self.nonces),
            balances=dict(self.balances),
        )

    def prices(self) -> dict[str, int]:
        return {name: stored.price_wad for name, stored in self.stored.items()}


@dataclass(frozen=True)
class Tx:
    hash: str
    sender: str
    nonce: int
    call: Call
    gas: int
    max_fee_wei: int
    priority_fee_wei: int


@dataclass(frozen=True)
class Mined:
    """A transaction in a block."""

    tx: Tx
    success: bool
    gas_used: int
    gas_price_wei: int
    reward_wad: int
    logs: tuple[Log, ...]


@dataclass
class Block:
    head: Head
    state: State
    logs: list[Log] = field(default_factory=list)
    mined: dict[str, Mined] = field(default_factory=dict)  # by hash


def notional_wad(holding: Holding, prices: Mapping[str, int]) -> int:
    return sum(abs(size) * prices[name] for name, size in holding.sizes.items())


def equity_wad(holding: Holding, prices: Mapping[str, int], index: Mapping[str, int]) -> int:
    gain = sum(size * (prices[name] - index[name]) for name, size in holding.sizes.items())
    return holding.cash_wad + gain


def rate_ppm(notional: float) -> int:
    return STEEP_PPM if notional > STEEP_ABOVE_WAD else RATE_PPM


def requirement_wad(holding: Holding, prices: Mapping[str, int]) -> int:
    owed = 0
    for name, size in holding.sizes.items():
        notional = abs(size) * prices[name]
        owed += notional * rate_ppm(notional) // PPM
    return owed


def is_under(holding: Holding, prices: Mapping[str, int], index: Mapping[str, int]) -> bool:
    if not holding.sizes:
        return False
    return equity_wad(holding, prices, index) < requirement_wad(holding, prices)


def step(holding: Holding, prices: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return what the next liquidation closes, and its reward."""
    whole = notional_wad(holding, prices) <= WHOLE_BELOW_WAD
    closed = {
        name: size if whole else (abs(size) + 1) // 2 * (1 if size > 0 else -1)
        for name, size in holding.sizes.items()
    }
    usd = sum(abs(size) * prices[name] for name, size in closed.items())
    return closed, usd * REWARD_PPM // PPM


def cancel_call(account: str, updates: Mapping[str, tuple[int, int]]) -> Call:
    """Return the first of two steps: an account with orders cannot be liquidated."""
    data = json.dumps({"account": account, "updates": updates, "cancel": True}).encode()
    return Call(ADDRESS, data, UPDATE_FEE_WEI * len(updates))


def liquidation_call(
    account: str, updates: Mapping[str, tuple[int, int]], to: str = ADDRESS
) -> Call:
    data = json.dumps({"account": account, "updates": updates}).encode()
    return Call(to, data, UPDATE_FEE_WEI * len(updates))


def batch_call(
    accounts: Sequence[str], updates: Mapping[str, tuple[int, int]], *, each_alone: bool
) -> Call:
    """Return a call for several accounts; ``each_alone``: one that is refused undoes no other."""
    order = {"batch": list(accounts), "updates": updates, "each_alone": each_alone}
    return Call(ADDRESS, json.dumps(order).encode(), UPDATE_FEE_WEI * len(updates))


def gas_of(call: Call) -> int:
    accounts = json.loads(call.data).get("batch")
    return GAS_OF_EACH * len(accounts) if accounts else GAS


def _require(met: bool, reason: str) -> None:  # noqa: FBT001 - as in a contract
    if not met:
        raise Revert(reason)


class FakeChain:
    """Blocks, a pool, the market. ``pull``: a liquidation may carry newer prices for a fee."""

    def __init__(self, *, pull: bool, now_ms: Callable[[], int]) -> None:
        self.pull = pull
        self._now_ms = now_ms
        self._salt = 0  # so that a block that replaces another has another hash
        self.pool: dict[tuple[str, int], Tx] = {}
        self.stuck: Callable[[Tx], bool] = lambda _tx: False
        self.traps: set[str] = set()  # accounts that can be liquidated in a simulation only
        first = State({}, {}, {"eth": 0, "btc": 0})
        first.stored = {"eth": Stored(2000 * WAD, 0), "btc": Stored(60_000 * WAD, 0)}
        self.now_s = now_ms() // 1000
        first.stored = {n: Stored(s.price_wad, self.now_s) for n, s in first.stored.items()}
        self.blocks = [Block(self._head(None), first)]

    def _head(self, parent: Head | None) -> Head:
        self._salt += 1
        number = parent.number + 1 if parent else 100
        digest = hashlib.sha256(f"{number}/{self._salt}".encode()).hexdigest()
        return Head(
            number=number,
            hash=f"0x{digest}",
            parent_hash=parent.hash if parent else "0x" + "00" * 32,
            timestamp_s=parent.timestamp_s + BLOCK_S if parent else self.now_s,
            base_fee_wei=GWEI,
            seen_ms=self._now_ms(),
        )

    @property
    def head(self) -> Head:
        return self.blocks[-1].head

    @property
    def state(self) -> State:
        """The state at the head. A test may change it before anything was read."""
        return self.blocks[-1].state

    def at(self, block_hash: str) -> Block | None:
        """Return a block of the chain as it is now; an orphaned one is unknown."""
        return next((b for b in reversed(self.blocks) if b.head.hash == block_hash), None)

    def numbered(self, number: int) -> Block | None:
        place = number - self.blocks[0].head.number
        return self.blocks[place] if 0 <= place < len(self.blocks) else None

    # --- blocks -----------------------------------------------------------------------------------

    def mine(self, *actions: Callable[["FakeChain", Block], None], pool_first: bool = True) -> Head:
        """Add a block with these actions and, before or after them, what the pool holds."""
        block = Block(self._head(self.head), self.state.copy())
        if pool_first:
            self._include(block)
        for action in actions:
            action(self, block)
        if not pool_first:
            self._include(block)
        self.blocks.append(block)
        return block.head

    def orphan(self, depth: int) -> int:
        """Take the newest blocks away, their transactions back to the pool; return the first."""
        gone, self.blocks = self.blocks[-depth:], self.blocks[:-depth]
        for block in gone:
            for done in block.mined.values():
                self.pool[done.tx.sender, done.tx.nonce] = done.tx
        return gone[0].head.number

    def _include(self, block: Block) -> None:
        for key in sorted(self.pool):
            tx = self.pool[key]
            nonce = block.state.nonces.get(tx.sender, 0)
            if tx.nonce < nonce:
                del self.pool[key]
                continue
            pays = tx.max_fee_wei >= (block.head.base_fee_wei or 0)
            if tx.nonce == nonce and pays and not self.stuck(tx):
                del self.pool[key]
                self.run(block, tx)

    def run(self, block: Block, tx: Tx) -> None:
        """Execute a transaction at the end of a block."""
        state, before = block.state, len(block.logs)
        state.nonces[tx.sender] = tx.nonce + 1
        reward, success, gas = 0, True, TRANSFER_GAS
        if tx.call.to.lower() == ADDRESS:
            try:
                reward, gas = self.execute(block, tx.call, tx.sender, tx.hash), gas_of(tx.call)
            except Revert:
                success, gas = False, REVERT_GAS
        value = tx.call.value_wei if success and tx.call.to.lower() == ADDRESS else 0
        price = min(tx.max_fee_wei, (block.head.base_fee_wei or 0) + tx.priority_fee_wei)
        state.balances[tx.sender] = state.balances.get(tx.sender, 0) - gas * price - value
        logs = tuple(block.logs[before:])
        block.mined[tx.hash] = Mined(tx, success, gas, price, reward, logs)

    def emit(self, block: Block, kind: str, account: str = "", **data: object) -> None:
        tx_hash = str(data.pop("tx_hash", "0x" + "ee" * 32))
        topics = (kind, account) if account else (kind,)
        raw = json.dumps(data).encode()
        log = Log(ADDRESS, topics, raw, block.head.number, block.head.hash, tx_hash)
        block.logs.append(log)

    # --- the contract -----------------------------------------------------------------------------

    def execute(self, block: Block, call: Call, caller: str, tx_hash: str) -> int:
        """Do what a call asks for; returns the reward, or raises Revert and has changed nothing."""
        order, state = json.loads(call.data), block.state
        if "batch" in order:
            return sum(self.batch(block, call, caller, tx_hash).values())
        if not order.get("cancel"):
            return self.liquidate(block, call, caller, tx_hash)
        account, stored = order["account"], self.updated(block, order["updates"])
        prices = {name: entry.price_wad for name, entry in stored.items()}
        under = is_under(state.holdings[account], prices, state.index)
        _require(under and account in state.orders, "not liquidatable")
        state.stored, state.orders = stored, state.orders - {account}
        self.emit(block, "touched", account)
        return 0

    def batch(self, block: Block, call: Call, caller: str, tx_hash: str) -> dict[str, int]:
        """Liquidate several; returns the reward of each that was, or raises Revert as a whole."""
        order, before = json.loads(call.data), (block.state.copy(), len(block.logs))
        rewards: dict[str, int] = {}
        for account in order["batch"]:
            alone = liquidation_call(account, order["updates"])
            try:
                rewards[account] = self.liquidate(block, alone, caller, tx_hash)
            except Revert:
                if not order["each_alone"]:
                    vars(block.state).update(vars(before[0]))
                    del block.logs[before[1] :]
                    raise
        return rewards

    def updated(self, block: Block, updates: Mapping[str, tuple[int, int]]) -> dict[str, Stored]:
        """Return the stored prices with the newer ones among these."""
        stored = dict(block.state.stored)
        for name, (price_wad, at_s) in updates.items():
            if at_s > stored[name].at_s:
                stored[name] = Stored(price_wad, at_s)
        return stored

    def liquidate(self, block: Block, call: Call, caller: str, tx_hash: str) -> int:
        """Liquidate a step; returns the reward, or raises Revert and has changed nothing."""
        state, order = block.state, json.loads(call.data)
        account, stored = order["account"], self.updated(block, order["updates"])
        _require(state.open, "closed")
        holding = state.holdings.get(account, Holding(0, {}))
        now_s = block.head.timestamp_s
        dated = any(now_s - stored[n].at_s > AGE_S_MAX for n in holding.sizes)
        _require(not (self.pull and dated), "stale price")
        prices = {name: entry.price_wad for name, entry in stored.items()}
        _require(is_under(holding, prices, state.index), "not liquidatable")
        _require(account not in state.orders, "orders")
        _require(account not in self.traps or tx_hash == SIMULATED, "it was a trap")
        state.stored = stored
        if state.idle:
            return 0
        closed, reward = step(holding, prices)
        gain = sum(size * (prices[n] - state.index[n]) for n, size in closed.items())
        left = {n: size - closed[n] for n, size in holding.sizes.items() if size != closed[n]}
        state.holdings[account] = Holding(holding.cash_wad + gain - reward, left)
        self.emit(block, "liquidated", account, by=caller, reward=str(reward), tx_hash=tx_hash)
        return reward

    def simulate(self, *calls: Call, sender: str) -> int:
        """Run calls on top of the head; returns the last one's reward or raises Revert."""
        block = Block(self._head(self.head), self.state.copy())
        return [self.execute(block, call, sender, SIMULATED) for call in calls][-1]

    def simulate_batch(self, call: Call, sender: str) -> dict[str, int]:
        """Run a call for several on top of the head; returns the rewards or raises Revert."""
        block = Block(self._head(self.head), self.state.copy())
        return self.batch(block, call, sender, SIMULATED)


# --- what a block may hold ------------------------------------------------------------------------

Action = Callable[[FakeChain, Block], None]


def set_account(account: str, cash_usd: int, **sizes: int) -> Action:
    def act(chain: FakeChain, block: Block) -> None:
        held = {name: size for name, size in sizes.items() if size}
        block.state.holdings[account] = Holding(cash_usd * WAD, held)
        chain.emit(block, "touched", account)

    return act


def place_order(account: str) -> Action:
    """Have an account place an order, which has to be cancelled before it can be liquidated."""

    def act(chain: FakeChain, block: Block) -> None:
        block.state.orders |= {account}
        chain.emit(block, "touched", account)

    return act


def set_price(name: str, price_wad: int) -> Action:
    def act(chain: FakeChain, block: Block) -> None:
        block.state.stored[name] = Stored(price_wad, block.head.timestamp_s)
        chain.emit(block, "price")

    return act


def set_index(name: str, index_wad: int) -> Action:
    def act(_chain: FakeChain, block: Block) -> None:
        block.state.index[name] = index_wad

    return act


def set_open(*, is_open: bool) -> Action:
    def act(chain: FakeChain, block: Block) -> None:
        block.state.open = is_open
        chain.emit(block, "parameters")

    return act


def rival_liquidates(account: str) -> Action:
    def act(chain: FakeChain, block: Block) -> None:
        call = liquidation_call(account, {})
        try:
            chain.liquidate(block, call, RIVAL, "0x" + "cc" * 32)
        except Revert:
            return

    return act
