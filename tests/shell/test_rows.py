"""Accounts compiled many at once: the books are those of one account after the other."""

import random
from collections.abc import Iterator, Mapping

import pytest
from structlog.testing import capture_logs

from keeper.facts import AccountId
from keeper.margin.rows import Row
from keeper.units import WAD
from keeper.watch.rows import Rows
from tests.shell.market import STEEP_ABOVE_WAD, Action, set_account
from tests.shell.rig import Rig, scripted_rig
from tests.shell.venue import VENUE

ACCOUNTS = [AccountId(f"account{number}") for number in range(80)]
ETH, BTC = 2_000, 60_000


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


def drawn(dice: random.Random, account: AccountId) -> Action:
    """An account without positions, or one not far from its edge or from the rate's kink."""
    markets = dice.choice([[], ["eth"], ["btc"], ["eth", "btc"]])
    prices = {"eth": ETH, "btc": BTC}
    sizes = {
        name: dice.choice([-1, 1])
        * max(1, int(dice.choice([0.05, 0.5, dice.gauss(1, 0.05)]) * STEEP_ABOVE_WAD / WAD))
        // prices[name]
        for name in markets
    }
    notional = sum(abs(size) * prices[name] for name, size in sizes.items())
    worth = sum(size * prices[name] for name, size in sizes.items())
    return set_account(account, int(dice.uniform(0.02, 0.16) * notional) - worth, **sizes)


def one_by_one(rig: Rig) -> Rows:
    """The same accounts, market and prices, each account put alone."""
    rows, desk = Rows(rig.venue, rig.desk.guard), rig.desk
    assert desk.market is not None
    for book, same in ((rows.lead, desk.lead), (rows.chain, desk.chain)):
        book.add_factors(["eth", "btc"], ["F:eth", "F:btc"])
        book.move(same.values)
    for state in desk.states.values():
        rows.put(state, desk.market)
    return rows


def in_book(rows: Rows | object, name: str) -> Mapping[AccountId, Row]:
    book = getattr(rows, name)
    return {account: book.row(account) for account in ACCOUNTS if account in book}


def equal(rig: Rig) -> None:
    alone = one_by_one(rig)
    for name in ("lead", "chain"):
        assert in_book(rig.desk, name) == in_book(alone, name)
        assert getattr(rig.desk, name).under == getattr(alone, name).under


@pytest.mark.parametrize("seed", range(6))
async def test_the_books_are_those_of_one_after_the_other(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - reproducible
    rig, _ = scripted_rig(pull=True)
    rig.start(*(drawn(dice, account) for account in ACCOUNTS))
    await rig.tick("eth", int(ETH * dice.choice([0.9, 1.1])) * WAD)
    if seed:  # else the sources have no price of BTC yet
        await rig.tick("btc", int(BTC * dice.choice([0.92, 1.08])) * WAD)
    rig.follow()
    assert await rig.read()
    rig.pipeline._learn()
    compiled = len(rig.venue.compiled)
    assert compiled < 2 * len(rig.desk.lead), "one row does for both books where it holds in both"
    assert compiled > len(ACCOUNTS), "and another one where it does not"
    equal(rig)
    assert rig.desk.lead.under | rig.desk.chain.under == set(rig.desk.agenda)
    assert seed == 0 or 5 < len(rig.desk.agenda) < 75
    rig.mine(*(drawn(dice, account) for account in ACCOUNTS[::2]))
    await rig.publish()
    rig.follow()
    assert await rig.read()
    rig.pipeline._learn()
    equal(rig)
    assert rig.desk.lead.under | rig.desk.chain.under == set(rig.desk.agenda)


async def test_a_row_on_a_factor_that_is_not_listed_is_that_accounts_own_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, _ = scripted_rig(pull=True)
    dice, compiled, (odd, *others) = random.Random(1), rig.venue.compile, ACCOUNTS  # noqa: S311

    def unlisted(account: object, market: object, values: Mapping[str, float]) -> Row | None:
        row = compiled(account, market, values)  # type: ignore[arg-type]
        is_odd = getattr(account, "account", None) == odd
        return Row(1.0, {"doge": 1.0}) if is_odd else row

    monkeypatch.setattr(rig.venue, "compile", unlisted)
    await rig.started(*(drawn(dice, account) for account in ACCOUNTS))
    rig.pipeline._learn()
    assert [entry.account for entry in rig.quarantine.entries()] == [odd]
    assert rig.quarantine.is_quarantined(VENUE, odd)
    held = {account for account in others if rig.chain.state.holdings[account].sizes}
    assert set(in_book(rig.desk, "lead")) == set(in_book(rig.desk, "chain")) == held
