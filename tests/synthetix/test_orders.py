"""Settling orders as a second job: on time, for the reward, with the prices it needs."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from keeper.chain.rpc import HttpRpc
from keeper.facts import (
    AccountId,
    Assessment,
    FeedId,
    Price,
    PriceView,
    Refused,
    Simulated,
)
from keeper.jobs import Job
from keeper.venues.synthetix_v3_orders import PendingOrder, Settings, SynthetixV3Orders, build
from tests.nodes import Anvil
from tests.synthetix.deploy import FORWARDER
from tests.synthetix.keeping import FEEDS, ids, keeper_of, logs_since, send, ticks
from tests.synthetix.scenario import ALICE, BOB, ETH
from tests.synthetix.world import Order, World, usd
from tests.venues.wire import connected, head_of

REWARD = usd(0.5)  # what the protocol thinks that settling costs; the strategy adds nothing


@pytest.fixture
async def rpc(node: Anvil) -> AsyncIterator[HttpRpc]:
    async with connected(node) as found:
        yield found


def venue_of(world: World, rpc: HttpRpc) -> SynthetixV3Orders:
    pyth = world.system.pyth.address if world.system.pyth else None
    settings = Settings(id="orders", address=world.perps.address, feeds=FEEDS, pyth=pyth)
    return build(settings, rpc, 31_337)


async def assessed(
    venue: SynthetixV3Orders,
    world: World,
    account: int,
    prices: Mapping[FeedId, Price] | None = None,
    later_s: int = 0,
) -> tuple[PendingOrder, Assessment]:
    head = head_of(world.chain.node)
    market = await venue.read_market(head)
    (order,) = await venue.read_accounts(ids([account]), head)
    at_s = head.timestamp_s + later_s
    return order, venue.assess(order, market, prices or {}, at_s)


async def simulated(
    venue: SynthetixV3Orders, world: World, verdict: Assessment
) -> Simulated | Refused:
    return await venue.simulate(verdict, keeper_of(world), head_of(world.chain.node))


async def test_an_order_waits_for_its_time_is_settled_and_pays_the_wallet(
    push: World, rpc: HttpRpc
) -> None:
    venue, setup = venue_of(push, rpc), push.system.setup
    push.commit([Order(BOB, ETH, usd(1))])
    committed_s, first = push.chain.now_s(), push.chain.number()
    order, early = await assessed(venue, push, BOB)
    opens_s = committed_s + setup.settlement_delay_s
    assert (early.liquidatable, early.until_s) == (False, opens_s)
    assert order.due_until_s == opens_s + setup.settlement_window_s
    refused = await simulated(venue, push, early)
    assert isinstance(refused, Refused)
    assert refused.reason == "not_liquidatable"

    push.chain.pass_time(setup.settlement_delay_s)
    feed = push.system.markets[ETH].feed
    push.system.benchmark.send("set", feed, push.prices[ETH])
    _, verdict = await assessed(venue, push, BOB)
    assert (verdict.liquidatable, verdict.reward_wad) == (True, REWARD)
    answer = await simulated(venue, push, verdict)
    assert isinstance(answer, Simulated), answer
    assert answer.job is Job.SETTLE
    received, receipt = send(push, answer)
    assert received == answer.reward_wad == REWARD
    seen = [one for log in logs_since(push, first) for one in venue.touched(log).liquidations]
    (settled,) = seen
    assert (settled.account, settled.job) == (str(BOB), Job.SETTLE)
    assert settled.liquidator == keeper_of(push)
    assert (settled.reward_wad, settled.tx_hash) == (REWARD, receipt["transactionHash"])
    after, none = await assessed(venue, push, BOB)
    assert (after.due_until_s, none.liquidatable, none.until_s) == (None, False, None)


async def test_without_an_order_or_after_it_expired_nothing_is_due(
    push: World, rpc: HttpRpc
) -> None:
    venue, setup = venue_of(push, rpc), push.system.setup
    never, _ = await assessed(venue, push, ALICE)
    assert never.due_until_s is None
    push.commit([Order(BOB, ETH, usd(1))])
    late_s = setup.settlement_delay_s + setup.settlement_window_s + 1
    order, verdict = await assessed(venue, push, BOB, later_s=late_s)
    assert order.due_until_s is not None
    assert (verdict.liquidatable, verdict.until_s, verdict.reward_wad) == (False, None, 0)
    _, last = await assessed(venue, push, BOB, later_s=late_s - 1)
    assert last.liquidatable


async def test_a_price_that_its_trader_does_not_accept_is_refused(
    push: World, rpc: HttpRpc
) -> None:
    venue, setup = venue_of(push, rpc), push.system.setup
    push.commit([Order(BOB, ETH, usd(1), limit=usd(1))])
    push.chain.pass_time(setup.settlement_delay_s)
    feed = push.system.markets[ETH].feed
    push.system.benchmark.send("set", feed, push.prices[ETH])
    _, verdict = await assessed(venue, push, BOB)
    answer = await simulated(venue, push, verdict)
    assert isinstance(answer, Refused)
    assert answer.detail.startswith("AcceptablePriceExceeded")


async def test_prices_that_are_too_old_go_along_and_the_wallet_is_paid(
    pull: World, rpc: HttpRpc
) -> None:
    venue, setup = venue_of(pull, rpc), pull.system.setup
    pull.commit([Order(BOB, ETH, usd(1))])
    feed = pull.system.markets[ETH].feed
    pull.system.benchmark.send("set", feed, pull.prices[ETH])
    pull.chain.pass_time(setup.node_age_s + 1)
    _, bare = await assessed(venue, pull, BOB)
    assert (bare.updates, bare.view) == ((), PriceView.CHAIN)
    refused = await simulated(venue, pull, bare)
    assert isinstance(refused, Refused)
    assert refused.reason == "oracle"

    _, verdict = await assessed(venue, pull, BOB, ticks(pull))
    assert len(verdict.updates) == 1, "of the one market that the account is in"
    answer = await simulated(venue, pull, verdict)
    assert isinstance(answer, Simulated), answer
    assert answer.call.to == FORWARDER
    received, _ = send(pull, answer)
    assert received == REWARD


async def test_the_probe_says_what_is_paid(push: World, rpc: HttpRpc) -> None:
    venue = venue_of(push, rpc)
    found = await venue.probe(keeper_of(push))
    assert found.open
    assert found.facts == {"reward": "market 100: 0.5 USD, market 200: 0.5 USD"}
    wrong = replace(push.system.usd).address
    other = build(Settings(id="orders", address=wrong, feeds=FEEDS), rpc, 31_337)
    assert not (await other.probe(None)).open


def test_only_what_concerns_an_order_touches_it(push: World) -> None:
    venue = venue_of(push, None)  # type: ignore[arg-type]  # nothing is asked
    first = push.chain.number()
    push.commit([Order(BOB, ETH, usd(1))])
    push.deposit({ALICE: usd(5)})
    touched = [venue.touched(log) for log in logs_since(push, first)]
    accounts = {account for one in touched for account in one.accounts}
    assert accounts == {AccountId(str(BOB))}
    assert not any(one.everything for one in touched)
