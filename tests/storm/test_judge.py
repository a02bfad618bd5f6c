"""A keeper driven by hand on the real contracts: what the judge says of it is what it did."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.nodes import Anvil, running_anvil
from tests.storm.feeder import Known, Signed
from tests.storm.judge import Judge
from tests.storm.verdicts import PACE, Fault, Verdicts
from tests.synthetix.deploy import Setup, deploy
from tests.synthetix.packages import artifacts
from tests.synthetix.scenario import ALICE, BOB, CAROL, ETH, populated
from tests.synthetix.world import Call, World, usd

WINDOW_S = 10
CRASH = {ETH: usd(1_780)}
START = {ETH: usd(2_000)}
Prices = Mapping[int, int]


@dataclass
class Hand:
    """A wallet's transactions, one a block, every block judged."""

    world: World
    judge: Judge = field(init=False)
    known: Known = field(default_factory=Known)

    def __post_init__(self) -> None:
        wallet = self.world.chain.dev[5]
        accounts = [ALICE, BOB, CAROL]
        self.judge = Judge(self.world, accounts, wallet, Verdicts(WINDOW_S))
        self.judge.judged = self.world.chain.number()

    def push(self, prices: Prices) -> None:
        """Set prices on chain."""
        self.known = Known(prices=prices)
        self.world.set_prices(prices)
        self._judge()

    def sign(self, prices: Prices) -> list[bytes]:
        """Publish prices off chain, as of now, and return the updates."""
        self.world.set_prices(prices, publish=False)
        updates = self.world.updates()
        published_s = max(self.world.chain.now_s(), self.world.published_s() + 1)
        signed = Signed(published_s, tuple(updates), taken=True)
        self.known = Known(signed=(*self.known.signed, signed))
        return updates

    def wait(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.world.chain.node.rpc("evm_mine")
        self._judge()

    def liquidate(self, *accounts: int, updates: list[bytes] | None = None) -> None:
        """Liquidate each in a transaction of its own, all in one block."""
        sent = []
        for account in accounts:
            calls = [Call(self.world.perps, "liquidate", (account,))]
            if updates:
                assert self.world.system.pyth is not None
                arguments = (updates,)
                first = Call(self.world.system.pyth, "updatePriceFeeds", arguments, len(updates))
                calls.insert(0, first)
            sent.append(self.world.begin(calls, self.judge.wallet))
        self.world.chain.receipts(sent)
        self._judge()

    def next_window(self) -> None:
        """Let a window pass; the blocks that takes are not judged, as there are none in between."""
        self.world.chain.pass_time(WINDOW_S + 1)
        self._judge()

    def _judge(self) -> None:
        for number in range(self.judge.judged + 1, self.world.chain.number() + 1):
            self.judge.block(number, self.known)

    def faults(self) -> list[tuple[Fault, int]]:
        return [(it.fault, it.account) for it in self.judge.verdicts.findings]

    @property
    def late(self) -> dict[int, int]:
        return dict(self.judge.verdicts.late)


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    artifacts()
    with running_anvil("--no-mining", "--gas-limit", "100000000") as running:
        yield running


@pytest.fixture(scope="module")
def worlds(node: Anvil) -> dict[str, World]:
    setups = Setup(oracle="push"), Setup(oracle="pull", strict_age_s=5, node_age_s=60)
    return {setup.oracle: populated(World(deploy(node, setup))) for setup in setups}


@pytest.fixture(params=["push"])
def hand(request: pytest.FixtureRequest, worlds: dict[str, World]) -> Iterator[Hand]:
    world = worlds[request.param]
    snapshot = world.chain.node.rpc("evm_snapshot")
    yield Hand(World(world.system, dict(world.prices)))
    assert world.chain.node.rpc("evm_revert", snapshot)


pull = pytest.mark.parametrize("hand", ["pull"], indirect=True)


def earned(hand: Hand) -> int:
    held: int = hand.world.system.usd.call("balanceOf", hand.judge.wallet)
    return held


def test_in_time_and_paid(hand: Hand) -> None:
    hand.push(CRASH)
    assert hand.judge.verdicts.pending == {ALICE, CAROL}
    hand.liquidate(ALICE, CAROL)
    assert (hand.faults(), hand.late) == ([], {1: 2})
    assert hand.judge.verdicts.emptied == {ALICE}
    assert hand.judge.earned == earned(hand) > 0
    kinds = [(sent.kind, sent.success, sent.gas > 400_000) for sent in hand.judge.sent]
    assert kinds == [("liquidate", True, True)] * 2


def test_two_blocks_after_two_are_in_time_and_three_are_late(hand: Hand) -> None:
    hand.push(CRASH)
    hand.wait(2)
    hand.liquidate(CAROL)
    assert (hand.faults(), hand.late) == ([(Fault.LATE, ALICE)], {3: 1})
    hand.liquidate(ALICE)
    assert hand.late == {3: 1, 4: 1}


def test_missed_when_it_ends(hand: Hand) -> None:
    hand.push(CRASH)
    hand.wait()
    assert hand.faults() == []
    hand.judge.verdicts.end(hand.judge.judged)
    assert sorted(hand.faults()) == [(Fault.MISSED, ALICE), (Fault.MISSED, CAROL)]


def test_cured_before_anybody_came(hand: Hand) -> None:
    hand.push(CRASH)
    hand.wait()
    hand.push(START)
    assert (hand.faults(), hand.judge.verdicts.escaped) == ([], 2)


def test_a_revert_is_excused_when_the_market_cured_it_in_that_block(hand: Hand) -> None:
    hand.push(CRASH)
    feed = hand.world.system.aggregators[ETH]
    sent = [
        hand.world.begin([Call(feed, "setAnswer", (START[ETH],))], hand.world.publisher),
        hand.world.begin([Call(hand.world.perps, "liquidate", (ALICE,))], hand.judge.wallet),
    ]
    hand.world.chain.receipts(sent)
    hand.wait()
    assert (hand.faults(), hand.judge.verdicts.cured) == ([], 1)
    hand.liquidate(BOB)
    assert hand.faults() == [(Fault.REVERTED, BOB)]


def test_windows_must_be_used_and_paying_for_nothing_is_noticed(hand: Hand) -> None:
    hand.push(CRASH)
    hand.liquidate(ALICE, CAROL)
    hand.liquidate(CAROL)
    assert (hand.faults(), hand.judge.verdicts.unpaid) == ([], 1)
    hand.liquidate(CAROL)
    assert hand.faults() == [(Fault.REPEATED, CAROL)]
    hand.next_window()
    hand.wait(PACE)
    assert hand.faults()[1:] == [(Fault.IDLE, CAROL)]
    hand.liquidate(CAROL)
    assert hand.judge.verdicts.open_flagged == {CAROL}
    assert hand.late == {1: 2}  # flagged once; the windows after that have their own pace


@pull
def test_with_the_price_in_the_very_block_it_arrives(hand: Hand) -> None:
    updates = hand.sign(CRASH)
    hand.liquidate(ALICE, CAROL, updates=updates)
    assert (hand.faults(), hand.late) == ([], {0: 2})
    assert hand.judge.earned == earned(hand) > 0
    assert {sent.kind for sent in hand.judge.sent} == {"updatePriceFeeds + liquidate"}


@pull
def test_due_by_a_price_that_nobody_has_put_on_chain(hand: Hand) -> None:
    hand.sign(CRASH)
    hand.wait(4)
    assert sorted(hand.faults()) == [(Fault.LATE, ALICE), (Fault.LATE, CAROL)]


@pull
def test_a_price_that_nobody_published_is_wrong(hand: Hand) -> None:
    hand.sign(START)
    hand.wait()
    hand.world.set_prices(CRASH, publish=False)
    hand.liquidate(ALICE, updates=hand.world.updates())
    assert hand.faults() == [(Fault.WRONG, ALICE)]


@pull
def test_a_price_that_is_too_old_is_told_apart(hand: Hand) -> None:
    hand.world.set_prices(CRASH)
    hand.world.chain.pass_time(7)
    hand.judge.judged = hand.world.chain.number()
    hand.liquidate(ALICE)
    assert [fault for fault, _ in hand.faults()] == [Fault.STALE]
