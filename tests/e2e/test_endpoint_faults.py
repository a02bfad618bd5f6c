"""Several endpoints of which some fail, in every way, in front of a running keeper.

| fault | one of three has it | all have it |
|---|---|---|
| refused | another one is used | nothing is sent, it is told, and done later |
| reset in mid-answer, HTML, HTTP 500, no answer, 429 with Retry-After | the same | the same |
| wrong chain | the same | the same |
| stale head | it is asked last | – (nobody can know) |
| lying nonce | it is outvoted | – (nobody can know) |
"""

from collections.abc import Iterator

import pytest

from tests.e2e.proxy import Fault, Proxy, running_proxy
from tests.e2e.rig import KeeperProcess, Options, Rig
from tests.nodes import Anvil, free_port

LIMIT_S = 30.0
STATES = {
    Fault.GARBAGE: "down",
    Fault.RESET: "down",
    Fault.BROKEN: "down",
    Fault.SILENT: "down",
    Fault.PAUSE: "limited",
    Fault.WRONG_CHAIN: "wrong_chain",
    Fault.STALE: "stale",
}
PASSED_ON = (Fault.STALE, Fault.LYING_NONCE)  # what a keeper with one endpoint cannot know


@pytest.fixture(scope="module")
def proxies(node: Anvil) -> Iterator[tuple[Proxy, Proxy, Proxy]]:
    with (
        running_proxy(node.port) as one,
        running_proxy(node.port) as two,
        running_proxy(node.port) as three,
    ):
        yield one, two, three


@pytest.fixture(scope="module")
def running(rig: Rig, proxies: tuple[Proxy, ...]) -> Iterator[KeeperProcess]:
    """One keeper goes through all that follows."""
    options = Options(http=[proxy.url for proxy in proxies], head_age_ms_max=2_000)
    with rig.keeper(options) as keeper:
        keeper.until_ready()
        yield keeper
        wins = won(keeper)
        keeper.stop()
        assert [row.outcome for row in keeper.journal()] == ["won"] * int(wins)


@pytest.fixture
def keeper(running: KeeperProcess, proxies: tuple[Proxy, ...]) -> Iterator[KeeperProcess]:
    yield running
    for proxy in proxies:
        proxy.mend()
    running.until(lambda: all(state(running, number, "healthy") for number in range(3)), LIMIT_S)
    running.until_ready()


def state(keeper: KeeperProcess, number: int, wanted: str) -> bool:
    label = f"http{number}:127.0.0.1"
    return keeper.metric("keeper_endpoint_state", endpoint=label, state=wanted) == 1


def won(keeper: KeeperProcess) -> float:
    return keeper.metric("keeper_attempts_total", outcome="won")


def ended(keeper: KeeperProcess) -> list[str | None]:
    keeper.until(lambda: won(keeper) == 1, LIMIT_S)
    keeper.stop()
    return [row.outcome for row in keeper.journal()]


def test_an_endpoint_that_lies_about_nonces_from_the_start_is_outvoted(
    rig: Rig, proxies: tuple[Proxy, Proxy, Proxy]
) -> None:
    for proxy in proxies:
        proxy.mend()
    proxies[0].break_with(Fault.LYING_NONCE)
    with rig.keeper(Options(http=[proxy.url for proxy in proxies])) as keeper:
        keeper.until_ready()
        account = rig.open_under()
        keeper.until(lambda: rig.liquidated(account), LIMIT_S)
        assert rig.nonce(keeper.wallet, "latest") == 1
        assert ended(keeper) == ["won"]
    proxies[0].mend()


def test_only_one_of_three_is_there_at_all(rig: Rig, proxies: tuple[Proxy, Proxy, Proxy]) -> None:
    proxies[2].mend()
    refused = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with rig.keeper(Options(http=[*refused, proxies[2].url])) as keeper:
        keeper.until_ready()
        keeper.until(lambda: state(keeper, 0, "down") and state(keeper, 1, "down"), LIMIT_S)
        account = rig.open_under()
        keeper.until(lambda: rig.liquidated(account), LIMIT_S)
        assert ended(keeper) == ["won"]


@pytest.mark.parametrize(
    "fault", [*STATES, Fault.LYING_NONCE], ids=lambda fault: fault.name.lower()
)
def test_one_of_three_fails_and_the_work_goes_on(
    rig: Rig, proxies: tuple[Proxy, Proxy, Proxy], keeper: KeeperProcess, fault: Fault
) -> None:
    proxies[0].break_with(fault)
    if fault in STATES:
        keeper.until(lambda: state(keeper, 0, STATES[fault]), LIMIT_S)
    before, nonce = won(keeper), rig.nonce(keeper.wallet, "latest")
    account = rig.open_under()
    keeper.until(lambda: rig.liquidated(account), LIMIT_S)
    keeper.until_ready()
    keeper.until(lambda: won(keeper) == before + 1, LIMIT_S)
    assert rig.nonce(keeper.wallet, "latest") == nonce + 1


@pytest.mark.parametrize(
    "fault",
    [fault for fault in STATES if fault not in PASSED_ON],
    ids=lambda fault: fault.name.lower(),
)
def test_none_is_left_nothing_is_sent_and_it_is_told(
    rig: Rig, proxies: tuple[Proxy, Proxy, Proxy], keeper: KeeperProcess, fault: Fault
) -> None:
    before, nonce = won(keeper), rig.nonce(keeper.wallet, "pending")
    for proxy in proxies:
        proxy.break_with(fault)
    told = "chain: nothing can be sent: "
    keeper.until(lambda: any(why.startswith(told) for why in keeper.unready()), LIMIT_S)
    account = rig.open_under()
    keeper.until(lambda: any("head" in why for why in keeper.unready()), LIMIT_S)
    assert keeper.healthy
    assert rig.nonce(keeper.wallet, "pending") == nonce

    for proxy in proxies:
        proxy.mend()

    keeper.until(lambda: rig.liquidated(account), LIMIT_S)
    keeper.until(lambda: won(keeper) == before + 1, LIMIT_S)
