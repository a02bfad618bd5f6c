"""Puts the market on the chain: contract, parameters, accounts, the keeper's wallet."""

import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from keeper.demo import artifact
from keeper.demo.contract import Market
from keeper.demo.jsonrpc import NodeRpc
from keeper.demo.population import SeedAccount
from keeper.demo.terms import (
    ASSETS,
    FEEDS,
    MARKETS,
    MAX_PRICE_AGE_S,
    RESERVE,
    UPDATE_FEE_WEI,
    WHOLE_BELOW,
    abi_tiers,
)
from keeper.demo.traders import WALLET_USD, Holder

SEEDS_PER_CALL = 25  # the contract's limit
DEPLOY_GAS = 30_000_000
SEEDS_GAS = 8_000_000  # of such a call, with some to spare: what is asked for counts in a block
GAS_PRICE_WEI = 10**11  # full blocks raise the node's own
POOL_MAX = 200  # transactions that are waited for before there are more: they fit into a block
_MARKET_SLOTS, _ASSET_SLOTS = 8, 4


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the market is, and who trades in it."""

    market: Market
    address: str  # lower case, as the node spells it in logs
    block: int
    chain_id: int
    holders: tuple[Holder, ...]


class _Owner:
    """Sends the owner's transactions without waiting for a block each; all must succeed."""

    def __init__(self, rpc: NodeRpc, address: str) -> None:
        self._rpc = rpc
        self._address = address
        self._hashes: list[str] = []

    async def send(self, to: str | None, data: str, gas: int = DEPLOY_GAS) -> None:
        price = {"gas": hex(gas), "gasPrice": hex(GAS_PRICE_WEI)}
        call = {"from": self._address, "data": data, **price}
        nonce = hex(len(self._hashes))
        tx = {**call, "nonce": nonce} | ({"to": to} if to else {})
        self._hashes.append(await self._rpc.call("eth_sendTransaction", tx))
        if len(self._hashes) % POOL_MAX == 0:
            await self._rpc.call("evm_mine")

    async def included(self) -> list[dict[str, Any]]:
        return [await self._rpc.receipt(tx_hash) for tx_hash in self._hashes]


async def deploy(
    rpc: NodeRpc, signer: str, population: Sequence[SeedAccount], seed: int
) -> Deployment:
    """Deploy and fill the market; account i of the population gets the id i + 1."""
    compiled = artifact.load()
    market = Market(compiled.abi)
    wallets = await rpc.call("eth_accounts")
    chain_id = int(await rpc.call("eth_chainId"), 16)
    owner = _Owner(rpc, wallets[0])
    rules = (signer, MAX_PRICE_AGE_S, UPDATE_FEE_WEI)
    await owner.send(None, market.creation(compiled.bytecode, *rules))
    address = (await owner.included())[0]["contractAddress"]
    for data in _parameters(market):
        await owner.send(address, data)
    owners = _owners(population, wallets[1:], seed)
    for at in range(0, len(population), SEEDS_PER_CALL):
        part = slice(at, at + SEEDS_PER_CALL)
        seeds = [*map(_seed, owners[part], population[part])]
        await owner.send(address, market.data_of_structs("seed_accounts", seeds), SEEDS_GAS)
    for wallet in wallets[1:]:
        await owner.send(address, market.data("mint_usd", wallet, WALLET_USD))
    receipts = await owner.included()
    holders = tuple(_holders(owners, population))
    return Deployment(market, address, int(receipts[0]["blockNumber"], 16), chain_id, holders)


def _parameters(market: Market) -> list[str]:
    feeds = [market.data("add_feed", name) for name in FEEDS]
    markets = [
        market.data(
            "add_market",
            spec.name,
            spec.feed,
            abi_tiers(spec.tiers),
            spec.funding_rate_max,
            spec.skew_scale,
        )
        for spec in MARKETS
    ]
    assets = [
        market.data("add_asset", spec.name, spec.feed, abi_tiers(spec.haircuts)) for spec in ASSETS
    ]
    reserve = market.data("set_reserve", *astuple(RESERVE))
    return [*feeds, *markets, *assets, reserve, market.data("set_whole_below", WHOLE_BELOW)]


def _owners(population: Sequence[SeedAccount], wallets: Sequence[str], seed: int) -> list[str]:
    rng = random.Random(f"owners {seed}")  # noqa: S311 - addresses nobody has a key of
    return [
        wallets[index % len(wallets)] if one.trader else "0x" + rng.randbytes(20).hex()
        for index, one in enumerate(population)
    ]


def _seed(owner: str, one: SeedAccount) -> list[int]:
    """Return the words of the contract's SeedAccount."""
    collateral = [one.account.collateral.get(spec.name, 0) for spec in ASSETS]
    words = [int(owner, 16), one.account.cash, *collateral]
    words += [0] * (_ASSET_SLOTS - len(ASSETS))
    for spec in MARKETS:
        position = one.account.positions.get(spec.name)
        words += (position.size, position.entry_price) if position else (0, 0)
    return words + [0, 0] * (_MARKET_SLOTS - len(MARKETS))


def _holders(owners: Sequence[str], population: Sequence[SeedAccount]) -> list[Holder]:
    index_of = {spec.name: index for index, spec in enumerate(MARKETS)}
    return [
        Holder(number, owner, {index_of[k]: v.size for k, v in one.account.positions.items()})
        for number, (owner, one) in enumerate(zip(owners, population, strict=True), start=1)
        if one.trader
    ]
