"""JSON-RPC to one chain through several endpoints.

Transient faults are retried a bounded number of times, each time at the best endpoint that was not
asked yet. Whatever fails is told apart in ``wordings`` and ``decode``; nothing deeper looks at an
error's text.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from keeper.chain.decode import log_from_json, quantity, receipt_from_json, unhex
from keeper.chain.endpoints import Endpoint, Endpoints, Role, first_untried
from keeper.chain.jsonrpc import Request
from keeper.chain.wordings import rpc_error
from keeper.errors import RpcError, RpcFault, TransientRpcError
from keeper.facts import Call, Execution
from keeper.ports import Rpc

__all__ = [
    "WATCHER",
    "HttpRpc",
    "batch_whole",
    "log_from_json",
    "quantity",
    "receipt_from_json",
    "rpc_error",
    "unhex",
]

WATCHER = "0x00000000000000000000000000000000000decaf"  # dry runs simulate from here: nobody's key
WATCHER_BALANCE = hex(10**24)
COUNT = "eth_getTransactionCount"


async def batch_whole(rpc: Rpc, requests: Sequence[Request]) -> list[Any]:
    """Return the results in order; raises the RpcError of the first item that failed."""
    answers = await rpc.batch(requests)
    for answer in answers:
        if isinstance(answer, RpcError):
            raise answer
    return answers


class HttpRpc:
    """Asks the endpoint that is best at the moment. Implements ``ports.Rpc``."""

    def __init__(self, endpoints: Endpoints, attempts_max: int) -> None:
        """Ask the endpoints whose role is to be read from."""
        self.endpoints = endpoints
        self._attempts_max = attempts_max
        self._can_simulate = True

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        """Return the result of one request."""
        result = (await self.batch([(method, params)]))[0]
        if isinstance(result, RpcError):
            raise result
        return result

    async def batch(self, requests: Sequence[Request]) -> list[Any]:
        """Return the results in order; an item that failed alone is an RpcError in its place.

        What a wallet's nonce is, is asked of every usable endpoint: believed alone, one that
        counts too far would have us leave a gap that nothing gets past.
        """
        if not requests:
            return []
        asked, answers = await self._ask_best(requests)
        counts = [at for at, (method, _) in enumerate(requests) if method == COUNT]
        if counts:
            others = [each for each in self.endpoints.usable(Role.READ) if each is not asked]
            heard = await self._also(others, [requests[at] for at in counts])
            for place, at in enumerate(counts):
                answers[at] = _lower_median([answers[at], *(one[place] for one in heard)])
        return answers

    async def _also(
        self, endpoints: Sequence[Endpoint], requests: Sequence[Request]
    ) -> list[list[Any]]:
        """Ask these endpoints too; those that do not answer are left out."""

        async def ask(endpoint: Endpoint) -> list[Any] | None:
            try:
                return await self.endpoints.ask(endpoint, requests)
            except TransientRpcError:
                return None

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ask(endpoint), name=f"also/{endpoint.label}")
                for endpoint in endpoints
            ]
        return [answers for task in tasks if (answers := task.result()) is not None]

    async def _ask_best(self, requests: Sequence[Request]) -> tuple[Endpoint, list[Any]]:
        tried: set[str] = set()
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(TransientRpcError),
            stop=stop_after_attempt(self._attempts_max),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        ):
            with attempt:
                endpoint = first_untried(self.endpoints.ranked(Role.READ), tried)
                tried.add(endpoint.label)
                return endpoint, await self.endpoints.ask(endpoint, requests)
        raise AssertionError  # pragma: no cover - AsyncRetrying returns or raises

    async def simulate(self, call: Call, sender: str) -> Execution:
        """Run a call on the newest block: eth_simulateV1, else eth_call + eth_estimateGas."""
        if self._can_simulate:
            try:
                return (await self.simulate_each([call], sender))[0]
            except RpcError as error:
                if error.fault is not RpcFault.UNSUPPORTED:
                    raise
                self._can_simulate = False  # for good: endpoints are expected to be alike
        return await self._simulate_by_call(call, sender)

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        """Run calls one after the other on the newest block, each on what the former left."""
        block: dict[str, object] = {"calls": [_message(call, sender) for call in calls]}
        if overrides := _overrides(sender):
            block["stateOverrides"] = overrides
        blocks = await self.call("eth_simulateV1", [{"blockStateCalls": [block]}, "latest"])
        try:
            done = [_execution(result) for result in blocks[0]["calls"]]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise rpc_error(RpcFault.GARBAGE, f"eth_simulateV1: {error!r}") from None
        if len(done) != len(calls):
            raise rpc_error(RpcFault.GARBAGE, "eth_simulateV1: not an answer for each call")
        return done

    async def _simulate_by_call(self, call: Call, sender: str) -> Execution:
        message, overrides = _message(call, sender), _overrides(sender)
        tail: list[object] = ["latest", overrides] if overrides else ["latest"]
        output, gas = await self.batch(
            [("eth_call", [message, *tail]), ("eth_estimateGas", [message, *tail])]
        )
        for answer in (output, gas):
            if isinstance(answer, RpcError):
                if answer.fault is RpcFault.REVERTED:
                    return Execution(success=False, gas_used=0, output=answer.data)
                raise answer
        return Execution(success=True, gas_used=quantity(gas), output=unhex(output))


def _lower_median(answers: Sequence[Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the count that most agree on; of two the lower one, which at worst is refused."""
    counts = []
    for answer in answers:
        with contextlib.suppress(TransientRpcError):
            counts.append(quantity(answer))
    return hex(median_low(counts)) if counts else answers[0]


def _message(call: Call, sender: str) -> dict[str, str]:
    message = {"from": sender, "to": call.to, "input": "0x" + call.data.hex()}
    return message | ({"value": hex(call.value_wei)} if call.value_wei else {})


def _overrides(sender: str) -> dict[str, dict[str, str]]:
    return {sender: {"balance": WATCHER_BALANCE}} if sender == WATCHER else {}


def _execution(result: Mapping[str, Any]) -> Execution:
    """Read one call's part of an answer of eth_simulateV1."""
    error = result.get("error") or {}
    return Execution(
        success=quantity(result["status"]) == 1,
        gas_used=quantity(result["gasUsed"]),
        output=unhex(error.get("data") or result.get("returnData") or "0x"),
        logs=tuple(log_from_json(raw) for raw in result.get("logs", ())),
    )
