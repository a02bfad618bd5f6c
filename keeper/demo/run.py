"""``keeper demo``: the whole keeper against an embedded world, judged by the contract."""

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from keeper.demo import view
from keeper.demo.options import DemoOptions
from keeper.demo.processes import DemoError
from keeper.demo.report import Report
from keeper.demo.world import open_world

EXIT_HOLDS, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

__all__ = ["DemoOptions", "main_loop", "run_demo"]


def main_loop(options: DemoOptions) -> int:
    """Run the demo to its end and return the exit code."""
    return asyncio.run(run_demo(options))


async def run_demo(options: DemoOptions) -> int:
    """Set up, play, judge, print; return 0 only if the contract confirms the summary.

    SIGINT and SIGTERM end it early, with 130; no process and no file is left either way.
    """
    # JSON readers get standard output for themselves
    console = Console(stderr=options.json, highlight=False)
    trouble: list[DemoError] = []
    try:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(_run(options, console), name="demo")
            with _cancelled_by_signals(work):
                await asyncio.wait([work])
    except* DemoError as errors:
        trouble += [error for error in _leaves(errors) if isinstance(error, DemoError)]
    if trouble:
        for error in trouble:
            console.print(str(error), style="red", markup=False, soft_wrap=True)
        _write({"holds": False, "problems": [str(error) for error in trouble]}, options)
        return EXIT_FAILED
    if work.cancelled():
        console.print("stopped; nothing was judged")
        return EXIT_INTERRUPTED
    report = work.result()
    console.print(view.summary(report))
    _write(report.as_json(), options)
    return EXIT_HOLDS if report.holds else EXIT_FAILED


def _write(result: dict[str, object], options: DemoOptions) -> None:
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


async def _run(options: DemoOptions, console: Console) -> Report:
    def say(line: str) -> None:
        console.print(line, markup=False, style="dim", soft_wrap=True)

    async with open_world(options, say) as world:
        await world.start_keeper()
        live = console.is_terminal and not options.json
        say(f"playing {len(world.parts.path.candles)} candles, {options.speed:g} a second")
        async with asyncio.TaskGroup() as group:
            picture = group.create_task(view.show(world, console), name="view") if live else None
            await world.play()
            await world.settle()
            if picture is not None:
                picture.cancel()
        say("stopping the keeper")
        await world.stop_keeper()
        report = await world.report()
        if not report.holds:
            console.print("The end of the keeper's log:", style="bold")
            console.print(world.parts.keeper.tail(), markup=False, soft_wrap=True)
        return report


@contextmanager
def _cancelled_by_signals(work: asyncio.Task[Report]) -> Iterator[None]:
    """Cancel the work at the first signal; later ones must not disturb the tidying up."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not work.done() and not work.cancelling():
            work.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
