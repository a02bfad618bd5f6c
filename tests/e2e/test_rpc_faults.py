"""An RPC endpoint that fails in every way for a while, in front of a running keeper."""

from collections.abc import Iterator

import pytest

from tests.e2e.proxy import OTHER_CHAIN, Fault, Proxy, running_proxy
from tests.e2e.rig import KeeperProcess, Options, Rig
from tests.nodes import Anvil

NOTICED_S_MAX = 15.0
RECOVERED_S_MAX = 30.0
HEAD_AGE_MS_MAX = 1_000

# what each is counted as, and what /readyz says of it
FAULTS = {
    Fault.GARBAGE: ("garbage", "garbage"),
    Fault.OTHER_IDS: ("garbage", "ids do not match"),
    Fault.RATE_LIMIT: ("rate_limited", "429"),
    Fault.BROKEN: ("unreachable", "500"),
    Fault.SILENT: ("unreachable", "unreachable"),
    Fault.WRONG_CHAIN: ("wrong_chain", f"serves chain {OTHER_CHAIN}"),
}


@pytest.fixture(scope="module")
def proxy(node: Anvil) -> Iterator[Proxy]:
    with running_proxy(node.port) as running:
        yield running


@pytest.fixture
def keeper(rig: Rig, proxy: Proxy) -> Iterator[KeeperProcess]:
    proxy.mend()
    with rig.keeper(Options(http=proxy.url, head_age_ms_max=HEAD_AGE_MS_MAX)) as running:
        running.until_ready()
        yield running
        proxy.mend()


def requests(keeper: KeeperProcess, result: str) -> float:
    return keeper.metric("keeper_rpc_requests_total", result=result)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.lower())
def test_the_keeper_counts_it_names_it_and_recovers_by_itself(
    rig: Rig, proxy: Proxy, keeper: KeeperProcess, fault: Fault
) -> None:
    result, said = FAULTS[fault]
    assert requests(keeper, result) == 0

    proxy.break_with(fault)
    account = rig.open_under()

    keeper.until(lambda: requests(keeper, result) >= 3, NOTICED_S_MAX)
    keeper.until(lambda: any(said in reason for reason in keeper.unready()), NOTICED_S_MAX)
    assert keeper.healthy
    assert rig.nonce(keeper.wallet, "pending") == 0

    proxy.mend()

    keeper.until(lambda: rig.liquidated(account), RECOVERED_S_MAX)
    keeper.until(lambda: keeper.metric("keeper_attempts_total", outcome="won") == 1, NOTICED_S_MAX)
    keeper.until_ready()
    assert keeper.healthy
    keeper.stop()
    assert [row.outcome for row in keeper.journal()] == ["won"]


def test_well_formed_nonsense_is_survived(rig: Rig, proxy: Proxy, keeper: KeeperProcess) -> None:
    before = requests(keeper, "ok") + requests(keeper, "garbage")
    proxy.break_with(Fault.NONSENSE)
    account = rig.open_under()

    def noticed() -> bool:
        return requests(keeper, "ok") + requests(keeper, "garbage") > before + 20

    keeper.until(noticed, NOTICED_S_MAX)
    keeper.until(lambda: bool(keeper.unready()), NOTICED_S_MAX)
    assert keeper.healthy
    assert rig.nonce(keeper.wallet, "pending") == 0

    proxy.mend()

    keeper.until(lambda: rig.liquidated(account), RECOVERED_S_MAX)
    keeper.stop()


def test_nothing_is_sent_to_another_chain_from_the_start(rig: Rig, proxy: Proxy) -> None:
    account = rig.open_under()
    proxy.mend()
    proxy.sent.clear()
    proxy.break_with(Fault.WRONG_CHAIN)
    with rig.keeper(Options(http=proxy.url)) as keeper:
        wanted = f"serves chain {OTHER_CHAIN}, config says chain.id = {rig.chain.chain_id}"
        keeper.until(lambda: any(wanted in reason for reason in keeper.unready()), NOTICED_S_MAX)
        assert keeper.healthy
        assert requests(keeper, "wrong_chain") > 0
        assert requests(keeper, "ok") == 0
        assert proxy.sent == []

        proxy.mend()

        keeper.until(lambda: rig.liquidated(account), RECOVERED_S_MAX)
        assert len(proxy.sent) == 1
        keeper.stop()
