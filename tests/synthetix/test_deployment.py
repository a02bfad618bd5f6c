"""The market under test behaves as the real one does: its rules, and its traps."""

import pytest

from tests.nodes import running_anvil
from tests.synthetix.chain import Contract, RevertedError
from tests.synthetix.deploy import FORWARDER, Setup, deploy
from tests.synthetix.packages import OWN, artifacts
from tests.synthetix.scenario import ALICE, BOB, BTC, CAROL, DAVE, ETH, named
from tests.synthetix.storage import market_state
from tests.synthetix.world import Call, Capacity, Order, Refused, World, usd

WINDOW_S = 10
WINDOW_ETH = usd(700)  # (maker + taker fee) × skew scale × multiplier × seconds
CRASH = {ETH: usd(1_780)}
COST_TO_LIQUIDATE = usd(2)
LATER_WINDOW_REWARD = usd(7)  # cost + minimum


def keeper_of(world: World) -> str:
    """Return a wallet that has no part in the market."""
    return world.chain.dev[5]


def balance(world: World, who: str) -> int:
    held: int = world.system.usd.call("balanceOf", who)
    return held


def liquidate(world: World, account: int) -> tuple[int, bool, dict[int, int]]:
    """Liquidate as the keeper; return the reward received, if it was full, what was closed."""
    before = balance(world, keeper_of(world))
    receipt = world.perps.send("liquidate", account, sender=keeper_of(world))
    events = world.perps.events(receipt)
    (attempt,) = named(events, "AccountLiquidationAttempt")
    received = balance(world, keeper_of(world)) - before
    assert attempt.fields["reward"] == received
    assert attempt.fields["accountId"] == account
    closed = {
        event.fields["marketId"]: event.fields["amountLiquidated"]
        for event in named(events, "PositionLiquidated")
    }
    return received, attempt.fields["fullLiquidation"], closed


def test_a_healthy_account_is_refused(push: World) -> None:
    reading = push.survey([ALICE]).accounts[ALICE]
    assert reading.can_liquidate is False
    with pytest.raises(RevertedError) as refused:
        push.perps.send("liquidate", ALICE, sender=keeper_of(push))
    assert refused.value.name == "NotEligibleForLiquidation"
    assert refused.value.data[:10] == "0x3c110980"


def test_a_small_account_is_liquidated_whole_and_the_wallet_is_paid(push: World) -> None:
    push.set_prices(CRASH)
    reading = push.survey([ALICE]).accounts[ALICE]
    assert reading.can_liquidate is True
    notional = 40 * CRASH[ETH] + push.prices[BTC] // 2
    assert reading.reward == notional // 1_000 + 2 * usd(1) + COST_TO_LIQUIDATE == usd(105.2)
    simulated = push.perps.call("liquidate", ALICE, sender=keeper_of(push))
    received, full, closed = liquidate(push, ALICE)
    assert received == simulated == usd(105.2)
    assert full
    assert closed == {ETH: usd(40), BTC: usd(0.5)}
    after = push.survey([ALICE]).accounts[ALICE]
    assert (after.sizes, after.collateral, after.can_liquidate) == ({}, 0, False)


def test_a_large_account_is_closed_window_by_window(push: World) -> None:
    push.set_prices(CRASH)
    assert push.survey([]).capacity[ETH] == Capacity(WINDOW_ETH, WINDOW_ETH, 0)
    liquidate(push, ALICE)
    received, full, closed = liquidate(push, CAROL)
    assert received == push.system.setup.reward_max
    assert (full, closed) == (False, {ETH: WINDOW_ETH - usd(40)})
    survey = push.survey([CAROL])
    assert survey.capacity[ETH].now == 0
    assert survey.flagged == {CAROL}
    assert survey.accounts[CAROL].can_liquidate is True  # stays so while it is flagged
    assert survey.accounts[CAROL].collateral == 0
    for left in (WINDOW_ETH, usd(640)):
        push.chain.pass_time(WINDOW_S + 1)
        before = balance(push, keeper_of(push))
        receipt = push.perps.send("liquidateFlagged", 10, sender=keeper_of(push))
        (event,) = named(push.perps.events(receipt), "PositionLiquidated")
        assert event.fields["amountLiquidated"] == left
        assert balance(push, keeper_of(push)) - before == LATER_WINDOW_REWARD
    survey = push.survey([CAROL])
    assert survey.flagged == frozenset()
    assert survey.accounts[CAROL].sizes == {}


def test_a_second_attempt_in_one_window_succeeds_and_pays_nothing(push: World) -> None:
    push.set_prices(CRASH)
    liquidate(push, CAROL)
    assert push.perps.call("liquidate", CAROL, sender=keeper_of(push)) == 0
    assert liquidate(push, CAROL) == (0, False, {})
    push.chain.pass_time(WINDOW_S + 1)
    assert liquidate(push, CAROL) == (LATER_WINDOW_REWARD, False, {ETH: WINDOW_ETH})


def test_a_small_account_behind_a_whale_is_flagged_and_finished_later(push: World) -> None:
    push.set_prices({ETH: usd(1_760)})
    liquidate(push, CAROL)
    received, full, closed = liquidate(push, DAVE)
    assert received > LATER_WINDOW_REWARD  # flagging is paid for, closing comes later
    assert (full, closed) == (False, {})
    assert push.survey([]).flagged == {CAROL, DAVE}
    push.chain.pass_time(WINDOW_S + 1)
    receipt = push.perps.send("liquidateFlaggedAccounts", [BOB, DAVE], sender=keeper_of(push))
    (attempt,) = named(push.perps.events(receipt), "AccountLiquidationAttempt")  # none for bob
    assert attempt.fields["accountId"] == DAVE
    assert attempt.fields["fullLiquidation"]
    assert push.survey([]).flagged == {CAROL}


def test_a_stale_feed_of_a_push_market_is_read_all_the_same(push: World) -> None:
    push.set_prices(CRASH)
    push.chain.pass_time(3_600)
    assert push.survey([ALICE]).accounts[ALICE].can_liquidate is True
    assert liquidate(push, ALICE)[1]


def test_the_keepers_cost_moves_requirements_without_an_event(push: World) -> None:
    before = push.survey([BOB]).accounts[BOB]
    first = push.chain.number() + 1
    push.system.costs.send("set", usd(1), usd(4), usd(9))
    after = push.survey([BOB]).accounts[BOB]
    assert isinstance(before.maintenance, int)
    assert after.maintenance == before.maintenance + usd(3) + usd(7)
    assert push.events(first) == []


def test_committing_an_order_moves_funding_without_a_market_event(push: World) -> None:
    before = market_state(push.perps, ETH)
    push.chain.pass_time(600)
    first = push.chain.number() + 1
    push.commit([Order(BOB, ETH, usd(1))])
    after = market_state(push.perps, ETH)
    assert [event.name for event in push.events(first)] == ["OrderCommitted"]
    assert (after.skew, after.size) == (before.skew, before.size)
    assert after.last_funding_s == push.chain.now_s() > before.last_funding_s
    assert after.last_funding_value < before.last_funding_value  # longs pay


def test_settling_an_order_pays_whoever_does_it(push: World) -> None:
    push.commit([Order(BOB, BTC, usd(0.1))])
    with pytest.raises(RevertedError) as early:
        push.perps.call("settleOrder", BOB)
    assert early.value.name == "SettlementWindowNotOpen"
    push.chain.pass_time(push.system.setup.settlement_delay_s)
    before = balance(push, push.settler)
    (settled,) = push.settle([BOB])
    assert balance(push, push.settler) - before == settled.fields["settlementReward"] == usd(0.5)
    assert push.survey([BOB]).accounts[BOB].sizes == {ETH: usd(5), BTC: usd(0.1)}


def test_an_account_in_debt_without_positions_can_be_liquidated(push: World) -> None:
    in_debt(push)
    reading = push.survey([DAVE]).accounts[DAVE]
    assert reading.available_margin == -debt(push)
    assert (reading.sizes, reading.can_liquidate) == ({}, True)
    assert liquidate(push, DAVE) == (LATER_WINDOW_REWARD, True, {})
    assert debt(push) == 0


def test_between_zero_and_the_reward_only_liquidate_margin_only_works(push: World) -> None:
    in_debt(push)
    push.deposit({DAVE: debt(push) + usd(1)})
    reading = push.survey([DAVE]).accounts[DAVE]
    assert reading.available_margin == usd(1)
    assert (reading.can_liquidate, reading.can_liquidate_margin_only) == (False, True)
    with pytest.raises(RevertedError) as refused:
        push.perps.call("liquidate", DAVE)
    assert refused.value.name == "NotEligibleForLiquidation"
    before = balance(push, keeper_of(push))
    receipt = push.perps.send("liquidateMarginOnly", DAVE, sender=keeper_of(push))
    assert balance(push, keeper_of(push)) - before == LATER_WINDOW_REWARD
    (event,) = named(push.perps.events(receipt), "AccountMarginLiquidation")
    assert event.fields["liquidationReward"] == LATER_WINDOW_REWARD
    assert debt(push) == 0


def test_margin_beyond_the_reward_is_safe_without_positions(push: World) -> None:
    in_debt(push)
    push.deposit({DAVE: debt(push) + usd(8)})
    reading = push.survey([DAVE]).accounts[DAVE]
    assert (reading.can_liquidate, reading.can_liquidate_margin_only) == (False, False)
    with pytest.raises(RevertedError) as refused:
        push.perps.call("liquidateMarginOnly", DAVE)
    assert refused.value.name == "NotEligibleForMarginLiquidation"


def in_debt(world: World) -> None:
    """Close dave's position at half the price that the market reads: he loses more than he has."""
    world.commit([Order(DAVE, ETH, usd(-9), limit=0)])
    world.chain.pass_time(world.system.setup.settlement_delay_s)
    world.settle([DAVE], prices={ETH: usd(1_000)})


def debt(world: World) -> int:
    owed: int = world.perps.call("debt", DAVE)
    return owed


# --- through the forwarder ------------------------------------------------------------------------


def test_a_liquidation_through_the_trusted_forwarder_pays_the_wallet(push: World) -> None:
    push.set_prices(CRASH)
    before = balance(push, keeper_of(push))
    (receipt,) = push.bundle([Call(push.perps, "liquidate", (ALICE,))], keeper_of(push))
    (attempt,) = named(push.perps.events(receipt), "AccountLiquidationAttempt")
    assert balance(push, keeper_of(push)) - before == attempt.fields["reward"] == usd(105.2)
    assert balance(push, FORWARDER) == 0


def test_any_other_contract_keeps_the_reward_for_itself(push: World) -> None:
    push.set_prices(CRASH)
    artifact = artifacts()[f"{OWN}Forwarder.sol:Forwarder"]
    other = Contract.deploy(push.chain, artifact.abi, artifact.bytecode)
    call = Call(push.perps, "liquidate", (ALICE,)).parts(required=True)
    other.send("aggregate3Value", [call], sender=keeper_of(push))
    assert balance(push, other.address) == usd(105.2)
    assert balance(push, keeper_of(push)) == 0


def test_a_refusal_comes_through_the_forwarder_with_its_reason(push: World) -> None:
    with pytest.raises(RevertedError) as refused:
        push.bundle([Call(push.perps, "liquidate", (ALICE,))], keeper_of(push))
    assert refused.value.name == "NotEligibleForLiquidation"


# --- pull oracle ----------------------------------------------------------------------------------


def test_the_views_do_not_know_a_price_that_nobody_has_put_on_chain(pull: World) -> None:
    pull.publish()
    pull.set_prices(CRASH, publish=False)
    survey = pull.survey([ALICE, BOB])
    assert survey.accounts[ALICE].can_liquidate is False
    with pytest.raises(RevertedError) as refused:
        pull.perps.call("liquidate", ALICE, sender=keeper_of(pull))
    assert refused.value.name == "NotEligibleForLiquidation"  # it asks for no update
    applied = pull.survey([ALICE, BOB], applying=pull.updates())
    assert applied.accounts[ALICE].can_liquidate is True
    assert applied.accounts[BOB].can_liquidate is False
    assert pull.survey([ALICE]).accounts[ALICE].can_liquidate is False  # nothing of it stayed


def test_a_liquidation_is_stricter_about_age_than_its_view(pull: World) -> None:
    pull.set_prices(CRASH)
    assert pull.perps.call("liquidate", ALICE, sender=keeper_of(pull)) == usd(105.2)
    pull.chain.pass_time(7)
    survey = pull.survey([ALICE, DAVE])
    assert survey.accounts[ALICE].can_liquidate is True
    for account in (ALICE, DAVE):  # two markets and one: both come wrapped
        with pytest.raises(RevertedError) as refused:
            pull.perps.call("liquidate", account, sender=keeper_of(pull))
        assert refused.value.name == "Errors"
        assert refused.value.data[:10] == "0x0b42fd17"
        assert "cf2cabdf" in refused.value.data  # OracleDataRequired, inside


def test_past_the_nodes_age_the_views_are_refused_too(pull: World) -> None:
    pull.set_prices(CRASH)
    pull.chain.pass_time(62)
    reading = pull.survey([ALICE, DAVE]).accounts
    assert reading[ALICE].can_liquidate == Refused("Errors")
    assert reading[DAVE].maintenance == Refused("Errors")
    with pytest.raises(RevertedError) as refused:  # one price alone comes bare
        pull.perps.call("indexPrice", ETH)
    assert refused.value.name == "OracleDataRequired"
    assert refused.value.data[:10] == "0xcf2cabdf"
    applied = pull.survey([ALICE], applying=pull.updates())
    assert applied.accounts[ALICE].can_liquidate is True


def test_update_and_liquidation_travel_together_and_the_wallet_is_paid(pull: World) -> None:
    pull.set_prices(CRASH, publish=False)
    pull.chain.pass_time(120)
    assert pull.system.pyth is not None
    updates = pull.updates()
    calls = [
        Call(pull.system.pyth, "updatePriceFeeds", (updates,), value_wei=len(updates)),
        Call(pull.perps, "liquidate", (ALICE,)),
    ]
    before = balance(pull, keeper_of(pull))
    pull.bundle(calls, keeper_of(pull))
    assert balance(pull, keeper_of(pull)) - before == usd(105.2)
    assert pull.survey([ALICE]).accounts[ALICE].sizes == {}


def test_an_update_that_is_not_later_changes_nothing(pull: World) -> None:
    pull.publish()
    at = pull.published_s()
    pull.set_prices(CRASH, publish=False)
    assert pull.system.pyth is not None
    updates = pull.updates(published_s=at)
    pull.system.pyth.send("updatePriceFeeds", updates, value_wei=len(updates))
    assert pull.perps.call("indexPrice", ETH) == usd(2_000)


# --- the test bed itself --------------------------------------------------------------------------


def test_a_survey_says_what_single_calls_say(push: World) -> None:
    push.set_prices(CRASH)
    liquidate(push, CAROL)
    survey = push.survey([ALICE, BOB, CAROL])
    for account, reading in survey.accounts.items():
        ask = push.perps.call
        assert reading.can_liquidate == ask("canLiquidate", account)
        assert reading.available_margin == ask("getAvailableMargin", account)
        required = reading.initial, reading.maintenance, reading.reward
        assert required == ask("getRequiredMargins", account)
        assert tuple(reading.sizes) == ask("getAccountOpenPositions", account)
        assert reading.flagged == (account in ask("flaggedAccounts"))
    assert survey.block_hash == push.chain.head()["hash"]


def test_everything_works_on_a_node_with_its_own_clock() -> None:
    with running_anvil("--block-time", "1") as node:
        world = World(deploy(node, Setup(oracle="pull", settlement_delay_s=1)))
        world.create({ALICE: usd(10_000), BOB: usd(10_000)})
        world.chain.prompt = False
        world.trade([Order(ALICE, ETH, usd(60)), Order(BOB, ETH, usd(5))])
        world.set_prices(CRASH)
        survey = world.survey([ALICE, BOB])
        assert [survey.accounts[it].can_liquidate for it in (ALICE, BOB)] == [True, False]
        calls = [Call(world.perps, "liquidate", (ALICE,))]
        world.bundle(calls, keeper_of(world))
        assert world.survey([ALICE]).accounts[ALICE].sizes == {}
        assert balance(world, keeper_of(world)) == (60 * CRASH[ETH]) // 1_000 + usd(3)
