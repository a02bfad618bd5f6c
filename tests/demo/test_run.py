import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from keeper.demo.run import DemoOptions, main_loop
from tests.nodes import find_anvil

CODE = (
    "import sys; from keeper.demo.run import DemoOptions, main_loop; "
    "sys.exit(main_loop(DemoOptions(accounts=20, json=True)))"
)
END_S_MAX = 30.0


def test_a_mistake_ends_with_1_a_message_and_a_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "minutes.csv"
    file.write_text("timestamp,open,high,low,close\n0,1,1,1,x\n")
    assert main_loop(DemoOptions(prices=file, json=True)) == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert not result["holds"]
    assert "line 2, column close" in result["problems"][0]
    assert "line 2, column close" in shown.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["broker on", "waiting for the keeper"])
async def test_a_signal_ends_it_with_130_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, stage: str
) -> None:
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CODE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path), "ANVIL": str(find_anvil())},
    )
    assert demo.stdout is not None
    assert demo.stderr is not None
    async with asyncio.timeout(END_S_MAX):
        while stage not in (line := (await demo.stderr.readline()).decode()):
            assert line, "the demo ended before that"
        demo.send_signal(number)
        output, trouble = await demo.communicate()
    assert demo.returncode == 130, trouble.decode()
    assert output == b""
    assert "stopped; nothing was judged" in trouble.decode()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nothing else runs
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline")]  # noqa: ASYNC240 - likewise
    assert not [command for command in commands if str(tmp_path).encode() in command]
