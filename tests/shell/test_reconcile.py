"""The book against the chain: what no event told is found, corrected, counted and measured."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from keeper.config.kinds import find_module
from keeper.facts import AccountId, AccountState, Head, Log
from keeper.units import WAD
from keeper.watch.reconcile import ReconcileRules, differences, fields_of
from tests.shell import market
from tests.shell.market import Action, set_account
from tests.shell.rig import Rig, scripted_rig
from tests.shell.venue import VENUE

ALICE = AccountId("alice")
EVERY_MS = 60_000  # longer than a block takes
SLICE = 20


def rules(**changes: int) -> ReconcileRules:
    keys = {"every_ms": EVERY_MS, "accounts_max": SLICE, "drift_ppm_max": 10_000}
    return ReconcileRules(**(keys | changes))


async def rig_with(accounts: int, **changes: int) -> Rig:
    """Return a loaded rig of safe accounts: ``a000`` is the nearest to liquidation."""
    rig, _ = scripted_rig()
    await rig.started(
        *(set_account(f"a{n:03}", -10_000 - 50 * (accounts - n), eth=10) for n in range(accounts))
    )
    await rig.decide()
    rig.reading.reconciler.rules = rules(**changes)
    rig.reading.reconciler._rounds.clear()
    return rig


def corrected(rig: Rig) -> int:
    names = [f"holding.{name}" for name in ("cash_wad", "sizes")]
    return sum(rig.counted("keeper_reconcile_corrected_total", name) for name in names)


def matches(rig: Rig) -> bool:
    """Say whether the book has every account as the chain has it."""
    return all(
        state.holding == rig.chain.state.holdings[account]  # type: ignore[attr-defined]
        for account, state in rig.desk.states.items()
    )


def quietly(action: Action) -> Action:
    """Change an account without an event."""

    def act(chain: market.FakeChain, block: market.Block) -> None:
        action(chain, block)
        block.logs.pop()

    return act


async def head(rig: Rig, *actions: Action) -> None:
    """Let a block come, as long after the last as slices lie apart, and be learned."""
    rig.clock.advance(EVERY_MS / 1_000)
    rig.mine(*actions)
    rig.follow()
    assert await rig.read()
    rig.pipeline._learn()


async def test_what_no_event_told_is_corrected_with_both_values_logged() -> None:
    rig = await rig_with(3)
    with capture_logs() as lines:
        await head(rig, quietly(set_account("a001", -77, eth=9)))
    assert matches(rig)
    said = {line["field"]: line for line in lines if line["event"] == "book corrected"}
    assert said["holding.cash_wad"]["chain"] == str(-77 * WAD)
    assert said["holding.cash_wad"]["book"] == str(-10_100 * WAD)
    assert said["holding.sizes"]["account"] == "a001"
    assert corrected(rig) == 2
    assert rig.telemetry.gauges["keeper_reconcile_drift_ratio", VENUE] == pytest.approx(1 / 3)


async def test_an_account_that_events_told_of_is_no_drift() -> None:
    rig = await rig_with(3)
    await head(rig, set_account("a001", -77, eth=9))
    assert matches(rig)
    assert corrected(rig) == 0


async def test_what_a_node_says_once_only_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may answer for the block that it is still making; asked again it tells the truth."""
    rig = await rig_with(3)
    read, asked = rig.venue.read_accounts, Counter[AccountId]()

    async def early(accounts: Sequence[AccountId], head: Head) -> Sequence[AccountState]:
        asked.update(accounts)
        return [
            replace(one, holding=replace(one.holding, cash_wad=1)) if asked[name] == 1 else one
            for name, one in zip(accounts, await read(accounts, head), strict=True)
        ]

    monkeypatch.setattr(rig.venue, "read_accounts", early)
    await head(rig)
    assert set(asked.values()) == {2}
    assert corrected(rig) == 0
    assert matches(rig)


async def test_what_was_read_at_the_head_already_is_not_compared() -> None:
    rig = await rig_with(3)
    rig.venue.reads.clear()
    head_now = rig.desk.states[AccountId("a001")].head
    assert not await rig.reading.reconciler.compare(rig.desk, head_now, lambda _: False)
    assert rig.venue.reads == []


async def test_a_state_that_is_on_its_way_is_no_drift() -> None:
    rig = await rig_with(3)
    rig.mine(set_account("a001", -77, eth=9))
    rig.follow()
    assert await rig.read()  # nobody has learned it yet
    rig.clock.advance(EVERY_MS / 1_000)
    rig.mine()
    rig.follow()
    assert await rig.read()
    assert corrected(rig) == 0


async def test_the_nearest_are_compared_every_time_and_all_within_the_stated_time() -> None:
    rig = await rig_with(95)
    rig.venue.reads.clear()
    rounds = -(-95 // (SLICE // 2))  # the half of a slice that goes round
    for _ in range(rounds):
        await head(rig)
    slices = rig.venue.reads
    assert len(slices) == rounds
    assert all(len(one) <= SLICE for one in slices)
    assert all("a000" in one for one in slices)
    assert {account for one in slices for account in one} == set(rig.desk.states)


async def test_between_two_slices_nothing_is_read() -> None:
    rig = await rig_with(3)
    await head(rig)
    rig.venue.reads.clear()
    rig.mine()
    rig.follow()
    assert await rig.read()
    assert rig.venue.reads == []


@pytest.mark.parametrize("seed", range(5))
async def test_one_event_in_twenty_is_dropped_and_every_drift_is_found_in_time(seed: int) -> None:
    """The stated time: every account is compared once in accounts / (slice / 2) slices.

    With ``-s`` it says when the drifts were found.
    """
    luck, accounts = random.Random(seed), 120  # noqa: S311 - a seed, not a secret
    rig = await rig_with(accounts)
    dropped: list[Log] = []

    def forgets(log: Log) -> bool:
        if log.topics[0] == "touched" and luck.random() < 1 / 20:
            dropped.append(log)
            return True
        return False

    rig.venue.forgets = forgets
    drifted_since: dict[AccountId, int] = {}
    slices, slices_max = list[int](), accounts // (SLICE // 2) + 1
    with capture_logs():
        for turn in range(150):
            changes = [
                set_account(f"a{luck.randrange(accounts):03}", -luck.randrange(9_000), eth=10)
                for _ in range(10)
            ]
            await head(rig, *changes)
            for account, state in rig.desk.states.items():
                if state.holding != rig.chain.state.holdings[account]:  # type: ignore[attr-defined]
                    drifted_since.setdefault(account, turn)
                elif account in drifted_since:
                    slices.append(turn - drifted_since.pop(account))
            assert all(turn - since <= slices_max for since in drifted_since.values())
    assert len(dropped) > 40
    slices.sort()
    found = f"{len(slices)} drifts of {len(dropped)} dropped events, half of them found within"
    longest = f"{slices[len(slices) // 2]} slices, all within {slices[-1]} (stated: {slices_max})"
    print(f"seed {seed}: {found} {longest}")  # noqa: T201
    assert 0 < slices[-1] <= slices_max
    assert rig.desk.suspect, "so many drifts are no accident"


async def test_a_venue_that_drifts_too_much_is_suspect_until_it_does_not() -> None:
    rig = await rig_with(30, drift_ppm_max=100_000)
    changes = [quietly(set_account(f"a{n:03}", -77, eth=9)) for n in range(4)]
    await head(rig, *changes)
    assert "20.00% of the accounts compared had drifted" in rig.desk.suspect
    assert rig.telemetry.gauges["keeper_venue_suspect", VENUE] == 1
    for _ in range(3):
        await head(rig)
    assert rig.desk.suspect == "", "the share is over what was compared lately"
    assert rig.telemetry.gauges["keeper_venue_suspect", VENUE] == 0


async def test_a_changed_implementation_makes_a_venue_suspect_for_good() -> None:
    rig = await rig_with(3)
    await head(rig)
    assert rig.desk.suspect == ""
    rig.venue.implementations = {market.ADDRESS: "second"}
    with capture_logs() as lines:
        for _ in range(3):
            await head(rig)
    assert rig.desk.suspect == f"the implementation of {market.ADDRESS} changed"
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "implementation changed: only fresh reads are trusted until the next start",
        "venue suspect",
    ], "said once"


@pytest.mark.parametrize("drifted", [False, True], ids=["as in the book", "otherwise"])
async def test_a_suspect_venue_is_acted_on_with_fresh_reads_only(drifted: bool) -> None:  # noqa: FBT001
    rig, lane = scripted_rig()
    await rig.started(set_account(ALICE, -19_500, eth=10))
    rig.desk.suspect = "for a test"
    if drifted:
        rig.mine(quietly(set_account(ALICE, -100, eth=10)))
        rig.follow()
    await rig.tried()
    assert len(lane.plans) == (0 if drifted else 1)
    if drifted:
        assert rig.counted("keeper_held_total", "suspect") == 1
        assert await rig.read()
        await rig.tried()
        assert rig.why(ALICE) == "not_under_margined", "the fresh reading has cured it"
        assert lane.plans == []


class Inner(NamedTuple):
    cash: int
    sizes: dict[str, int]


@dataclass(frozen=True)
class State(AccountState):
    inner: Inner
    flagged: bool = False


def test_differences_name_the_field_and_give_both_values() -> None:
    rig, _ = scripted_rig()
    one = State(ALICE, rig.chain.head, Inner(1, {"eth": 2}))
    other = State(ALICE, rig.mine(), Inner(3, {"eth": 2}), flagged=True)
    found = dict(differences(one, other))
    assert found == {"inner.cash": (1, 3), "flagged": (False, True)}
    assert dict(differences(one, State(ALICE, other.head, one.inner))) == {}


@pytest.mark.parametrize(
    "kind", ["demo_market", "synthetix_v3", "synthetix_v3_orders", "perp_curie"]
)
def test_the_fields_of_every_kind_are_known_as_labels(kind: str) -> None:
    module = find_module("venues", kind)
    (venue,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == module.__name__ and hasattr(one, "probe")
    )
    found = fields_of(object.__new__(venue))
    assert "account" in found
    assert len(found) > 3
