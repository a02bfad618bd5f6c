"""Make the recordings that the contract suite replays.

Those of this repository's own venues, on a fresh local chain that they are deployed to:

    python -m tests.venues.record

One of another venue, from any node that serves its chain (a fork will do), with some accounts that
are liquidatable at the newest block and some that are not:

    python -m tests.venues.record acme --rpc http://127.0.0.1:8545 --chain 10
        --set address=0x… --set feed=ETH/USD --account 17 --account 99

One of a small contract that a test deploys: ``scene(node)`` in that module does, and returns the
settings and some accounts.

    python -m tests.venues.record acme --scene tests.venues.acme
"""

import asyncio
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import aiohttp
import click
from pydantic import ValidationError

from keeper.chain.heads import head_from_json
from keeper.errors import KeeperError
from keeper.facts import AccountId, Head
from keeper.margin.model import Account, Position
from keeper.ports import Rpc
from keeper.units import WAD
from tests.curie.deploy import deploy as deploy_curie
from tests.curie.world import World as CurieWorld
from tests.curie.world import furnished as furnished_curie
from tests.market_chain import MarketChain, furnish
from tests.nodes import Anvil, running_anvil
from tests.synthetix.deploy import Setup, deploy
from tests.synthetix.scenario import ALICE, BOB, BTC, CAROL, DAVE, ETH, populated
from tests.synthetix.world import Order, World, usd
from tests.venues import isolated
from tests.venues.recording import WALLET, Recording, RecordingRpc
from tests.venues.wire import rpc_to

OWN_CHAIN = 31_337
HEADS = 5  # the newest blocks, each read whole: nodes serve those without an archive
Scene = Callable[[Anvil], tuple[dict[str, object], list[str]]]
OWN_ACCOUNTS = ("1", "2", "3", "4")


def demo_market(node: Anvil) -> MarketChain:
    chain = MarketChain(node, max_price_age_s=600, update_fee_wei=1_000)
    furnish(chain)
    long = {"0": Position(50 * WAD, 2_000 * WAD)}
    bad_debt = Account(-10_000 * WAD, {"0": WAD}, {"0": Position(40 * WAD, 2_000 * WAD)})
    chain.seed(
        [
            Account(500 * WAD, {}, long),  # under
            Account(5_000 * WAD, {"0": WAD, "1": 7 * WAD}, long),
            Account(90 * WAD, {}, {"2": Position(-200 * WAD, 149 * WAD)}),  # under
            Account(33 * WAD, {"1": WAD}, {}),
            bad_debt,
        ]
    )
    chain.send("mint_usd", chain.dev[2], WAD)
    chain.send("deposit_cash", 4, WAD, sender=chain.dev[2])
    chain.send("liquidate", 5, sender=chain.dev[2])
    return chain


def synthetix_market(node: Anvil) -> tuple[dict[str, object], list[str]]:
    """Return settings and accounts of a pull market: a whale flagged, a small one under."""
    world = populated(World(deploy(node, Setup(oracle="pull"))))
    assert world.system.pyth is not None
    world.set_prices({ETH: usd(1_780)})
    world.perps.send("liquidate", CAROL)
    world.publish()
    settings: dict[str, object] = {
        "id": "synthetix",
        "address": world.perps.address,
        "feeds": {str(ETH): "ETH/USD", str(BTC): "BTC/USD"},
        "pyth": world.system.pyth.address,
    }
    return settings, [str(number) for number in (ALICE, BOB, CAROL, DAVE)]


def synthetix_orders(node: Anvil) -> tuple[dict[str, object], list[str]]:
    """Return settings and accounts of a push market: one order waits to be settled."""
    world = populated(World(deploy(node, Setup(oracle="push", settlement_reward=usd(1)))))
    world.commit([Order(BOB, ETH, usd(1))])
    world.chain.pass_time(world.system.setup.settlement_delay_s)
    world.publish()
    settings: dict[str, object] = {
        "id": "orders",
        "address": world.perps.address,
        "feeds": {str(ETH): "ETH/USD", str(BTC): "BTC/USD"},
    }
    return settings, [str(number) for number in (ALICE, BOB)]


def curie(node: Anvil) -> tuple[dict[str, object], list[str]]:
    """Return settings and accounts: takers and a maker, some of them under."""
    world = furnished_curie(CurieWorld(deploy_curie(node)))
    names = ["alice", "bob", "dave", "erin"]
    for name, margin in zip(names, (1_000, 5_000, 1, 950), strict=True):
        world.deposit(name, margin)
    world.deposit_weth("dave", 1.5)
    for name, worth in (("alice", 9_000), ("bob", 9_000), ("dave", 12_000)):
        world.trade(name, "ETH", worth)
    world.trade("bob", "BTC", -3_000)
    world.provide("erin", "ETH", (0, 9_000), (1_900, 1_990))
    world.move("ETH", 1_850)
    world.deposit("keeper", 20_000)
    alice, base = world.person("alice"), world.market("ETH").base.address
    house = world.curie.house
    house.send("liquidate", alice, base, 0, sender=world.person("keeper"), gas=5_000_000)
    return {"id": "curie", **world.curie.settings}, [world.person(name) for name in names]


def curie_collateral(node: Anvil) -> tuple[dict[str, object], list[str]]:
    """Return settings and accounts margined in WETH: one under, one not; of one some was bought."""
    world = furnished_curie(CurieWorld(deploy_curie(node)))
    for name, worth in (("dave", 18_000), ("gail", 18_000), ("hugh", 9_000)):
        world.deposit_weth(name, 1.5)
        world.trade(name, "ETH", worth)
    world.move("ETH", 1_850)
    keeper = world.deposit("keeper", 1_000)
    world.curie.usdc.send("mint", keeper, 10**9)
    bought = world.person("gail"), world.curie.weth.address, 10**8, True
    world.curie.vault.send("liquidateCollateral", *bought, sender=keeper)
    names = [world.person(name) for name in ("dave", "gail", "hugh")]
    return {"id": "collateral", **world.curie.settings}, names


async def record(
    kind: str,
    url: str,
    chain_id: int,
    settings: Mapping[str, object],
    accounts: Sequence[str],
    blocks: int,
) -> Recording:
    """Read a venue at its newest blocks and keep what it asked, was answered, and logged.

    Every account's liquidation is simulated on the newest.
    """
    module = importlib.import_module(f"keeper.venues.{kind}")
    ids = [AccountId(account) for account in accounts]
    async with aiohttp.ClientSession() as session:
        rpc = rpc_to(session, url, chain_id)
        recorder = RecordingRpc(rpc)
        given = module.Settings(**settings)
        newest = int(await rpc.call("eth_blockNumber"), 16)
        heads = [await _head(rpc, number) for number in range(newest - HEADS + 1, newest + 1)]
        for head in heads:
            venue = module.build(
                given, recorder, chain_id
            )  # a new one: some remember what they read
            market = await venue.read_market(head)
            states = await venue.read_accounts(ids, head)
        for state in states:
            verdict = venue.assess(state, market, {}, head.timestamp_s)
            await venue.simulate(verdict, WALLET, head)
        first = max(0, newest - blocks)
        query = {"address": venue.addresses(), "fromBlock": hex(first), "toBlock": "latest"}
        logs = await rpc.call("eth_getLogs", [query])
    one_of_each = {log.topics[0]: log for log in logs if log.topics}
    kept = [one_of_each[topic] for topic in sorted(one_of_each)]
    story = [log for log in logs if log.block_number > heads[0].number]
    answers, done = recorder.answers, recorder.executions
    found = Recording(dict(settings), chain_id, head, ids, answers, kept, heads, story, done)
    found.save(kind)
    return found


async def _head(rpc: Rpc, number: int) -> Head:
    found = head_from_json(await rpc.call("eth_getBlockByNumber", [hex(number), False]), 0)
    return replace(found, seen_ms=found.timestamp_s * 1_000)


async def record_scene(kind: str, scene: Scene) -> Recording:
    """Record what a scene leaves on a fresh local chain."""
    with running_anvil("--timestamp", "1767225600") as node:
        settings, accounts = scene(node)
        given = {"id": kind.strip("_")} | settings
        return await record(kind, node.url, OWN_CHAIN, given, accounts, blocks=10_000)


async def record_own() -> None:
    """Record the venues of this repository."""
    await record_scene("_template", isolated.scene)

    with running_anvil("--timestamp", "1767225600") as node:

        async def own(
            kind: str, settings: Mapping[str, object], accounts: Sequence[str] = OWN_ACCOUNTS
        ) -> None:
            await record(kind, node.url, OWN_CHAIN, settings, accounts, blocks=10_000)

        market = demo_market(node)
        await own("demo_market", {"id": "demo", "address": market.address})
        synthetix, numbers = synthetix_market(node)
        await own("synthetix_v3", synthetix, numbers)
        orders, numbers = synthetix_orders(node)
        await own("synthetix_v3_orders", orders, numbers)
        await own("perp_curie", *curie(node))
        await own("perp_curie_collateral", *curie_collateral(node))


def setting(text: str) -> tuple[str, object]:
    """Split ``key=value``; a value that is JSON is taken as that."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


@click.command(
    help=(__doc__ or "").replace("\n    python", "\n\b\n    python"),  # \b: keep these lines
    context_settings={"max_content_width": 100},
)
@click.argument("kind", required=False)
@click.option("--scene", help="Module whose scene(node) deploys the contract on a local chain.")
@click.option("--rpc", "url", help="JSON-RPC URL of a node; it does not go into the recording.")
@click.option("--chain", "chain_id", type=int, default=OWN_CHAIN, help="Chain id of the node.")
@click.option("--set", "settings", multiple=True, help="key=value of the venue's Settings.")
@click.option("--account", "accounts", multiple=True, help="Account to read; give several.")
@click.option("--blocks", type=int, default=5_000, help="How far back to look for logs.")
def main(  # noqa: PLR0913, PLR0917 - one parameter an option
    kind: str | None,
    scene: str | None,
    url: str | None,
    chain_id: int,
    settings: Sequence[str],
    accounts: Sequence[str],
    blocks: int,
) -> None:
    if kind is None:
        asyncio.run(record_own())
        return
    if importlib.util.find_spec(f"keeper.venues.{kind}") is None:
        msg = f"there is no keeper/venues/{kind}.py"
        raise click.UsageError(msg)
    try:
        if scene is not None:
            found = asyncio.run(record_scene(kind, importlib.import_module(scene).scene))
        elif url is not None and accounts:
            given = {"id": kind} | dict(map(setting, settings))
            found = asyncio.run(record(kind, url, chain_id, given, accounts, blocks))
        else:
            msg = "name a --scene, or a node with --rpc and some accounts with --account"
            raise click.UsageError(msg)
    except (KeeperError, ValidationError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"recorded {kind} at block {found.head.number}: {len(found.accounts)} accounts, "
        f"{len(found.logs)} kinds of logs; now run pytest tests/venues/test_contract.py -k {kind}"
    )


if __name__ == "__main__":
    main()
