"""Wallets that are low are topped up and unwrap what they hold, on a real node with real caps."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keeper.chain.journal import Journal
from keeper.chain.journal_read import read_attempts
from keeper.chain.lane_rules import LaneParts
from keeper.chain.lanes import Lanes
from keeper.chain.rpc import HttpRpc
from keeper.chain.signer import KeySigner, Wallet
from keeper.chain.treasury import TreasuryRules
from keeper.decide.economics import Fee
from keeper.demo.artifact import compile_source
from keeper.facts import Mined, Outcome, Plan, Settled
from keeper.jobs import Job
from keeper.rules import treasury_rules
from tests.chain.conftest import CHAIN_ID, DEV_ADDRESS
from tests.chain.test_lane import RULES, newest
from tests.config.looks import text_of
from tests.config.support import read
from tests.contracts import Contract
from tests.fakes import CountingTelemetry, ManualClock, PlainBroadcaster
from tests.nodes import Anvil

ETHER = 10**18
VAULT, ONE, TWO = (KeySigner("0x" + f"{number:02x}" * 32) for number in (0x61, 0x62, 0x63))
KEYS = {
    "treasury.wallet": "vault",
    "treasury.below_wei": ETHER,
    "treasury.to_wei": 3 * ETHER,
    "treasury.top_up_wei_max": ETHER,
    "treasury.wei_per_day_max": 2 * ETHER,
    "wallets": [
        {"name": "vault", "key": {"file": "vault.key"}},
        {"name": "one", "key": {"file": "one.key"}},
    ],
}


class Rig:
    """Lanes with a treasury, and what a settle loop does with them."""

    def __init__(self, node: Anvil, rpc: HttpRpc, journal: Journal, rules: TreasuryRules) -> None:
        self.node = node
        self.rpc = rpc
        self.clock = ManualClock()
        self.refused = False
        self.asked: list[Plan] = []
        self.journal = journal
        parts = LaneParts(rpc, PlainBroadcaster(rpc), journal, self.clock, CountingTelemetry())
        wallets = [
            Wallet(name, signer.address, signer, balance_wei_min=floor)
            for name, signer, floor in (("vault", VAULT, ETHER), ("one", ONE, 0), ("two", TWO, 0))
        ]
        self.lanes = Lanes(wallets, {}, RULES, parts, rules)

    def balance(self, signer: KeySigner) -> int:
        return int(self.node.rpc("eth_getBalance", signer.address, "latest"), 16)

    def fund(self, signer: KeySigner, wei: int) -> None:
        self.node.rpc("anvil_setBalance", signer.address, hex(wei))

    def may(self, plan: Plan, _fee: Fee) -> bool:
        self.asked.append(plan)
        return not self.refused

    async def block(self) -> list[Mined]:
        """Mine, settle what is in the block, and look after the wallets."""
        self.node.rpc("evm_mine")
        self.clock.advance(12)
        head = await newest(self.rpc)
        done = list(await self.lanes.poll(head))
        for mined in done:
            assert mined.receipt is not None
            cost_wei = mined.receipt.cost_wei
            ended = Settled(mined.attempt, Outcome.DONE, "", mined.receipt, 0, 0, cost_wei)
            await self.lanes.close([ended])
        await self.lanes.top_up(head, self.may)
        return done


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite", CHAIN_ID) as opened:
        yield opened


@pytest.fixture
def rules(tmp_path: Path) -> TreasuryRules:
    for name in ("vault", "one"):
        (tmp_path / f"{name}.key").touch(mode=0o600)
    return treasury_rules(read(tmp_path / "config.toml", text_of(KEYS)))


@pytest.fixture
async def rig(node: Anvil, rpc: HttpRpc, journal: Journal, rules: TreasuryRules) -> Rig:
    made = Rig(node, rpc, journal, rules)
    made.fund(VAULT, 100 * ETHER)
    made.fund(ONE, ETHER // 2)
    made.fund(TWO, 2 * ETHER)
    await made.lanes.recover()
    return made


async def test_the_treasury_acts_nowhere(rig: Rig) -> None:
    assert rig.lanes.wallets == [ONE.address, TWO.address]
    assert [lane.name for lane in rig.lanes.own] == ["vault", "one", "two"]


async def test_a_low_wallet_is_topped_up_within_the_cap_of_one_and_of_a_day(
    rig: Rig, tmp_path: Path
) -> None:
    sent = [plan.call for _ in range(4) if await rig.block() is not None for plan in rig.asked]
    assert {call.to for call in sent} == {ONE.address}
    assert rig.balance(ONE) == ETHER // 2 + ETHER, "once: then it is no longer below"
    assert rig.balance(TWO) == 2 * ETHER
    rig.fund(ONE, 0)
    for _ in range(4):
        await rig.block()
    assert rig.balance(ONE) == ETHER, "the day's cap leaves one more"
    rig.fund(ONE, 0)
    for _ in range(4):
        await rig.block()
    assert rig.balance(ONE) == 0
    rows = read_attempts(tmp_path / "journal.sqlite")
    assert [(row.venue, row.job, row.outcome) for row in rows] == [("-", "top_up", "done")] * 2
    spent = 100 * ETHER - rig.balance(VAULT)
    assert spent == 2 * ETHER + sum(row.cost_wei for row in rows)
    rig.clock.advance(24 * 3600)
    for _ in range(3):
        await rig.block()
    assert rig.balance(ONE) == ETHER, "a day later it goes on"


async def test_one_at_a_time_and_what_is_in_flight_counts_after_a_restart(
    rig: Rig, rules: TreasuryRules
) -> None:
    await rig.block()
    (flying,) = rig.lanes.open_attempts
    assert (flying.plan.job, flying.wallet) == (Job.TOP_UP, VAULT.address)
    head = await newest(rig.rpc)
    await rig.lanes.top_up(head, rig.may)
    assert len(rig.lanes.open_attempts) == 1
    assert await rig.journal.topped_up_wei(0) == ETHER
    again = Rig(rig.node, rig.rpc, rig.journal, rules)
    await again.lanes.recover()
    assert [attempt.wallet for attempt in again.lanes.open_attempts] == [VAULT.address]
    await again.block()
    assert again.balance(ONE) == ETHER // 2 + ETHER


async def test_the_treasury_keeps_its_floor_and_asks_the_budgets(rig: Rig) -> None:
    rig.refused = True
    await rig.block()
    assert [plan.job for plan in rig.asked] == [Job.TOP_UP]
    assert rig.lanes.open_attempts == ()
    rig.refused = False
    rig.fund(VAULT, ETHER + ETHER // 4)
    await rig.block()
    await rig.block()
    assert ETHER <= rig.balance(VAULT) < ETHER + ETHER // 100
    assert ETHER // 2 < rig.balance(ONE) < ETHER // 2 + ETHER // 4


async def test_what_a_low_wallet_holds_of_the_wrapped_token_is_unwrapped_first(
    node: Anvil, rpc: HttpRpc, journal: Journal, rules: TreasuryRules, tmp_path: Path
) -> None:
    node.rpc("evm_setAutomine", True)  # noqa: FBT003 - JSON-RPC
    source = compile_source(Path(__file__).with_name("weth.vy"))
    weth = Contract(node, source.abi, source.bytecode)
    node.rpc("evm_setAutomine", False)  # noqa: FBT003 - JSON-RPC
    keys = {**KEYS, "treasury.wrapped_native": weth.address}
    rig = Rig(node, rpc, journal, treasury_rules(read(tmp_path / "config.toml", text_of(keys))))
    assert rules.wrapped_native is None
    rig.fund(VAULT, 100 * ETHER)
    rig.fund(TWO, 2 * ETHER)
    node.rpc("anvil_impersonateAccount", ONE.address)
    rig.fund(ONE, 5 * ETHER)
    deposit = {"from": ONE.address, "to": weth.address, "value": hex(4 * ETHER)}
    node.rpc("eth_sendTransaction", {**deposit, "data": weth.encode("deposit")})
    node.rpc("evm_mine")
    rig.fund(ONE, ETHER // 2)
    await rig.lanes.recover()
    for _ in range(3):
        await rig.block()
    (row,) = read_attempts(tmp_path / "journal.sqlite")
    assert (row.venue, row.job, row.outcome) == ("-", "unwrap", "done")
    assert rig.balance(ONE) == 3 * ETHER - row.cost_wei, "up to to_wei, its gas apart"
    assert weth.call("balanceOf", ONE.address) == 4 * ETHER - (3 * ETHER - ETHER // 2)
    assert rig.balance(VAULT) == 100 * ETHER
    assert ONE.address != DEV_ADDRESS
