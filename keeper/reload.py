"""Taking over a changed config file while the keeper runs: on SIGHUP, or when the file changes."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import structlog

from keeper.config import ConfigFile, Settings, difference, with_live
from keeper.errors import ConfigError
from keeper.pipeline import Pipeline
from keeper.rules import (
    brake_rules,
    desk_rules,
    endpoint_rules,
    execution_rules,
    feed_rules,
    lane_rules,
    reconcile_rules,
)
from keeper.status import Status
from keeper.watch.reading import BEAT_S

logger = structlog.get_logger(__name__)

HASH_DIGITS = 12  # of the digest: what a float64 holds exactly, and the log shows


def adopt(status: Status, settings: Settings) -> None:
    """Let every part go by the live keys of these settings from now on."""
    status.settings = settings
    status.board.adopt(feed_rules(settings))
    balances_wei_min = {wallet.name: wallet.balance_wei_min for wallet in settings.wallets}
    status.lanes.adopt(lane_rules(settings), balances_wei_min)
    status.endpoints.rules = endpoint_rules(settings)
    status.pipeline.reading.reconciler.rules = reconcile_rules(settings)
    adopt_deciding(status.pipeline, settings)


def adopt_deciding(pipeline: Pipeline, settings: Settings) -> None:
    """Let what decides go by these settings; accounts that limits hold are looked at again."""
    pipeline.execution.weighing.adopt(execution_rules(settings))
    pipeline.execution.brakes.adopt(brake_rules(settings))
    for venue in settings.venues:
        desk, rules = pipeline.desks[venue.id], desk_rules(settings, venue)
        desk.rules = rules
        desk.access.probe_ms = rules.probe_ms
        desk.agenda.adopt(rules.backoff_ms_min, rules.backoff_ms_max)


@dataclass(frozen=True, slots=True)
class Reloading:
    """Where one chain's settings come from, and what logging has to be told."""

    file: ConfigFile
    log_level: Callable[[str], None]


class Reload:
    """Reads one chain's config file again. What is wrong in it changes nothing."""

    def __init__(self, source: Reloading, status: Status, beat: Callable[[], None]) -> None:
        """``beat`` shows that the loop is alive."""
        self._file = source.file
        self._log_level = source.log_level
        self._status = status
        self._beat = beat
        self._hung_up = asyncio.Event()
        self._reading = False
        self._show([])

    def hang_up(self) -> None:
        """Read the file at the next opportunity: SIGHUP was sent."""
        self._hung_up.set()

    @property
    def pending(self) -> bool:
        """Return whether a SIGHUP has yet to be answered."""
        return self._reading or self._hung_up.is_set()

    async def watch(self, look_s: float = BEAT_S) -> None:
        """Take over the file on every SIGHUP and, if the config says so, when it has changed.

        A file counts as changed once two looks in a row see it the same, so that a half-written one
        is left alone.
        """
        taken = seen = self._file.stamp()
        while True:
            self._beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(look_s):
                    await self._hung_up.wait()
            before, seen = seen, self._file.stamp()
            changed = self._status.settings.keeper.watch_config and seen == before != taken
            if self._hung_up.is_set() or changed:
                self._reading = True
                self._hung_up.clear()
                taken = seen
                await self.reload()
                self._reading = False

    async def reload(self) -> None:
        """Read the file, take over what can change live, and say what was done and what was not."""
        try:
            wanted = await asyncio.to_thread(self._file.read)
        except ConfigError as error:
            self._refuse(error)
            return
        before = self._status.settings
        settings = with_live(before, wanted)
        done = asyncio.Event()
        self._status.pipeline.between_decisions(partial(self._adopt, settings, done))
        await done.wait()
        changes, waiting = difference(before, settings), difference(settings, wanted)
        for change in changes:
            logger.info("config", key=change.key, before=change.before, after=change.after)
        for change in waiting:
            said = "config needs a restart"
            logger.warning(said, key=change.key, before=change.before, after=change.after)
        self._show([change.key for change in waiting])
        self._count("restart_needed" if waiting else "applied" if changes else "unchanged")

    def _refuse(self, error: ConfigError) -> None:
        for problem in error.problems:
            logger.error("config not taken over: nothing has changed", problem=problem)
        self._count("invalid")

    def _adopt(self, settings: Settings, done: asyncio.Event) -> None:
        if settings.log.level != self._status.settings.log.level:
            self._log_level(settings.log.level)
        adopt(self._status, settings)
        done.set()

    def _show(self, waiting: list[str]) -> None:
        status = self._status
        status.restart_keys = waiting
        config_hash = int(status.settings.digest[:HASH_DIGITS], 16)
        status.metrics.gauge("keeper_config_hash", config_hash)
        status.metrics.gauge("keeper_config_restart_keys", len(waiting))

    def _count(self, result: str) -> None:
        self._status.metrics.count("keeper_config_reloads_total", result=result)
        logger.info("config read again", result=result, config=self._status.settings.digest[:12])


def hang_up(reloads: Iterable[Reload]) -> None:
    """Have every chain's file read again."""
    logger.info("reading the config again", signal="SIGHUP")
    for reload in reloads:
        reload.hang_up()
