"""The keys of config.toml that only a whole process shows: where it listens, how it talks."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path

from tests.e2e.runs import KEEPER, Run, until
from tests.nodes import free_port

LISTENS_S_MAX = 10.0
STOP_S_MAX = 5.0
CONFIG = """\
[log]
level = "{level}"
format = "{format}"

[http]
host = "127.0.0.2"
port = {port}

[chain]
id = 31337
http = ["http://127.0.0.1:1"]
native_feed = "ETH/USD"

[[sources]]
kind = "mqtt"
name = "broker"
host = "127.0.0.1"
port = 1

[[feeds]]
id = "ETH/USD"
sources = ["broker"]

[[venues]]
kind = "demo_market"
id = "demo"
address = "0x00000000000000000000000000000000000000aa"
"""


def answers(host: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def said_by(folder: Path, level: str, style: str, event: str) -> str:
    """Run a keeper on 127.0.0.2 until it answers there and has logged this; return its log."""
    port = free_port()
    run = Run(folder, (*KEEPER, "run", "--config", str(folder / "config.toml")))
    (folder / "config.toml").write_text(CONFIG.format(level=level, format=style, port=port))
    run.start()
    try:
        until(lambda: answers("127.0.0.2", port), LISTENS_S_MAX, lambda: run.stderr)
        assert not answers("127.0.0.1", port)
        until(lambda: event in run.stderr, LISTENS_S_MAX, lambda: run.stderr)
        run.signal(signal.SIGTERM)
        assert run.wait(STOP_S_MAX) == 0
    finally:
        run.end()
    return run.stderr


def test_where_it_listens_and_how_it_talks(tmp_path: Path) -> None:
    events = [
        json.loads(line)["event"]
        for line in said_by(tmp_path, "info", "json", "starting").splitlines()
    ]
    assert {"starting", "stopped"} < set(events)
    lines = said_by(tmp_path / "again", "warning", "console", "price source lost")
    assert "price source lost" in lines
    assert "stopped" not in lines
    assert not lines.startswith("{")
