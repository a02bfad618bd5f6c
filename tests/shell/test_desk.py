"""One venue as the decide loop sees it: nominations by either book, cures, recompiling, bugs."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from keeper.facts import AccountId, PriceView
from keeper.margin.rows import Row
from keeper.units import WAD
from keeper.watch.desk import ROWS_PER_STEP_MAX
from tests.shell.market import Stored, is_under, set_account, set_index, set_price
from tests.shell.rig import scripted_rig
from tests.shell.venue import FEEDS, VENUE

ALICE, BOB = AccountId("alice"), AccountId("bob")
UNDER = set_account(ALICE, -19_500, eth=10)
SAFE = set_account(ALICE, -17_500, eth=10)  # equity 2,500, needs 1,000: under at 1,842


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def test_a_tick_nominates_on_a_pull_venue_and_carries_its_time_of_arrival() -> None:
    rig, lane = scripted_rig(pull=True)
    await rig.started(SAFE)
    assert await rig.decide() == []
    rig.clock.advance(1)
    await rig.tick("eth", 1_830 * WAD)
    arrived_ns = rig.clock.now_ns
    rig.clock.advance(0.25)
    assert await rig.decide() == [ALICE]
    await rig.attempt()
    (plan,) = lane.plans
    assert plan.tick_ns == arrived_ns
    assert plan.call.value_wei > 0, "the signed price is taken along"
    stages = rig.telemetry.seconds["keeper_stage_seconds", VENUE, "price_to_decided"]
    assert stages == [0.25]
    ticks = rig.telemetry.seconds["keeper_tick_seconds", VENUE]
    assert len(ticks) == 3, "two prices at the start, and this one"


async def test_a_tick_does_not_make_an_account_of_a_push_venue_liquidatable() -> None:
    rig, lane = scripted_rig()
    await rig.started(SAFE)
    await rig.tick("eth", 1_830 * WAD)
    await rig.tried()
    assert lane.plans == []
    assert rig.why(ALICE) == "not_liquidatable", "it stays on the agenda"
    rig.mine(set_price("eth", 1_830 * WAD))
    rig.follow()
    assert await rig.read()
    await rig.tried()
    assert [plan.account for plan in lane.plans] == [ALICE]


async def test_an_account_under_at_the_contracts_price_only_is_nominated_too() -> None:
    """The chain's oracle lags behind a market that has recovered."""
    rig, lane = scripted_rig(pull=True)
    await rig.started(SAFE)
    rig.mine(set_price("eth", 1_830 * WAD))
    await rig.tick("eth", 1_900 * WAD)
    rig.follow()
    assert await rig.read()
    await rig.tried()
    (plan,) = lane.plans
    assert plan.call.value_wei == 0, "the newer price would cure it"
    assert rig.desk.assess(ALICE).view is PriceView.CHAIN


async def test_an_account_cured_by_one_book_stays_while_the_other_calls_it_under() -> None:
    rig, _ = scripted_rig(pull=True)
    await rig.started(SAFE)
    rig.mine(set_price("eth", 1_830 * WAD))
    rig.follow()
    assert await rig.read()
    await rig.tick("eth", 1_830 * WAD)
    await rig.decide()
    assert ALICE in rig.desk.agenda
    await rig.tick("eth", 2_000 * WAD)
    await rig.decide()
    assert ALICE in rig.desk.agenda
    rig.mine(set_price("eth", 2_000 * WAD))
    rig.follow()
    assert await rig.read()
    await rig.decide()
    assert ALICE not in rig.desk.agenda
    assert rig.why(ALICE) == "not_under_margined"


async def test_funding_moves_both_books() -> None:
    rig, lane = scripted_rig()
    await rig.started(SAFE)
    assert await rig.decide() == []
    rig.mine(set_index("eth", 160 * WAD))
    await rig.publish()
    rig.follow()
    assert await rig.read()
    await rig.decide()
    assert rig.desk.lead.is_under(ALICE)
    assert rig.desk.chain.is_under(ALICE)
    await rig.attempt()
    assert [plan.account for plan in lane.plans] == [ALICE]


async def test_an_account_that_left_its_envelope_is_compiled_again_and_not_looped() -> None:
    rig, lane = scripted_rig(pull=True)
    # notional 380,000; above 400,000 the rate doubles: the row holds up to 2,105
    await rig.started(set_account(ALICE, -200_000, eth=190))
    assert await rig.decide() == []
    await rig.tick("eth", 2_200 * WAD)
    rig.pipeline._learn()
    assert rig.desk.lead.is_under(ALICE), "unknown counts as under"
    assessed = rig.counted("keeper_assessed_total")
    assert await rig.decide() == []
    assert rig.counted("keeper_assessed_total") == assessed, "compiled again, and it is fine"
    assert not rig.desk.lead.is_under(ALICE)
    assert ALICE not in rig.desk.agenda
    low, high = rig.desk.lead.row(ALICE).envelope["eth"]
    assert low < 2_200 < high
    await rig.tick("eth", 2_201 * WAD)
    assert await rig.decide() == []
    assert lane.plans == []


async def test_an_account_that_left_its_envelope_and_is_under_goes_on() -> None:
    rig, lane = scripted_rig(pull=True)
    await rig.started(set_account(ALICE, -340_000, eth=190))
    assert await rig.decide() == []
    before = rig.chain.state
    assert not is_under(before.holdings[ALICE], before.prices(), before.index)
    rig.clock.advance(1)
    await rig.tick("eth", 2_109 * WAD)  # equity 60,710, needs 40,071 at the steeper rate
    assert await rig.decide() == []
    await rig.tick("eth", 1_870 * WAD)  # back below the kink, equity 15,300, needs 17,765
    await rig.tried()
    assert [plan.account for plan in lane.plans] == [ALICE]


async def test_a_market_that_is_listed_later_counts_with_the_price_that_is_there() -> None:
    rig, _ = scripted_rig(pull=True)
    btc = rig.chain.state.stored.pop("btc")
    index = rig.chain.state.index.pop("btc")
    rig.start(SAFE)
    await rig.tick("eth", 2_000 * WAD)
    rig.follow()
    assert await rig.read()
    await rig.decide()
    assert list(rig.desk.feeds) == [FEEDS["eth"]]
    await rig.tick("btc", 58_000 * WAD)
    await rig.decide()

    def listed(_chain: object, block: object) -> None:
        block.state.stored["btc"] = Stored(btc.price_wad, btc.at_s)  # type: ignore[attr-defined]
        block.state.index["btc"] = index  # type: ignore[attr-defined]

    rig.mine(listed, set_account(BOB, -56_000, btc=1))  # under at 58,000, fine at 60,000
    rig.follow()
    assert await rig.read()
    await rig.decide()
    assert rig.desk.lead.values["btc"] == 58_000.0
    assert rig.desk.chain.values["btc"] == 60_000.0
    assert rig.desk.lead.is_under(BOB)


async def test_an_account_without_positions_leaves_the_books() -> None:
    rig, _ = scripted_rig()
    await rig.started(UNDER)
    await rig.decide()
    assert ALICE in rig.desk.agenda
    rig.mine(set_account(ALICE, 100))
    rig.follow()
    assert await rig.read()
    await rig.decide()
    assert ALICE not in rig.desk.agenda
    assert ALICE not in rig.desk.lead
    assert ALICE not in rig.desk.chain
    assert ALICE in rig.desk.states


async def test_what_is_due_at_any_price_is_on_the_agenda_until_its_time_is_over() -> None:
    rig, _ = scripted_rig()
    now_s = rig.chain.head.timestamp_s
    rig.venue.errands[ALICE] = now_s + 30
    await rig.started(set_account(ALICE, 100))
    assert await rig.decide() == [], "its margin is no reason to liquidate it"
    assert ALICE in rig.desk.agenda
    assert ALICE not in rig.desk.lead
    while rig.chain.head.timestamp_s <= now_s + 30:
        assert ALICE in rig.desk.agenda
        await rig.block()
    await rig.decide()
    assert ALICE not in rig.desk.agenda


async def test_a_nomination_is_counted_once() -> None:
    rig, _ = scripted_rig()
    await rig.started(UNDER)
    await rig.decide()
    for _ in range(3):
        await rig.block()
    assert rig.counted("keeper_nominated_total") == 1


@pytest.mark.parametrize("stage", ["compile", "assess", "simulate"])
async def test_a_bug_with_one_account_sets_only_that_one_aside(stage: str) -> None:
    rig, lane = scripted_rig()
    rig.venue.poisoned = {(stage, ALICE)}
    await rig.started(UNDER, set_account(BOB, -19_500, eth=10))
    await rig.tried()
    assert [plan.account for plan in lane.plans] == [BOB]
    assert rig.quarantine.is_quarantined(VENUE, ALICE)
    assert not rig.quarantine.is_quarantined(VENUE, BOB)
    rig.venue.poisoned = set()
    await rig.block(UNDER)
    assert not rig.quarantine.is_quarantined(VENUE, ALICE)
    assert [plan.account for plan in lane.plans] == [BOB, ALICE]


@pytest.mark.parametrize("stage", ["compile", "read"])
async def test_an_account_that_could_not_be_read_is_not_forgotten(stage: str) -> None:
    """It is tried again by and by, although nothing touches it."""
    rig, lane = scripted_rig()
    rig.venue.poisoned = {(stage, ALICE)}
    await rig.started(UNDER, set_account(BOB, 0))
    await rig.decide()
    assert rig.quarantine.is_quarantined(VENUE, ALICE)
    rig.venue.poisoned = set()
    for _ in range(6):  # of 12 s each: a quarantined account is tried every minute
        await rig.block()
    assert [plan.account for plan in lane.plans] == [ALICE]
    assert not rig.quarantine.is_quarantined(VENUE, ALICE)


async def test_a_candidate_that_waited_is_judged_by_the_newest_facts() -> None:
    rig, lane = scripted_rig(pull=True)
    await rig.started(SAFE)
    rig.clock.advance(1)
    await rig.tick("eth", 1_830 * WAD)
    assert await rig.decide() == [ALICE]
    await rig.tick("eth", 1_900 * WAD)
    await rig.tried()
    assert lane.plans == []
    assert ALICE not in rig.desk.agenda


async def test_a_candidate_that_waited_until_its_price_was_stale_is_held() -> None:
    rig, lane = scripted_rig(pull=True)
    patient = replace(rig.board._rules[FEEDS["eth"]], age_ms_max=60_000)
    rig.board._rules[FEEDS["eth"]] = patient  # the native price stays
    await rig.started(set_account(ALICE, -56_000, btc=1))
    rig.clock.advance(1)
    await rig.tick("btc", 58_000 * WAD)
    assert await rig.decide() == [ALICE]
    rig.clock.advance(16)  # all slots were taken, and no price came
    await rig.attempt()
    assert lane.plans == []
    assert rig.why(ALICE) == "stale_price"


async def test_a_row_that_was_too_cautious_is_made_exact_where_the_account_is() -> None:
    rig, _ = scripted_rig()
    await rig.started(SAFE)
    await rig.decide()
    rig.desk.lead.put(ALICE, Row(constant=-1.0))
    rig.desk.agenda.nominate(ALICE, rig.clock.now_ms)
    assert await rig.decide() == []
    assert not rig.desk.lead.is_under(ALICE)
    assert ALICE not in rig.desk.agenda
    assert rig.counted("keeper_assessed_total") == 1


async def test_when_parameters_change_all_are_compiled_again_a_few_at_a_time() -> None:
    rig, _ = scripted_rig()
    names = [AccountId(f"account-{n}") for n in range(2 * ROWS_PER_STEP_MAX + 5)]
    await rig.started(*(set_account(name, -17_500, eth=10) for name in names))
    await rig.decide()
    rig.venue.compiled.clear()
    await rig.block()
    assert rig.venue.compiled == [], "nothing touched them, and nothing changed"
    rig.venue.mark = "dearer"
    rig.venue.poisoned = {("compile", names[1])}
    rig.mine()
    rig.follow()
    assert await rig.read()
    rig.pipeline._learn()
    steps = 0
    while rig.desk.has_due:
        before = len(rig.venue.compiled)
        assert rig.pipeline._idle_s() == 0.0
        await rig.pipeline._decide(rig.desk)
        assert len(rig.venue.compiled) - before <= 2 * ROWS_PER_STEP_MAX  # for either book
        steps += 1
        assert steps < 10
    assert set(rig.venue.compiled) == {*names} - {names[1]}
    assert len(rig.venue.compiled) == len(names) - 1, "one row does for both books"
    assert rig.quarantine.is_quarantined(VENUE, names[1])


async def test_parameters_that_got_dearer_nominate_an_account_that_nothing_touched() -> None:
    rig, _ = scripted_rig()
    await rig.started(SAFE)
    await rig.decide()
    assert ALICE not in rig.desk.agenda
    rig.venue.reserve, rig.venue.mark = 2_000, "dearer"
    rig.mine()
    rig.follow()
    assert await rig.read()
    rig.pipeline._learn()
    rig.desk.due(rig.clock.now_ms)
    assert ALICE in rig.desk.agenda


async def test_many_due_at_once_are_ranked_a_part_at_a_time_then_the_worst_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("keeper.watch.desk.RANKED_PER_STEP_MAX", 2)
    rig, _ = scripted_rig()
    cash_of = {"a": -19_300, "b": -19_900, "c": -19_500, "d": -19_700, "e": -19_100}
    accounts = [set_account(AccountId(name), cash, eth=10) for name, cash in cash_of.items()]
    await rig.started(*accounts)
    rig.pipeline._learn()
    desk, now_ms = rig.desk, rig.clock.wall_ms()
    ranked: list[AccountId] = []
    worst_excess = desk._worst_excess

    def noted(account: AccountId) -> float:
        ranked.append(account)
        return worst_excess(account)

    monkeypatch.setattr(desk, "_worst_excess", noted)
    assert desk.due(now_ms) == desk.due(now_ms) == []
    assert desk.due(now_ms) == ["b", "d", "c", "a", "e"]
    assert sorted(ranked) == sorted(cash_of), "each once, not anew at every step"
