"""The task group of the process: bugs, ends, and signals to a real process."""

import asyncio
import os
import selectors
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keeper.supervise import run

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 20  # of a test that waits for another process


async def _forever() -> None:
    await asyncio.Event().wait()


async def _crash() -> None:
    raise ZeroDivisionError


async def _end() -> None:
    pass


async def test_a_bug_in_one_loop_ends_all_and_names_the_loop() -> None:
    cleaned: list[str] = []

    async def careful() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("careful")

    with pytest.raises(ZeroDivisionError) as caught:
        await run({"careful": careful, "decide": _crash})
    assert caught.value.__notes__ == ["in loop 'decide'"]
    assert cleaned == ["careful"]


async def test_a_loop_that_ends_by_itself_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="loop 'prices' ended by itself") as caught:
        await run({"decide": _forever, "prices": _end})
    assert caught.value.__notes__ == ["in loop 'prices'"]


async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("keeper.supervise.CANCEL_AGAIN_S", 0.01)
    swallowed = []

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.append("once")
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await run({"deaf": deaf, "decide": _crash})
    assert swallowed == ["once"]


async def test_several_bugs_are_raised_together() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await run({"a": _crash, "b": _end})
    assert {type(error) for error in caught.value.exceptions} == {ZeroDivisionError, RuntimeError}


async def test_no_loops_are_refused() -> None:
    with pytest.raises(ValueError, match="no loops"):
        await run({})


async def test_cancelling_from_outside_is_no_stop() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run({"decide": _forever})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_handlers_found_are_put_back(number: signal.Signals) -> None:
    def mine(_number: int, _frame: object) -> None:
        raise AssertionError

    before = signal.signal(number, mine)
    try:
        with pytest.raises(ZeroDivisionError):
            await run({"decide": _crash})
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


PROGRAM = """
    import asyncio, sys
    from keeper.observe import log
    from keeper.supervise import run

    log.configure()

    async def careful():
        print("ready", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("cleaning", flush=True)
            if "slow" in sys.argv:
                await asyncio.to_thread(sys.stdin.readline)
            if "break" in sys.argv:
                raise ZeroDivisionError("in the clean-up")
            print("cleaned", flush=True)

    async def other():
        await asyncio.Event().wait()

    sys.exit(asyncio.run(run({"careful": careful, "other": other})))
"""


@contextmanager
def _process(tmp_path: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """The program above as a shell would start it in its background: with SIGINT ignored."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    shell = 'trap "" INT; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", shell, "sh", sys.executable, str(program), *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        assert process.poll() is not None


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(PATIENCE_S), "the process said nothing in time"
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_background_process_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with _process(tmp_path) as process:
        assert _line(process) == "ready"
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert "cleaned" in out
    assert process.returncode == 0


def test_further_signals_do_not_cut_the_cleaning_short(tmp_path: Path) -> None:
    with _process(tmp_path, "slow") as process:
        assert _line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert _line(process) == "cleaning"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate("go on\n", timeout=PATIENCE_S)
    assert "cleaned" in out
    assert process.returncode == 0


def test_a_bug_while_cleaning_is_not_hidden_by_the_signal(tmp_path: Path) -> None:
    with _process(tmp_path, "break") as process:
        assert _line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "ZeroDivisionError: in the clean-up" in errors
    assert "in loop 'careful'" in errors
