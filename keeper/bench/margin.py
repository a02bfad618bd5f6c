"""``keeper bench margin``: the margin book against recomputing, side by side in one run."""

import gc
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from keeper.bench.accounts import Accounts, Ints, Shape
from keeper.margin import Moved

WALK_BP = (1, 5, 10)
GAP_PERCENT = (1, 3, 10)
GAPS = 14  # of each size, down and up in turn
REPEATS = 7  # of what takes milliseconds
NAIVE_ROWS = 20_000  # in the Python loop; scaled up
MEMORY_ROWS = 200_000  # loaded once more to weigh them
MEDIAN_TIMES, P99_TIMES, TICK_BP = 500, 50, 5  # faster than the exposed, at ticks up to this
BATCH_TIMES = 20  # faster than all
GAP_TIMES = {"one": 1.2, "all": 2.5}  # all, at the worst, when so many factors jump
LOAD_TIMES = 6  # sorting the exposures
CHURN_NS = 50_000
WEIGHT_BYTES = 200
SUNK = 10  # one account in so many is under water in the last gaps
NEAR = 330  # accounts near their edge in books of any size, to see what the others cost
WIDTH = 180  # of the table where there is no terminal


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement, in µs, and how it compares."""

    name: str
    count: int
    median_us: float
    p99_us: float
    p999_us: float
    max_us: float
    judged_us: float  # the median; of gaps the worse of falls and rises, each at its best
    against: str = ""  # what takes ``against_us``, in the same run
    against_us: float = 0.0
    floor_us: float = 0.0  # of gaps: recomputing all and naming who changed, nothing else
    watched: int = 0  # accounts near their edge when it was over
    goal: str = ""
    met: bool | None = None
    different: int = 0  # accounts on another side than by brute force

    @property
    def ratio(self) -> float:
        """Return how many times faster than ``against`` it is."""
        return self.against_us / self.judged_us if self.judged_us else 0.0


def line(name: str, times_ns: Iterable[int], **more: Any) -> Line:  # noqa: ANN401 - Line's fields
    """Make a line of single times."""
    us = np.array(list(times_ns)) / 1e3
    p50, p99, p999 = np.percentile(us, [50, 99, 99.9]).tolist()
    return Line(name, len(us), p50, p99, p999, float(us.max()), **{"judged_us": p50, **more})


def timed(action: Callable[[], object]) -> int:
    """Return how many nanoseconds of processor time it took: others' work does not count."""
    start = time.process_time_ns()
    action()
    return time.process_time_ns() - start


class Run:
    """One book, its twin in plain arrays, and what was measured of them."""

    def __init__(self, shape: Shape, ticks: int) -> None:
        """Draw and load the book."""
        self.shape = shape
        self.ticks = ticks
        self.lines: list[Line] = []
        self.rng = np.random.default_rng(shape.seed + 1)
        self.accounts = Accounts(shape)
        self.book = self.accounts.book()
        self.load_ns = timed(lambda: self.accounts.load(self.book))
        self.exposed = self._exposed()
        self.full: Callable[[], object] = self.accounts.screen  # the fastest way for all
        self.start = self.accounts.values.copy()  # where each phase begins
        self.moved: Moved[int] = Moved()  # by the last move
        gc.collect()
        gc.freeze()  # a million ids are not garbage: do not look through them again and again

    def _exposed(self) -> list[Ints]:
        """Return the rows exposed to each factor."""
        factors = self.accounts.factors
        rows = np.repeat(np.arange(len(factors)), factors.shape[1])
        order = np.argsort(factors.ravel(), kind="stable")
        counts = np.bincount(factors.ravel(), minlength=self.shape.factors)
        return np.split(rows[order], np.cumsum(counts)[:-1])

    def different(self) -> int:
        """Return how many accounts the book has on another side than brute force."""
        expected = set(np.flatnonzero(self.accounts.recompute()).tolist())
        return len(expected ^ self.book.under)

    def move(self, numbers: Ints, values: npt.NDArray[np.float64]) -> int:
        """Move the book and its twin; return the nanoseconds the book took."""
        names = self.accounts.names
        given = {names[n]: v for n, v in zip(numbers.tolist(), values.tolist(), strict=True)}
        self.accounts.values[numbers] = values
        start = time.process_time_ns()
        moved = self.book.move(given)
        took = time.process_time_ns() - start
        self.moved = moved  # not timed: letting go of what the move before returned
        return took

    # --- phases -----------------------------------------------------------------------------------

    def recompute(self) -> None:
        """Measure what the book is compared with."""
        accounts = self.accounts
        rows = min(NAIVE_ROWS, len(accounts))
        scale = len(accounts) / rows
        naive = [int(timed(lambda: accounts.naive(rows)) * scale) for _ in range(3)]
        self.lines.append(line(f"all: Python loop (of {rows}, scaled)", naive))
        ways: dict[str, Callable[[], object]] = {
            "all: numpy, guard band": accounts.recompute,
            "all: numpy, sign only": accounts.screen,
        }
        if (product := _sparse(accounts)) is not None:
            ways["all: scipy.sparse, sign only"] = product
        found = [line(name, [timed(way) for _ in range(REPEATS)]) for name, way in ways.items()]
        self.lines += found
        self.full = min(zip(found, ways.values(), strict=True), key=lambda one: one[0].median_us)[1]

    def load(self) -> None:
        """Compare the load with sorting its exposures, and weigh the book."""
        keys = self.accounts.factors.ravel()
        sort = [timed(lambda: np.argsort(keys, kind="stable")) for _ in range(3)]
        sort_us = statistics.median(sort) / 1e3
        found = line("bulk load", [self.load_ns], against="argsort", against_us=sort_us)
        met = found.ratio >= 1 / LOAD_TIMES
        self._add(replace(found, goal=f"≤ {LOAD_TIMES} × argsort", met=met))

    def walk(self, bp: int, where: str) -> None:
        """Measure a random walk, and recomputing the exposed accounts of some of its ticks."""
        self.move(np.arange(self.shape.factors), self.start)
        counts = np.array([len(rows) for rows in self.exposed], dtype=np.float64)
        if where == "popular":
            numbers = np.full(self.ticks, counts.argmax())
        else:
            share = counts / counts.sum() if where == "traded" else None
            numbers = self.rng.choice(len(counts), self.ticks, p=share)
        steps = np.exp(self.rng.normal(0.0, bp / 1e4, self.ticks))
        times = []
        for number, step in zip(numbers.tolist(), steps.tolist(), strict=True):
            at = np.array([number])
            times.append(self.move(at, self.accounts.values[at] * step))
        plain = []
        for number in numbers[:: max(1, self.ticks // 50)].tolist():
            rows = self.exposed[number]
            plain.append(timed(lambda rows=rows: self.accounts.screen(rows)))  # type: ignore[misc]
        against_us = statistics.median(plain) / 1e3
        found = line(f"{bp} bp, {where} factor", times, against="exposed", against_us=against_us)
        goal, met = "", None
        if bp <= TICK_BP:
            goal = f"median ≥ {MEDIAN_TIMES} ×, p99 ≥ {P99_TIMES} ×"
            met = found.ratio >= MEDIAN_TIMES and against_us / found.p99_us >= P99_TIMES
        self._add(replace(found, goal=goal, met=met))

    def _add(self, found: Line) -> None:
        """Keep a line, with what the book looks like after it."""
        watched, different = self.book.watched, self.different()
        self.lines.append(replace(found, watched=watched, different=different))

    def batches(self) -> None:
        """Measure moves of all factors, each by less than 10 bp."""
        every = np.arange(self.shape.factors)
        self.move(every, self.start)
        times = []
        for _ in range(max(self.ticks // 10, 50)):
            steps = np.clip(self.rng.normal(0.0, 4e-4, len(every)), -9.9e-4, 9.9e-4)
            times.append(self.move(every, self.accounts.values * np.exp(steps)))
        full_us = statistics.median(timed(self.full) for _ in range(REPEATS)) / 1e3
        found = line("batch of all, < 10 bp", times, against="all", against_us=full_us)
        met = found.ratio >= BATCH_TIMES
        self._add(replace(found, goal=f"≤ 1/{BATCH_TIMES} of all", met=met))

    def gaps(self, note: str = "") -> None:
        """Measure jumps of the most popular factor, and of all."""
        popular = np.array([max(range(len(self.exposed)), key=lambda n: len(self.exposed[n]))])
        every = np.arange(self.shape.factors)
        for percent in GAP_PERCENT:
            for what, numbers in (("one", popular), ("all", every)):
                self._gap(f"gap {percent} %, {what}{note}", numbers, percent, GAP_TIMES[what])

    def _gap(self, name: str, numbers: Ints, percent: int, limit: float) -> None:
        """Let these factors fall and rise in turn, each time beside recomputing all."""
        self.move(np.arange(self.shape.factors), self.start)
        ids = list(range(len(self.accounts)))
        times, plain, naming = [], [], []
        for turn in range(GAPS):
            step = (1 - percent / 100) ** (1 if turn % 2 == 0 else -1)
            times.append(self.move(numbers, self.accounts.values[numbers] * step))
            plain.append(timed(self.full))
            rows = [*self.moved.under, *self.moved.cured, 0, 0]  # two at least, for itemgetter
            naming.append(timed(lambda rows=rows: itemgetter(*rows)(ids)))  # type: ignore[misc]
        worst, best = max(min(times[::2]), min(times[1::2])), min(plain)
        found = line(
            name,
            times,
            judged_us=worst / 1e3,
            against="all",
            against_us=best / 1e3,
            floor_us=(best + min(naming)) / 1e3,
            goal=f"≤ {limit} × all",
            met=worst <= limit * best,
        )
        self._add(found)

    def sink(self) -> None:
        """Put a part of the accounts under water, then jump again."""
        rows = np.arange(0, len(self.accounts), SUNK)
        self.accounts.sink(rows)
        self.accounts.load(self.book, rows)
        self.gaps(f", {len(rows):,} under")

    def churn(self) -> None:
        """Measure puts and drops between moves."""
        times: dict[str, list[int]] = {"put (row replaced)": [], "drop": [], "put (row new)": []}
        chosen = self.rng.integers(0, len(self.accounts), self.ticks).tolist()
        put, drop = self.book.put, self.book.drop
        for turn, k in enumerate(chosen):
            row = self.book.row(k)
            times["put (row replaced)"].append(timed(lambda k=k, row=row: put(k, row)))  # type: ignore[misc]
            times["drop"].append(timed(lambda k=k: drop(k)))  # type: ignore[misc]
            times["put (row new)"].append(timed(lambda k=k, row=row: put(k, row)))  # type: ignore[misc]
            if turn % 3 == 0:
                at = self.rng.integers(0, self.shape.factors, 1)
                self.move(at, self.accounts.values[at] * 1.0003 ** (1 if turn % 2 else -1))
        different = self.different()
        for name, taken in times.items():
            met = statistics.fmean(taken) <= CHURN_NS
            goal = f"mean ≤ {CHURN_NS // 1000} µs"
            self.lines.append(line(name, taken, goal=goal, met=met, different=different))


def _sparse(accounts: Accounts) -> Callable[[], object] | None:
    """Return the recomputation by scipy, if it is installed: it is no dependency."""
    try:
        from scipy.sparse import csr_matrix  # noqa: PLC0415
    except ImportError:
        return None
    rows, width = accounts.factors.shape
    parts = (
        accounts.weights.ravel(),
        accounts.factors.ravel(),
        np.arange(0, rows * width + 1, width),
    )
    matrix = csr_matrix(parts, shape=(rows, len(accounts.values)))
    return lambda: matrix @ accounts.values + accounts.constants < 0.0


def bytes_per_account(shape: Shape) -> float:
    """Return what numpy holds of a book after a load, a walk and a gap; ids and their map apart."""
    accounts = Accounts(replace(shape, accounts=min(MEMORY_ROWS, shape.accounts)))
    tracemalloc.start()
    try:
        book = accounts.book()
        accounts.load(book)
        book.move({name: v * 0.97 for name, v in zip(accounts.names, accounts.values, strict=True)})
        gc.collect()
        arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
        held = tracemalloc.take_snapshot().filter_traces([arrays])
        return sum(trace.size for trace in held.traces) / len(accounts)
    finally:
        tracemalloc.stop()


def growth(shape: Shape, ticks: int) -> list[Line]:
    """Return ticks of 5 bp on the most popular factor of books of several sizes.

    First books of one shape, where the accounts near their edge grow with all, then such with as
    many near in each. They show what a tick grows with; the goals are those of one size.
    """
    found = []
    for near in (None, NEAR):
        for accounts in (
            shape.accounts // 100,
            shape.accounts // 10,
            shape.accounts,
            2 * shape.accounts,
        ):
            shaped = replace(shape, accounts=accounts)
            if near is not None:
                shaped = shaped.with_near(near)
            run = Run(shaped, ticks)
            run.walk(TICK_BP, "popular")
            what = "" if near is None else ", as many near"
            name = f"{accounts:,} accounts{what}: {TICK_BP} bp, popular factor"
            found.append(replace(run.lines[-1], name=name, goal="", met=None))
            gc.unfreeze()
    return found


def measure(shape: Shape, ticks: int, *, sizes: bool) -> tuple[list[Line], float]:
    """Run every phase; return the lines and the bytes an account takes."""
    run = Run(shape, ticks)
    run.recompute()
    run.load()
    for where in ("popular", "traded", "random"):
        for bp in WALK_BP:
            run.walk(bp, where)
    run.batches()
    run.churn()
    run.gaps()
    run.sink()
    lines = run.lines
    gc.unfreeze()
    del run
    if sizes:
        lines += growth(shape, ticks)
    return lines, bytes_per_account(shape)


def show(lines: Sequence[Line], weight: float) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    left = {"", "against", "goal"}
    for title in ("", "n", "median µs", "p99", "p99.9", "max", "near", "against"):
        table.add_column(title, justify="left" if title in left else "right")
    for title in ("judged", "floor", "goal", "wrong"):
        table.add_column(title, justify="left" if title in left else "right")
    for one in lines:
        times = (one.median_us, one.p99_us, one.p999_us, one.max_us)
        against = f"{one.against} {one.against_us:,.0f}" if one.against else ""
        judged = ""
        if one.against:
            fast = one.ratio >= 1.0
            judged = f"{one.ratio:,.1f} × faster" if fast else f"{1 / one.ratio:.2f} × as long"
        floor = f"{one.floor_us / one.against_us:.2f} ×" if one.floor_us else ""
        verdict = "" if one.met is None else f"[{'green' if one.met else 'red'}]{one.goal}[/]"
        cells = [*(f"{us:,.1f}" for us in times), str(one.watched or ""), against, judged, floor]
        table.add_row(one.name, str(one.count), *cells, verdict, str(one.different))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    console.print(
        f"memory: {weight:.0f} B an account, ids and their map apart (goal: ≤ {WEIGHT_BYTES})"
    )
    console.print("not met: " + ("; ".join(missed(lines, weight)) or "none"))


def missed(lines: Sequence[Line], weight: float) -> list[str]:
    """Return the names of the goals that were not met."""
    found = [one.name for one in lines if one.met is False]
    return found if weight <= WEIGHT_BYTES else [*found, "memory"]


def main(shape: Shape, ticks: int, *, sizes: bool, as_json: bool) -> int:
    """Measure and print; return 1 if the book ever differed from brute force."""
    lines, weight = measure(shape, ticks, sizes=sizes)
    different = sum(one.different for one in lines)
    if as_json:
        told = {
            "shape": asdict(shape),
            "bytes_per_account": weight,
            "lines": [asdict(one) | {"ratio": one.ratio} for one in lines],
            "missed": missed(lines, weight),
            "different": different,
        }
        click.echo(json.dumps(told))
    else:
        show(lines, weight)
    return 1 if different else 0
