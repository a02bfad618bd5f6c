"""Real Prometheus and Alertmanager, on loopback, for the length of a block.

They are looked for on PATH (Debian: ``apt-get install prometheus prometheus-alertmanager``). Where
they are not a test is skipped; with KEEPER_REQUIRE_ALL=1 it fails.
"""

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.runs import until
from tests.nodes import free_port

START_S_MAX = 30.0
ANSWER_S_MAX = 10.0
END_S_MAX = 10.0


def monitor(name: str) -> str:
    """Return the path of a program of theirs."""
    path = shutil.which(name)
    if path is None:
        text = (
            f"there is no {name} on PATH; "
            "Debian: apt-get install prometheus prometheus-alertmanager"
        )
        if os.environ.get("KEEPER_REQUIRE_ALL") == "1":
            pytest.fail(text)
        pytest.skip(text)
    return path


@dataclass(frozen=True)
class Server:
    """One of the two, at its HTTP API."""

    port: int

    def ask(self, path: str, **parameters: str) -> str:
        """Return the body; "" while nothing answers. Fails with it when the request is refused."""
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_S_MAX) as answer:
                body: bytes = answer.read()
                return body.decode()
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.SERVICE_UNAVAILABLE:  # it starts
                    return ""
                pytest.fail(f"{parameters}: {error.read().decode()}")
        except OSError:
            return ""

    def values(self, query: str, **span: str) -> list[float]:
        """Return what a query gives now, or over a span (``start``, ``end``, ``step``)."""
        path = "/api/v1/query_range" if span else "/api/v1/query"
        result = json.loads(self.ask(path, query=query, **span))["data"]["result"]
        points = [series["values"] if span else [series["value"]] for series in result]
        return [float(value) for series in points for _, value in series]


@contextlib.contextmanager
def _running(folder: Path, port: int, *command: str) -> Iterator[Server]:
    server = Server(port)
    log = folder / "log"
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            until(lambda: bool(server.ask("/-/ready")), START_S_MAX, log.read_text)
            yield server
        finally:
            process.terminate()
            process.wait(END_S_MAX)


@contextlib.contextmanager
def running_prometheus(folder: Path, config: dict[str, Any]) -> Iterator[Server]:
    """Run Prometheus with this configuration; ``folder`` is empty and its own."""
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    with _running(
        folder,
        port,
        monitor("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ) as server:
        yield server


@contextlib.contextmanager
def running_alertmanager(folder: Path, config: dict[str, Any]) -> Iterator[Server]:
    """Run Alertmanager with this configuration; ``folder`` is empty and its own."""
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    with _running(
        folder,
        port,
        monitor("prometheus-alertmanager"),
        f"--config.file={folder / 'alertmanager.yaml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ) as server:
        yield server


@contextlib.contextmanager
def running_webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Take the alerts that are posted to the URL, one after the other into the list."""
    alerts: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            alerts.extend(json.loads(body)["alerts"])
            self.send_response(http.HTTPStatus.NO_CONTENT)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/alerts", alerts
        finally:
            server.shutdown()
            thread.join()
