"""What a venue was asked and answered on a real chain, kept as a file, for the contract suite.

A recording holds the settings, a head, some accounts, the JSON-RPC answers that reading them took,
and one log of every kind the contract emits. ``record.py`` makes them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from keeper.errors import RpcFault, TransientRpcError
from keeper.facts import AccountId, Call, Execution, Head, Log
from keeper.ports import Rpc

FOLDER = Path(__file__).with_name("recorded")


@dataclass
class Recording:
    """One venue at one block. Some of its accounts are liquidatable there, some are not."""

    settings: dict[str, Any]
    chain_id: int
    head: Head
    accounts: list[AccountId]
    answers: list[dict[str, Any]] = field(default_factory=list)  # method, params, result
    logs: list[Log] = field(default_factory=list)

    @property
    def rpc(self) -> Rpc:
        return ReplayingRpc(self.answers)

    def save(self, kind: str) -> None:
        body = asdict(self)
        for log in body["logs"]:
            log["data"] = log["data"].hex()
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
    for log in body["logs"]:
        log |= {"data": bytes.fromhex(log["data"]), "topics": tuple(log["topics"])}
    body["logs"] = [Log(**log) for log in body["logs"]]
    return Recording(**body)


class RecordingRpc:
    """Passes reads on and keeps what was answered."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self.answers: list[dict[str, Any]] = []

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
        return await self._rpc.simulate(call, sender)

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        return await self._rpc.simulate_each(calls, sender)


class ReplayingRpc:
    """Answers what was recorded, and nothing else."""

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self._answers = {_key(a["method"], a["params"]): a["result"] for a in answers}

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        key = _key(method, params)
        assert key in self._answers, f"not recorded: {key[:300]}"
        return self._answers[key]

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        return [await self.call(method, params) for method, params in requests]

    async def simulate(self, call: Call, sender: str) -> Execution:
        return (await self.simulate_each([call], sender))[0]

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        msg = f"a recording cannot run {calls} from {sender}"
        raise AssertionError(msg)


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


def _key(method: str, params: Sequence[object]) -> str:
    return json.dumps([method, list(params)], sort_keys=True)
