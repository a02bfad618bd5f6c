"""JSON-RPC over HTTP to one chain through several endpoints.

Every failure is told apart here, once, into ``RpcFault``; nothing deeper looks at an error's text.
Transient faults are retried a bounded number of times, each time at the next endpoint. An endpoint
is asked for its chain id before its first use and again after it was lost; one that serves another
chain is not used.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from keeper.errors import TRANSIENT_FAULTS, RpcError, RpcFault, TransientRpcError
from keeper.facts import Call, Execution, Log, Receipt
from keeper.ports import Rpc, Telemetry

BODY_BYTES_MAX = 64 * 1024 * 1024  # a getLogs answer of some 100,000 logs
WATCHER = "0x00000000000000000000000000000000000decaf"  # dry runs simulate from here: nobody's key
WATCHER_BALANCE = hex(10**24)
METHOD_NOT_FOUND = -32601
TOO_MANY_REQUESTS = 429
REVERT_CODE = 3

# what nodes say, in the order it is tried; first match wins
WORDINGS: tuple[tuple[RpcFault, tuple[str, ...]], ...] = (
    (RpcFault.NONCE_TOO_LOW, ("nonce too low", "nonce is too low", "oldnonce")),
    (RpcFault.ALREADY_KNOWN, ("already known", "known transaction", "already imported")),
    (RpcFault.UNDERPRICED, ("underpriced", "fee too low", "less than block base fee")),
    (RpcFault.INSUFFICIENT_FUNDS, ("insufficient funds", "insufficient balance")),
    (RpcFault.RATE_LIMITED, ("rate limit", "too many requests", "limit exceeded", "throttle")),
    (
        RpcFault.UNKNOWN_BLOCK,
        ("unknown block", "header not found", "block not found", "blockoutofrange", "out of range"),
    ),
    (RpcFault.UNSUPPORTED, ("method not found", "not supported", "does not exist/is not")),
    (RpcFault.REVERTED, ("revert",)),
)


def classify(code: int, message: str) -> RpcFault:
    """Tell what a JSON-RPC error object means."""
    if code == REVERT_CODE:
        return RpcFault.REVERTED
    if code == METHOD_NOT_FOUND:
        return RpcFault.UNSUPPORTED
    if code == TOO_MANY_REQUESTS:
        return RpcFault.RATE_LIMITED
    text = message.lower()
    for fault, wordings in WORDINGS:
        if any(wording in text for wording in wordings):
            return fault
    return RpcFault.OTHER


def rpc_error(fault: RpcFault, message: str, data: bytes = b"") -> RpcError:
    """Make the error of the right class for a fault."""
    kind = TransientRpcError if fault in TRANSIENT_FAULTS else RpcError
    return kind(fault, message[:300], data)


def _error_from(answer: Mapping[str, Any]) -> RpcError:
    error = answer["error"]
    if not isinstance(error, dict):
        return rpc_error(RpcFault.GARBAGE, f"error is no object: {str(error)[:80]}")
    code, message = error.get("code", 0), str(error.get("message", ""))
    fault = classify(code if isinstance(code, int) else 0, message)
    return rpc_error(fault, message, _revert_data(error.get("data")))


def _revert_data(data: object) -> bytes:
    if isinstance(data, dict):  # some nodes wrap it once more
        data = data.get("data")
    return unhex(data) if isinstance(data, str) and data.startswith("0x") else b""


def unhex(text: object) -> bytes:
    """Decode 0x-hex; raises TransientRpcError (garbage) for anything else."""
    try:
        if isinstance(text, str) and text.startswith("0x"):
            return bytes.fromhex(text[2:])
    except ValueError:
        pass
    raise rpc_error(RpcFault.GARBAGE, f"not hex: {str(text)[:80]!r}")


def quantity(text: object) -> int:
    """Decode a hex quantity; raises TransientRpcError (garbage) for anything else."""
    try:
        if isinstance(text, str):
            return int(text, 16)
    except ValueError:
        pass
    raise rpc_error(RpcFault.GARBAGE, f"not a quantity: {str(text)[:80]!r}")


def log_from_json(raw: Mapping[str, Any]) -> Log:
    """Decode a log object; raises TransientRpcError (garbage) when a field is missing."""
    try:
        return Log(
            address=raw["address"].lower(),
            topics=tuple(topic.lower() for topic in raw["topics"]),
            data=unhex(raw["data"]),
            block_number=quantity(raw["blockNumber"]),
            block_hash=raw["blockHash"],
            tx_hash=raw["transactionHash"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise rpc_error(RpcFault.GARBAGE, f"not a log: {error!r}") from None


def receipt_from_json(raw: Mapping[str, Any]) -> Receipt:
    """Decode a receipt; raises TransientRpcError (garbage) when a field is missing."""
    try:
        return Receipt(
            tx_hash=raw["transactionHash"],
            block_number=quantity(raw["blockNumber"]),
            block_hash=raw["blockHash"],
            success=quantity(raw["status"]) == 1,
            gas_used=quantity(raw["gasUsed"]),
            gas_price_wei=quantity(raw["effectiveGasPrice"]),
            logs=tuple(log_from_json(log) for log in raw["logs"]),
            l1_fee_wei=quantity(raw.get("l1Fee") or "0x0"),
        )
    except (KeyError, TypeError) as error:
        raise rpc_error(RpcFault.GARBAGE, f"not a receipt: {error!r}") from None


async def batch_whole(rpc: Rpc, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
    """Return the results in order; raises the RpcError of the first item that failed."""
    answers = await rpc.batch(requests)
    for answer in answers:
        if isinstance(answer, RpcError):
            raise answer
    return answers


@dataclass
class Endpoint:
    """One URL; ``verified``: it has shown the right chain id since it was last lost."""

    url: str
    label: str  # without path or query, which may hold an API key
    verified: bool = False


class HttpRpc:
    """JSON-RPC through the first endpoint that works. Implements ``ports.Rpc``."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: Sequence[str],
        *,
        chain_id: int,
        timeout_ms: int,
        attempts_max: int,
        telemetry: Telemetry,
    ) -> None:
        """Take the URLs in order of preference; nothing is connected yet."""
        self.endpoints = [
            Endpoint(url, f"http{n}:{urlsplit(url).hostname}") for n, url in enumerate(urls)
        ]
        self._session = session
        self._chain_id = chain_id
        self._timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        self._attempts_max = attempts_max
        self._telemetry = telemetry
        self._preferred = 0
        self._ids = itertools.count(1)
        self._can_simulate = True

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        """Return the result of one request."""
        result = (await self.batch([(method, params)]))[0]
        if isinstance(result, RpcError):
            raise result
        return result

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        """Return the results in order; an item that failed alone is an RpcError in its place."""
        if not requests:
            return []
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(TransientRpcError),
            stop=stop_after_attempt(self._attempts_max),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        ):
            with attempt:
                answers = await self._try_next(requests)
                for answer in answers:
                    if isinstance(answer, RpcError):
                        answer.tries = attempt.retry_state.attempt_number
                return answers
        raise AssertionError  # pragma: no cover - AsyncRetrying returns or raises

    async def _try_next(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        """Ask the preferred endpoint; on a transient fault the next one is preferred."""
        endpoint = self.endpoints[self._preferred % len(self.endpoints)]
        result = "ok"
        try:
            if not endpoint.verified:
                await self._verify(endpoint)
            answers = await self._post(endpoint, requests)
            # one request alone failing transiently (429 in the body) is worth a retry as a whole
            for answer in answers:
                if isinstance(answer, TransientRpcError):
                    raise answer
        except TransientRpcError as error:
            result = error.fault.value
            endpoint.verified = endpoint.verified and error.fault is not RpcFault.UNREACHABLE
            self._preferred += 1
            raise
        else:
            return answers
        finally:
            self._telemetry.count(
                "keeper_rpc_requests_total", endpoint=endpoint.label, result=result
            )

    async def _verify(self, endpoint: Endpoint) -> None:
        answer = (await self._post(endpoint, [("eth_chainId", [])]))[0]
        if isinstance(answer, RpcError):
            raise answer
        found = quantity(answer)
        if found != self._chain_id:
            msg = f"{endpoint.label} serves chain {found}, config says chain.id = {self._chain_id}"
            raise rpc_error(RpcFault.WRONG_CHAIN, msg)
        endpoint.verified = True

    async def check(self) -> dict[str, str]:
        """Ask every endpoint for its chain id; label → "" or what is wrong."""
        found: dict[str, str] = {}
        for endpoint in self.endpoints:
            try:
                await self._verify(endpoint)
                found[endpoint.label] = ""
            except RpcError as error:
                found[endpoint.label] = str(error)
        return found

    async def _post(
        self, endpoint: Endpoint, requests: Sequence[tuple[str, Sequence[object]]]
    ) -> list[Any]:
        ids = [next(self._ids) for _ in requests]
        calls = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            for number, (method, params) in zip(ids, requests, strict=True)
        ]
        body = msgspec.json.encode(calls if len(calls) > 1 else calls[0])
        answers = _decode(await self._exchange(endpoint, body))
        by_id = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
        missing = [number for number in ids if number not in by_id]
        if missing:
            lone = next((a for a in answers if isinstance(a, dict) and "error" in a), None)
            raise _error_from(lone) if lone else rpc_error(RpcFault.GARBAGE, "ids do not match")
        return [_result_of(by_id[number]) for number in ids]

    async def _exchange(self, endpoint: Endpoint, body: bytes) -> bytes:
        try:
            async with self._session.post(
                endpoint.url,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=self._timeout,
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > BODY_BYTES_MAX:
                        raise rpc_error(RpcFault.GARBAGE, f"answer over {BODY_BYTES_MAX} bytes")
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise rpc_error(RpcFault.UNREACHABLE, f"{endpoint.label}: {_told(error)}") from None
        if status == TOO_MANY_REQUESTS:
            raise rpc_error(RpcFault.RATE_LIMITED, f"{endpoint.label}: HTTP 429")
        if status >= 500:  # noqa: PLR2004 - the HTTP class of server errors
            raise rpc_error(RpcFault.UNREACHABLE, f"{endpoint.label}: HTTP {status}")
        return bytes(content)

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


def _told(error: Exception) -> str:
    """Say what happened to a connection without the error's own text, which may hold the URL."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else type(error).__name__


def _decode(body: bytes) -> list[Any]:
    try:
        answers = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise rpc_error(RpcFault.GARBAGE, f"not JSON: {body[:60]!r}") from None
    return answers if isinstance(answers, list) else [answers]


def _result_of(answer: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    if answer.get("error") is not None:
        return _error_from(answer)
    if "result" not in answer:
        raise rpc_error(RpcFault.GARBAGE, "answer has neither result nor error")
    return answer["result"]
