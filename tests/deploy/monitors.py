"""Real Prometheus and Alertmanager, on loopback, for the length of a block.

They are looked for on PATH (Debian: ``apt-get install prometheus prometheus-alertmanager``). Where
they are not a test is skipped; with KEEPER_REQUIRE_ALL=1 it fails.
"""

import os
import shutil

import pytest


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
