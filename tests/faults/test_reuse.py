"""Somebody else was faster while ours waits: its nonce goes to the next best account."""

from pathlib import Path

from tests.brokers import Broker
from tests.e2e.rig import Options
from tests.e2e.test_contested import outbid
from tests.faults.books import FUNDS_WEI, all_settled, attempts
from tests.faults.world import DEAR_WEI, LIMIT_S, opened_world

ONE_AT_A_TIME = Options(venue="[gate]\nopen_attempts_max = 1")


def test_the_next_best_account_is_liquidated_with_the_same_nonce(
    tmp_path: Path, broker: Broker
) -> None:
    with opened_world(tmp_path, broker, ONE_AT_A_TIME, wallets=1) as world:
        rig, keeper, (wallet,) = world.rig, world.keeper, world.wallets.addresses
        world.open_safe(2)
        world.sink()
        keeper.until(lambda: world.waiting == 1, LIMIT_S)
        keeper.until(
            lambda: keeper.metric("keeper_held_total", reason="open_attempts") > 0, LIMIT_S
        )
        first = int(attempts(keeper)[0]["account"])
        (other,) = set(world.accounts) - {first}
        outbid(rig, first)
        world.mine(DEAR_WEI)
        assert rig.liquidated(first)
        assert rig.nonce(wallet) == 0, "ours bids too little for that block"

        def over() -> bool:
            world.mine()
            return rig.liquidated(other) and all_settled(keeper)

        keeper.until(over, LIMIT_S)
        keeper.stop()
        rows = {int(row.account): row for row in keeper.journal()}
        assert (rows[first].outcome, rows[first].cost_wei) == ("cancelled", 0)
        assert rows[first].detail == "its nonce went to another account"
        assert rows[other].outcome == "won"
        assert rows[first].nonce == rows[other].nonce == 0
        assert rig.nonce(wallet, "pending") == 1
        left_wei = int(rig.node.rpc("eth_getBalance", wallet, "latest"), 16)
        assert rows[other].cost_wei == FUNDS_WEI - left_wei
        assert rows[other].reward_wad == rig.usd(wallet) > 0
