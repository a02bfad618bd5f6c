"""Run a command under what a systemd unit lets it call: ``confined.py UNIT COMMAND ARGUMENT…``.

The system calls of ``SystemCallFilter``, the addresses of ``RestrictAddressFamilies`` and
``MemoryDenyWriteExecute``, put in place as systemd does, by seccomp and prctl.
"""

import ctypes
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PR_SET_MDWE = 65
PR_MDWE_REFUSE_EXEC_GAIN = 1
SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_EPERM = 0x00050000 | 1
SCMP_CMP_EQ = 4


class Compared(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def values(unit: str, name: str) -> list[str]:
    """Return what each line of a setting says."""
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


def members(group: str) -> Iterator[str]:
    """Yield the system calls of a set, those of the sets in it as well."""
    if not group.startswith("@"):
        yield group
        return
    command = ("systemd-analyze", "syscall-filter", group)
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in told.splitlines()[1:]:
        name = line.strip()
        if name and not name.startswith("#"):
            yield from members(name)


def allowed(unit: str) -> set[str]:
    """Return the system calls that a unit allows."""
    found: set[str] = set()
    for line in values(unit, "SystemCallFilter"):
        calls = {call for group in line.lstrip("~").split() for call in members(group)}
        found = found - calls if line.startswith("~") else found | calls
    return found


def confine(unit: str) -> None:
    """Allow this process, for good, no more than the unit does."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(SCMP_ACT_EPERM)))

    def allow(call: str, *compared: Compared) -> None:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        array = (Compared * len(compared))(*compared)
        action = ctypes.c_uint32(SCMP_ACT_ALLOW)
        if number >= 0:  # other machines have other calls
            done = seccomp.seccomp_rule_add_array(filter_, action, number, len(compared), array)
            assert done == 0, f"{call}: {done}"

    for call in allowed(unit) - {"socket"}:
        allow(call)
    for family in values(unit, "RestrictAddressFamilies")[0].split():
        allow("socket", Compared(0, SCMP_CMP_EQ, int(getattr(socket, family)), 0))
    if values(unit, "MemoryDenyWriteExecute") == ["yes"]:
        none = ctypes.c_ulong(0)
        refuse = ctypes.c_ulong(PR_MDWE_REFUSE_EXEC_GAIN)
        done = ctypes.CDLL(None).prctl(PR_SET_MDWE, refuse, none, none, none)
        assert done == 0, "the kernel is older than 6.3"
    assert seccomp.seccomp_load(filter_) == 0


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text())
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - what the test names
