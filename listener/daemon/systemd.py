"""Notifications to the service manager: systemd's datagram protocol, which sd_notify(3) declares stable."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping

import structlog

from listener.contracts import SourceState
from listener.daemon.state import DaemonState, reasons_for_people, reasons_not_ready, store_answers
from listener.pipeline import Pipeline
from listener.pipeline.waking import TICK_SECONDS

__all__ = ["NotifySocket", "SystemdNotifier", "watchdog_seconds"]

log = structlog.get_logger()

POLL_SECONDS = 0.02
"""How often to look whether there is a pipeline: that is some 50 ms after the start."""
STARTING_SECONDS = 1.0
"""How often to check, during a start, which source takes long, and whether to request more time."""
REST_SECONDS = 1.0
"""Least time between two checks once it is ready."""
MORE_TIME_SECONDS = 30.0
DEGRADED_START_SECONDS = 10.0
"""A source or store that is degraded for so long no longer delays readiness: it may wait for days, a boot must not."""


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the longest time allowed between two ``WATCHDOG=1``, or None when the manager expects none."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or not int(microseconds) or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000


class NotifySocket:
    """Sends datagrams to ``$NOTIFY_SOCKET``; without it, does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read the address: a path, or after ``@`` a name in the abstract name space."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._last_status = ""

    def ready(self) -> None:
        """Report the end of the start or of a reload."""
        self.send("READY=1")

    def reloading(self) -> None:
        """Report the begin of a reload (``Type=notify-reload`` requires the time as well)."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report the begin of the shutdown."""
        self.send("STOPPING=1")

    def alive(self) -> None:
        """Reset the watchdog."""
        self.send("WATCHDOG=1")

    def more_time(self, seconds: float) -> None:
        """Extend the start timeout: a first scan takes as long as the tree is large."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, text: str) -> None:
        """Report the status in one line, if it has changed."""
        line = " ".join(text.split())
        if line != self._last_status:
            self._last_status = line
            self.send(f"STATUS={line}")

    def send(self, message: str) -> None:
        """Send lines of ``NAME=value``; a manager that does not listen is no error."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            log.debug("daemon.notify_failed", error=str(error))


class SystemdNotifier:
    """Reports readiness once every source listens, then each change of status; resets the watchdog."""

    def __init__(self, state: DaemonState, notify: NotifySocket) -> None:
        """Watch this state and report to this socket."""
        self._state = state
        self._notify = notify
        self._ready: Pipeline | None = None
        """The pipeline that was reported as ready."""
        self._reasons: list[str] = []
        self._next_extension = 0.0
        self._degraded_since: float | None = None

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            pipeline = self._state.pipeline
            since = 0 if pipeline is None else pipeline.changed.count
            if self._state.phase == "running" and pipeline is not None:
                reasons = reasons_not_ready(pipeline, self._state.phase)
                if pipeline is not self._ready:
                    self._report_start(pipeline, reasons)
                    reasons = self._reasons
                reasons = [*reasons, *reasons_for_people(self._state)]
                if pipeline is self._ready and reasons != self._reasons:
                    self._report(reasons, is_logged=bool(reasons) != bool(self._reasons))
            elif pipeline is None and (error := self._state.store_error) is not None:
                self._report_waiting([f"store: {error}"], asyncio.get_running_loop().time())
            if pipeline is None or self._state.phase != "running":
                await asyncio.sleep(POLL_SECONDS)
            elif pipeline is not self._ready:
                await pipeline.changed.wait(STARTING_SECONDS, since=since)
            else:
                await asyncio.sleep(REST_SECONDS)
                await pipeline.changed.wait(TICK_SECONDS, since=since)

    def _report_start(self, pipeline: Pipeline, reasons: list[str]) -> None:
        now = asyncio.get_running_loop().time()
        if not reasons or self._is_degraded_for_long(pipeline, now):
            self._ready, self._degraded_since = pipeline, None
            self._notify.ready()
            self._report(reasons)
        else:
            self._report_waiting(reasons, now)

    def _report_waiting(self, reasons: list[str], now: float) -> None:
        if now >= self._next_extension:
            self._next_extension = now + MORE_TIME_SECONDS / 3
            self._notify.more_time(MORE_TIME_SECONDS)
            self._notify.status(f"starting: {'; '.join(reasons)}")

    def _is_degraded_for_long(self, pipeline: Pipeline, now: float) -> bool:
        """Return whether nothing delays readiness but the store, or sources that have been degraded for some time."""
        intake = pipeline.intake
        waiting = [one for name, one in intake.sources.items() if not one.health.ready and name not in intake.finished]
        states = {source.health.state for source in waiting}
        is_degraded = bool(states) and states <= {SourceState.DEGRADED}
        if pipeline.store_trouble is None and not is_degraded:
            self._degraded_since = None
        elif self._degraded_since is None:
            self._degraded_since = now
        return self._degraded_since is not None and now - self._degraded_since >= DEGRADED_START_SECONDS

    def _report(self, reasons: list[str], *, is_logged: bool = True) -> None:
        self._reasons = reasons
        text = f"degraded: {'; '.join(reasons)}" if reasons else "running: every source is listening"
        self._notify.status(text)
        if is_logged and reasons:
            log.warning("daemon.degraded", reasons=reasons)
        elif is_logged:
            log.info("daemon.ready")

    async def keep_watchdog(self, within_seconds: float) -> None:
        """Reset the watchdog as long as the loop runs and the store's writer answers."""
        pause = within_seconds / 3
        while True:
            store = self._state.store
            if self._state.loop_monitor.ok and (store is None or await store_answers(store, pause)):
                self._notify.alive()
            await asyncio.sleep(pause)
