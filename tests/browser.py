"""A real headless Chromium, driven over the W3C WebDriver protocol.

    with running_chromium(folder) as browser:
        browser.open("http://127.0.0.1:9464/")
        browser.run("return document.title")

``chromium`` and ``chromedriver`` are looked for on PATH (Debian: ``apt-get install chromium
chromium-driver``). Where they are not a test is skipped; with KEEPER_REQUIRE_ALL=1 it fails.
"""

import base64
import contextlib
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import free_port

ANSWER_S_MAX = 60.0
START_S_MAX = 30.0
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's own name of a reference
TAB = "\ue004"
ENTER = "\ue007"


class BrowserError(Exception):
    """The browser refused a command."""


@dataclass
class Browser:
    """One window."""

    port: int
    session: str = ""

    def _ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S_MAX)
        with contextlib.closing(connection):
            text = None if method == "GET" else json.dumps(body or {})
            connection.request(method, path, text, {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        if isinstance(value, dict) and "error" in value:
            msg = f"{value['error']}: {value['message'].splitlines()[0]}"
            raise BrowserError(msg)
        return value

    def ready(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except OSError:
            return False

    def start(self, chromium: str, profile: Path) -> None:
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        body = {"capabilities": {"alwaysMatch": wanted}}
        self.session = "/session/" + self._ask("POST", "/session", body)["sessionId"]

    def end(self) -> None:
        if self.session:
            self._ask("DELETE", self.session)

    def open(self, url: str) -> None:
        self._ask("POST", f"{self.session}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Run the body of a function in the page and return what it returns."""
        body = {"script": script, "args": arguments}
        return self._ask("POST", f"{self.session}/execute/sync", body)

    def press(self, keys: str) -> None:
        """Press keys where the focus is."""
        focused = self._ask("GET", f"{self.session}/element/active")[ELEMENT]
        self._ask("POST", f"{self.session}/element/{focused}/value", {"text": keys})

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call."""
        said = self._ask("POST", f"{self.session}/se/log", {"type": "browser"})
        return [line["message"] for line in said]

    def devtools(self, command: str, **parameters: object) -> None:
        body = {"cmd": command, "params": parameters}
        self._ask("POST", f"{self.session}/goog/cdp/execute", body)

    def size(self, width: int, height: int) -> None:
        """Be a screen of so many CSS pixels."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def scheme(self, name: str) -> None:
        """Prefer dark or light."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))


def _found(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        text = f"there is no {name} on PATH; Debian: apt-get install chromium chromium-driver"
        if os.environ.get("KEEPER_REQUIRE_ALL") == "1":
            pytest.fail(text)
        pytest.skip(text)
    return path


@contextlib.contextmanager
def running_chromium(folder: Path) -> Iterator[Browser]:
    """Run a browser with an empty profile for the length of the block."""
    from tests.e2e.runs import until  # noqa: PLC0415 - which looks for brokers and nodes

    chromium, driver = _found("chromium"), _found("chromedriver")
    browser = Browser(free_port())
    log = folder / "chromedriver.log"
    command = [driver, f"--port={browser.port}", f"--log-path={log}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(browser.ready, START_S_MAX, lambda: f"chromedriver is not up, see {log}")
            browser.start(chromium, folder / "profile")
            yield browser
        finally:
            with contextlib.suppress(OSError, BrowserError):
                browser.end()
            process.terminate()
