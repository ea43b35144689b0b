"""What a service manager is told: systemd's datagram protocol, which sd_notify(3) declares stable."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import structlog

__all__ = ["Notifier", "watchdog_seconds"]

log = structlog.get_logger()


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return within which time the manager wants to hear ``WATCHDOG=1``, or None when it does not."""
    told, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not told.isdecimal() or not int(told) or (pid and pid != str(os.getpid())):
        return None
    return int(told) / 1_000_000


class Notifier:
    """Tells the service manager what this process is doing; without ``$NOTIFY_SOCKET`` it tells nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read where to tell it: a path, or after ``@`` a name in the abstract name space."""
        place = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + place[1:] if place.startswith("@") else place
        self._said = ""

    def ready(self) -> None:
        """Say that start-up, or a reload, is over."""
        self.send("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read anew (``Type=notify-reload`` wants the time as well)."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self.send("STOPPING=1")

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        self.send("WATCHDOG=1")

    def more_time(self, seconds: float) -> None:
        """Ask for more time to start: a first scan takes as long as the tree is large."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, text: str) -> None:
        """Say in a line what is going on; only when it is new."""
        line = " ".join(text.split())
        if line != self._said:
            self._said = line
            self.send(f"STATUS={line}")

    def send(self, message: str) -> None:
        """Send lines of ``NAME=value``; a manager that does not listen is no reason to fail."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            log.debug("daemon.not_notified", error=str(error))
