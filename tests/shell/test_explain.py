"""Why an account is liquidated or not, as the API tells it."""

import json
from dataclasses import replace

import pytest

from keeper.explain import Explainer
from keeper.facts import AccountId
from keeper.units import WAD
from tests.shell.market import AGE_S_MAX, set_account
from tests.shell.rig import Rig, scripted_rig
from tests.shell.venue import FEEDS, VENUE


def explainer(rig: Rig) -> Explainer:
    return Explainer({VENUE: rig.desk}, rig.quarantine, rig.clock)


@pytest.fixture
async def rig() -> Rig:
    rig, _ = scripted_rig()
    await rig.started(
        set_account("alice", -17_500, eth=10), set_account("bob", 100), set_account("carl", 900)
    )
    return rig


def terms(document: dict[str, object], book: str) -> dict[str, dict[str, float]]:
    rows = document[book]["terms"]  # type: ignore[index]
    return {row["factor"]: row for row in rows}


async def test_a_healthy_account_is_told_term_by_term(rig: Rig) -> None:
    await rig.decide()
    said = explainer(rig).account(VENUE, "alice")
    assert json.loads(json.dumps(said)) == said
    assert (said["why"], said["hold"], said["failures_in_a_row"]) == ("not_under_margined", None, 0)
    assert said["read_at_block"] == rig.chain.head.number
    book = said["at_source_prices"]
    assert isinstance(book, dict)
    assert book["under"] is False
    assert book["constant_usd"] + sum(row["usd"] for row in book["terms"]) == pytest.approx(
        book["excess_usd"]
    )
    exact = said["assessment"]
    assert isinstance(exact, dict)
    assert exact["equity_usd"] - exact["requirement_usd"] == pytest.approx(exact["excess_usd"])
    assert exact["excess_usd"] == pytest.approx(book["excess_usd"])


async def test_the_move_told_is_the_one_that_sinks_it(rig: Rig) -> None:
    await rig.decide()
    row = terms(explainer(rig).account(VENUE, "alice"), "at_source_prices")["eth"]
    assert -99 < row["move_pct"] < 0
    price = row["value"] * (1 + row["move_pct"] / 100)
    rig.desk.lead.move({"eth": price * 1.0001})
    assert not rig.desk.lead.is_under(AccountId("alice"))
    rig.desk.lead.move({"eth": price * 0.9999})
    assert rig.desk.lead.is_under(AccountId("alice"))


async def test_a_hold_says_what_ends_it(rig: Rig) -> None:
    await rig.tick("eth", 1_800 * WAD)
    await rig.decide()
    await rig.attempt()
    assert AccountId("alice") in rig.desk.agenda
    rig.desk.send_failed(AccountId("alice"))
    said = explainer(rig).account(VENUE, "alice")
    assert said["why"] == "send_failed"
    hold = said["hold"]
    assert isinstance(hold, dict)
    assert hold["reason"] == "send_failed"
    assert hold["left_ms"] == hold["until_ms"] - rig.clock.wall_ms() == 1_000
    assert said["failures_in_a_row"] == 1
    page = explainer(rig).candidates(None, 0, 10)["candidates"]
    assert page == [{"venue": VENUE, "account": "alice", "why": "send_failed", "hold": hold}]


async def test_pages_are_by_distance(rig: Rig) -> None:
    await rig.tick("eth", 1_800 * WAD)
    await rig.decide()
    whole = explainer(rig).nearest(None, 0, 10)
    rows = whole["accounts"]
    assert isinstance(rows, list)
    assert rows[0]["account"] == "alice"
    assert rows[0]["distance_pct"] < 0
    assert whole["total"] == len(rig.desk.lead)
    page = explainer(rig).nearest(VENUE, 1, 1)
    assert page["accounts"] == rows[1:2]
    assert explainer(rig).candidates(VENUE, 1, 5) == {"total": 1, "offset": 1, "candidates": []}


async def test_what_is_unknown_is_a_key_error(rig: Rig) -> None:
    for venue, account in (("acme", "alice"), (VENUE, "zoe")):
        with pytest.raises(KeyError):
            explainer(rig).account(venue, account)
    with pytest.raises(KeyError):
        explainer(rig).nearest("acme", 0, 1)


async def test_a_bug_in_the_venue_is_told_and_not_raised(rig: Rig) -> None:
    await rig.decide()
    rig.venue.poisoned.add(("assess", "alice"))
    said = explainer(rig).account(VENUE, "alice")
    assert said["assessment"] is None
    assert explainer(rig).account(VENUE, "alice")["quarantine"] is not None


async def test_what_only_an_old_price_on_the_chain_keeps_safe_says_so() -> None:
    rig, lane = scripted_rig(pull=True)
    for feed, rules in rig.board._rules.items():
        rig.board._rules[feed] = replace(rules, age_ms_max=10**7)  # the sources' prices stay
    await rig.started(set_account("alice", -19_500, eth=10))
    rig.clock.advance(AGE_S_MAX + 2)
    await rig.tried()
    assert lane.plans == []
    said = explainer(rig).account(VENUE, "alice")
    assert said["why"] == "stale_price"
    exact = said["assessment"]
    assert isinstance(exact, dict)
    assert exact["excess_usd"] < 0
    assert (exact["liquidatable"], exact["stale_on_chain"]) == (False, [FEEDS["eth"]])
    hold = said["hold"]
    assert isinstance(hold, dict)
    assert hold["until_block"] == rig.chain.head.number + 1
