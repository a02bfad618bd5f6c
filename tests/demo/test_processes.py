import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from keeper.demo.processes import Child, DemoError

GONE_S_MAX = 10.0
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"
PARENT = """
import asyncio, pathlib, sys
from keeper.demo.processes import Child
async def main():
    child = Child("sleeper", pathlib.Path(sys.argv[1]))
    await child.start(["/bin/sleep", "60"])
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def up(output: str) -> str | None:
    found = re.search(r"^up$", output, re.MULTILINE)
    return found[0] if found else None


async def gone(pid: int) -> None:
    async with asyncio.timeout(GONE_S_MAX):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.02)


async def test_its_output_is_waited_for_and_it_is_asked_to_stop(tmp_path: Path) -> None:
    child = Child("server", tmp_path / "log")
    await child.start(["/bin/sh", "-c", "echo up; exec sleep 60"])
    assert await child.wait_output(up, 5) == "up"
    assert child.running
    assert await child.terminate(5) == -signal.SIGTERM
    assert (child.running, child.pid) == (False, None)


async def test_one_that_will_not_stop_is_killed_with_its_children(tmp_path: Path) -> None:
    child = Child("server", tmp_path / "log")
    await child.start(["/bin/sh", "-c", f"sleep 60 & echo $!; {STUBBORN}"])
    await child.wait_output(up, 5)
    grandchild = int(child.output().split()[0])
    assert await child.terminate(0.2) == -signal.SIGKILL
    await gone(grandchild)


async def test_one_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = Child("server", tmp_path / "log")
    await child.start(["/bin/sh", "-c", "echo port is taken; exit 3"])
    with pytest.raises(
        DemoError, match=r"(?s)server did not start: it ended with 3.*port is taken"
    ):
        await child.wait_output(up, 5)


async def test_one_that_says_nothing_is_reported(tmp_path: Path) -> None:
    child = Child("server", tmp_path / "log")
    await child.start(["/bin/sleep", "60"])
    with pytest.raises(DemoError, match="it is silent"):
        await child.wait_output(up, 0.1)
    await child.kill()
    assert child.returncode == -signal.SIGKILL


async def test_a_restart_appends_to_the_log_and_reads_only_its_own_part(tmp_path: Path) -> None:
    child = Child("server", tmp_path / "log")
    for word in ("one", "two"):
        await child.start(["/bin/sh", "-c", f"echo {word}; echo up; sleep 60"])
        await child.wait_output(up, 5)
        assert child.output().split() == [word, "up"]
        await child.kill()
    assert "one" in child.tail()
    assert "two" in child.tail()


async def test_it_is_not_started_twice(tmp_path: Path) -> None:
    child = Child("server", tmp_path / "log")
    await child.start(["/bin/sleep", "60"])
    with pytest.raises(DemoError, match="runs already"):
        await child.start(["/bin/sleep", "60"])
    await child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
async def test_it_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    await parent.wait()
    await gone(pid)
