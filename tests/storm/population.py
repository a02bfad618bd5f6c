"""Who is in the storm: more than forty accounts, each calibrated against the market itself.

Liquidations are spread over the fall: an account's margin is taken down to what the path at its
*level* (a part of the whole fall) eats up, by what the contract says of it after its trades.
"""

import itertools
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from keeper.units import WAD
from tests.storm.form import Form
from tests.synthetix.deploy import MARKETS, Setup
from tests.synthetix.world import Call, Order, Refused, World, usd

ETH, BTC = 100, 200
WINDOW_BLOCKS = 6
WINDOW_MULTIPLIER = 3 * WAD  # divided by its seconds: what may be closed counts by them
STRICT_AGE_BLOCKS = 10
POLL_S = 0.05
CENT = WAD // 100
NEAR = 0.985  # withdrawn down to the level but for this: fees of rounding, funding, the reward
OFFSET = 2**127  # account numbers may be this large
Prices = Mapping[int, int]  # by market, wads


class Role(StrEnum):
    """What an account is there for."""

    MIXED = "mixed"  # positions in both markets
    BEHIND = "behind"  # small, in the whale's market, sinking with it or after it
    WHALE = "whale"  # several windows large
    SAFE = "safe"  # never near
    TRADER = "trader"  # safe, and trades when the run has trades
    FLAGGED = "flagged"  # before the keeper starts
    BAND = "band"  # margin between nothing and the reward: only liquidateMarginOnly works
    DEBTOR = "debtor"  # in debt, without positions
    IDLE = "idle"  # margin and nothing else


@dataclass(frozen=True, slots=True)
class Member:
    """One account: sizes by market in USD of notional at the start, and where it sinks."""

    account: int
    role: Role
    notional: Mapping[int, float]
    level: float | None = None  # of the whole fall; None: beyond it


MARGIN = {Role.SAFE: 1.5, Role.TRADER: 1.5}  # of the notional at the start; others: a quarter


def storm_setup(form: Form, prices: Prices) -> Setup:
    """Return the market: windows of some blocks, and margins that sink in a fall of minutes."""
    markets = tuple(
        replace(
            market,
            price=prices[market.id],
            window_s=form.blocks_s(WINDOW_BLOCKS),
            window_multiplier=WINDOW_MULTIPLIER // form.blocks_s(WINDOW_BLOCKS) // form.window_part,
            maintenance_scalar=8 * WAD // 10,  # initial margin lies little above maintenance
        )
        for market in MARKETS
    )
    if form.oracle == "push":
        return Setup(oracle="push", settlement_delay_s=0, markets=markets)
    strict_age_s = form.blocks_s(STRICT_AGE_BLOCKS)
    return Setup(
        oracle="pull",
        strict_age_s=strict_age_s,
        node_age_s=12 * strict_age_s,
        settlement_delay_s=0,
        markets=markets,
    )


def members(seed: int) -> list[Member]:
    """Draw the accounts; the same for the same seed."""
    rng = random.Random(f"storm {seed}")  # noqa: S311 - a seeded simulation, no secret
    numbers = itertools.chain(range(1_001, 1_004), itertools.count(OFFSET + 1))
    made: list[Member] = []

    def add(role: Role, notional: Mapping[int, float], level: float | None = None) -> None:
        made.append(Member(next(numbers), role, notional, level))

    for index in range(18):
        eth, btc = rng.uniform(8_000, 40_000), rng.uniform(8_000, 40_000)
        # both long, or one short that the other outweighs
        sides = ((1.0, 1.0), (1.0, -0.35), (-0.35, 1.0))[index % 3]
        add(Role.MIXED, {ETH: eth * sides[0], BTC: btc * sides[1]}, 0.16 + 0.8 * index / 18)
    add(Role.WHALE, {ETH: 1_200_000.0}, 0.4)
    for index in range(8):
        add(Role.BEHIND, {ETH: rng.uniform(5_000, 30_000)}, 0.38 + 0.05 * index)
    for index in range(6):
        side = -1 if index % 2 else 1
        notional = {ETH: side * rng.uniform(5_000, 50_000), BTC: side * rng.uniform(5_000, 50_000)}
        add(Role.SAFE, notional)
    for _ in range(4):
        add(Role.TRADER, {ETH: rng.uniform(20_000, 60_000), BTC: -rng.uniform(20_000, 60_000)})
    add(Role.FLAGGED, {BTC: 900_000.0})
    for role, count in ((Role.BAND, 2), (Role.DEBTOR, 1), (Role.IDLE, 3)):
        for _ in range(count):
            add(role, {})
    return made


def populate(world: World, people: Sequence[Member], path: Sequence[Prices]) -> None:
    """Open all accounts at the path's first prices; flag one, drive some into debt."""
    world.set_prices(dict(path[0]))
    losers = [member for member in people if member.role in {Role.BAND, Role.DEBTOR}]
    plain = [member for member in people if member.role is Role.IDLE]
    held = [member for member in people if member.notional]
    world.create({m.account: usd(3_000) for m in losers} | {m.account: usd(2_000) for m in plain})
    world.create({m.account: usd(_gross(m) * MARGIN.get(m.role, 0.25) + 500) for m in held})
    first = [orders[0] for member in held if (orders := _orders(world, member))]
    _trade(world, [*first, *(Order(member.account, ETH, usd(9)) for member in losers)])
    second = [order for member in held for order in _orders(world, member)[1:]]
    closing = [Order(member.account, ETH, usd(-9), limit=0) for member in losers]
    _trade(world, [*second, *closing], [member.account for member in losers])
    band = [member.account for member in losers if member.role is Role.BAND]
    world.deposit({account: world.perps.call("debt", account) + usd(1) for account in band})
    _calibrate(world, [member for member in held if member.level is not None], path)
    _flag(world, [member for member in held if member.role is Role.FLAGGED])


def _gross(member: Member) -> float:
    return sum(abs(notional) for notional in member.notional.values())


def _orders(world: World, member: Member) -> list[Order]:
    return [
        Order(member.account, market, usd(notional * WAD / world.prices[market]))
        for market, notional in member.notional.items()
    ]


def _trade(world: World, orders: Sequence[Order], at_half: Collection[int] = ()) -> None:
    """Commit and settle one order an account, some at half the price, as time goes by itself.

    The chain's clock must not be moved: prices off chain go by the wall's.
    """
    world.publish()
    world.commit(orders)
    later(world)
    half = world.prices[ETH] // 2 // CENT * CENT
    world.settle([order.account for order in orders if order.account not in at_half])
    if at_half:
        world.settle(at_half, prices={ETH: half})


def later(world: World) -> None:
    """Return when a block has a later second than the head now."""
    now_s = world.chain.now_s()
    while world.chain.now_s() <= now_s:
        time.sleep(POLL_S)
        world.chain.node.rpc("evm_mine")


def _flag(world: World, people: Sequence[Member]) -> None:
    """Liquidate them at a price that nobody else is there to see; a window closes only a part."""
    before = dict(world.prices)
    world.set_prices({market: price * 7 // 10 for market, price in before.items()})
    calls = [Call(world.perps, "liquidate", (member.account,)) for member in people]
    world.bundle(calls, world.settler)
    world.set_prices(before)
    flagged = set(world.perps.call("flaggedAccounts"))
    assert flagged == {member.account for member in people}, "they are flagged, with a part open"


def _calibrate(world: World, people: Sequence[Member], path: Sequence[Prices]) -> None:
    """Withdraw what an account has more than the path takes from it down to its level."""
    lowest = min(prices[BTC] for prices in path)
    fall = path[0][BTC] - lowest
    survey = world.survey([member.account for member in people])
    change: dict[int, int] = {}
    for member in people:
        reading = survey.accounts[member.account]
        assert member.level is not None
        assert not isinstance(reading.available_margin, Refused)
        assert not isinstance(reading.maintenance, Refused)
        assert not isinstance(reading.initial, Refused)
        there = next(it for it in path if path[0][BTC] - it[BTC] >= member.level * fall)
        eaten = sum(
            size * (path[0][market] - there[market]) // WAD
            for market, size in reading.sizes.items()
        )
        spare = reading.available_margin - reading.maintenance
        locked = reading.initial - reading.maintenance  # never withdrawable
        wanted = max(int(eaten * NEAR), locked + locked // 100)
        change[member.account] = -(spare - wanted) // 10**12 * 10**12
    world.deposit(change)
