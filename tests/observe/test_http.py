"""The HTTP server, asked over real sockets on loopback."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import quote

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pydantic import SecretStr

from keeper.errors import ConfigError, FatalError, UnknownNameError
from keeper.observe.api import Reads
from keeper.observe.http import Views, serve
from keeper.observe.metrics import Metrics
from keeper.observe.openapi import READS, SHOCKS_MAX, WRITES
from keeper.observe.query import WORDS_CHARS_MAX

API = [
    *("/api/v1/accounts", "/api/v1/candidates", "/api/v1/attempts", "/api/v1/config"),
    *("/api/v1/stress", "/api/v1/liquidation-map", "/api/v1/openapi.json"),
]
PATHS = ["/", "/metrics", "/healthz", "/readyz", "/api/v1/status", *API]
OTHERS = ["/api/v1/accounts/{venue}/{account}", "/api/v1/events"]
HOST = "127.0.0.1"
LIMIT, LIMIT_MAX = 100, 1_000


@dataclass
class State:
    """What the views say, for a test to change."""

    metrics: Metrics = field(default_factory=lambda: Metrics("1.2.3"))
    late: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    standby: str = ""
    status: dict[str, object] = field(default_factory=dict)
    paused: list[bool] = field(default_factory=list)
    token: str | None = None
    drawn: bool = True  # is the map done?

    async def liquidation_map(self) -> dict[str, object]:
        if not self.drawn:
            raise TimeoutError
        return {"moves_pct": [0]}

    def pause(self, *, on: bool) -> str:
        self.paused.append(on)
        return "by hand" if on else ""

    def views(self) -> Views:
        return Views(
            version="1.2.3",
            metrics=self.metrics,
            late=lambda: self.late,
            unready=lambda: self.reasons,
            standby=lambda: self.standby,
            status=lambda: self.status,
            reads=Reads(
                accounts=lambda venue, offset, limit: self.page("accounts", venue, offset, limit),
                candidates=lambda venue, offset, limit: self.page("due", venue, offset, limit),
                account=lambda venue, account: {("demo", "7"): {"why": "due"}}[venue, account],
                attempts=self.attempts,
                config=lambda: {"chain": {"id": 1}},
                stress=self.stress,
                liquidation_map=self.liquidation_map,
            ),
            pause=self.pause,
            token=SecretStr(self.token) if self.token else None,
        )

    async def attempts(
        self, filters: Mapping[str, object], offset: int, limit: int
    ) -> dict[str, object]:
        if self.reasons:
            raise FatalError(self.reasons[0])
        return {"filters": filters, "offset": offset, "limit": limit}

    @staticmethod
    async def stress(shocks: Sequence[str], everything: str | None) -> dict[str, object]:
        if "NONE=-1%" in shocks:
            msg = "no price or market 'NONE' is known"
            raise UnknownNameError(msg)
        if "" in shocks:
            msg = "a shock should be written NAME=-20%"
            raise ValueError(msg)
        return {"shocks": list(shocks), "all": everything}

    @staticmethod
    def page(name: str, venue: str | None, offset: int, limit: int) -> dict[str, object]:
        if venue not in {None, "demo"}:
            raise KeyError(venue)
        return {name: venue, "offset": offset, "limit": limit}


@asynccontextmanager
async def _served(
    state: State, request_s_max: float = 10.0
) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        serve(HOST, 0, state.views(), request_s_max=request_s_max) as port,
        aiohttp.ClientSession(f"http://{HOST}:{port}") as session,
    ):
        yield session


async def test_a_pause_wants_the_token() -> None:
    state = State(token="s3cret")  # noqa: S106
    async with _served(state) as session:
        for wrong in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}):
            for path in ("/api/v1/pause", "/api/v1/resume"):
                async with session.post(path, headers=wrong) as answer:
                    assert answer.status == 401
                    assert "s3cret" not in await answer.text()
        assert state.paused == []
        right = {"Authorization": "Bearer s3cret"}
        async with session.post("/api/v1/pause", headers=right) as answer:
            assert (answer.status, await answer.json()) == (200, {"paused": "by hand"})
        async with session.post("/api/v1/resume", headers=right) as answer:
            assert (answer.status, await answer.json()) == (200, {"paused": ""})
        async with session.get("/api/v1/pause", headers=right) as answer:
            assert answer.status == 405, "nothing is switched by following a link"
    assert state.paused == [True, False]


async def test_without_a_token_there_is_no_pause() -> None:
    state = State()
    async with _served(state) as session:
        headers = {"Authorization": "Bearer "}
        async with session.post("/api/v1/pause", headers=headers) as answer:
            assert answer.status == 404
    assert state.paused == []


async def test_metrics_in_both_formats() -> None:
    state = State()
    state.metrics.before_render(lambda: state.metrics.gauge("keeper_head_block", 123))
    async with _served(state) as session:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0, */*; q=0.1"}
        async with session.get("/metrics", headers=accept) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text;")
            text = await answer.text()
            families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            found = {family.name: family for family in families}
        async with session.get("/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert "keeper_head_block 123.0\n" in await answer.text()
    assert found["keeper_head_block"].samples[0].value == 123


async def test_metrics_are_refreshed_on_the_loop_and_rendered_off_it() -> None:
    threads: dict[str, int] = {}

    class Observed(Metrics):
        def render(self, accept: str) -> tuple[bytes, str]:
            threads["render"] = threading.get_ident()
            return super().render(accept)

    state = State(metrics=Observed("1.2.3"))
    state.metrics.before_render(lambda: threads.update(refresh=threading.get_ident()))
    async with _served(state) as session, session.get("/metrics") as answer:
        assert answer.status == 200
    assert threads["refresh"] == threading.get_ident()
    assert threads["render"] != threading.get_ident()


async def test_healthz_names_the_loops_that_are_late() -> None:
    state = State()
    async with _served(state) as session:
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        state.late = {"decide": 12.34567, "prices": 9.0}
        async with session.get("/healthz") as answer:
            assert answer.status == 503
            assert await answer.json() == {
                "status": "late",
                "loops": {"decide": {"age_s": 12.346}, "prices": {"age_s": 9.0}},
            }
        state.late = {}
        async with session.get("/healthz") as answer:
            assert answer.status == 200


async def test_readyz_gives_the_reasons() -> None:
    state = State(reasons=["no price for ETH/USD", "perps quarantined"])
    async with _served(state) as session:
        async with session.get("/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"] == state.reasons
        state.reasons = []
        async with session.get("/readyz") as answer:
            assert answer.status == 200
            assert (await answer.json())["reasons"] == []


async def test_a_standby_is_ready_and_says_that_another_sends() -> None:
    state = State(standby="keeper-1 has the lease")
    async with _served(state) as session, session.get("/readyz") as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body == {"status": "standby", "reasons": [], "standby": state.standby}


async def test_status_is_the_callables_answer_to_the_last_digit() -> None:
    state = State(status={"profit_wei": 3 * 10**20 + 1, "venues": [{"id": "perps"}]})
    async with _served(state) as session, session.get("/api/v1/status") as answer:
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert json.loads(await answer.text()) == state.status


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]


async def test_the_page_links_to_what_exists_and_loads_nothing() -> None:
    state = State()
    async with _served(state) as session:
        async with session.get("/") as answer:
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            page = await answer.text()
        parser = _Links()
        parser.feed(page)
        paths = [link for link in parser.links if link.startswith("/")]
        others = [link for link in parser.links if not link.startswith("/")]
        assert paths == PATHS[1:]
        assert [link.split(":")[0].split("-")[0] for link in others] == ["data", "#accounts", "#"]
        assert "keeper status" in page.split("<noscript>")[1].split("</noscript>")[0]
        for link in paths:
            async with session.get(link) as answer:
                assert answer.status == 200


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
async def test_every_answer_is_protected_and_none_allows_other_origins(path: str) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    async with _served(State()) as session, session.get(path, headers=headers) as answer:
        assert answer.status == (404 if path == "/nothing" else 200)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Server"] == "keeper"
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_only_get(method: str) -> None:
    async with _served(State()) as session:
        for path in PATHS:
            async with session.request(method, path, data=b"x" * 10_000) as answer:
                assert answer.status == 405
                assert answer.headers["Allow"] == "GET"


async def test_oversized_headers_are_refused() -> None:
    async with _served(State()) as session:
        async with session.get("/healthz", headers={"X-Long": "x" * 100_000}) as answer:
            assert answer.status == 400
        async with session.get("/healthz", headers={f"X-{n}": "1" for n in range(200)}) as answer:
            assert answer.status == 400
        async with session.get("/healthz") as answer:
            assert answer.status == 200


async def test_a_request_that_takes_too_long_is_given_up() -> None:
    release = threading.Event()

    class Stuck(Metrics):
        def render(self, accept: str) -> tuple[bytes, str]:
            release.wait(20)
            return super().render(accept)

    async with _served(State(metrics=Stuck("1.2.3")), request_s_max=0.05) as session:
        try:
            async with session.get("/metrics") as answer:
                assert (answer.status, await answer.json()) == (503, {"error": "timed out"})
            async with session.get("/healthz") as answer:
                assert answer.status == 200
        finally:
            release.set()


async def test_a_view_that_fails_is_a_500_and_the_server_lives_on() -> None:
    state = State(status={"age_s": float("nan")})
    async with _served(state) as session:
        async with session.get("/api/v1/status") as answer:
            assert answer.status == 500
            assert "nan" not in (await answer.text()).lower()
        async with session.get("/healthz") as answer:
            assert answer.status == 200


async def test_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="aiohttp.access"):
        async with _served(State()) as session, session.get("/healthz") as answer:
            assert answer.status == 200
    assert [record for record in caplog.records if record.name == "aiohttp.access"] == []


async def test_what_is_no_http_is_refused_and_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve(HOST, 0, State().views()) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nA\x00B: 1\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.0 400")
        writer.close()
    assert caplog.records == []


async def test_the_port_is_free_again_afterwards() -> None:
    async with serve(HOST, 0, State().views()) as port:
        reader, writer = await asyncio.open_connection(HOST, port)  # left open and idle
    async with serve(HOST, port, State().views()) as again:
        assert again == port
    assert await reader.read() == b""
    writer.close()


async def test_a_port_that_is_taken_is_the_operators_to_mend() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on {HOST}:{port}"):
            async with serve(HOST, port, State().views()):
                pass


async def asked(path: str) -> tuple[int, dict[str, object]]:
    async with _served(State()) as session, session.get(path) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


@pytest.mark.parametrize(("path", "name"), [("accounts", "accounts"), ("candidates", "due")])
async def test_pages_are_bounded(path: str, name: str) -> None:
    first = {name: None, "offset": 0, "limit": LIMIT}
    assert await asked(f"/api/v1/{path}") == (200, first)
    chosen = {name: "demo", "offset": 20, "limit": LIMIT_MAX}
    query = f"venue=demo&offset=20&limit={LIMIT_MAX}"
    assert await asked(f"/api/v1/{path}?{query}") == (200, chosen)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "limit should be a whole number from 1 to 1000, got '0'"),
        ("limit=1001", "limit should be a whole number from 1 to 1000, got '1001'"),
        ("offset=-1", "offset should be a whole number from 0 to 10000000, got '-1'"),
        ("offset=x", "offset should be a whole number from 0 to 10000000, got 'x'"),
        ("limit=1&limit=2", "limit should be given once, got it 2 times"),
        ("venue=" + "x" * 201, "venue should have at most 200 characters"),
        ("page=2", "unknown parameter 'page'; there are venue, offset, limit"),
    ],
)
async def test_a_mistake_in_a_query_is_told(query: str, said: str) -> None:
    assert await asked(f"/api/v1/accounts?{query}") == (400, {"error": said})


async def test_what_is_not_there_is_404() -> None:
    assert await asked("/api/v1/accounts/demo/7") == (200, {"why": "due"})
    status, body = await asked("/api/v1/accounts/demo/8")
    assert (status, body["error"]) == (
        404,
        "no account '8' is known at a venue 'demo'; /api/v1/accounts lists them",
    )
    missing = await asked("/api/v1/candidates?venue=acme")
    assert missing == (404, {"error": "no venue 'acme' is configured"})


async def test_a_stress_is_asked_for_in_the_query() -> None:
    query = "shock=ETH%3D-20%25&shock=BTC=-1%25&all=-5%25"
    assert await asked(f"/api/v1/stress?{query}") == (
        200,
        {"shocks": ["ETH=-20%", "BTC=-1%"], "all": "-5%"},
    )
    status, body = await asked("/api/v1/stress?shock=NONE=-1%25")
    assert (status, body) == (404, {"error": "no price or market 'NONE' is known"})
    mistake = "a shock should be written NAME=-20%"
    assert await asked("/api/v1/stress?shock=") == (400, {"error": mistake})
    mistake = "unknown parameter 'shocks'; there are shock, all"
    assert await asked("/api/v1/stress?shocks=ETH") == (400, {"error": mistake})
    many = "&".join(["shock=ETH=-1%25"] * (SHOCKS_MAX + 1))
    status, body = await asked(f"/api/v1/stress?{many}")
    assert (status, body) == (400, {"error": "at most 100 shocks, got 101"})
    status, body = await asked(f"/api/v1/stress?shock={'E' * WORDS_CHARS_MAX}=-1%25")
    assert (status, body) == (400, {"error": "each shock should have at most 64 characters"})


async def test_the_longest_query_that_is_allowed_is_read() -> None:
    longest = "\N{GRINNING FACE}" * (WORDS_CHARS_MAX - 4) + "=-1%"
    query = "&".join([f"shock={quote(longest)}"] * SHOCKS_MAX)
    assert len(query) > 70_000
    status, body = await asked(f"/api/v1/stress?{query}")
    assert (status, body["shocks"]) == (200, [longest] * SHOCKS_MAX)


async def test_a_map_that_takes_long_is_asked_for_again() -> None:
    path = "/api/v1/liquidation-map"
    async with _served(state := State(drawn=False)) as session:
        async with session.get(path) as answer:
            assert answer.status == 503
            assert "ask again in a while" in (await answer.json())["error"]
        state.drawn = True
        async with session.get(path) as answer:
            assert (answer.status, await answer.json()) == (200, {"moves_pct": [0]})


ANY_ATTEMPT = dict.fromkeys(["venue", "account", "outcome", "wallet", "since_ms"])


async def test_attempts_are_filtered_and_paged() -> None:
    everything = {"filters": ANY_ATTEMPT, "offset": 0, "limit": 50}
    assert await asked("/api/v1/attempts") == (200, everything)
    query = "venue=demo&account=7&outcome=won&wallet=0x1&since_ms=1700000000000&limit=200"
    status, body = await asked(f"/api/v1/attempts?{query}&offset=9")
    assert status == 200
    assert body["filters"] == {
        "venue": "demo",
        "account": "7",
        "outcome": "won",
        "wallet": "0x1",
        "since_ms": 1_700_000_000_000,
    }
    assert (body["offset"], body["limit"]) == (9, 200)
    for wrong in ("outcome=x", "limit=201", "since_ms=now"):
        assert (await asked(f"/api/v1/attempts?{wrong}"))[0] == 400


async def test_a_journal_that_cannot_be_read_is_told() -> None:
    state = State(reasons=["journal: no such file"])
    async with _served(state) as session, session.get("/api/v1/attempts") as answer:
        assert (answer.status, await answer.json()) == (503, {"error": "journal: no such file"})


async def test_the_openapi_document_names_every_route_and_no_other() -> None:
    async with _served(State(token="s3cret")) as session:  # noqa: S106
        async with session.get("/api/v1/openapi.json") as answer:
            told = (await answer.json())["paths"]
        assert set(told) == {*READS, *WRITES}
        for path, operations in told.items():
            (method,) = operations
            asked_for = path.format(venue="demo", account="7")
            async with session.request(method, asked_for) as answer:
                assert answer.status == (401 if path in WRITES else 200)
                assert str(answer.status) in operations[method]["responses"]
    assert set(READS) == {*PATHS, *OTHERS} - {"/", "/metrics"}
    _, told = await asked("/api/v1/openapi.json")
    assert set(WRITES).isdisjoint(told["paths"])  # type: ignore[arg-type]


async def test_the_config_in_effect_is_shown() -> None:
    assert await asked("/api/v1/config") == (200, {"chain": {"id": 1}})
