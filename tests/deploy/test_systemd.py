"""The unit: judged by systemd's own tools, and a keeper that works under its confinement."""

import re
import sys
from pathlib import Path

from tests.deploy import confined
from tests.deploy.tools import DEPLOY, run, tool
from tests.e2e.rig import Rig
from tests.e2e.runs import KEEPER

UNIT = DEPLOY / "systemd" / "keeper.service"
INSTALLED = "/opt/keeper/venv/bin/keeper"
EXPOSURE_MAX = 1.3
LIQUIDATED_S_MAX = 30.0


def test_systemd_finds_nothing_to_say_of_it(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace(INSTALLED, sys.executable))
    assert sys.executable in here.read_text()
    assert run(tool("systemd-analyze"), "verify", here) == ""


def test_a_mistake_in_it_would_be_found(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    text = UNIT.read_text().replace(INSTALLED, sys.executable)
    here.write_text(text.replace("ProtectClock", "ProtectClocks"))
    assert "Unknown key" in run(tool("systemd-analyze"), "verify", here)


def test_its_exposure_is_small() -> None:
    told = run(tool("systemd-analyze"), "security", "--offline=true", UNIT)
    found = re.search(r"exposure level for keeper\.service: ([0-9.]+) OK", told)
    assert found, told
    assert float(found[1]) <= EXPOSURE_MAX


def test_a_keeper_liquidates_under_its_confinement(rig: Rig) -> None:
    tool("systemd-analyze")
    command = (sys.executable, confined.__file__, str(UNIT), *KEEPER)
    with rig.keeper(command=command) as keeper:
        keeper.until_ready()
        account = rig.open_under()
        keeper.until(lambda: rig.liquidated(account), LIQUIDATED_S_MAX)
        seccomp = Path(f"/proc/{keeper.run.pid}/status").read_text()
        assert "Seccomp:\t2" in seccomp
        keeper.stop()


def test_the_confinement_holds(tmp_path: Path) -> None:
    tool("systemd-analyze")
    script = tmp_path / "try.py"
    script.write_text(
        "import ctypes, mmap, os, socket\n"
        "for what in (lambda: os.chroot('/'),\n"
        "             lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),\n"
        "             lambda: mmap.mmap(-1, 4096, prot=7)):\n"
        "    try:\n"
        "        what()\n"
        "    except PermissionError:\n"
        "        print('refused')\n"
    )
    told = run(sys.executable, confined.__file__, UNIT, sys.executable, script)
    assert told.split() == ["refused"] * 3
