"""Several wallets of one keeper side by side, through a ``kill -9`` and a restart."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from coincurve import PrivateKey

from keeper.demo.contract import address_of
from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import Options, Rig, opened
from tests.nodes import running_anvil

ETHER = 10**18
ACCOUNTS = 9
SENT_S_MAX = 20.0
SETTLED_S_MAX = 30.0


@pytest.fixture(scope="module")
def manual_rig(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[Rig]:
    with running_anvil() as node, opened(tmp_path_factory.mktemp("lanes"), node, broker) as rig:
        yield rig


def wallets(rig: Rig, folder: Path) -> tuple[str, list[str]]:
    """Make three funded wallets; return the lines of their tables, and the addresses."""
    lines, addresses = [], []
    for number in range(3):
        key, file = PrivateKey(), folder / f"{number}.key"
        file.touch(mode=0o600)
        file.write_text(f"0x{key.secret.hex()}\n")
        rig.node.rpc("anvil_setBalance", address_of(key), hex(10 * ETHER))
        lines.append(f'name = "w{number}"\nkey = {{ file = "{file}" }}')
        addresses.append(address_of(key))
    return "\n[[wallets]]\n".join(lines), addresses


def test_each_account_once_each_nonce_once_and_the_money_to_the_wei(
    manual_rig: Rig, tmp_path: Path
) -> None:
    rig = manual_rig
    rig.oracle.set(0, 2_000 * WAD)
    rig.chain.set_prices(rig.oracle.prices)
    accounts = [rig.open_safe() for _ in range(ACCOUNTS)]
    tables, addresses = wallets(rig, tmp_path)

    def pending() -> int:
        return sum(rig.nonce(address, "pending") for address in addresses)

    with rig.keeper(Options(ws=None, key=tables)) as keeper:
        keeper.until_ready()
        rig.node.rpc("evm_setAutomine", False)  # noqa: FBT003
        try:
            rig.oracle.set(0, 1_900 * WAD)
            keeper.until(lambda: pending() == ACCOUNTS, SENT_S_MAX)
            keeper.kill()
            keeper.start()
            keeper.until_ready()

            def settled() -> bool:
                rig.node.rpc("evm_mine")
                return keeper.metric("keeper_attempts_total", outcome="won") == ACCOUNTS

            keeper.until(settled, SETTLED_S_MAX)
            keeper.stop()
        finally:
            rig.node.rpc("evm_setAutomine", True)  # noqa: FBT003

    assert Counter(one["account"] for one in rig.liquidations()) == Counter(accounts)
    attempts = keeper.journal()
    assert {attempt.outcome for attempt in attempts} == {"won"}
    counts = [rig.nonce(address) for address in addresses]
    assert sum(counts) == ACCOUNTS
    assert min(counts) >= 1, "all of them send"
    assert sorted(attempt.nonce for attempt in attempts) == sorted(
        nonce for count in counts for nonce in range(count)
    )
    left = sum(int(rig.node.rpc("eth_getBalance", one, "latest"), 16) for one in addresses)
    assert sum(attempt.cost_wei for attempt in attempts) == 30 * ETHER - left
    assert sum(attempt.reward_wad for attempt in attempts) == sum(map(rig.usd, addresses))
