"""``keeper bench submit``: from a published price to a transaction that the node has accepted.

A real keeper, broker and chain on loopback; a ladder of accounts of which each published price
makes one due. First a keeper simulates, then one sends as to an optimistic venue. Between their
rounds the floor is measured, after them a polling peer.
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
TOLD_ROUNDS = 10  # after so many it is said how far it is
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
class Run:
    """Milliseconds of each round of one keeper."""

    accepted: list[float] = field(default_factory=list)
    missed: int = 0
    stages: dict[str, list[float]] = field(default_factory=dict)

    def note(self, found: Mapping[str, float]) -> None:
        """Add a round; empty: nothing was accepted."""
        if not found:
            self.missed += 1
            return
        self.accepted.append(found["total"])
        for name in ("receive", *STAGES.values()):
            self.stages.setdefault(name, []).append(found.get(name, 0.0))

    def as_json(self) -> dict[str, object]:
        """Return it as JSON has it."""
        stages = {name: quantiles(values) for name, values in self.stages.items()}
        accepted = quantiles(self.accepted)
        return {"missed": self.missed, "price_to_accepted_ms": accepted, "stages_ms": stages}


@dataclass
class Samples:
    """Milliseconds of each round. ``simulating``, ``optimistic``: keepers that do so."""

    simulating: Run = field(default_factory=Run)
    optimistic: Run = field(default_factory=Run)
    floor: dict[str, list[float]] = field(default_factory=dict)
    peer: list[float] = field(default_factory=list)

    @property
    def floor_unasked(self) -> list[float]:
        """Return the floor of each round without its simulation."""
        parts = self.floor.get("total", []), self.floor.get("simulate", [])
        return [total - simulate for total, simulate in zip(*parts, strict=True)]


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
    each = WARM_UP + options.rounds
    ladder = ladder_of(options.accounts, 2 * each + options.peer_rounds, options.seed)
    samples = Samples()

    def say(line: str) -> None:
        console.print(line, markup=False, style="dim", soft_wrap=True)

    async with open_world(ladder, say) as world:
        say(f"{options.rounds} rounds of a keeper that simulates, and of the floor")
        await _keeper(world, world.config, samples.simulating, samples, range(each), options.seed)
        say(f"{options.rounds} rounds of a keeper that does not, and of the floor")
        rungs = range(each, 2 * each)
        optimistic = _optimistic(world.config)
        await _keeper(world, optimistic, samples.optimistic, samples, rungs, options.seed)
        say(f"{options.peer_rounds} rounds of the polling peer")
        peer = Peer(world, await sender_of(world))
        for rung in range(2 * each, ladder.rungs):
            samples.peer.append(await peer.measure(rung))
    return samples


def _optimistic(config: Path) -> Path:
    """Write the same config with an optimistic venue, which is the last table; return its path."""
    path = config.with_name("optimistic.toml")
    path.write_text(config.read_text(encoding="utf-8") + "optimistic = true\n", encoding="utf-8")
    return path


async def _keeper(
    world: World, config: Path, run: Run, samples: Samples, rungs: range, seed: int
) -> None:
    """Run a keeper for these rungs; what the one before has learned is in its journal."""
    keeper, stages = Child("the keeper", world.folder / "keeper.log"), config.with_suffix(".stages")
    argv = [sys.executable, "-m", "keeper.bench.recorded", str(config), str(stages)]
    await keeper.start(argv)
    try:
        await ready(world, keeper, READY_S_MAX)
        await _rounds(world, Stages(stages), run, samples, rungs, seed)
    finally:
        await keeper.terminate(STOP_S_MAX)


async def _rounds(
    world: World, stages: Stages, run: Run, samples: Samples, rungs: range, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 - where in a block a price falls
    async with aiomqtt.Client("127.0.0.1", world.mqtt_port) as client:
        await client.subscribe(TOPIC)
        floor = Floor(world, await sender_of(world), client)
        for rung in rungs:
            parts = await floor.measure(rung)
            await asyncio.sleep(BLOCK_S * (1 + rng.random()))
            stages.new()
            left_ns, _ = await world.oracle.descend(rung)
            found = await _accepted(stages, left_ns)
            if rung >= rungs.start + WARM_UP:
                run.note(found)
                for name, value in parts.items():
                    samples.floor.setdefault(name, []).append(value)
            await asyncio.sleep(2 * BLOCK_S)  # it is mined and read
            done = rung - rungs.start - WARM_UP + 1
            if done > 0 and done % TOLD_ROUNDS == 0:
                world.say(f"{done} of {len(rungs) - WARM_UP} rounds")
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
    run, faster = samples.simulating, samples.optimistic
    keeper, optimistic, floor, unasked, peer = (
        quantiles(values)
        for values in (
            run.accepted,
            faster.accepted,
            samples.floor["total"],
            samples.floor_unasked,
            samples.peer,
        )
    )
    ratios = {
        "p50_to_floor_p50": _ratio(keeper["p50"], floor["p50"]),
        "p99_to_floor_p50": _ratio(keeper["p99"], floor["p50"]),
        "peer_p50_to_p50": _ratio(peer["p50"], keeper["p50"]),
    }
    return {
        "accounts": options.accounts,
        "rounds": options.rounds,
        "seed": options.seed,
        "block_ms": BLOCK_S * 1000,
        **run.as_json(),
        "optimistic": {
            **faster.as_json(),
            "io_floor_ms": unasked,
            "p50_to_floor_p50": _ratio(optimistic["p50"], unasked["p50"]),
        },
        "io_floor_ms": floor,
        "polling_peer_ms": peer,
        "floor_stages_ms": {name: quantiles(values) for name, values in samples.floor.items()},
        "ratios": ratios,
        "holds": not run.missed
        and not faster.missed
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
    rows: list[tuple[str, Sequence[float]]] = []
    for name, run in (("", samples.simulating), (", optimistic", samples.optimistic)):
        rows.append((f"price to accepted{name}", run.accepted))
        rows += [(f"  {stage}", values) for stage, values in run.stages.items()]
    rows.append(("the floor", samples.floor["total"]))
    rows += [(f"  {name}", values) for name, values in samples.floor.items() if name != "total"]
    rows.append(("a polling peer", samples.peer))
    for name, values in rows:
        found = quantiles(values)
        table.add_row(name, str(found["p50"]), str(found["p99"]))
    return table
