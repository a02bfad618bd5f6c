from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.chain.fees import (
    TRANSFER_GAS,
    FeeRules,
    fee_ceiling_wei,
    first_fee,
    read_tip,
    replacement_fee,
    transfer_fee,
)
from keeper.chain.rpc import HttpRpc
from keeper.chain.signer import KeySigner, Unsigned
from keeper.decide.agenda import HoldReason
from keeper.decide.economics import Fee, FeeStrategy, Spend
from keeper.facts import Call, Head, VenueId
from keeper.units import GWEI, PPM
from tests.chain.conftest import CHAIN_ID, DEV_ADDRESS, DEV_KEY, Script, make_rpc
from tests.chain.test_lane import newest
from tests.fakes import CountingTelemetry
from tests.nodes import Anvil, running_anvil

VENUE = VenueId("v")
RULES = FeeRules(GWEI, 2 * PPM, 100 * GWEI, 125_000, percentile=60, profit_share_ppm=500_000)
SPEND = Spend(10**6 * 12 * GWEI, 10**6, 1_500_000, 0)  # worth 12 gwei a gas
LEGACY = Head(1, "0x1", "0x0", 0, None, 0)
MODERN = replace(LEGACY, base_fee_wei=4 * GWEI)


def fee_of(
    strategy: FeeStrategy, head: Head = MODERN, tip_wei: int | None = None, spend: Spend = SPEND
) -> Fee | HoldReason:
    return first_fee(VENUE, head, replace(RULES, strategy=strategy), spend, tip_wei)


def test_each_strategy_with_a_base_fee() -> None:
    assert fee_of(FeeStrategy.FIXED) == Fee(9 * GWEI, GWEI)
    assert fee_of(FeeStrategy.PERCENTILE, tip_wei=2 * GWEI) == Fee(10 * GWEI, 2 * GWEI)
    assert fee_of(FeeStrategy.PERCENTILE, tip_wei=1) == Fee(9 * GWEI, GWEI), "at least that much"
    # half of the 8 gwei that are left of it above the base fee
    assert fee_of(FeeStrategy.PROFIT_SHARE) == Fee(12 * GWEI, 4 * GWEI)


def test_without_a_base_fee_it_is_one_gas_price() -> None:
    assert fee_of(FeeStrategy.FIXED, LEGACY, 3 * GWEI) == Fee(3 * GWEI, 3 * GWEI, legacy=True)
    share = fee_of(FeeStrategy.PROFIT_SHARE, LEGACY, 2 * GWEI)
    assert share == Fee(7 * GWEI, 7 * GWEI, legacy=True)
    dearer = replacement_fee(Fee(8 * GWEI, 8 * GWEI, legacy=True), LEGACY, RULES, 10 * GWEI, None)
    assert dearer == Fee(9 * GWEI + 1, 9 * GWEI + 1, legacy=True)


@pytest.mark.parametrize("strategy", list(FeeStrategy))
def test_what_is_not_known_is_no_zero(strategy: FeeStrategy) -> None:
    assert fee_of(strategy, LEGACY) is HoldReason.FEE_UNKNOWN
    assert fee_of(FeeStrategy.PERCENTILE) is HoldReason.FEE_UNKNOWN
    assert transfer_fee(LEGACY, RULES, None) is None


def test_a_venue_has_its_own_strategy() -> None:
    rules = replace(RULES, by_venue={VENUE: FeeStrategy.PERCENTILE})
    assert first_fee(VENUE, MODERN, rules, SPEND, None) is HoldReason.FEE_UNKNOWN
    assert first_fee(VenueId("w"), MODERN, rules, SPEND, None) == Fee(9 * GWEI, GWEI)
    assert rules.needs_tip(MODERN)
    assert not RULES.needs_tip(MODERN)
    assert RULES.needs_tip(LEGACY)


def test_headroom_ends_where_it_would_be_a_loss() -> None:
    poor = Spend(10**6 * 6 * GWEI, 10**6, 1_500_000, 0)
    assert fee_of(FeeStrategy.FIXED, spend=poor) == Fee(6 * GWEI, GWEI)
    hopeless = Spend(10**6 * GWEI, 10**6, 1_500_000, 0)
    assert fee_of(FeeStrategy.FIXED, spend=hopeless) == Fee(5 * GWEI, GWEI), "the gate judges it"


@given(st.integers(1, 10**19), st.integers(21_000, 10**7), st.integers(0, 10**17))
def test_a_replacement_and_a_cancel_never_cost_more_than_it_is_worth(
    worth_wei: int, gas: int, value_wei: int
) -> None:
    ceiling = fee_ceiling_wei(Spend(worth_wei, gas, gas, value_wei), 10**30, RULES)
    if ceiling > 0:
        cancel = TRANSFER_GAS * (ceiling * (PPM + RULES.replacement_bump_ppm) // PPM)
        assert gas * ceiling + value_wei + cancel <= worth_wei + TRANSFER_GAS


@given(
    st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**13)
)
def test_a_replacement_raises_both_fees_by_an_eighth(
    max_fee: int, priority: int, base_fee: int, ceiling: int
) -> None:
    before = Fee(max(max_fee, priority), priority)
    fee = replacement_fee(before, replace(MODERN, base_fee_wei=base_fee), RULES, ceiling, None)
    if fee is not None:
        assert fee.max_fee_wei * 8 >= before.max_fee_wei * 9
        assert fee.priority_fee_wei * 8 >= before.priority_fee_wei * 9
        assert fee.priority_fee_wei <= fee.max_fee_wei <= ceiling


async def test_what_others_pay_is_read_from_the_chain(node: Anvil, rpc: HttpRpc) -> None:
    node.rpc("evm_mine")
    assert await read_tip(rpc, await newest(rpc), RULES) == 0, "empty blocks say nothing"
    for gwei in (3, 5, 9):
        fees = {"maxFeePerGas": hex(50 * GWEI), "maxPriorityFeePerGas": hex(gwei * GWEI)}
        node.rpc("eth_sendTransaction", {"from": DEV_ADDRESS, "to": DEV_ADDRESS, **fees})
        node.rpc("evm_mine")
        node.rpc("evm_mine")
    assert await read_tip(rpc, await newest(rpc), RULES) in {5 * GWEI, 9 * GWEI}


@pytest.mark.parametrize("body", ["<html>", '{"result":{}}', '{"result":{"reward":[[]]}}'])
async def test_a_failed_question_is_unknown(script: Script, session: object, body: str) -> None:
    script.answers = [(200, '{"result":"0x7a69"}'), (200, body)]
    rpc = make_rpc(session, CountingTelemetry(), script.url)  # type: ignore[arg-type]
    assert await read_tip(rpc, MODERN, RULES) is None


async def test_a_chain_without_base_fees_takes_what_is_signed(session: object) -> None:
    with running_anvil("--hardfork", "berlin", "--no-mining") as node:
        rpc = make_rpc(session, CountingTelemetry(), node.url)  # type: ignore[arg-type]
        head = await newest(rpc)
        assert head.base_fee_wei is None
        tip_wei = await read_tip(rpc, head, RULES)
        fee = first_fee(VENUE, head, RULES, SPEND, tip_wei)
        assert isinstance(fee, Fee)
        call = Call("0x" + "77" * 20, b"", 5)
        for each in (fee, replacement_fee(fee, head, RULES, 100 * GWEI, tip_wei)):
            assert each is not None
            assert each.legacy
            unsigned = Unsigned(call, 0, 21_000, each, CHAIN_ID)
            tx_hash, raw = KeySigner(DEV_KEY).signed(unsigned)
            assert await rpc.call("eth_sendRawTransaction", ["0x" + raw.hex()]) == tx_hash
        node.rpc("evm_mine")
        assert int(node.rpc("eth_getBalance", call.to, "latest"), 16) == 5
