"""Two keepers of one wallet on a lease in a NATS cluster: one sends, whatever happens to it."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client

from keeper.units import WAD
from tests.brokers import Broker
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.lease.cluster import TOKEN, Cluster, Server, running_cluster
from tests.nodes import running_anvil

TTL_S, RENEW_S = 6, 1
TAKEN_S_MAX = 60.0  # patience of the test; what it took is printed
LEASE = """
[lease]
kind = "nats"
name = "{name}"
servers = {servers}
token = {{ file = "{token}" }}
ttl_s = {ttl_s}
renew_s = {renew_s}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[Rig]:
    with running_anvil() as node, opened(tmp_path_factory.mktemp("pair"), node, broker) as rig:
        yield rig


@contextlib.contextmanager
def pair(rig: Rig, cluster: Cluster, folder: Path) -> Iterator[tuple[KeeperProcess, KeeperProcess]]:
    """Run a leader and its standby, both ready."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    lease = LEASE.format(
        name=f"l{time.monotonic_ns()}",
        servers=json.dumps(cluster.urls),
        token=token,
        ttl_s=TTL_S,
        renew_s=RENEW_S,
    )
    with rig.keeper(Options(venue=lease)) as one:
        one.until(lambda: leads(one), TAKEN_S_MAX)
        one.until_ready()
        same = f'key = {{ file = "{one.config.parent / "wallet.key"}" }}'
        with rig.keeper(Options(venue=lease, key=same)) as two:
            two.until(lambda: json.loads(two.get("/readyz")[1] or "{}").get("status") == "standby",
                      TAKEN_S_MAX)  # fmt: skip
            yield one, two


def leads(keeper: KeeperProcess) -> bool:
    return keeper.metric("keeper_lease_held") == 1


def took_over(keeper: KeeperProcess, since: float, what: str) -> None:
    keeper.until(lambda: leads(keeper), TAKEN_S_MAX)
    print(f"{what}: {time.monotonic() - since:.1f} s (ttl {TTL_S} s, renew {RENEW_S} s)")  # noqa: T201


def fall(rig: Rig) -> None:
    rig.oracle.set(0, 1_900 * WAD)


def rise(rig: Rig) -> None:
    rig.oracle.set(0, 2_000 * WAD)
    rig.chain.set_prices(rig.oracle.prices)


def by_wallet(rig: Rig, wallet: str, before: int) -> list[int]:
    """Return whom the newest liquidations were of; every transaction of the wallet was one."""
    found = [int(one["account"]) for one in rig.liquidations()[before:]]
    assert rig.nonce(wallet) == len(found), "a transaction that was no liquidation"
    return found


def test_a_standby_takes_over_from_a_dead_leader_and_nobody_is_liquidated_twice(
    rig: Rig, cluster: Cluster, tmp_path: Path
) -> None:
    rise(rig)
    accounts = [rig.open_safe() for _ in range(4)]
    before = len(rig.liquidations())
    with pair(rig, cluster, tmp_path) as (one, two):
        wallet = one.wallet
        rig.node.rpc("evm_setAutomine", False)  # noqa: FBT003 - JSON-RPC
        try:
            fall(rig)
            one.until(lambda: rig.nonce(wallet, "pending") == len(accounts), TAKEN_S_MAX)
            one.kill()
            took_over(two, time.monotonic(), "SIGKILL of the leader")
            two.run.said("in flight, and not ours", TAKEN_S_MAX)
            assert rig.nonce(wallet, "pending") == len(accounts), "it has sent nothing yet"
            rig.node.rpc("evm_mine")
        finally:
            rig.node.rpc("evm_setAutomine", True)  # noqa: FBT003 - JSON-RPC
        accounts.append(rig.open_under())
        two.until(lambda: rig.liquidated(accounts[-1]), TAKEN_S_MAX)
        assert sorted(by_wallet(rig, wallet, before)) == sorted(accounts)
        won = "/api/v1/attempts?outcome=won"
        two.until(lambda: json.loads(two.get(won)[1])["total"] == 1, TAKEN_S_MAX)
        two.stop()
        (attempt,) = two.journal()
        assert (attempt.outcome, attempt.account) == ("won", str(accounts[-1]))


def test_a_leader_that_stood_still_sends_nothing_when_it_goes_on(
    rig: Rig, cluster: Cluster, tmp_path: Path
) -> None:
    rise(rig)
    before = len(rig.liquidations())
    with pair(rig, cluster, tmp_path) as (one, two):
        wallet = one.wallet
        one.run.signal(signal.SIGSTOP)
        account = rig.open_under()
        took_over(two, time.monotonic(), "SIGSTOP of the leader")
        two.until(lambda: rig.liquidated(account), TAKEN_S_MAX)
        other = rig.open_under()
        one.run.signal(signal.SIGCONT)
        one.run.said("lease lost: this keeper sends nothing", TAKEN_S_MAX)
        two.until(lambda: rig.liquidated(other), TAKEN_S_MAX)
        assert not leads(one)
        assert sorted(by_wallet(rig, wallet, before)) == [account, other]
        since = time.monotonic()
        two.stop()
        took_over(one, since, "SIGTERM of the leader")
        one.stop()
        assert one.journal() == [], "it has signed nothing"
        assert {each.account for each in two.journal()} == {str(account), str(other)}


def test_the_lease_outlives_the_server_that_kept_it(
    rig: Rig, cluster: Cluster, tmp_path: Path
) -> None:
    rise(rig)
    before = len(rig.liquidations())
    with pair(rig, cluster, tmp_path) as (one, two):
        wallet = one.wallet
        asyncio.run(keeper_of_the_bucket(cluster)).kill()
        since = time.monotonic()
        accounts = [rig.open_under()]
        one.until(lambda: rig.liquidated(accounts[0]), TAKEN_S_MAX)
        # longer than what was renewed before can last
        one.until(lambda: time.monotonic() > since + TTL_S + RENEW_S, TAKEN_S_MAX)
        one.until(lambda: leads(one) != leads(two), TAKEN_S_MAX)
        changes = [each.metric("keeper_lease_changes_total") for each in (one, two)]
        said = f"leads after {time.monotonic() - since:.1f} s, changes {changes}"
        print(f"SIGKILL of the bucket's server: one {said}")  # noqa: T201
        accounts.append(rig.open_under())
        one.until(lambda: rig.liquidated(accounts[1]), TAKEN_S_MAX)
        assert sorted(by_wallet(rig, wallet, before)) == sorted(accounts)


async def keeper_of_the_bucket(cluster: Cluster) -> Server:
    client = Client()
    await client.connect(cluster.urls, token=TOKEN)
    info = await client.jetstream().stream_info("KV_keeper")
    await client.close()
    assert info.cluster is not None
    return cluster.named(str(info.cluster.leader))
