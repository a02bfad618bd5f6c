"""The venue on a deployed market, as the keeper's loops use it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from keeper.chain.rpc import log_from_json
from keeper.facts import AccountId, Assessment, Head, Log, Refused, Simulated
from keeper.ports import Rpc
from keeper.venues._perp_curie_markets import CurieMarkets
from keeper.venues.perp_curie import CurieAccount, PerpCurie, Settings, build
from tests.curie.world import World
from tests.venues.wire import head_of


class Read(NamedTuple):
    """Everything read at one head, accounts by name."""

    head: Head
    market: CurieMarkets
    accounts: Mapping[str, CurieAccount]


def venue_of(world: World, rpc: Rpc, **settings: object) -> PerpCurie:
    return build(Settings(id="curie", **{**world.curie.settings, **settings}), rpc, 31_337)  # type: ignore[arg-type]


async def read(venue: PerpCurie, world: World, names: Iterable[str]) -> Read:
    """Read a market and accounts at one head, as two loops would."""
    head, people = head_of(world.chain.node), list(names)
    market = await venue.read_market(head)
    ids = [AccountId(world.person(name)) for name in people]
    states = await venue.read_accounts(ids, head)
    return Read(head, market, dict(zip(people, states, strict=True)))


def assess(venue: PerpCurie, found: Read, name: str) -> Assessment:
    return venue.assess(found.accounts[name], found.market, {}, found.head.timestamp_s)


async def judged(venue: PerpCurie, world: World, name: str) -> Assessment:
    return assess(venue, await read(venue, world, [name]), name)


async def simulate(venue: PerpCurie, world: World, assessment: Assessment) -> Simulated | Refused:
    keeper = world.person("keeper")
    return await venue.simulate(assessment, keeper, head_of(world.chain.node))


def send(world: World, simulated: Simulated) -> dict[str, Any]:
    """Send the first step of what was simulated from the keeper's wallet."""
    call, wallet = simulated.call, world.person("keeper")
    sent = world.chain.broadcast(
        wallet, call.to, "0x" + call.data.hex(), gas=simulated.gas * 3 // 2
    )
    receipt = world.chain.receipts([sent])[0]
    assert receipt["status"] == "0x1", world.chain.revert_data(sent)
    return receipt


def logs_of(receipt: Mapping[str, Any]) -> list[Log]:
    return [log_from_json(raw) for raw in receipt["logs"]]
