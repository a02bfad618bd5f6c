"""The compiled demo market: package data, so that nobody needs a compiler to run the demo.

``python -m keeper.demo.artifact`` compiles ``market.vy`` again (Vyper is in the ``dev`` extra) and
writes ``market.json``; a test compiles too and compares.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("market.vy")
TARGET = Path(__file__).with_name("market.json")
COMPILE_S_MAX = 60


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract: its ABI as JSON objects, creation code without constructor arguments."""

    abi: list[dict[str, Any]]
    bytecode: str  # 0x-hex
    vyper: str  # compiler version
    source_sha256: str  # of market.vy, hex


def load() -> Artifact:
    """Return what is shipped in ``market.json``."""
    return Artifact(**json.loads(TARGET.read_text(encoding="utf-8")))


def compile_source(source: Path = SOURCE) -> Artifact:
    """Compile a contract with the Vyper of this environment.

    Raises RuntimeError with the compiler's words when it is missing or refuses the source.
    """
    abi, bytecode = _vyper("-f", "abi,bytecode", str(source)).splitlines()
    return Artifact(
        abi=json.loads(abi),
        bytecode=bytecode,
        vyper=_vyper("--version").partition("+")[0].strip(),
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
    )


def write(artifact: Artifact) -> None:
    """Write ``market.json``, one ABI entry a line, so that a change can be reviewed."""
    entries = ",\n".join("    " + json.dumps(entry, sort_keys=True) for entry in artifact.abi)
    text = (
        f'{{\n  "vyper": "{artifact.vyper}",\n  "source_sha256": "{artifact.source_sha256}",\n'
        f'  "bytecode": "{artifact.bytecode}",\n  "abi": [\n{entries}\n  ]\n}}\n'
    )
    TARGET.write_text(text, encoding="utf-8")


def _vyper(*arguments: str) -> str:
    """Run the compiler apart: it changes the recursion limit and warns in its own ways."""
    done = subprocess.run(  # noqa: S603 - fixed arguments, this interpreter
        [sys.executable, "-m", "vyper", *arguments],
        capture_output=True,
        text=True,
        timeout=COMPILE_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        msg = f"vyper failed (is the dev extra installed?):\n{done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout


if __name__ == "__main__":
    write(compile_source())
