"""The page at ``/`` in a real Chromium, with a real keeper behind it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keeper.units import WAD
from tests.brokers import Broker
from tests.browser import ENTER, TAB, Browser, running_chromium
from tests.e2e.rig import KeeperProcess, Options, Rig, opened
from tests.e2e.runs import until
from tests.nodes import Anvil

KNOWN_S_MAX = 20.0
ETH = 0  # number of the feed
NARROW, WIDE = 360, 1200
STREAM_CUT = "net::ERR_"  # what a browser says itself when a server is gone

ROWS = """
const rows = [...document.querySelectorAll(`#${arguments[0]} tbody tr`)];
const seen = (cell) => [...cell.children].filter((part) => !part.hidden);
const text = (cell) => seen(cell).map((part) => part.textContent).join("|");
return rows.map((row) => [...row.cells].map(text));
"""
TOO_WIDE = """
const limit = document.documentElement.clientWidth;
const all = [...document.body.querySelectorAll("*:not(.skip)")];
const beyond = all.filter((node) => node.getBoundingClientRect().right > limit + 0.5);
return beyond.map((node) => `${node.tagName} ${node.id} ${node.textContent.slice(0, 40)}`);
"""
FOCUSED = """
const node = document.activeElement;
const style = getComputedStyle(node);
return [node.id || node.getAttribute("href") || node.tagName, style.outlineStyle !== "none"];
"""
CONTROLS = """
const all = [...document.querySelectorAll("a[href], select, input, button, summary")];
const seen = all.filter((node) => node.checkVisibility());
return seen.map((node) => node.id || node.getAttribute("href") || node.tagName);
"""


@dataclass
class Page:
    """The page of a keeper, as a person sees it."""

    browser: Browser
    keeper: KeeperProcess

    def open(self) -> None:
        self.browser.open(f"http://127.0.0.1:{self.keeper.http_port}/")
        self.until(lambda: self.text("state") in {"ready", "not ready"})

    def until(self, condition: Any) -> None:  # noqa: ANN401 - a callable
        until(
            condition, KNOWN_S_MAX, lambda: str(self.browser.run("return document.body.innerText"))
        )

    def text(self, id_: str) -> str:
        text = self.browser.run("return document.getElementById(arguments[0]).textContent", id_)
        return str(text)

    def rows(self, table: str) -> list[list[str]]:
        rows: list[list[str]] = self.browser.run(ROWS, table)
        return rows

    def api(self, path: str) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.keeper.get(path)[1])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, node: Anvil, broker: Broker) -> Iterator[Rig]:
    with opened(tmp_path_factory.mktemp("page"), node, broker) as running:
        running.open_under()
        running.open_safe()
        yield running


@pytest.fixture(scope="module")
def keeper(rig: Rig) -> Iterator[KeeperProcess]:
    """A keeper in a dry run, so that accounts stay as they are."""
    with rig.keeper(Options(key="")) as running:
        running.until_ready()
        held = lambda: running.metric("keeper_held_total", reason="dry_run") > 0  # noqa: E731
        running.until(held, KNOWN_S_MAX)
        yield running


@pytest.fixture
def page(browser: Browser, keeper: KeeperProcess) -> Page:
    browser.size(WIDE, 900)
    browser.complaints()
    shown = Page(browser, keeper)
    shown.open()
    return shown


def test_it_shows_what_the_api_says(page: Page) -> None:
    def same() -> bool:
        said = page.api("/api/v1/status")
        shown = [row[:2] for row in page.rows("prices")]
        prices = [[feed, f"{one['price']:,.2f}"] for feed, one in said["prices"].items()]
        accounts = [
            [one["account"], f"{one['distance_pct']:,.2f} %", one["why"]]
            for one in said["accounts"]
        ]
        waiting = [[*row[:2], row[2].split("|")[0]] for row in page.rows("accounts")]
        loops = [row[0] for row in page.rows("loops")]
        return (shown, waiting, loops) == (prices, accounts, list(said["loops"]))

    page.until(same)
    said = page.api("/api/v1/status")
    assert len(said["accounts"]) == 2
    assert page.text("dry-run") == "DRY RUN: nothing is signed or sent"
    assert f"chain {said['chain_id']} · block " in page.text("facts")
    (venue,) = page.rows("venues")
    assert venue[1:] == ["2|2 in the book", "1", "0.00|no liquidation seen"]
    budgets = {one["budget"]: one for one in said["budgets"]}
    assert [row[0] for row in page.rows("budgets")] == list(budgets)
    (endpoint,) = page.rows("endpoints")
    assert endpoint[1] == "healthy"
    assert page.rows("wallets") == []
    assert page.browser.complaints() == []


def test_the_map_is_the_apis(page: Page) -> None:
    page.until(lambda: "liquidatable." in page.text("at-move"))
    document = page.api("/api/v1/liquidation-map")
    rays = document["venues"]["demo"]["rays"]
    names = page.browser.run(
        "return [...document.getElementById('ray').options].map((o) => o.text)"
    )
    assert names == [f"demo: {'all prices together' if ray == 'all' else ray}" for ray in rays]
    page.browser.run("document.getElementById('ray').focus()")
    page.browser.press("demo: ETH")
    page.browser.run("document.getElementById('move').focus()")
    moves = document["moves_pct"]
    for key, move in (("\ue012", -12), ("\ue014", -10), ("\ue011", -50), ("\ue010", 50)):
        page.browser.press(key)  # left, right, home, end
        k = moves.index(move)
        number = rays["ETH/USD"]["accounts"][k]
        assert f"ETH/USD {move:+} %" in page.text("at-move")
        assert f": {number} account" in page.text("at-move")
    bars = page.browser.run("return document.querySelectorAll('#picture rect').length")
    assert bars == sum(
        value > 0 for values in rays["ETH/USD"]["markets_usd"].values() for value in values
    )
    assert page.browser.complaints() == []


def test_a_change_arrives_without_a_reload(page: Page, rig: Rig) -> None:
    page.browser.run("window.same = true")
    before = rig.oracle.prices[ETH]
    rig.oracle.set(ETH, before + 7 * WAD)
    wanted = f"{(before + 7 * WAD) / WAD:,.2f}"
    page.until(lambda: wanted in [row[1] for row in page.rows("prices")])
    rig.oracle.set(ETH, before)
    page.until(lambda: wanted not in [row[1] for row in page.rows("prices")])
    assert page.browser.run("return window.same")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_phone(page: Page, scheme: str) -> None:
    page.browser.scheme(scheme)
    page.browser.size(NARROW, 740)
    page.until(lambda: "liquidatable." in page.text("at-move"))
    assert page.browser.run(TOO_WIDE) == []
    colour = page.browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) > 3 * 128) is (scheme == "light")


def test_the_keyboard_reaches_every_control(page: Page) -> None:
    page.until(lambda: "liquidatable." in page.text("at-move"))
    page.browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    controls = page.browser.run(CONTROLS)
    reached = []
    for _ in controls:
        page.browser.press(TAB)
        name, visible = page.browser.run(FOCUSED)
        assert visible, f"one sees not that {name} has the focus"
        reached.append(name)
    assert reached == controls
    assert reached[0] == "#accounts-title"
    assert {"ray", "move"} < set(reached)
    assert "which" in reached
    assert any(name.startswith("#/demo/") for name in reached)


def test_an_account_is_explained_as_the_api_does(page: Page, rig: Rig) -> None:
    said = page.api("/api/v1/status")["accounts"]
    under = next(one["account"] for one in said if one["distance_pct"] < 0)
    path = f"/api/v1/accounts/demo/{under}"
    link = "document.querySelector(`#accounts a[href$='${arguments[0]}']`)"
    page.browser.run(f"{link}.focus()", under)
    page.browser.press(ENTER)
    page.until(lambda: page.rows("one-lead"))
    assert page.browser.run(FOCUSED)[0] == "one-title"
    assert page.text("one-title") == f"Account {under} at demo"
    assert page.text("one-note").startswith("dry_run\nheld: dry_run · looked at again ")

    def same() -> bool:  # funding goes on between the two looks
        found = page.api(path)
        exact, lead = found["assessment"], found["at_source_prices"]
        near = {term["factor"]: term["move_pct"] for term in lead["terms"]}["ETH/USD"]
        *terms, _, excess = page.rows("one-lead")
        return (
            all(
                f"{exact[key]:,.2f}" in page.text("one-exact")
                for key in ("equity_usd", "requirement_usd", "excess_usd", "reward_usd")
            )
            and [row[0].split("|")[0] for row in terms] == [one["factor"] for one in lead["terms"]]
            and excess[2] == f"{lead['excess_usd']:,.2f}"
            and f"{near:+.2f} %" in {row[3] for row in terms}
            and json.dumps(found["state"], indent=1) in page.text("one-state")
        )

    page.until(same)
    # it goes on to say what holds: a change of price changes the value shown
    before = rig.oracle.prices[ETH]
    rig.oracle.set(ETH, before + 7 * WAD)
    wanted = f"{(before + 7 * WAD) / WAD:,.2f}"
    page.until(lambda: wanted in [row[1] for row in page.rows("one-lead")])
    rig.oracle.set(ETH, before)
    page.until(lambda: wanted not in [row[1] for row in page.rows("one-lead")])
    page.browser.run("document.getElementById('one-close').click()")
    page.until(lambda: page.browser.run("return document.getElementById('one').hidden"))
    assert page.browser.complaints() == []


def test_any_account_is_looked_up_and_the_address_can_be_kept(page: Page) -> None:
    safe = max(page.api("/api/v1/status")["accounts"], key=lambda one: one["distance_pct"])
    page.browser.run("document.getElementById('which').focus()")
    page.browser.press(safe["account"] + ENTER)
    page.until(lambda: "not liquidatable" in page.text("one-exact"))
    kept = page.browser.run("return location.href")
    page.browser.open("about:blank")
    page.browser.open(kept)
    page.until(lambda: page.text("one-title") == f"Account {safe['account']} at demo")
    page.until(lambda: "not liquidatable" in page.text("one-exact"))
    page.browser.run("document.getElementById('which').focus()")
    page.browser.press("nobody" + ENTER)
    page.until(lambda: "no account 'nobody' is known" in page.text("one-note"))
    assert page.browser.run("return document.getElementById('one-margin').hidden")


def test_an_account_on_a_phone(page: Page) -> None:
    page.browser.size(NARROW, 740)
    page.browser.run("document.querySelector('#accounts a').click()")
    page.until(lambda: page.rows("one-lead"))
    page.browser.run("document.querySelector('#one summary').click()")
    assert page.browser.run(TOO_WIDE) == []


def test_the_focus_stays_while_values_change(page: Page) -> None:
    page.browser.run("document.querySelector('#accounts a').focus()")
    name, _ = page.browser.run(FOCUSED)
    before = page.text("facts")
    page.until(lambda: page.text("facts") != before)
    assert page.browser.run(FOCUSED)[0] == name


def test_tables_and_landmarks_have_names(page: Page) -> None:
    heads = page.browser.run(
        "return [...document.querySelectorAll('thead th')].every((th) => th.scope === 'col')"
        " && [...document.querySelectorAll('tbody tr')].every((tr) => tr.cells[0].scope === 'row')"
    )
    assert heads
    unnamed = page.browser.run(
        "return [...document.querySelectorAll('section, nav')].filter((part) =>"
        " !document.getElementById(part.getAttribute('aria-labelledby'))).length"
    )
    assert unnamed == 0
    assert (
        page.browser.run("return document.querySelectorAll('h1, main, header, footer').length") == 4
    )


def test_without_javascript_a_sentence_says_what_to_do(page: Page) -> None:
    page.browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.browser.open(f"http://127.0.0.1:{page.keeper.http_port}/")
        page.browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
        said = page.browser.run("return document.body.innerText")
    finally:
        page.browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
    assert "This page needs JavaScript. Without it, keeper status shows the same" in said
    assert "Prices" not in said


def test_it_recovers_when_the_keeper_comes_back(page: Page) -> None:
    page.browser.run("window.same = true")
    page.keeper.kill()
    page.until(lambda: page.text("state").startswith("STALE: the keeper does not answer"))
    assert page.rows("prices"), "what was known last is still there"
    page.keeper.start()
    page.until(lambda: page.text("state") in {"ready", "not ready"})
    page.until(lambda: page.text("state") == "ready")
    assert page.browser.run("return window.same")
    assert [said for said in page.browser.complaints() if STREAM_CUT not in said] == []


def test_an_attempt_is_told_with_its_money(
    browser: Browser, tmp_path: Path, node: Anvil, broker: Broker
) -> None:
    with opened(tmp_path, node, broker) as rig, rig.keeper() as keeper:
        account = rig.open_under()
        page = Page(browser, keeper)
        keeper.until_ready()
        page.open()
        page.until(lambda: [row[1] for row in page.rows("attempts")][:1] == ["won"])
        said = page.api("/api/v1/status")
        (done,) = page.api("/api/v1/attempts")["attempts"]
        ((who, _, story),) = page.rows("attempts")
        assert who == str(account)
        told = re.search(r"block (\d+) · paid (\S+) for (\S+) · one transaction", story)
        assert told, story
        assert int(told[1]) == done["included_block"]
        for shown, exact in ((told[2], done["reward_wei"]), (told[3], done["cost_wei"])):
            assert float(shown) == pytest.approx(int(exact) / WAD, rel=1e-3)
        assert done["tx_hash"] in story
        history = re.findall(r"\+([\d.]+) s (\w+)", story)
        assert history == [
            (f"{(line['at_ms'] - done['opened_ms']) / 1000:.3f}", line["event"])
            for line in done["history"]
        ]
        *events, last = [event for _, event in history]
        assert last == "settled"
        # a node that mines at once may tell of the block before it answers the broadcast
        assert sorted(events[-2:]) == ["broadcast", "included"]
        page.browser.run("location.hash = `#/demo/${arguments[0]}`", str(account))
        page.until(lambda: [row[1] for row in page.rows("one-attempts")] == ["won"])
        assert page.rows("one-attempts")[0][2] == story
        (wallet,) = page.rows("wallets")
        (held,) = said["wallets"]
        assert wallet[:2] == [
            f"{held['name']}|{held['address']}",
            f"{int(held['balance_wei']) / WAD:,.2f}",
        ]
        assert browser.run("return document.getElementById('dry-run').hidden")
