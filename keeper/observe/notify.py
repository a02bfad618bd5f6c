"""What systemd is told of the service (sd_notify): ready, alive, how it fares, reloading, stopping.

A datagram of ``NAME=value`` lines each second to the socket that ``NOTIFY_SOCKET`` names. The
watchdog is fed only while every loop beats within its limit, so that a stuck one is restarted.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from keeper.observe.log import blank

log = structlog.get_logger(__name__)

TELL_S = 1.0
REASONS_MAX = 3
STATUS_CHARS_MAX = 800  # systemd ignores a datagram of more than 4,096 bytes


@dataclass(frozen=True, slots=True)
class ChainState:
    """What one chain's parts say of themselves; quick, called on the event loop.

    ``late``: age in seconds of the last beat of each loop beyond its limit. ``unready``: the
    reasons, none when ready. ``summary``: what is going on, in a few words.
    """

    chain_id: int
    late: Callable[[], Mapping[str, float]]
    unready: Callable[[], Sequence[str]]
    summary: Callable[[], str]

    def line(self) -> str:
        """Say in one line what an operator wants to know first."""
        late, unready = self.late(), self.unready()
        if late:
            said = ", ".join(f"loop {loop} silent for {age:.0f} s" for loop, age in late.items())
            return f"chain {self.chain_id}: stuck: {said}"
        if unready:
            more = len(unready) - REASONS_MAX
            said = "; ".join(unready[:REASONS_MAX]) + (f"; and {more} more" if more > 0 else "")
            return f"chain {self.chain_id}: not ready: {said}"
        return f"chain {self.chain_id}: ready: {self.summary()}"


class Service:
    """The keeper as systemd sees it."""

    def __init__(
        self, address: str, chains: Sequence[ChainState], reloading: Callable[[], bool]
    ) -> None:
        """``address``: that of NOTIFY_SOCKET. ``reloading``: whether a config is being read."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._chains = chains
        self._reloading = reloading
        self._said_ready = False
        self._heard = True
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)

    async def keep(self, tell_s: float = TELL_S) -> None:
        """Tell until cancelled.

        Ready is said once the loops run, not when there is something to liquidate with: a first
        backfill may take an hour, and the watchdog bites only after it was said.
        """
        try:
            while True:
                self._tell_all()
                await asyncio.sleep(tell_s)
        finally:
            self._tell("STOPPING=1", "STATUS=stopping")
            self._socket.close()

    def hang_up(self) -> None:
        """Say that the configuration is read again; ready follows when that is done."""
        self._said_ready = False
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def _tell_all(self) -> None:
        said = " | ".join(chain.line() for chain in self._chains)
        lines = ["STATUS=" + blank(said).replace("\n", " ")[:STATUS_CHARS_MAX]]
        if not any(chain.late() for chain in self._chains):
            lines.append("WATCHDOG=1")
        ready = not self._said_ready and not self._reloading()
        if ready:
            lines.append("READY=1")
        if self._tell(*lines) and ready:
            self._said_ready = True

    def _tell(self, *lines: str) -> bool:
        """Send, and return whether systemd took it; all but the stop is told again."""
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if self._heard:
                log.warning("systemd does not listen", error=error.strerror)
            self._heard = False
        else:
            self._heard = True
        return self._heard
