"""What-if over the desks: exact, complete, and plain about what is not known."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from keeper.facts import AccountId
from keeper.risk.portfolio import Portfolio, in_slices
from keeper.risk.reader import RiskReader
from keeper.risk.shocks import moves_of
from keeper.units import PPM, WAD
from tests.fakes import ManualClock
from tests.shell.market import set_account
from tests.shell.rig import Rig, scripted_rig
from tests.shell.venue import FEEDS, VENUE

ETH, BTC = FEEDS["eth"], FEEDS["btc"]


def reader(rig: Rig) -> RiskReader:
    return RiskReader({VENUE: rig.desk}, rig.board, rig.quarantine, rig.clock)


async def made(*, pull: bool = False) -> Rig:
    rig, _ = scripted_rig(pull=pull)
    await rig.started(
        set_account("alice", -17_500, eth=10),  # 2,500 of equity on 20,000, needs 5 %
        set_account("bob", 100),
        set_account("carl", 61_000, btc=-1),  # 1,000 of equity on 60,000: under
    )
    await rig.decide()
    return rig


async def stressed(rig: Rig, *shocks: str, everything: str | None = None) -> dict[str, Any]:
    document: dict[str, Any] = await reader(rig).stress(shocks, everything)
    assert json.loads(json.dumps(document)) == document
    venue: dict[str, Any] = document["venues"][VENUE]
    return venue


async def test_without_a_shock_it_is_how_things_stand() -> None:
    said = await stressed(await made())
    assert said["total"] == {
        "accounts": 3,
        "long_usd": 20_000.0,
        "short_usd": 60_000.0,
        "equity_usd": 2_500.0 + 100.0 + 1_000.0,
        "requirement_usd": 1_000.0 + 3_000.0,
        "under_margined_accounts": 1,
        "under_margined_notional_usd": 60_000.0,
        "insolvent_accounts": 0,
        "insolvent_notional_usd": 0.0,
        "bad_debt_usd": 0.0,
    }
    assert [one["account"] for one in said["top_accounts"]] == ["carl"]
    assert sorted(said["markets"]) == ["-", "btc-perp", "eth-perp"]


async def test_a_shock_is_worked_out_by_hand() -> None:
    """−20 % of ETH costs alice 4,000 USD: 1,500 below nothing; BTC stays."""
    said = await stressed(await made(), "ETH=-20%")
    assert said["prices"]["ETH/USD"] == {
        "now_usd": 2_000.0,
        "shocked_usd": 1_600.0,
        "shock_pct": -20.0,
        "of": "contract",
    }
    assert said["prices"]["BTC/USD"]["shocked_usd"] == 60_000.0
    eth = said["markets"]["eth-perp"]
    assert (eth["insolvent_accounts"], eth["bad_debt_usd"]) == (1, 1_500.0)
    assert eth["under_margined_notional_usd"] == 16_000.0
    assert said["total"]["under_margined_accounts"] == 2
    top = said["top_accounts"][1]
    assert (top["account"], top["equity_usd"], top["bad_debt_usd"]) == ("alice", -1_500.0, 1_500.0)


async def test_all_moves_what_is_not_named() -> None:
    rig = await made()
    said = await stressed(rig, "eth-perp=+1.5%", everything="-10%")
    assert said["prices"]["ETH/USD"]["shock_pct"] == 1.5
    assert said["prices"]["BTC/USD"]["shocked_usd"] == 54_000.0
    assert said["total"]["under_margined_accounts"] == 0, "the short is cured"


async def test_prices_that_decide_are_the_ones_shocked() -> None:
    """What the sources say counts where it may be carried along, and only there."""
    for pull, price, of in ((True, 1_900.0, "sources"), (False, 2_000.0, "contract")):
        rig = await made(pull=pull)
        await rig.tick("eth", 1_900 * WAD)
        said = await stressed(rig, "ETH=-50%")
        one = said["prices"]["ETH/USD"]
        assert (one["now_usd"], one["shocked_usd"], one["of"]) == (price, price / 2, of)


async def test_what_is_not_known_is_told_and_not_taken_for_nothing() -> None:
    rig = await made()
    rig.venue.poisoned.add(("exposure", "carl"))
    said = await stressed(rig)
    assert said["unknown"] == {
        "quarantined_accounts": 1,
        "unpriced_accounts": 0,
        "accounts_worth_more": 0,
    }
    assert said["total"]["accounts"] == 2
    assert rig.quarantine.is_quarantined(VENUE, AccountId("carl"))
    assert (await stressed(rig))["unknown"]["quarantined_accounts"] == 1, "left alone from now on"


async def test_long_work_is_done_in_slices_with_a_sign_of_life() -> None:
    clock, done, beats = ManualClock(), list[int](), list[int]()

    def steps() -> Iterator[None]:
        for step in range(10):
            clock.now_ns += 400_000
            done.append(step)
            yield

    async def other() -> list[int]:
        seen = []
        while len(done) < 10:
            seen.append(len(done))
            await asyncio.sleep(0)
        return seen

    waiting = asyncio.create_task(other())
    await in_slices(steps(), clock, beat=lambda: beats.append(len(done)))
    assert beats == [3, 6, 9], "after each millisecond"
    assert (await waiting)[:3] == [3, 6, 9], "and the others had their turn"


async def test_an_account_without_a_price_is_counted_apart() -> None:
    rig = await made()
    (portfolio,) = reader(rig).portfolios()
    valued = portfolio.valued_at({ETH: 0, BTC: 60_000 * WAD})
    known = {account: one for account, one in portfolio.exposures(valued) if one is not None}
    assert sorted(known) == ["bob", "carl"]
    assert (portfolio.unknown.unpriced, portfolio.unknown.quarantined) == (1, 0)


async def test_a_venue_that_was_not_read_is_named() -> None:
    rig, _ = scripted_rig()
    document = await reader(rig).stress([], None)
    assert document["left_out"] == {VENUE: "not read yet"}
    with pytest.raises(ValueError, match="no venue has been read yet"):
        await reader(rig).stress(["ETH=-20%"], None)


@pytest.mark.parametrize(
    ("shock", "mend"),
    [
        ("DOGE=-20%", "no price or market 'DOGE' is known; there are ETH/USD, BTC/USD, btc-perp"),
        ("ETH", "should be written NAME=-20%, got 'ETH'"),
        ("=-20%", "should be written NAME=-20%"),
        ("ETH=-20", "a percentage above -100% and up to"),
        ("ETH=-100%", "a percentage above -100%"),
        ("ETH=1001%", "up to \\+1000%"),
        ("ETH=−20%", "a percentage"),
        ("ETH=nan%", "a percentage"),
        ("ETH=-20.12345%", "a percentage"),
    ],
)
async def test_a_shock_that_is_none_is_refused_with_the_mend(shock: str, mend: str) -> None:
    rig = await made()
    with pytest.raises(ValueError, match=mend):
        await reader(rig).stress([shock], None)


async def test_two_shocks_of_one_price_are_refused() -> None:
    rig = await made()
    with pytest.raises(ValueError, match="ETH/USD is shocked twice"):
        await reader(rig).stress(["ETH=-20%", "eth-perp=-10%"], None)
    with pytest.raises(ValueError, match="all should be a percentage"):
        await reader(rig).stress([], "10")


async def test_a_name_that_may_be_two_prices_is_refused() -> None:
    rig = await made()
    portfolio = Portfolio.of(rig.desk, rig.board, rig.quarantine, rig.clock)
    assert portfolio is not None
    both = {ETH: 1, "ETH/BTC": 1}
    other = Portfolio(**{**vars(portfolio), "prices": both})
    with pytest.raises(ValueError, match="may be any of ETH/USD, ETH/BTC; name one of them"):
        moves_of(["eth=-1%"], None, [other])
    assert moves_of(["eth/usd=-1%"], None, [other]) == {ETH: -PPM // 100}
