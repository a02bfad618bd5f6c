"""What the chain and the journal must agree on, whatever happened."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from keeper.chain.journal_read import Wanted, find, reading
from keeper.demo.contract import address_of
from tests.e2e.rig import ETHER, KeeperProcess, Rig

FUNDS_WEI = 10 * ETHER


@dataclass(frozen=True, slots=True)
class Wallets:
    """Keys of a keeper. ``tables``: for ``Options.key``."""

    tables: str
    addresses: Sequence[str]


def make_wallets(rig: Rig, folder: Path, count: int) -> Wallets:
    """Make funded wallets."""
    lines, addresses = [], []
    for number in range(count):
        key, file = PrivateKey(), folder / f"{number}.key"
        file.touch(mode=0o600)
        file.write_text(f"0x{key.secret.hex()}\n")
        rig.node.rpc("anvil_setBalance", address_of(key), hex(FUNDS_WEI))
        lines.append(f'name = "w{number}"\nkey = {{ file = "{file}" }}')
        addresses.append(address_of(key))
    for _ in range(2):  # else a reorg of the next block takes the funds away too
        rig.node.rpc("evm_mine")
    return Wallets("\n[[wallets]]\n".join(lines), addresses)


def journal_of(keeper: KeeperProcess) -> Path:
    """Return where its journal is."""
    return keeper.config.parent / "state" / "journal.sqlite"


def attempts(keeper: KeeperProcess) -> list[dict[str, Any]]:
    """Read the journal's attempts, oldest first; the keeper may run."""
    with reading(journal_of(keeper)) as db:
        return list(find(db, Wanted()))


def all_settled(keeper: KeeperProcess) -> bool:
    return all(row["outcome"] != "open" for row in attempts(keeper))


def assert_right(
    rig: Rig,
    keeper: KeeperProcess,
    wallets: Sequence[str],
    accounts: Sequence[int],
    *,
    may_lose: bool = False,
) -> None:
    """Each account once, each nonce once, and the money to the wei."""
    rows = attempts(keeper)
    usual = {"won", "cancelled", "done", "dropped"} | ({"lost"} if may_lose else set())
    assert {row["outcome"] for row in rows} <= usual
    liquidated = Counter(one["account"] for one in rig.liquidations())
    assert liquidated == Counter(accounts), "each once, and no other"
    won = Counter(row["account"] for row in rows if row["outcome"] == "won")
    assert won == Counter(map(str, accounts))
    for wallet in wallets:
        used = [
            row["nonce"]
            for row in rows
            if row["wallet"].lower() == wallet.lower() and row["outcome"] != "dropped"
        ]
        assert sorted(used) == list(range(rig.nonce(wallet))), "no gap and no double"
        assert rig.nonce(wallet, "pending") == rig.nonce(wallet), "nothing waits"
    left_wei = sum(int(rig.node.rpc("eth_getBalance", one, "latest"), 16) for one in wallets)
    assert sum(int(row["cost_wei"]) for row in rows) == len(wallets) * FUNDS_WEI - left_wei
    assert sum(int(row["reward_wad"]) for row in rows) == sum(map(rig.usd, wallets)) > 0
