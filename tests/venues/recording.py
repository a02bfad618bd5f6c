"""What a venue was asked and answered on a real chain, kept as a file, for the contract suite.

A recording holds the settings, the newest heads, some accounts, the JSON-RPC answers that reading
them at each of these heads took, what the node did when their liquidations were simulated at the
newest, the logs between the heads, and one log of every kind. ``record.py`` makes them.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Never

import msgspec

from keeper.errors import RpcFault, TransientRpcError
from keeper.facts import AccountId, Call, Execution, Head, Log
from keeper.ports import Rpc

WALLET = "0x" + "ab" * 20  # who simulates
FOLDER = Path(__file__).with_name("recorded")


@dataclass
class Recording:
    """One venue at its newest block. Some of its accounts are liquidatable there, some are not.

    ``heads``: at which everything was read, the newest last. ``story``: the logs between them.
    """

    settings: dict[str, Any]
    chain_id: int
    head: Head
    accounts: list[AccountId]
    answers: list[dict[str, Any]] = field(default_factory=list)  # method, params, result
    logs: list[Log] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    story: list[Log] = field(default_factory=list)
    executions: list[dict[str, Any]] = field(default_factory=list)  # asked, done

    @property
    def rpc(self) -> "ReplayingRpc":
        return ReplayingRpc(self)

    def save(self, kind: str) -> None:
        body = asdict(self)
        for name in ("logs", "story"):
            body[name] = [_plain(log) for log in body[name]]
        text = json.dumps(body, indent=1, sort_keys=True)
        (FOLDER / f"{kind}.json").write_text(text + "\n", encoding="utf-8")


def missing(kind: str) -> str:
    """Say how to make the recording that there is none of."""
    return f"""tests/venues/recorded/{kind}.json is missing.
The contract suite replays what the venue's contract answered. Record it from any node that serves
its chain, with some accounts that are liquidatable at the newest block and some that are not:

    python -m tests.venues.record {kind} --rpc URL --chain ID --set address=0x… \\
        --account A --account B

One --set for each key of its Settings; --help tells the rest."""


def load(kind: str) -> Recording | None:
    """Return the venue's recording; None: there is none."""
    path = FOLDER / f"{kind}.json"
    if not path.is_file():
        return None
    body = json.loads(path.read_text(encoding="utf-8"))
    body["head"] = Head(**body["head"])
    body["heads"] = [Head(**head) for head in body["heads"]]
    for name in ("logs", "story"):
        body[name] = [_log(log) for log in body[name]]
    return Recording(**body)


def _plain(log: Log) -> dict[str, Any]:
    return msgspec.structs.asdict(log) | {"data": log.data.hex()}


def _log(raw: Mapping[str, Any]) -> Log:
    plain = {"data": bytes.fromhex(raw["data"]), "topics": tuple(raw["topics"])}
    return Log(**{**raw, **plain})


class RecordingRpc:
    """Passes reads on and keeps what was answered."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self.answers: list[dict[str, Any]] = []
        self.executions: list[dict[str, Any]] = []

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        return (await self.batch([(method, params)]))[0]

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        results = await self._rpc.batch(requests)
        self.answers += [
            {"method": method, "params": list(params), "result": result}
            for (method, params), result in zip(requests, results, strict=True)
        ]
        return results

    async def simulate(self, call: Call, sender: str) -> Execution:
        return self._kept([call], sender, [await self._rpc.simulate(call, sender)])[0]

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        return self._kept(calls, sender, await self._rpc.simulate_each(calls, sender))

    def _kept(
        self, calls: Sequence[Call], sender: str, done: Sequence[Execution]
    ) -> Sequence[Execution]:
        plain = [
            asdict(one) | {"output": one.output.hex(), "logs": [_plain(log) for log in one.logs]}
            for one in done
        ]
        self.executions.append({"asked": _asked(calls, sender), "done": plain})
        return done


class ReplayingRpc:
    """Answers what was recorded, and nothing else."""

    def __init__(self, recording: Recording) -> None:
        answers = recording.answers
        self._answers = {_key(a["method"], a["params"]): a["result"] for a in answers}
        self._executions = {one["asked"]: one["done"] for one in recording.executions}

    def knows(self, method: str, params: Sequence[object]) -> bool:
        return _key(method, params) in self._answers

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        key = _key(method, params)
        assert key in self._answers, f"not recorded: {key[:300]}"
        return self._answers[key]

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        return [await self.call(method, params) for method, params in requests]

    async def simulate(self, call: Call, sender: str) -> Execution:
        return (await self.simulate_each([call], sender))[0]

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        asked = _asked(calls, sender)
        assert asked in self._executions, f"not recorded: {asked[:300]}"
        return [_execution(done) for done in self._executions[asked]]


class GarblingRpc(ReplayingRpc):
    """Answers what was recorded, but for one answer that is garbage."""

    def __init__(self, recording: Recording, number: int, garbage: object) -> None:
        super().__init__(recording)
        self._left = number
        self._garbage = garbage

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        if self.garbled and not self.knows(method, params):
            raise TransientRpcError(RpcFault.UNREACHABLE, f"asked over garbage: {method} {params}")
        answer = await super().call(method, params)
        self._left -= 1
        return self._garbage if self._left == -1 else answer

    @property
    def garbled(self) -> bool:
        return self._left < 0

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        done = list(await super().simulate_each(calls, sender))
        output = self._garbage if isinstance(self._garbage, bytes) else b"\x5a" * 7
        return [Execution(one.success, one.gas_used, output) for one in done]


class SilentRpc:
    """A chain that never answers; ``waiting`` counts who waits for it."""

    def __init__(self) -> None:
        self.waiting = 0

    async def _wait(self) -> Never:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        raise AssertionError

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401, ARG002
        await self._wait()

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:  # noqa: ARG002
        await self._wait()

    async def simulate(self, call: Call, sender: str) -> Execution:  # noqa: ARG002
        await self._wait()

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:  # noqa: ARG002
        await self._wait()


class UnreachableRpc:
    """A chain that nobody answers for."""

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        raise TransientRpcError(RpcFault.UNREACHABLE, f"{method} {params}")

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        raise TransientRpcError(RpcFault.UNREACHABLE, str(requests))

    async def simulate(self, call: Call, sender: str) -> Execution:
        return (await self.simulate_each([call], sender))[0]

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        raise TransientRpcError(RpcFault.UNREACHABLE, f"{calls} from {sender}")


def _execution(done: Mapping[str, Any]) -> Execution:
    logs = tuple(_log(log) for log in done["logs"])
    return Execution(done["success"], done["gas_used"], bytes.fromhex(done["output"]), logs)


def _asked(calls: Sequence[Call], sender: str) -> str:
    return " ".join([sender, *(f"{c.to}:{c.data.hex()}:{c.value_wei}" for c in calls)])


def _key(method: str, params: Sequence[object]) -> str:
    return json.dumps([method, list(params)], sort_keys=True)
