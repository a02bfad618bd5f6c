"""The demo market's venue acting on a real chain: simulate, refusals, events, the probe."""

from dataclasses import replace

import pytest
from eth_keys.datatypes import PrivateKey
from msgspec import structs

from keeper.batching import SimulatedBatch
from keeper.chain.rpc import HttpRpc
from keeper.facts import Assessment, Price, PriceView, Refused, Simulated
from keeper.margin.model import Account, Position
from keeper.units import WAD
from keeper.venues.demo_market import DemoMarket, Settings, build
from tests.market_chain import (
    FEE_WEI,
    START_PRICES,
    MarketChain,
    Update,
    furnish,
    random_account,
    seeded,
)
from tests.nodes import Anvil, running_anvil
from tests.venues.demo import ETH, MAX_AGE_S, eth_long, random_updates, read, ticks
from tests.venues.wire import connected, head_of, logs_since, tick

# --- rewards


@pytest.mark.parametrize("seed", [31])
async def test_simulated_and_paid_rewards_are_the_assessed_one(
    venue: DemoMarket, chain: MarketChain, seed: int
) -> None:
    rng = seeded(seed)
    ids = chain.seed([random_account(rng, START_PRICES) for _ in range(75)])
    chain.send("set_whole_below", 100_000 * WAD)  # where the reward is neither bound
    views = {PriceView.CHAIN: 0, PriceView.SIGNED: 0}
    for number in ids:
        market, (state,) = await read(venue, chain, [number])
        updates = random_updates(rng, chain)
        found = venue.assess(state, market, ticks(updates), market.head.timestamp_s + 1)
        if not found.liquidatable:
            continue
        wallet = chain.dev[5]
        simulated = await venue.simulate(found, wallet, market.head)
        assert isinstance(simulated, Simulated), simulated
        assert simulated.reward_wad == found.reward_wad
        assert simulated.oracle_fee_wei == FEE_WEI * len(found.updates)
        assert simulated.call.value_wei == simulated.oracle_fee_wei
        # in the second it was assessed for: funding that accrues meanwhile is more to store
        chain.node.rpc("evm_setNextBlockTimestamp", hex(market.head.timestamp_s + 1))
        receipt = chain.send_raw("0x" + simulated.call.data.hex(), wallet, simulated.call.value_wei)
        assert int(receipt["gasUsed"], 16) <= simulated.gas * 5 // 4 + 10_000
        events = [chain.event(log) for log in receipt["logs"]]
        (paid,) = [values["reward"] for name, values in events if name == "Liquidated"]
        assert paid == found.reward_wad
        (seen,) = [
            liquidation
            for log in logs_since(chain, market.head.number)
            for liquidation in venue.touched(log).liquidations
        ]
        assert (seen.account, seen.reward_wad) == (found.account, paid)
        assert seen.liquidator == wallet
        views[found.view] += 1
        chain.set_prices(START_PRICES)
    assert min(views.values()) > 3, f"one-sided sample: {views}"


async def test_several_in_one_call_pay_what_each_was_assessed_at(
    venue: DemoMarket, chain: MarketChain
) -> None:
    ids = chain.seed([eth_long(cash) for cash in (1_000, 1_050, 1_100)])
    updates = ticks({0: chain.sign(0, 1_990 * WAD, chain.next_ms())})
    market, states = await read(venue, chain, ids)
    at_s, wallet = market.head.timestamp_s + 1, chain.dev[5]
    found = [venue.assess(state, market, updates, at_s) for state in states]
    assert all(each.updates for each in found)
    batch = await venue.simulate_batch(found, wallet, market.head)
    assert isinstance(batch, SimulatedBatch), batch
    assert dict(batch.rewards_wad) == {each.account: each.reward_wad for each in found}
    whole = batch.whole
    assert (whole.all_or_none, whole.oracle_fee_wei) == (3, FEE_WEI), "one update for all of them"
    before = chain.call("balanceOf", wallet)
    chain.node.rpc("evm_setNextBlockTimestamp", hex(at_s))
    receipt = chain.send_raw("0x" + whole.call.data.hex(), wallet, whole.call.value_wei)
    assert int(receipt["gasUsed"], 16) <= whole.gas * 3 // 2, "the keeper's limit"
    seen = [
        liquidation
        for log in logs_since(chain, market.head.number)
        for liquidation in venue.touched(log).liquidations
    ]
    assert {one.account: one.reward_wad for one in seen} == dict(batch.rewards_wad)
    assert chain.call("balanceOf", wallet) - before == whole.reward_wad


async def test_one_that_is_healthy_fails_all_in_one_call(
    venue: DemoMarket, chain: MarketChain
) -> None:
    ids = chain.seed([eth_long(500), eth_long(5_000)])
    market, states = await read(venue, chain, ids)
    found = [venue.assess(state, market, {}, market.head.timestamp_s + 1) for state in states]
    answer = await venue.simulate_batch(found, chain.dev[5], market.head)
    assert answer == Refused("not_liquidatable", "not liquidatable")


# --- the chain refuses ----------------------------------------------------------------------------


async def assessed(
    venue: DemoMarket, chain: MarketChain, account: Account, updates: tuple[Price, ...] = ()
) -> Assessment:
    (number,) = chain.seed([account])
    market, (state,) = await read(venue, chain, [number])
    found = venue.assess(state, market, {}, market.head.timestamp_s)
    return replace(found, updates=updates)


async def test_refusals(venue: DemoMarket, chain: MarketChain) -> None:
    head, wallet = head_of(chain.node), chain.dev[5]

    async def refusal(account: Account, update: Update | None = None) -> tuple[str, str]:
        updates = (tick("ETH/USD", update),) if update else ()
        answer = await venue.simulate(await assessed(venue, chain, account, updates), wallet, head)
        assert isinstance(answer, Refused), answer
        return answer.reason, answer.detail

    now_ms = chain.next_ms()
    healthy, under = eth_long(5_000), eth_long(500)
    assert await refusal(healthy) == ("not_liquidatable", "not liquidatable")
    forged = chain.sign(0, WAD, now_ms, PrivateKey(b"\x01" * 32))
    assert await refusal(under, forged) == ("oracle", "bad signature")
    future = chain.sign(0, WAD, now_ms + 10**7)
    assert await refusal(under, future) == ("oracle", "price from the future")
    cure = chain.sign(0, 3_000 * WAD, now_ms)
    assert await refusal(under, cure) == ("not_liquidatable", "not liquidatable")
    unknown = chain.sign(4, WAD, now_ms)
    assert await refusal(under, unknown) == ("unknown", "no such feed")
    chain.wait(MAX_AGE_S + 10)
    assert await refusal(under) == ("oracle", "stale price")


async def test_a_fee_that_rose_since_the_read_is_refused(
    venue: DemoMarket, chain: MarketChain
) -> None:
    update = tick("ETH/USD", chain.sign(0, 1_990 * WAD, chain.next_ms()))
    found = await assessed(venue, chain, eth_long(500), (update,))
    chain.send("set_price_rules", MAX_AGE_S, FEE_WEI + 1)
    answer = await venue.simulate(found, chain.dev[5], head_of(chain.node))
    assert answer == Refused("unknown", "fee too low")
    await venue.read_market(head_of(chain.node))
    answer = await venue.simulate(found, chain.dev[5], head_of(chain.node))
    assert isinstance(answer, Simulated)
    assert answer.oracle_fee_wei == FEE_WEI + 1


async def test_a_step_that_closes_and_pays_nothing_is_no_progress(
    venue: DemoMarket, chain: MarketChain
) -> None:
    chain.send("set_reserve", 0, 0, 0)
    chain.send("set_whole_below", 0)
    dust = Account(5, {}, {ETH: Position(-1, 2_000 * WAD)})  # half of one unit is nothing
    found = await assessed(venue, chain, dust)
    assert found.liquidatable
    answer = await venue.simulate(found, chain.dev[5], head_of(chain.node))
    assert isinstance(answer, Refused)
    assert answer.reason == "no_progress"
    whole = await assessed(venue, chain, Account(-1, {}, {ETH: Position(-1, 2_000 * WAD)}))
    answer = await venue.simulate(whole, chain.dev[5], head_of(chain.node))
    assert isinstance(answer, Simulated)  # pays nothing, but closes all of it
    assert answer.reward_wad == 0


async def test_right_after_a_restart_the_fee_is_asked_for(
    venue: DemoMarket, chain: MarketChain, rpc: HttpRpc
) -> None:
    update = tick("ETH/USD", chain.sign(0, 1_990 * WAD, chain.next_ms()))
    found = await assessed(venue, chain, eth_long(500), (update,))
    restarted = build(Settings(id="demo", address=chain.address), rpc, 31_337)
    answer = await restarted.simulate(found, chain.dev[5], head_of(chain.node))
    assert isinstance(answer, Simulated)
    assert answer.call.value_wei == answer.oracle_fee_wei == FEE_WEI
    elsewhere = build(Settings(id="demo", address="0x" + "11" * 20), rpc, 31_337)
    refused = await elsewhere.simulate(found, chain.dev[5], head_of(chain.node))
    assert isinstance(refused, Refused)
    assert refused.reason == "unknown"


async def test_an_unreachable_node_is_no_verdict() -> None:
    with running_anvil() as node:
        chain = MarketChain(node)
        furnish(chain)
        async with connected(node) as rpc:
            venue = build(Settings(id="demo", address=chain.address), rpc, 31_337)
            found = await assessed(venue, chain, eth_long(500))
            head = head_of(node)
            node.end()
            answer = await venue.simulate(found, chain.dev[5], head)
    assert isinstance(answer, Refused)
    assert answer.reason == "unreachable"


# --- events ---------------------------------------------------------------------------------------


async def test_every_change_is_touched(venue: DemoMarket, chain: MarketChain) -> None:
    user = chain.dev[2]
    chain.send("mint_usd", user, 10**6 * WAD)
    under = Account(-(10**6) * WAD, {"0": WAD}, {ETH: Position(50 * WAD, 2_000 * WAD)})
    ids = chain.seed([eth_long(500), under, eth_long(10**6)])
    own = ids[-1] + 1
    steps: list[tuple[str, tuple[object, ...], str, set[int] | None]] = [
        ("open_account", (), user, {own}),
        ("deposit_cash", (own, 10**5 * WAD), user, {own}),
        ("trade", (own, 0, WAD), user, {own}),
        ("trade", (own, 2, -WAD), user, {own}),
        ("withdraw_cash", (own, WAD), user, {own}),
        ("transfer", (chain.dev[3], 1), user, set()),
        ("liquidate", (ids[0],), user, {ids[0]}),
        ("liquidate", (ids[1],), user, {ids[1]}),  # bad debt, collateral gone
        ("set_whole_below", (WAD,), chain.dev[0], None),
        ("seed_accounts", ([],), chain.dev[0], set()),
    ]
    everyone = [*ids, own]
    for name, arguments, sender, expected in steps:
        before, block = [chain.account(n) for n in everyone], head_of(chain.node).number
        chain.send(name, *arguments, sender=sender)
        touched = [venue.touched(log) for log in logs_since(chain, block)]
        found = {int(account) for one in touched for account in one.accounts}
        changed = {n for n, was in zip(everyone, before, strict=True) if chain.account(n) != was}
        assert any(one.everything for one in touched) is (expected is None)
        assert found == (expected or set()), name
        assert changed <= found, name
    block = head_of(chain.node).number
    chain.set_prices({0: 1_999 * WAD})
    (log,) = logs_since(chain, block)
    assert venue.touched(log) == venue.touched(structs.replace(log))
    assert not venue.touched(log).everything
    assert not venue.touched(log).accounts


async def test_mutilated_logs_touch_everything(venue: DemoMarket, chain: MarketChain) -> None:
    block = head_of(chain.node).number
    (number,) = chain.seed([eth_long(500)])
    chain.send("liquidate", number)
    logs = logs_since(chain, block)
    assert {len(log.topics) for log in logs} == {2, 3}
    for log in logs:
        for cut in (
            structs.replace(log, topics=()),
            structs.replace(log, topics=log.topics[:-1]),
            structs.replace(log, topics=(*log.topics, "0x" + "00" * 32)),
            structs.replace(log, topics=("0x" + "ab" * 32, *log.topics[1:])),
            structs.replace(log, data=log.data + b"\0"),
        ):
            assert venue.touched(cut).everything
    (seen,) = [one for log in logs for one in venue.touched(log).liquidations]
    assert seen.tx_hash == logs[-1].tx_hash
    assert seen.block_number == logs[-1].block_number


# --- the probe ------------------------------------------------------------------------------------


async def test_probe_reports_terms_and_liquidators(venue: DemoMarket, chain: MarketChain) -> None:
    ids = chain.seed([eth_long(100), eth_long(100), eth_long(100)])
    for number, sender in zip(ids, (3, 3, 4), strict=True):
        chain.send("liquidate", number, sender=chain.dev[sender])
    probe = await venue.probe(chain.dev[5])
    assert probe.open
    assert chain.dev[5] in probe.detail
    assert probe.facts["reward"] == "0.2000% of the closed notional"
    assert probe.facts["reward bounds"] == "2 to 500 USD"
    assert probe.facts["price age"] == f"at most {MAX_AGE_S} s"
    assert probe.facts["update fee"] == f"{FEE_WEI} wei each"
    assert probe.facts["liquidators"].startswith("2 distinct")
    assert probe.facts["markets"] == "ETH-PERP, BTC-PERP, SOL-PERP"


async def test_probe_of_the_wrong_address(chain: MarketChain, rpc: HttpRpc, node: Anvil) -> None:
    nothing = build(Settings(id="x", address="0x" + "11" * 20), rpc, 31_337)
    assert not (await nothing.probe(None)).open
    node.rpc("anvil_setCode", "0x" + "22" * 20, "0x600160005260206000f3")  # answers 1
    other = build(Settings(id="x", address="0x" + "22" * 20), rpc, 31_337)
    probe = await other.probe(None)
    assert not probe.open
    assert not probe.found
    assert "market_view()" in probe.detail
    assert chain.address not in probe.detail
