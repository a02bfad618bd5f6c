"""The chain's endpoints and how each of them is: which to ask first, which to leave alone.

An endpoint is known by what it answered lately. One that fails, lags or is slow is asked after the
healthy ones; one that was told to serve another chain is not used at all. ``watch`` probes every
endpoint now and then, so that one which is well again comes back by itself.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn
from urllib.parse import urlsplit

import structlog

from keeper.chain.decode import quantity
from keeper.chain.jsonrpc import Headers, JsonRpcClient, Request
from keeper.chain.wordings import rpc_error
from keeper.errors import EndpointState, RpcError, RpcFault, TransientRpcError
from keeper.ports import Clock, Telemetry

logger = structlog.get_logger(__name__)

FAILURES_DOWN = 2  # in a row: one lost connection says little
ERROR_SHARE_FLAKY = 0.5  # of what was asked lately
SMOOTHING = 0.2  # weight of the newest answer: some ten answers are "lately"
RETRY_AFTER_S_MAX = 60.0  # longer pauses than this are not obeyed: we ask again and are told again
_NS_PER_S = 1_000_000_000


class Role(StrEnum):
    """What an endpoint is used for."""

    READ = "read"
    SEND = "send"
    PRIVATE = "private"


USABLE = frozenset(
    {EndpointState.HEALTHY, EndpointState.SLOW, EndpointState.FLAKY, EndpointState.STALE}
)
ORDER = list(EndpointState)


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """From ``[chain]``."""

    chain_id: int
    probe_ms: int
    head_lag_blocks_max: int
    latency_ms_max: int


@dataclass
class Endpoint:
    """One URL, and what its last answers say about it."""

    url: str = field(repr=False)
    label: str  # without path or query, which may hold an API key
    roles: set[Role]
    verified: bool = False  # it has shown the right chain id since it was last lost
    failures: int = 0  # in a row
    error_share: float = 0.0  # of what was asked lately
    latency_ms: float | None = None  # of probes, smoothed
    head: int | None = None  # block number at the last probe
    lag: int = 0  # blocks behind the farthest endpoint at the last probe
    limited_until_ns: int = 0
    wrong_chain: bool = False
    trouble: str = ""  # the last failure, in words

    @property
    def is_relay(self) -> bool:
        """Return whether it only takes transactions, and may know no other method."""
        return self.roles == {Role.PRIVATE}

    def answered(self) -> None:
        """Note an answer."""
        self.failures = 0
        self.error_share *= 1 - SMOOTHING

    def failed(self, error: RpcError, now_ns: int) -> None:
        """Note a failure that may pass."""
        if error.fault in {RpcFault.UNKNOWN_BLOCK, RpcFault.BUSY}:
            return  # it is well, and has not got a block yet or no room
        self.failures += 1
        self.error_share += (1 - self.error_share) * SMOOTHING
        self.trouble = str(error)
        if error.fault is RpcFault.WRONG_CHAIN:
            self.wrong_chain, self.head = True, None
        if error.fault in {RpcFault.UNREACHABLE, RpcFault.WRONG_CHAIN}:
            self.verified = False  # who answers next may be somebody else
        pause_s = min(error.retry_after_s, RETRY_AFTER_S_MAX)
        self.limited_until_ns = now_ns + int(pause_s * _NS_PER_S)

    def measured(self, latency_ms: float, head: int | None) -> None:
        """Note a probe."""
        before = latency_ms if self.latency_ms is None else self.latency_ms
        self.latency_ms = before + (latency_ms - before) * SMOOTHING
        self.head = head

    def state(self, rules: EndpointRules, now_ns: int) -> EndpointState:
        """Return how it is now."""
        if self.wrong_chain:
            return EndpointState.WRONG_CHAIN
        if now_ns < self.limited_until_ns:
            return EndpointState.LIMITED
        if self.failures >= FAILURES_DOWN:
            return EndpointState.DOWN
        if self.lag > rules.head_lag_blocks_max:
            return EndpointState.STALE
        if self.error_share > ERROR_SHARE_FLAKY:
            return EndpointState.FLAKY
        slow = self.latency_ms is not None and self.latency_ms > rules.latency_ms_max
        return EndpointState.SLOW if slow else EndpointState.HEALTHY


class Endpoints:
    """All endpoints of the chain, one of each URL whatever it is used for."""

    def __init__(
        self, client: JsonRpcClient, rules: EndpointRules, clock: Clock, telemetry: Telemetry
    ) -> None:
        """Start without endpoints."""
        self.client = client
        self.rules = rules
        self._clock = clock
        self._telemetry = telemetry
        self.all: list[Endpoint] = []

    def add(self, urls: Sequence[str], role: Role) -> None:
        """Use these URLs for something, best first."""
        known = {endpoint.url: endpoint for endpoint in self.all}
        for number, url in enumerate(urls):
            if url in known:
                known[url].roles.add(role)
                continue
            prefix = "http" if role is Role.READ else role.value
            endpoint = Endpoint(url, f"{prefix}{number}:{urlsplit(url).hostname}", {role})
            known[url] = endpoint
            self.all.append(endpoint)

    def state(self, endpoint: Endpoint) -> EndpointState:
        """Return how an endpoint is now."""
        return endpoint.state(self.rules, self._clock.monotonic_ns())

    def ranked(self, role: Role) -> list[Endpoint]:
        """Return the endpoints of a role: the healthy ones first, as configured among equals."""
        chosen = [endpoint for endpoint in self.all if role in endpoint.roles]
        return sorted(chosen, key=lambda each: (ORDER.index(self.state(each)), each.failures))

    def usable(self, role: Role) -> list[Endpoint]:
        """Return the endpoints of a role that may be expected to answer."""
        return [each for each in self.ranked(role) if self.state(each) in USABLE]

    def trouble(self, role: Role) -> str:
        """Say why no endpoint of a role can be used; "" while one can."""
        if self.usable(role):
            return ""
        return "; ".join(
            f"{each.label} {self.state(each)}: {each.trouble}" for each in self.ranked(role)
        )

    async def ask(
        self, endpoint: Endpoint, requests: Sequence[Request], headers: Headers | None = None
    ) -> list[Any]:
        """Ask one endpoint; an item that failed alone is an RpcError in its place.

        Raises TransientRpcError, also when one item failed in a way that may pass: that is worth a
        retry as a whole. Not for an endpoint that asked for a pause: it is not bothered.
        """
        if self._clock.monotonic_ns() < endpoint.limited_until_ns:
            raise rpc_error(RpcFault.RATE_LIMITED, f"{endpoint.label} asked for a pause")
        result = "ok"
        try:
            if not endpoint.verified and not endpoint.is_relay:
                await self._verify(endpoint)
            answers = await self.client.post(endpoint.url, endpoint.label, requests, headers)
            for answer in answers:
                if isinstance(answer, TransientRpcError):
                    raise answer
        except TransientRpcError as error:
            result = error.fault.value
            endpoint.failed(error, self._clock.monotonic_ns())
            raise
        else:
            endpoint.answered()
            return answers
        finally:
            self._telemetry.count(
                "keeper_rpc_requests_total", endpoint=endpoint.label, result=result
            )

    async def _verify(self, endpoint: Endpoint) -> None:
        answer = (await self.client.post(endpoint.url, endpoint.label, [("eth_chainId", [])]))[0]
        if isinstance(answer, RpcError):
            raise answer
        self._accept_chain(endpoint, quantity(answer))

    def _accept_chain(self, endpoint: Endpoint, found: int) -> None:
        wanted = self.rules.chain_id
        if found != wanted:
            msg = f"{endpoint.label} serves chain {found}, config says chain.id = {wanted}"
            raise rpc_error(RpcFault.WRONG_CHAIN, msg)
        endpoint.verified, endpoint.wrong_chain = True, False

    async def probe(self, endpoint: Endpoint) -> str:
        """Ask an endpoint for its chain and its head; return what is wrong with it, or ""."""
        began_ns = self._clock.monotonic_ns()
        asked: list[Request] = [("eth_chainId", [])]
        if not endpoint.is_relay:
            asked.append(("eth_blockNumber", []))
        try:
            chain, *heads = await self.ask(endpoint, asked)
        except TransientRpcError as error:
            return str(error)
        if endpoint.is_relay and isinstance(chain, RpcError):
            return ""  # it does not know the method, so it is there
        try:
            self._accept_chain(endpoint, quantity(chain))
            head = quantity(heads[0]) if heads else None
            endpoint.measured((self._clock.monotonic_ns() - began_ns) / 1e6, head)
        except TransientRpcError as error:
            endpoint.failed(error, self._clock.monotonic_ns())
            return str(error)
        return ""

    async def probe_all(self) -> dict[str, str]:
        """Probe every endpoint at once and compare their heads; label → what is wrong, or ""."""
        async with asyncio.TaskGroup() as group:
            tasks = {
                each.label: group.create_task(self.probe(each), name=f"probe/{each.label}")
                for each in self.all
            }
        farthest = max((each.head for each in self.all if each.head is not None), default=0)
        for each in self.all:
            each.lag = farthest - each.head if each.head is not None else 0
        return {label: task.result() for label, task in tasks.items()}

    async def watch(self, beat: Callable[[], None]) -> NoReturn:
        """Probe all endpoints for ever, and tell each change."""
        told = {each.label: EndpointState.HEALTHY for each in self.all}
        while True:
            await self.probe_all()
            for each in self.all:
                state = self.state(each)
                if state is not told[each.label]:
                    logger.warning(
                        "endpoint", endpoint=each.label, state=state.value, trouble=each.trouble
                    )
                    told[each.label] = state
            beat()
            await asyncio.sleep(self.rules.probe_ms / 1000)

    def report(self) -> list[dict[str, object]]:
        """Return each endpoint as the status document shows it."""
        return [
            {
                "endpoint": each.label,
                "roles": sorted(each.roles),
                "state": self.state(each),
                "head": each.head,
                "lag_blocks": each.lag,
                "latency_ms": None if each.latency_ms is None else round(each.latency_ms, 1),
                "error_share": round(each.error_share, 2),
                "trouble": each.trouble if self.state(each) is not EndpointState.HEALTHY else "",
            }
            for each in self.all
        ]

    def set_gauges(self) -> None:
        """Show each endpoint's state, latency and lag as metrics."""
        for each in self.all:
            now = self.state(each)
            for state in EndpointState:
                self._telemetry.gauge(
                    "keeper_endpoint_state",
                    float(state is now),
                    endpoint=each.label,
                    state=state.value,
                )
            self._telemetry.gauge("keeper_endpoint_lag_blocks", each.lag, endpoint=each.label)
            if each.latency_ms is not None:
                seconds = each.latency_ms / 1000
                self._telemetry.gauge(
                    "keeper_endpoint_latency_seconds", seconds, endpoint=each.label
                )


def first_untried(ranked: Sequence[Endpoint], tried: Collection[str]) -> Endpoint:
    """Return the best endpoint that was not asked yet, or the best one when all were."""
    return next((each for each in ranked if each.label not in tried), ranked[0])
