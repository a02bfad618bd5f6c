"""Record this repository's venues on a fresh local chain: ``python -m tests.venues.record``."""

import asyncio
import importlib

from keeper.facts import AccountId
from keeper.margin.model import Account, Position
from keeper.units import WAD
from tests.contracts import Contract
from tests.market_chain import MarketChain, furnish
from tests.nodes import Anvil, running_anvil
from tests.venues.isolated import IsolatedMarket
from tests.venues.recording import Recording, RecordingRpc
from tests.venues.wire import connected, head_of, logs_since


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


def isolated_market(node: Anvil) -> IsolatedMarket:
    market = IsolatedMarket(node)
    market.set_price(100 * WAD)
    for number, cash in ((1, 60), (2, 20), (3, 1), (4, 0)):
        size = 10 * WAD if number < 4 else 0
        market.set_position(number, size, 100 * WAD, cash * WAD)
    market.send("liquidate", 3)
    return market


async def record(kind: str, contract: Contract, settings: dict[str, str]) -> None:
    module = importlib.import_module(f"keeper.venues.{kind}")
    head = head_of(contract.node)
    accounts = [AccountId(str(number)) for number in range(1, 5)]
    async with connected(contract.node) as rpc:
        recorder = RecordingRpc(rpc)
        venue = module.build(module.Settings(**settings), recorder, contract.chain_id)
        await venue.read_market(head)
        await venue.read_accounts(accounts, head)
    kinds = {log.topics[0]: log for log in logs_since(contract, 0)}
    logs = [kinds[topic] for topic in sorted(kinds)]
    Recording(settings, contract.chain_id, head, accounts, recorder.answers, logs).save(kind)


async def main() -> None:
    with running_anvil("--timestamp", "1767225600") as node:
        market = demo_market(node)
        await record("demo_market", market, {"id": "demo", "address": market.address})
        isolated = isolated_market(node)
        settings = {"id": "template", "address": isolated.address, "feed": "ETH/USD"}
        await record("_template", isolated, settings)


if __name__ == "__main__":
    asyncio.run(main())
