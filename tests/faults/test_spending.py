"""Everything goes wrong at once, by seed: no budget is exceeded, and the money adds up to the wei.

Prices jump, base fees too; rivals are faster, one account always reverts, the node drops what it
had and reorganises, endpoints fail, the keeper is killed and started again. Budgets are small
enough to bind. What was spent is taken from the wallets' balances after every step, and from the
journal. That the windows roll is shown by ``tests/decide/test_budget.py``: this lasts less than an
hour, so all of it counts for the hour and for the day.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from keeper.units import GWEI, WAD
from tests.brokers import Broker
from tests.e2e.proxy import Fault, Proxy, running_proxy
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.faults.books import FUNDS_WEI, Wallets, all_settled, attempts, make_wallets
from tests.market_chain import FEE_WEI, seeded, under_eth_long
from tests.nodes import running_anvil

COMMAND = (sys.executable, "-m", "tests.e2e.keeper_with_kinds")
LIMIT_S = 60.0
START_USD, LEAST_USD = 1_995, 1_860
LOOKS = 20  # at what the keeper does, between two steps
ACCOUNTS = 40
POISONED = 7
ENDPOINTS = 3
BASE_FEES_GWEI = (1, 1, 1, 2, 4, 10, 40)
FAULTS = (Fault.GARBAGE, Fault.RATE_LIMIT, Fault.RESET, Fault.BROKEN, Fault.PAUSE)
BUDGETS_WEI = {
    "gas_wei_per_hour_max": 4 * WAD // 1_000,
    "gas_wei_per_day_max": 5 * WAD // 1_000,
    "loss_wei_per_hour_max": 2 * WAD // 1_000,
    "loss_wei_per_day_max": 3 * WAD // 1_000,
}
PAUSE = "pause"
GATE = "\n".join(
    [f'pause_file = "{PAUSE}"', *(f"{key} = {wei}" for key, wei in BUDGETS_WEI.items())]
)
GAS_WEI_MAX = min(wei for key, wei in BUDGETS_WEI.items() if key.startswith("gas"))
LOSS_WEI_MAX = min(wei for key, wei in BUDGETS_WEI.items() if key.startswith("loss"))


@dataclass
class Storm:
    """What goes wrong, a step at a time."""

    rng: random.Random
    rig: Rig
    keeper: KeeperProcess
    wallets: Wallets
    proxies: list[Proxy]
    accounts: list[int]
    fallen_usd: int = 0
    held: bool = False  # by a budget

    def round(self) -> None:
        """Let everything go wrong once, in any order."""
        troubles = [self.drop, self.reorg, self.rival, self.rival, self.endpoint, self.kill]
        self.rng.shuffle(troubles)
        for trouble in troubles:
            self.step(trouble)

    def step(self, trouble: Callable[[], None]) -> None:
        """Let the price move, something go wrong, and blocks be mined."""
        self.fallen_usd += self.rng.randrange(8)
        price_usd = START_USD - self.fallen_usd + self.rng.randrange(-5, 6)
        self.rig.oracle.set(0, max(LEAST_USD, price_usd) * WAD)
        self.wait(lambda: bool(self.in_flight))
        trouble()
        self.mine()
        assert self.spent_wei <= GAS_WEI_MAX
        self.held = self.held or self.keeper.metric("keeper_held_total", reason="budget") > 0

    @property
    def spent_wei(self) -> int:
        """Return what left the wallets; rewards are in USD."""
        left = [
            self.rig.node.rpc("eth_getBalance", one, "latest") for one in self.wallets.addresses
        ]
        return len(left) * FUNDS_WEI - sum(int(wei, 16) for wei in left)

    def mine(self) -> None:
        base_fee_wei = self.rng.choice(BASE_FEES_GWEI) * GWEI
        for _ in range(self.rng.randrange(1, 3)):
            self.rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
            self.rig.node.rpc("evm_mine")
            self.wait(lambda: self.keeper.metric("keeper_head_block") >= self.head)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Give the keeper some time for it: it may be held back."""
        tries = iter(range(LOOKS))
        self.keeper.until(lambda: condition() or next(tries, None) is None, LIMIT_S)

    @property
    def in_flight(self) -> list[int]:
        return [int(row["account"]) for row in attempts(self.keeper) if row["outcome"] == "open"]

    @property
    def head(self) -> int:
        return int(self.rig.node.rpc("eth_blockNumber"), 16)

    def drop(self) -> None:
        for waiting in self.rig.node.rpc("txpool_content")["pending"].values():
            for tx in waiting.values():
                self.rig.node.rpc("anvil_dropTransaction", tx["hash"])

    def reorg(self) -> None:
        self.rig.node.rpc("anvil_reorg", 1, [])

    def rival(self) -> None:
        """Somebody else liquidates what we are about to, for more."""
        price = self.rig.oracle.prices[0]
        update = self.rig.chain.sign(0, price, self.rig.oracle.last_ms)
        account = self.rng.choice(self.in_flight or self.accounts)
        call = {
            "from": self.rig.chain.dev[3],
            "to": self.rig.chain.address,
            "data": self.rig.chain.encode("liquidate_with_prices", account, [update]),
            "value": hex(FEE_WEI),
            "gas": hex(2_000_000),
            "maxFeePerGas": hex(500 * GWEI),
            "maxPriorityFeePerGas": hex(100 * GWEI),
        }
        self.rig.node.rpc("eth_sendTransaction", call)
        self.rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        self.rig.node.rpc("evm_mine")

    def endpoint(self) -> None:
        """One of the endpoints fails, or all are well again."""
        chosen = self.rng.randrange(ENDPOINTS + 1)
        for number, proxy in enumerate(self.proxies):
            if number == chosen:
                proxy.break_with(self.rng.choice(FAULTS))
            else:
                proxy.mend()

    def kill(self) -> None:
        self.keeper.kill()
        self.rig.node.rpc("evm_mine")
        self.keeper.start()
        self.keeper.until(lambda: self.keeper.healthy, LIMIT_S)

    def calm(self) -> None:
        """Let everything be well, until nothing is in flight."""
        for proxy in self.proxies:
            proxy.mend()
        (self.keeper.config.parent / PAUSE).touch()

        def settled() -> bool:
            self.rig.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
            self.rig.node.rpc("evm_mine")
            return self.keeper.metric("keeper_paused") == 1 and all_settled(self.keeper)

        self.keeper.until(settled, LIMIT_S)
        self.keeper.stop()


@pytest.fixture
def storm_of(tmp_path: Path, broker: Broker) -> Iterator[Callable[[int], Storm]]:
    with ExitStack() as stack:

        def make(seed: int) -> Storm:
            node = stack.enter_context(running_anvil())
            rig = stack.enter_context(opened(tmp_path, node, broker))
            rng = seeded(seed)
            people = [under_eth_long(rng.uniform(2.0, 8.0)) for _ in range(ACCOUNTS)]
            people[POISONED - 1] = under_eth_long(1.2)  # the first to go under
            accounts = rig.chain.seed(people)
            wallets = make_wallets(rig, tmp_path, 2)
            proxies = [stack.enter_context(running_proxy(node.port)) for _ in range(ENDPOINTS)]
            options = Options(
                http=[proxy.url for proxy in proxies],
                confirmations=3,
                key=wallets.tables,
                kind="reverting_market",
                venue=f'poison = "{POISONED}"\n[gate]\n{GATE}',
            )
            keeper = stack.enter_context(rig.keeper(options, command=COMMAND))
            keeper.until_ready()
            node.rpc("evm_setAutomine", False)  # noqa: FBT003
            return Storm(rng, rig, keeper, wallets, proxies, accounts)

        yield make


def weathered(storm: Storm, rounds: int) -> None:
    for _ in range(rounds):
        storm.round()
    storm.calm()
    rows = attempts(storm.keeper)
    outcomes = Counter(row["outcome"] for row in rows)
    costs = [int(row["cost_wei"]) for row in rows]
    losses = [max(0, int(row["cost_wei"]) - int(row["reward_wei"])) for row in rows]
    print(dict(outcomes), f"{storm.spent_wei / WAD:.6f} spent")  # noqa: T201
    assert sum(costs) == storm.spent_wei <= GAS_WEI_MAX
    # a rival may cost a revert, or only the cancel of what came too late
    assert 0 < sum(losses) <= LOSS_WEI_MAX
    assert outcomes["won"] > 0
    assert storm.held, "budgets that never bind show nothing"


@pytest.mark.parametrize("seed", [1])
def test_no_budget_is_exceeded(storm_of: Callable[[int], Storm], seed: int) -> None:
    weathered(storm_of(seed), 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 8))
def test_no_budget_is_exceeded_in_long(storm_of: Callable[[int], Storm], seed: int) -> None:
    weathered(storm_of(seed), 40)
