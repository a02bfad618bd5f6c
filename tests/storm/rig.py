"""One storm: the market on a node with its own clock, a broker, a feeder, a judge, a keeper.

    with opened(folder, Form(oracle="pull")) as storm:
        storm.start_keeper()
        storm.play()
        report = storm.finish()

The keeper is ``keeper run`` on a config file, as an operator has it; everything else is ours.
"""

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coincurve import PrivateKey

from keeper.demo.contract import address_of
from tests.brokers import Broker, running_broker
from tests.e2e.rig import ETHER, KeeperProcess
from tests.e2e.runs import KEEPER, Run
from tests.nodes import free_port
from tests.storm.config import write_config
from tests.storm.feeder import Feeder, Known
from tests.storm.form import Form
from tests.storm.judge import Judge
from tests.storm.node import ClockedAnvil, clocked_anvil
from tests.storm.path import Fall, fall
from tests.storm.population import Member, members, populate, storm_setup
from tests.storm.report import Report
from tests.storm.traders import Traders
from tests.storm.verdicts import Verdicts
from tests.synthetix.deploy import deploy
from tests.synthetix.packages import artifacts
from tests.synthetix.world import World

POLL_S = 0.02
WAIT_S_MAX = 60.0
WAIT_BLOCKS_MAX = 60
QUIET_BLOCKS = 4  # with nothing due or flagged: the storm is over
GRACE_BLOCKS = 60  # at most, for the windows of what is flagged
PREFIX = "storm"
ERROR = '"level": "error"'


class Judging(threading.Thread):
    """Judges block after block at its own pace; the node keeps the states meanwhile."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(name="judge", daemon=True)
        self.judge = judge
        self.trouble: BaseException | None = None
        self._blocks: queue.Queue[tuple[int, Known] | None] = queue.Queue()

    def hear(self, number: int, known: Known) -> None:
        self._blocks.put((number, known))

    def run(self) -> None:
        try:
            while (block := self._blocks.get()) is not None:
                self.judge.block(*block)
        except Exception as error:  # noqa: BLE001 - told to whoever waits, who fails with it
            self.trouble = error

    def end(self) -> None:
        """Return when all that was heard is judged."""
        self._blocks.put(None)
        self.join(WAIT_S_MAX)


@dataclass
class Storm:
    """A run in progress."""

    folder: Path
    form: Form
    fall: Fall
    people: Sequence[Member]
    node: ClockedAnvil
    broker: Broker
    world: World
    feeder: Feeder
    judging: Judging
    traders: Traders | None
    keeper: KeeperProcess
    restarted: bool = False

    @property
    def verdicts(self) -> Verdicts:
        return self.judging.judge.verdicts

    @property
    def head(self) -> int:
        return self.world.chain.number()

    def until(
        self, condition: Callable[[], bool], what: str, blocks_max: int = WAIT_BLOCKS_MAX
    ) -> None:
        """Poll until the condition holds; raises when a part of the rig is in trouble."""
        limit_s = WAIT_S_MAX + blocks_max * self.form.block_time_s
        deadline = time.monotonic() + limit_s
        while not condition():
            for part in (self.feeder, self.judging, self.traders):
                if part is not None and part.trouble is not None:
                    raise part.trouble
            if time.monotonic() > deadline:
                msg = f"{what}: not within {limit_s:g} s\n{self.keeper.run.stderr[-4000:]}"
                raise TimeoutError(msg)
            time.sleep(POLL_S)

    def blocks(self, count: int) -> None:
        """Wait for so many more judged blocks."""
        target = self.judging.judge.judged + count
        self.until(lambda: self.judging.judge.judged >= target, f"{count} more blocks")

    def caught_up(self) -> None:
        head = self.head
        self.until(lambda: self.judging.judge.judged >= head, f"block {head} judged")

    def start_keeper(self) -> None:
        """Start it, again too; time counts from when it says that it is ready."""
        self.keeper.start()
        self.keeper.until_ready()
        self.verdicts.back(self.head)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Let nothing be due inside, and until the keeper is ready afterwards."""
        self.verdicts.gone(self.judging.judge.judged + 1)
        yield
        self.keeper.until_ready()
        self.verdicts.back(self.head)

    def play(self) -> None:
        """Let the prices fall, and the accounts trade if they do."""
        self.feeder.playing = True
        if self.traders is not None:
            self.traders.start()

    def finish(self) -> Report:
        """Play to the end, let the last price stand until all is quiet, and stop the keeper."""
        self.until(lambda: self.feeder.over, "the end of the path", 3 * self.form.blocks)
        if self.traders is not None:
            self.traders.end()
        last, quiet = self.judging.judge.judged + GRACE_BLOCKS, 0
        while quiet < QUIET_BLOCKS and self.judging.judge.judged < last:
            self.blocks(1)
            quiet = 0 if self.verdicts.pending else quiet + 1
        reward_wei = self.keeper.metric("keeper_reward_wei_total")
        self.keeper.stop()
        self.caught_up()
        self.feeder.end()
        self.judging.end()
        self.verdicts.end(self.judging.judge.judged)
        return Report(
            note=self.fall.note,
            verdicts=self.verdicts,
            judge=self.judging.judge,
            journal=self.keeper.journal(),
            balance=self.world.system.usd.call("balanceOf", self.keeper.wallet),
            metric_wei=None if self.restarted else reward_wei,
            errors=[line for line in self.keeper.run.stderr.splitlines() if ERROR in line],
        )


@contextlib.contextmanager
def opened(folder: Path, form: Form) -> Iterator[Storm]:
    """Set everything up, prices standing, blocks being judged; the keeper is not started yet."""
    artifacts()  # compiled before the node's clock starts
    played = fall(form.seed, form.blocks)
    people = members(form.seed)
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(clocked_anvil(folder, form.block_time_s))
        broker = stack.enter_context(running_broker(folder / "broker"))
        world = World(deploy(node, storm_setup(form, played.prices[0])))
        populate(world, people, played.prices)
        world.chain.prompt = False
        keeper = _keeper(folder, form, world, node, broker)
        stack.callback(keeper.kill)
        judge = Judge(
            world,
            [member.account for member in people],
            keeper.wallet,
            Verdicts(window_s=world.system.setup.markets[0].window_s),
        )
        judge.verdicts.gone(0)  # until the keeper is ready for the first time
        judging = Judging(judge)
        feeder = Feeder(world, broker.port, PREFIX, played.prices, judging.hear)
        feeder.silent = form.silence
        traders = Traders(world, people, random.Random(f"trades {form.seed}"))  # noqa: S311 - seeded
        _past_publications(world)
        judging.start()
        feeder.start()
        storm = Storm(
            folder,
            form,
            played,
            people,
            node,
            broker,
            world,
            feeder,
            judging,
            traders if form.trades else None,
            keeper,
        )
        try:
            yield storm
        finally:
            if traders.is_alive():
                traders.end()
            feeder.end()
            judging.end()


def _past_publications(world: World) -> None:
    """Wait until the wall's clock is past what the set-up has published, a little ahead of it."""
    while time.time() <= world.published_s():
        time.sleep(POLL_S)


def _keeper(
    folder: Path, form: Form, world: World, node: ClockedAnvil, broker: Broker
) -> KeeperProcess:
    home = folder / "keeper"
    home.mkdir()
    key = PrivateKey()
    file = home / "wallet.key"
    file.touch(mode=0o600)
    file.write_text(f"0x{key.secret.hex()}\n")
    wallet = address_of(key)
    node.rpc("anvil_setBalance", wallet, hex(100 * ETHER))
    http_port = free_port()
    config = home / "config.toml"
    write_config(config, form, world, node, (broker.port, http_port), PREFIX)
    run = Run(home, (*KEEPER, "run", "--config", str(config)))
    return KeeperProcess(run, config, http_port, wallet)
