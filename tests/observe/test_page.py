"""The page in a real Chromium, with hostile strings wherever the API has one."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from keeper.observe.http import serve
from keeper.observe.page.document import assemble
from tests.browser import Browser, running_chromium
from tests.observe.test_http import HOST, State

HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>\"'&\u202e"
INJECTIONS = """
const made = (tag) => document.body.appendChild(document.createElement(tag));
const tries = [
  () => (made("div").innerHTML = "<b>x</b>"),
  () => made("div").setAttribute("onclick", "window.pwned = 1"),
  () => (made("script").text = "window.pwned = 1"),
];
made("style").textContent = "body { display: none }";
return tries.map((attempt) => {
  try { attempt(); } catch (error) { return error.name; }
});
"""
WEIGHT_BYTES_MAX = 40_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def hostile_status() -> dict[str, Any]:
    """Return a status document whose every text came from somebody else."""
    account = {"venue": HOSTILE, "account": HOSTILE, "why": HOSTILE, "detail": HOSTILE}
    return {
        "chain_id": 1,
        "now_ms": 0,
        "ready": False,
        "unready": [HOSTILE, HOSTILE],
        "dry_run": False,
        "paused": HOSTILE,
        "head": None,
        "prices": {HOSTILE: {"price": None, "age_ms": None, "trouble": HOSTILE}},
        "venues": {
            HOSTILE: {
                "loaded": True,
                "open": False,
                "breaker_open": False,
                "probe": {"detail": HOSTILE, "facts": {}},
                "accounts": 1,
                "in_book": 1,
                "under_margined": 1,
            }
        },
        "accounts": [
            account | {"distance_pct": -1.0},
            account | {"venue": "", "distance_pct": None},
        ],
        "endpoints": [
            {"endpoint": HOSTILE, "roles": [HOSTILE], "state": HOSTILE, "trouble": HOSTILE}
            | {"head": None, "lag_blocks": 0, "latency_ms": None}
        ],
        "loops": {HOSTILE: {"age_s": 1.0, "limit_s": 0.5, "late": True}},
        "attempts": [],
        "liquidations": {HOSTILE: {"us": 1, "other": 1, "capture_rate": 0.5}},
        "totals": {"outcomes": {HOSTILE: 1}, "profit_wei": {HOSTILE: "1"}},
        "budgets": [{"budget": HOSTILE, "unit": "usd", "most": 1.0, "left": None}],
        "wallets": [
            {"name": HOSTILE, "address": HOSTILE, "balance_wei": "1", "open_attempts": 0}
            | {"parked": HOSTILE}
        ],
        "latency_ms": {"p50": None, "p99": None, "count": 0},
    }


def hostile_attempts() -> dict[str, Any]:
    event = {"at_ms": 1, "event": HOSTILE, "block": None, "facts": {}}
    attempt = {
        **dict.fromkeys(("id", "venue", "account", "wallet", "outcome", "detail"), HOSTILE),
        "tx_hash": HOSTILE,
        "nonce": 0,
        "accounts": 2,
        "opened_ms": 0,
        "included_block": None,
        "reward_wei": "1",
        "cost_wei": "1",
        "transactions": [],
        "history": [event],
    }
    return {"total": 30, "offset": 0, "attempts": [attempt]}


def hostile_map() -> dict[str, Any]:
    ray = {
        "price_usd": None,
        "accounts": [1, 1, 1],
        "notional_usd": [1.0, 1.0, 1.0],
        "markets_usd": {HOSTILE: [1.0, 1.0, 1.0]},
    }
    unknown = {"quarantined_accounts": 1, "unpriced_accounts": 1}
    venue = {"block": 1, "at_s": 1, "unknown": unknown, "rays": {HOSTILE: ray}}
    return {"moves_pct": [-10, 0, 10], "venues": {HOSTILE: venue}, "left_out": {HOSTILE: HOSTILE}}


class Hostile(State):
    async def attempts(self, *_: object) -> dict[str, object]:
        return hostile_attempts()

    async def liquidation_map(self) -> dict[str, object]:
        return hostile_map()


@asynccontextmanager
async def shown(browser: Browser, state: State) -> AsyncIterator[None]:
    async with serve(HOST, 0, state.views()) as port:
        await asyncio.to_thread(browser.complaints)
        await asyncio.to_thread(browser.open, f"http://{HOST}:{port}/")
        yield


async def seen(browser: Browser, words: str) -> str:
    """Return the page's text once it has these words."""
    async with asyncio.timeout(20):
        while True:
            text: str = await asyncio.to_thread(browser.run, "return document.body.innerText")
            if words in text:
                return text
            await asyncio.sleep(0.05)


async def test_what_others_wrote_is_shown_as_text(browser: Browser) -> None:
    state = Hostile(status=hostile_status())
    async with shown(browser, state):
        text = await seen(browser, "could not be worked out")
        assert text.count("<script>window.pwned = 1</script><img src=x") >= 25
        assert "\u202e" not in text, "it would turn what follows round"
        found = "return [window.pwned ?? null, document.scripts.length, document.images.length]"
        assert await asyncio.to_thread(browser.run, found) == [None, 1, 0]
        link = "return document.querySelector('#accounts a').hash.split('/').length"
        assert await asyncio.to_thread(browser.run, link) == 3
        await asyncio.to_thread(browser.size, 360, 740)
        wide = "return document.documentElement.scrollWidth"
        assert await asyncio.to_thread(browser.run, wide) <= 360
        assert await asyncio.to_thread(browser.complaints) == []


async def test_unknown_is_said_to_be_unknown(browser: Browser) -> None:
    async with shown(browser, Hostile(status=hostile_status())):
        text = await seen(browser, "could not be worked out")
        assert "block unknown" in text
        assert "never" in text, "no price was ever accepted"
        assert "no price moves it" in text
        assert "2 accounts could not be worked out" in text
        cells = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.innerText)"
        for where in ("#prices td", "#budgets td", "#endpoints td:last-child"):
            assert (await asyncio.to_thread(browser.run, cells, where))[0].startswith("unknown")


async def test_the_browser_itself_would_refuse_what_is_injected(browser: Browser) -> None:
    """The policy, tried: no script of anybody's runs, no markup is made from text."""
    async with shown(browser, Hostile(status=hostile_status())):
        await seen(browser, "could not be worked out")
        assert await asyncio.to_thread(browser.run, INJECTIONS) == ["TypeError"] * 3
        refusals = await asyncio.to_thread(browser.complaints)
        assert any("Content Security Policy" in said for said in refusals)


async def test_the_document_names_nothing_outside_and_is_small() -> None:
    page = assemble({"/metrics": "a <b> & c"})
    assert "a &lt;b&gt; &amp; c" in page.text
    sources = re.findall(r"""(?:src|href|url|fetch|EventSource)[=(]\s*["']([^"']*)""", page.text)
    assert {source.split(":")[0].split("/")[0] for source in sources} == {
        "",
        "data",
        "#",
        "#accounts-title",
    }
    assert not re.search(
        r"\son[a-z]+=|innerHTML|insertAdjacentHTML|document\.write|eval\(", page.text
    )
    assert "unsafe" not in page.policy
    assert len(page.text.encode()) < WEIGHT_BYTES_MAX


async def test_every_answer_but_the_page_allows_nothing() -> None:
    async with (
        serve(HOST, 0, State().views()) as port,
        aiohttp.ClientSession(f"http://{HOST}:{port}") as session,
    ):
        async with session.get("/") as answer:
            assert "script-src 'sha256-" in answer.headers["Content-Security-Policy"]
        async with session.get("/api/v1/status") as answer:
            assert "script-src" not in answer.headers["Content-Security-Policy"]
