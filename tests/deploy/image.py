"""Build the Dockerfile without Docker, and try what comes out: ``-m tests.deploy.image FOLDER``.

To be run as root in a mount namespace of its own (``unshare --mount``), which takes everything away
at the end. A stage is this machine's root with a layer over it, this Python at ``/usr/local`` as in
the image's base; what the instructions do is done there in a chroot. Prints as JSON what was found.
"""

import ctypes
import fcntl
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.tools import DEPLOY, ROOT, tracked

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
STARTED_S_MAX = 60.0
STOPPED_S_MAX = 20.0
PYTHON = Path(sys.base_prefix).resolve()
LISTING = (
    "import importlib.metadata as m; print(*(d.name + '==' + d.version for d in m.distributions()))"
)


def instructions() -> Iterator[tuple[str, str]]:
    """Yield each instruction of the Dockerfile with its arguments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest


def sent(name: str) -> bool:
    """Return whether .dockerignore lets a file through."""
    through = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = rule.lstrip("!")
        if fnmatch.fnmatch(name, pattern) or name.startswith(f"{pattern}/"):
            through = rule.startswith("!")
    return through


@dataclass
class Stage:
    """What an image will be: a root, and what was said about processes in it."""

    folder: Path
    env: dict[str, str] = field(
        default_factory=lambda: {
            "PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": "/usr/local/lib",  # the image's base has it in its linker's cache
        }
    )
    user: str = "0:0"
    cwd: str = "/"
    said: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Lay an empty layer over this machine's root."""
        self.folder.mkdir()
        mount("-t", "tmpfs", "tmpfs", self.folder)
        self.root = layered(Path("/"), self.folder / "root", self.folder)
        for name in ("dev", "proc"):
            mount("--bind", f"/{name}", self.root / name)
        local = layered(PYTHON, self.root / "usr/local", self.folder)
        (local / "bin/pip").write_text('#!/bin/sh\nexec /usr/local/bin/python -m pip "$@"\n')

    def place(self, path: str) -> Path:
        """Return where a path of the image is here."""
        return self.root / os.path.join(self.cwd, path).lstrip("/")  # noqa: PTH118 - absolute wins

    def command(self, command: Sequence[str]) -> tuple[str, ...]:
        inside = ("/bin/sh", "-c", 'cd "$0" && exec "$@"', self.cwd, *command)
        return ("chroot", f"--userspec={self.user}", str(self.root), *inside)

    @property
    def environment(self) -> dict[str, str]:
        ours = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "TMPDIR"}
        return {**{k: v for k, v in os.environ.items() if k not in ours}, **self.env}

    def try_(self, *command: str) -> tuple[int, str]:
        """Return exit code and output."""
        done = subprocess.run(
            self.command(command),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def follow(self, word: str, rest: str) -> None:
        """Carry out an instruction that needs nothing but this stage."""
        if word == "RUN":
            code, output = self.try_("/bin/sh", "-c", rest)
            assert code == 0, f"{rest}:\n{output}"
        elif word == "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                self.env[name] = value.replace("$PATH", self.env["PATH"])
        elif word == "USER":
            self.user = rest
        elif word == "WORKDIR":
            self.cwd = rest
            self.place(rest).mkdir(parents=True, exist_ok=True)
        elif "[" in rest:
            self.said[word] = json.loads(rest[rest.index("[") :])

    def copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            inside = target.is_dir()
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / source.name if inside else target)


def layered(lower: Path, target: Path, folder: Path) -> Path:
    """Show a folder elsewhere, where whatever is changed stays in ``folder``."""
    upper, work = (folder / f"{kind}-{target.name}" for kind in ("upper", "work"))
    for each in (upper, work, target):
        each.mkdir(exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mount("-t", "overlay", "overlay", "-o", options, target)
    return target


def mount(*arguments: str | Path) -> None:
    subprocess.run(("mount", *arguments), check=True)


def build(folder: Path) -> Stage:
    """Carry out every instruction; return the last stage."""
    context = folder / "context"
    for name in filter(sent, tracked()):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, context / name)
    stages: dict[str, Stage] = {}
    for word, rest in instructions():
        if word == "FROM":
            stage = Stage(folder / f"stage-{len(stages)}")
            stages[rest.split()[-1]] = stage
        elif word == "COPY":
            words = rest.split()
            origin = words.pop(0).split("=")[1] if words[0].startswith("--from=") else ""
            for name in words[:-1]:
                source = stages[origin].place(name) if origin else context / name
                stage.copy(source, stage.place(words[-1]))
        else:
            stage.follow(word, rest)
    return stage


def alone() -> None:
    """Leave this machine's network for one that has nothing but loopback."""
    assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
    with socket.socket() as any_:
        fcntl.ioctl(any_, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def lives(stage: Stage) -> dict[str, object]:
    """Run the image's command until it is healthy; stop it for a while, and for good."""
    (stage.root / "etc/keeper").mkdir()
    config = (ROOT / "config.toml").read_text()
    config = config.replace('state_dir = "state"', 'state_dir = "/var/lib/keeper"')
    (stage.root / "etc/keeper/config.toml").write_text(config)
    command = stage.command(stage.said["ENTRYPOINT"] + stage.said["CMD"])
    keeper = subprocess.Popen(
        command, env=stage.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    found: dict[str, object] = {}
    deadline = time.monotonic() + STARTED_S_MAX
    check = stage.said["HEALTHCHECK"]
    found["not yet"] = stage.try_(*check)[0]
    while stage.try_(*check)[0] and time.monotonic() < deadline:
        assert keeper.poll() is None, keeper.communicate()[1]
    found["healthy"] = stage.try_(*check)[0]
    found["user"] = Path(f"/proc/{keeper.pid}/status").read_text()
    keeper.send_signal(signal.SIGSTOP)
    found["stopped"] = stage.try_(*check)[0]
    keeper.send_signal(signal.SIGCONT)
    keeper.send_signal(signal.SIGTERM)
    found["log"] = keeper.communicate(timeout=STOPPED_S_MAX)[1].decode()
    found["code"] = keeper.returncode
    return found


if __name__ == "__main__":
    mount("--make-rprivate", "/")
    image = build(Path(sys.argv[1]))
    alone()
    tried = {
        "id": image.try_("id", "-u"),
        "version": image.try_("keeper", "--version"),
        "packages": image.try_("python", "-c", LISTING),
        "pip": image.try_("python", "-m", "pip"),
        "base pip": image.try_("/usr/local/bin/python", "-m", "pip"),
        "write": image.try_("touch", "/opt/keeper/there"),
        "state": image.try_("touch", "/var/lib/keeper/there"),
    }
    sys.stdout.write(json.dumps({**tried, "life": lives(image)}))
