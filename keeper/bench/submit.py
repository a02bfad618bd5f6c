"""``keeper bench submit``: from a published price to a transaction that the node has accepted.

A real keeper, broker and chain on loopback; a ladder of accounts of which each published price
makes one due. Between the keeper's rounds the floor is measured, after them a polling peer.
"""

import asyncio
import json
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt
from rich.console import Console
from rich.table import Table

from keeper.bench.floor import TOPIC, Floor, Peer, sender_of
from keeper.bench.ladder import ladder_of
from keeper.bench.world import BLOCK_S, World, open_world, ready
from keeper.demo.processes import Child, DemoError

WARM_UP = 3  # rounds that do not count: imports, first connections
READY_S_MAX = 60.0
ACCEPTED_S_MAX = 5.0
STOP_S_MAX = 8.0
POLL_S = 0.005
TARGET_P50, TARGET_P99, TARGET_PEER = 2.0, 5.0, 10.0
STAGES = {  # as in the metric → as told
    "price_to_decided": "decide",
    "waiting": "waiting",
    "simulate": "simulate",
    "gate": "gate",
    "sign": "sign",
    "journal": "journal",
    "signed_to_sent": "send",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    accounts: int
    rounds: int
    peer_rounds: int
    seed: int


@dataclass
class Samples:
    """Milliseconds of each round."""

    accepted: list[float] = field(default_factory=list)
    missed: int = 0
    stages: dict[str, list[float]] = field(default_factory=dict)
    floor: dict[str, list[float]] = field(default_factory=dict)
    peer: list[float] = field(default_factory=list)


class Stages:
    """Reads what the keeper writes down, as it grows."""

    def __init__(self, path: Path) -> None:
        """Start at the end of what is there."""
        self._path = path
        self._read = path.stat().st_size if path.exists() else 0

    def new(self) -> list[tuple[int, str, float]]:
        """Return the lines since the last call: end (monotonic ns), stage, seconds."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [tuple(json.loads(line)) for line in whole.splitlines()]


async def measure(options: Options, console: Console) -> Samples:
    """Run the rounds; raises DemoError when something cannot be started."""
    rungs = WARM_UP + options.rounds + options.peer_rounds
    ladder = ladder_of(options.accounts, rungs, options.seed)
    samples = Samples()

    def say(line: str) -> None:
        console.print(line, markup=False, style="dim", soft_wrap=True)

    async with open_world(ladder, say) as world:
        keeper, stages = Child("the keeper", world.folder / "keeper.log"), world.folder / "stages"
        argv = [sys.executable, "-m", "keeper.bench.recorded", str(world.config), str(stages)]
        await keeper.start(argv)
        try:
            await ready(world, keeper, READY_S_MAX)
            say(f"{options.rounds} rounds of the keeper and of the floor")
            await _rounds(world, Stages(stages), samples, options)
        finally:
            await keeper.terminate(STOP_S_MAX)
        say(f"{options.peer_rounds} rounds of the polling peer")
        peer = Peer(world, await sender_of(world))
        for rung in range(WARM_UP + options.rounds, rungs):
            samples.peer.append(await peer.measure(rung))
    return samples


async def _rounds(world: World, stages: Stages, samples: Samples, options: Options) -> None:
    rng = random.Random(options.seed)  # noqa: S311 - where in a block a price falls
    async with aiomqtt.Client("127.0.0.1", world.mqtt_port) as client:
        await client.subscribe(TOPIC)
        floor = Floor(world, await sender_of(world), client)
        for rung in range(WARM_UP + options.rounds):
            parts = await floor.measure(rung)
            await asyncio.sleep(BLOCK_S * (1 + rng.random()))
            stages.new()
            left_ns, _ = await world.oracle.descend(rung)
            found = await _accepted(stages, left_ns)
            if rung >= WARM_UP:
                _note(samples, found, parts)
            await asyncio.sleep(2 * BLOCK_S)  # it is mined and read
        floor.close()


async def _accepted(stages: Stages, left_ns: int) -> dict[str, float]:
    """Return the milliseconds of each stage of the next acceptance; empty: there was none."""
    found: dict[str, float] = {}
    try:
        async with asyncio.timeout(ACCEPTED_S_MAX):
            while True:
                for end_ns, stage, seconds in stages.new():
                    if stage == "tick_to_sent" and end_ns - seconds * 1e9 > left_ns:
                        total = (end_ns - left_ns) / 1e6
                        return {**found, "total": total, "receive": total - seconds * 1e3}
                    if stage in STAGES:
                        found[STAGES[stage]] = seconds * 1e3
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return {}


def _note(samples: Samples, found: Mapping[str, float], floor: Mapping[str, float]) -> None:
    for name, value in floor.items():
        samples.floor.setdefault(name, []).append(value)
    if not found:
        samples.missed += 1
        return
    samples.accepted.append(found["total"])
    for name in ("receive", *STAGES.values()):
        samples.stages.setdefault(name, []).append(found.get(name, 0.0))


def quantiles(values: Iterable[float]) -> dict[str, float | None]:
    """Return p50 and p99 by nearest rank, milliseconds; None without values."""
    ordered = sorted(values)
    if not ordered:
        return {"p50": None, "p99": None}
    at = {"p50": 0.50, "p99": 0.99}
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for name, share in at.items()
    }


def report(options: Options, samples: Samples) -> dict[str, object]:
    """Return the result as JSON has it."""
    keeper, floor, peer = (
        quantiles(values) for values in (samples.accepted, samples.floor["total"], samples.peer)
    )
    ratios = {
        "p50_to_floor_p50": _ratio(keeper["p50"], floor["p50"]),
        "p99_to_floor_p50": _ratio(keeper["p99"], floor["p50"]),
        "peer_p50_to_p50": _ratio(peer["p50"], keeper["p50"]),
    }
    return {
        "accounts": options.accounts,
        "rounds": options.rounds,
        "missed": samples.missed,
        "seed": options.seed,
        "block_ms": BLOCK_S * 1000,
        "price_to_accepted_ms": keeper,
        "io_floor_ms": floor,
        "polling_peer_ms": peer,
        "stages_ms": {name: quantiles(values) for name, values in samples.stages.items()},
        "floor_stages_ms": {name: quantiles(values) for name, values in samples.floor.items()},
        "ratios": ratios,
        "holds": not samples.missed
        and (ratios["p50_to_floor_p50"] or TARGET_P50 + 1) <= TARGET_P50
        and (ratios["p99_to_floor_p50"] or TARGET_P99 + 1) <= TARGET_P99
        and (ratios["peer_p50_to_p50"] or 0) >= TARGET_PEER,
    }


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 2) if one is not None and other else None


def main(options: Options, *, as_json: bool) -> int:
    """Measure and print; returns 0 only if the targets are reached and no rung was missed."""
    console = Console(stderr=as_json, highlight=False)
    trouble: list[BaseException] = []
    try:
        samples = asyncio.run(measure(options, console))
    except* DemoError as errors:
        trouble += errors.exceptions
    if trouble:
        console.print(str(trouble[0]), style="red", markup=False, soft_wrap=True)
        return 1
    result = report(options, samples)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        console.print(_table(samples))
        console.print_json(json.dumps(result["ratios"]))
    return 0 if result["holds"] else 1


def _table(samples: Samples) -> Table:
    table = Table("", "p50 ms", "p99 ms", box=None, pad_edge=False)
    rows: list[tuple[str, Sequence[float]]] = [
        ("price to accepted", samples.accepted),
        *((f"  {name}", values) for name, values in samples.stages.items()),
        ("the floor", samples.floor["total"]),
        *((f"  {name}", values) for name, values in samples.floor.items() if name != "total"),
        ("a polling peer", samples.peer),
    ]
    for name, values in rows:
        found = quantiles(values)
        table.add_row(name, str(found["p50"]), str(found["p99"]))
    return table
