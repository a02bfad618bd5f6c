"""Run a storm and print what came of it: ``python -m tests.storm pull --blocks 120``."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.storm.faults import FAULTS
from tests.storm.form import Form
from tests.storm.rig import opened


def main() -> int:
    """Return 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("oracle", choices=("push", "pull"))
    parser.add_argument("--blocks", type=int, default=36, help="of the fall, a minute each")
    parser.add_argument("--block-time", type=float, default=2.0, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trades", action="store_true", help="accounts trade meanwhile")
    parser.add_argument("--silence", type=int, nargs=2, default=(0, 0), help="steps, from and to")
    parser.add_argument("--together", type=int, default=1, help="accounts in one transaction")
    parser.add_argument("--restart", choices=sorted(FAULTS), action="append", default=[])
    parser.add_argument("--keep", type=Path, help="folder for the config, journal and log")
    chosen = parser.parse_args()
    form = Form(
        oracle=chosen.oracle,
        blocks=chosen.blocks,
        block_time_s=chosen.block_time,
        seed=chosen.seed,
        trades=chosen.trades,
        silence=range(*chosen.silence),
        together=chosen.together,
    )
    with tempfile.TemporaryDirectory(prefix="storm-") as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with opened(folder, form) as storm:
            storm.start_keeper()
            storm.play()
            for name in chosen.restart:
                FAULTS[name](storm)
            report = storm.finish()
    sys.stdout.write(f"{report}\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
