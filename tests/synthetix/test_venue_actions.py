"""What the venue would send is accepted, does what was simulated, and pays the wallet."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.batching import SimulatedBatch
from keeper.chain.rpc import HttpRpc
from keeper.check import Finding, _venue
from keeper.config import VenueSettings
from keeper.facts import AccountId, PriceView, Refused, Simulated, VenueId
from keeper.margin.rows import Row
from keeper.units import WAD
from keeper.venues.synthetix_v3 import Settings, build
from tests.config.looks import BASE
from tests.config.support import read as config_of
from tests.nodes import Anvil
from tests.synthetix.chain import Contract
from tests.synthetix.deploy import FORWARDER
from tests.synthetix.keeping import (
    FEEDS,
    assess,
    keeper_of,
    logs_since,
    read,
    send,
    simulate,
    ticks,
    venue_of,
)
from tests.synthetix.packages import OWN, artifacts
from tests.synthetix.scenario import ALICE, BOB, CAROL, DAVE, ETH
from tests.synthetix.test_deployment import CRASH, LATER_WINDOW_REWARD, WINDOW_S, in_debt
from tests.synthetix.world import Order, World, usd
from tests.venues.wire import connected, head_of


@pytest.fixture
async def rpc(node: Anvil) -> AsyncIterator[HttpRpc]:
    async with connected(node) as found:
        yield found


def done(answer: Simulated | Refused) -> Simulated:
    assert isinstance(answer, Simulated), answer
    return answer


def liquidate(world: World, account: int) -> None:
    world.perps.send("liquidate", account, sender=world.chain.dev[6])


# --- push -----------------------------------------------------------------------------------------


async def test_the_reward_simulated_is_expected_and_received(push: World, rpc: HttpRpc) -> None:
    venue = venue_of(push, rpc)
    push.set_prices(CRASH)
    found = await read(venue, push, [ALICE, BOB])
    verdict = assess(venue, found, ALICE, later_s=0)
    assert (verdict.liquidatable, verdict.alone, verdict.uses) == (True, False, ("100", "200"))
    simulated = done(await simulate(venue, push, verdict))
    assert simulated.reward_wad == verdict.reward_wad == usd(105.2)
    assert (simulated.oracle_fee_wei, simulated.call.value_wei) == (0, 0)
    received, receipt = send(push, simulated)
    assert received == simulated.reward_wad
    (seen,) = [
        one
        for log in logs_since(push, found.head.number)
        for one in venue.touched(log).liquidations
    ]
    assert (seen.account, seen.liquidator) == (str(ALICE), "")
    assert (seen.reward_wad, seen.tx_hash) == (received, receipt["transactionHash"])


async def test_a_healthy_account_is_refused(push: World, rpc: HttpRpc) -> None:
    venue = venue_of(push, rpc)
    found = await read(venue, push, [BOB])
    verdict = assess(venue, found, BOB)
    assert not verdict.liquidatable
    answer = await simulate(venue, push, verdict)
    assert answer == Refused("not_liquidatable", "NotEligibleForLiquidation(uint128)")


async def test_a_whale_is_followed_window_by_window(push: World, rpc: HttpRpc) -> None:
    venue = venue_of(push, rpc)
    push.set_prices(CRASH)
    found = await read(venue, push, [CAROL])
    first = assess(venue, found, CAROL, later_s=0)
    assert first.reward_wad == usd(1_000)
    received, _ = send(push, done(await simulate(venue, push, first)))
    assert received == first.reward_wad
    steps = 0
    while True:
        found = await read(venue, push, [CAROL])
        closed_s = found.head.timestamp_s
        state = found.accounts[CAROL]
        if not state.flagged:
            break
        assert venue.compile(state, found.market, {}) == Row(-1.0)
        waiting = assess(venue, found, CAROL)
        assert (waiting.liquidatable, waiting.reward_wad) == (False, 0)
        assert waiting.until_s == closed_s + WINDOW_S
        idle = await simulate(venue, push, waiting)
        assert isinstance(idle, Refused)
        assert (idle.reason, idle.until_s) == ("no_progress", None)
        before_s = waiting.until_s - closed_s - 1
        assert not assess(venue, found, CAROL, later_s=before_s).liquidatable
        open_again = assess(venue, found, CAROL, later_s=before_s + 1)
        assert (open_again.liquidatable, open_again.alone) == (True, True)
        push.chain.pass_time(WINDOW_S)
        simulated = done(await simulate(venue, push, open_again))
        assert simulated.reward_wad == open_again.reward_wad == LATER_WINDOW_REWARD
        received, _ = send(push, simulated)
        assert received == LATER_WINDOW_REWARD
        steps += 1
    assert steps == 2
    assert found.accounts[CAROL].holding.positions == {}
    assert venue.compile(found.accounts[CAROL], found.market, {}) is None


async def test_a_window_opens_as_old_liquidations_leave_it(push: World, rpc: HttpRpc) -> None:
    """Room comes back in parts: first what was closed first."""
    venue = venue_of(push, rpc)
    push.set_prices(CRASH)
    liquidate(push, ALICE)  # 40 ETH
    first_s = push.chain.now_s()
    push.chain.pass_time(4)
    liquidate(push, CAROL)  # the rest of the window
    found = await read(venue, push, [CAROL])
    market = found.market.system.markets[ETH]
    for later_s in range(WINDOW_S + 2):
        at_s = found.head.timestamp_s + later_s
        if later_s:
            push.chain.node.rpc("evm_setNextBlockTimestamp", at_s)
            push.chain.node.rpc("evm_mine")
        assert market.capacity(at_s) == push.survey([]).capacity[ETH].now, later_s
    assert market.reopens_s(found.head.timestamp_s) == first_s + WINDOW_S
    assert assess(venue, found, CAROL).until_s == first_s + WINDOW_S


async def test_accounts_flagged_by_others_are_found_and_named_alone(
    push: World, rpc: HttpRpc
) -> None:
    """A whale and a small one behind it were flagged before the venue was asked anything."""
    push.set_prices({ETH: usd(1_760)})
    liquidate(push, CAROL)
    liquidate(push, DAVE)
    venue = venue_of(push, rpc)
    found = await read(venue, push, [CAROL, DAVE, BOB])
    assert [found.accounts[it].flagged for it in (CAROL, DAVE, BOB)] == [True, True, False]
    assert set(found.market.listed) == {str(CAROL), str(DAVE)}
    push.chain.pass_time(WINDOW_S + 1)
    found = await read(venue, push, [CAROL, DAVE, BOB])
    verdict = assess(venue, found, DAVE, later_s=0)
    assert (verdict.liquidatable, verdict.alone, verdict.uses) == (True, True, ("100",))
    received, _ = send(push, done(await simulate(venue, push, verdict)))
    assert received == LATER_WINDOW_REWARD
    after = await read(venue, push, [CAROL, DAVE])
    assert [after.accounts[it].flagged for it in (CAROL, DAVE)] == [True, False]


async def test_a_fresh_account_behind_a_whale_is_flagged_for_its_reward(
    push: World, rpc: HttpRpc
) -> None:
    venue = venue_of(push, rpc)
    push.set_prices({ETH: usd(1_760)})
    liquidate(push, CAROL)
    found = await read(venue, push, [DAVE])
    verdict = assess(venue, found, DAVE, later_s=0)
    assert (verdict.liquidatable, verdict.alone) == (True, False)
    simulated = done(await simulate(venue, push, verdict))
    received, _ = send(push, simulated)
    assert received == simulated.reward_wad == verdict.reward_wad > LATER_WINDOW_REWARD


@pytest.mark.parametrize("deposit", [None, usd(1)], ids=["below zero", "below the reward"])
async def test_an_account_without_positions_is_liquidated_by_its_debt(
    push: World, rpc: HttpRpc, deposit: int | None
) -> None:
    in_debt(push)
    if deposit:
        push.deposit({DAVE: push.perps.call("debt", DAVE) + deposit})
    venue = venue_of(push, rpc)
    found = await read(venue, push, [DAVE])
    row = venue.compile(found.accounts[DAVE], found.market, {})
    assert row is not None
    assert row.constant < 0
    verdict = assess(venue, found, DAVE)
    assert (verdict.liquidatable, verdict.uses) == (True, ())
    received, _ = send(push, done(await simulate(venue, push, verdict)))
    assert received == verdict.reward_wad == LATER_WINDOW_REWARD
    after = await read(venue, push, [DAVE])
    assert after.accounts[DAVE].holding.debt == 0
    seen = [
        one
        for log in logs_since(push, found.head.number)
        for one in venue.touched(log).liquidations
    ]
    assert [one.reward_wad for one in seen] == [received], "once, though two events tell of it"


async def test_an_account_without_positions_and_enough_margin_is_left_alone(
    push: World, rpc: HttpRpc
) -> None:
    in_debt(push)
    push.deposit({DAVE: push.perps.call("debt", DAVE) + usd(8)})
    venue = venue_of(push, rpc)
    found = await read(venue, push, [DAVE])
    row = venue.compile(found.accounts[DAVE], found.market, {})
    assert row is not None
    assert 0 < row.constant <= 1.0
    verdict = assess(venue, found, DAVE)
    assert not verdict.liquidatable
    answer = await simulate(venue, push, verdict)
    assert answer == Refused("not_liquidatable", "NotEligibleForMarginLiquidation(uint128)")


async def test_gas_for_three_liquidations_of_one_market_in_a_block(
    push: World, rpc: HttpRpc
) -> None:
    """The keeper's own factor of 1.5 on top of what the venue says is enough for the last one."""
    venue, chain = venue_of(push, rpc), push.chain
    push.set_prices({ETH: usd(1_700)})
    found = await read(venue, push, [ALICE, BOB, CAROL, DAVE])
    under = [ALICE, CAROL, DAVE]
    answers = [done(await simulate(venue, push, assess(venue, found, it))) for it in under]
    chain.node.rpc("evm_setAutomine", False)  # noqa: FBT003 - JSON-RPC
    sent = []
    for answer in answers:
        data, gas = "0x" + answer.call.data.hex(), answer.gas * 3 // 2
        sent.append(chain.broadcast(keeper_of(push), answer.call.to, data, gas=gas))
    chain.node.rpc("evm_mine")
    chain.node.rpc("evm_setAutomine", True)  # noqa: FBT003 - JSON-RPC
    receipts = chain.receipts(sent)
    assert [it["status"] for it in receipts] == ["0x1"] * 3
    assert len({it["blockNumber"] for it in receipts}) == 1


# --- pull -----------------------------------------------------------------------------------------


async def test_the_update_travels_along_and_the_wallet_is_paid(pull: World, rpc: HttpRpc) -> None:
    venue = venue_of(pull, rpc)
    pull.chain.pass_time(120)
    pull.set_prices(CRASH, publish=False)
    found = await read(venue, pull, [ALICE])
    verdict = assess(venue, found, ALICE, ticks(pull))
    assert (verdict.liquidatable, verdict.view) == (True, PriceView.SIGNED)
    assert len(verdict.updates) == 2, "both prices are too old, one of them is the same"
    simulated = done(await simulate(venue, pull, verdict))
    assert simulated.call.to == FORWARDER
    assert simulated.call.value_wei == simulated.oracle_fee_wei == 2
    received, _ = send(pull, simulated)
    assert received == simulated.reward_wad == verdict.reward_wad == usd(105.2)
    assert pull.system.usd.call("balanceOf", FORWARDER) == 0
    assert pull.perps.call("indexPrice", ETH) == CRASH[ETH]


async def test_a_price_that_liquidation_finds_too_old_is_taken_along_unchanged(
    pull: World, rpc: HttpRpc
) -> None:
    """The views still take it."""
    venue = venue_of(pull, rpc)
    pull.set_prices(CRASH)
    pull.chain.pass_time(8)
    found = await read(venue, pull, [ALICE])
    assert pull.survey([ALICE]).accounts[ALICE].can_liquidate is True
    without = assess(venue, found, ALICE)
    assert (without.liquidatable, without.updates) == (False, ())
    refused = await simulate(venue, pull, replace(without, liquidatable=True))
    assert refused == Refused("oracle", "Errors(bytes[])")
    verdict = assess(venue, found, ALICE, ticks(pull))
    assert (verdict.liquidatable, len(verdict.updates)) == (True, 2)
    received, _ = send(pull, done(await simulate(venue, pull, verdict)))
    assert received == verdict.reward_wad


async def test_one_under_at_the_price_on_chain_only_goes_without_the_cure(
    pull: World, rpc: HttpRpc
) -> None:
    venue = venue_of(pull, rpc)
    pull.set_prices(CRASH)
    pull.chain.pass_time(1)
    pull.set_prices({ETH: usd(2_000)}, publish=False)
    found = await read(venue, pull, [ALICE])
    verdict = assess(venue, found, ALICE, ticks(pull))
    assert (verdict.liquidatable, verdict.view) == (True, PriceView.CHAIN)
    assert verdict.updates == ()
    received, _ = send(pull, done(await simulate(venue, pull, verdict)))
    assert received == verdict.reward_wad


async def test_an_update_that_is_not_later_does_not_count(pull: World, rpc: HttpRpc) -> None:
    venue = venue_of(pull, rpc)
    pull.publish()
    pull.set_prices(CRASH, publish=False)
    found = await read(venue, pull, [ALICE])
    same_s = ticks(pull, published_s=pull.published_s())
    assert not assess(venue, found, ALICE, same_s).liquidatable
    assert assess(venue, found, ALICE, ticks(pull)).liquidatable


async def test_a_flagged_account_needs_fresh_prices_too(pull: World, rpc: HttpRpc) -> None:
    venue = venue_of(pull, rpc)
    pull.set_prices(CRASH)
    liquidate(pull, CAROL)
    pull.chain.pass_time(WINDOW_S + 1)
    found = await read(venue, pull, [CAROL])
    assert not assess(venue, found, CAROL).liquidatable
    pull.set_prices({ETH: usd(2_100)}, publish=False)  # which would have cured it
    verdict = assess(venue, found, CAROL, ticks(pull))
    assert (verdict.liquidatable, verdict.alone, len(verdict.updates)) == (True, True, 1)
    received, _ = send(pull, done(await simulate(venue, pull, verdict)))
    assert received == verdict.reward_wad == LATER_WINDOW_REWARD


async def test_a_forged_update_is_refused_by_the_oracle(pull: World, rpc: HttpRpc) -> None:
    venue = venue_of(pull, rpc)
    pull.set_prices(CRASH, publish=False)
    found = await read(venue, pull, [ALICE])
    verdict = assess(venue, found, ALICE, ticks(pull))
    broken = tuple(replace(one, payload=b"PNAU\x01") for one in verdict.updates)
    answer = await simulate(venue, pull, replace(verdict, updates=broken))
    assert isinstance(answer, Refused)


# --- what it says of itself -----------------------------------------------------------------------


async def test_the_probe_says_who_may_and_what_is_paid(pull: World, rpc: HttpRpc) -> None:
    venue, wallet = venue_of(pull, rpc), keeper_of(pull)
    probe = await venue.probe(wallet)
    assert probe.open
    assert wallet in probe.detail
    assert probe.facts["markets"] == "100 (ETH/USD), 200 (BTC/USD)"
    assert probe.facts["reward cap"] == "1000 USD, 50% of the collateral"
    pull.perps.send("setFeatureFlagAllowAll", b"perpsSystem".ljust(32, b"\0"), False)  # noqa: FBT003 - ABI
    closed = await venue.probe(wallet)
    assert not closed.open
    assert closed.found
    nothing = build(Settings(id="x", address="0x" + "11" * 20, feeds=FEEDS), rpc, 31_337)
    assert not (await nothing.probe(wallet)).found
    pull.set_prices(CRASH)
    found = await read(venue, pull, [ALICE])
    answer = await simulate(venue, pull, assess(venue, found, ALICE, later_s=0))
    assert answer == Refused("unknown", "FeatureUnavailable(bytes32)")


async def test_check_warns_of_a_closed_venue_and_fails_on_a_wrong_address(
    push: World, rpc: HttpRpc, tmp_path: Path
) -> None:
    settings = config_of(tmp_path / "config.toml", BASE)

    async def found(address: str) -> Finding:
        options = Settings(id="perps", address=address, feeds=FEEDS)
        venue = VenueSettings(kind="synthetix_v3", id=VenueId("perps"), options=options)
        return await _venue(settings, venue, rpc, keeper_of(push))

    assert (await found(push.perps.address)).verdict == "ok"
    push.perps.send("setFeatureFlagAllowAll", b"perpsSystem".ljust(32, b"\0"), False)  # noqa: FBT003 - ABI
    closed = await found(push.perps.address)
    assert (closed.verdict, closed.facts["price kind"]) == ("warning", "push")
    assert "the feature perpsSystem is closed to us" in closed.detail
    assert (await found("0x" + "11" * 20)).verdict == "failed"


async def test_the_probe_counts_who_sent_the_liquidations(push: World, rpc: HttpRpc) -> None:
    """The protocol does not log who liquidated: the senders of the transactions are asked for."""
    venue = venue_of(push, rpc)
    assert (await venue.probe(None)).facts["liquidators"].startswith("0 distinct")
    push.set_prices(CRASH)
    for account, sender in ((ALICE, 6), (CAROL, 7)):
        push.perps.send("liquidate", account, sender=push.chain.dev[sender])
    counted = (await venue.probe(None)).facts["liquidators"]
    assert counted == "2 distinct in 5000 blocks (2 liquidations)"


async def test_without_a_forwarder_a_pull_venue_is_closed(pull: World, rpc: HttpRpc) -> None:
    venue = venue_of(pull, rpc)
    pull.chain.node.rpc("anvil_setCode", FORWARDER, "0x")
    probe = await venue.probe(None)
    assert not probe.open
    assert FORWARDER in probe.detail


async def test_batches_need_a_forwarder_too(push: World, rpc: HttpRpc) -> None:
    address = push.perps.address
    settings = Settings(id="synthetix", address=address, feeds=FEEDS, batch_accounts_max=4)
    venue = build(settings, rpc, 31_337)
    assert (await venue.probe(None)).open
    push.chain.node.rpc("anvil_setCode", FORWARDER, "0x")
    assert FORWARDER in (await venue.probe(None)).detail
    assert not (await venue.probe(None)).open
    assert (await venue_of(push, rpc).probe(None)).open, "one account a transaction needs none"


@pytest.mark.parametrize("carried", [False, True])
async def test_several_through_the_forwarder_each_alone(
    push: World, pull: World, rpc: HttpRpc, *, carried: bool
) -> None:
    """The healthy one is refused, the others are paid to the wallet, updates come first."""
    world = pull if carried else push
    venue = venue_of(world, rpc)
    if carried:
        world.chain.pass_time(120)
    world.set_prices(CRASH, publish=not carried)
    everyone = [ALICE, BOB, CAROL, DAVE]
    found = await read(venue, world, everyone)
    prices = ticks(world) if carried else None
    verdicts = [assess(venue, found, account, prices) for account in everyone]
    under = {each.account for each in verdicts if each.liquidatable}
    assert len(under) > 1
    assert AccountId(str(BOB)) not in under
    wallet = keeper_of(world)
    batch = await venue.simulate_batch(verdicts, wallet, head_of(world.chain.node))
    assert isinstance(batch, SimulatedBatch), batch
    assert set(batch.rewards_wad) == under
    assert batch.whole.all_or_none == 1
    assert (batch.whole.oracle_fee_wei > 0) is carried
    received, _ = send(world, batch.whole)
    assert received == batch.whole.reward_wad == sum(batch.rewards_wad.values())
    assert world.system.usd.call("balanceOf", FORWARDER) == 0


async def test_a_contract_that_would_be_paid_itself_is_refused(push: World, rpc: HttpRpc) -> None:
    artifact = artifacts()[f"{OWN}Forwarder.sol:Forwarder"]
    other = Contract.deploy(push.chain, artifact.abi, artifact.bytecode)
    settings = Settings(
        id="synthetix", address=push.perps.address, feeds=FEEDS, forwarder=other.address
    )
    venue = build(settings, rpc, 31_337)
    push.set_prices(CRASH)
    found = await read(venue, push, [ALICE, CAROL])
    verdicts = [assess(venue, found, account) for account in (ALICE, CAROL)]
    answer = await venue.simulate_batch(verdicts, keeper_of(push), head_of(push.chain.node))
    assert answer == Refused("unknown", f"through {other.address} the wallet would not be paid")


async def test_every_event_of_a_story_touches_what_it_changed(push: World, rpc: HttpRpc) -> None:
    """After each part: whoever reads differently from before was touched by one of its logs."""
    venue, everyone = venue_of(push, rpc), [ALICE, BOB, CAROL, DAVE]
    parts: dict[str, Callable[[], object]] = {
        "trade": lambda: push.trade([Order(BOB, ETH, usd(1))]),
        "deposit": lambda: push.deposit({ALICE: usd(5)}),
        "commit": lambda: push.commit([Order(BOB, ETH, usd(1))]),
        "debt": lambda: in_debt(push),
        "pay": lambda: push.perps.send("payDebt", DAVE, usd(1), sender=push.trader),
        "margin": lambda: push.perps.send("liquidateMarginOnly", DAVE),
        "crash": lambda: push.set_prices(CRASH),
        "liquidate": lambda: liquidate(push, CAROL),
        "again": lambda: liquidate(push, CAROL),
        "small": lambda: liquidate(push, ALICE),
        "parameter": lambda: push.perps.send("setLockedOiRatio", ETH, WAD // 4),
    }
    push.system.usd.send("mint", push.trader, usd(1))  # to pay with
    told: set[str] = set()
    for name, part in parts.items():
        before = await read(venue, push, everyone)
        part()
        after = await read(venue, push, everyone)
        changed = {
            str(it)
            for it in everyone
            if replace(before.accounts[it], head=after.head) != after.accounts[it]
        }
        logs = logs_since(push, before.head.number)
        touched = [venue.touched(log) for log in logs]
        accounts = {account for one in touched for account in one.accounts}
        assert changed <= accounts, name
        assert accounts <= {AccountId(str(it)) for it in everyone}
        assert any(one.everything for one in touched) == (name == "parameter"), name
        told |= {event.name for event in push.events(before.head.number + 1)}
    assert {"OrderSettled", "CollateralModified", "DebtPaid", "AccountLiquidationAttempt"} <= told
    assert {"AccountMarginLiquidation", "OrderCommitted", "LockedOiRatioSet"} <= told
