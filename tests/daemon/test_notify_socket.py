"""Notifications to the service manager, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from listener.daemon.systemd import NotifySocket, watchdog_seconds


def received(channel: socket.socket) -> list[str]:
    """Return every message that waits."""
    channel.setblocking(False)
    found = []
    while True:
        try:
            found.append(channel.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_arrive(tmp_path: Path, abstract: bool) -> None:
    """By a path and by an abstract name; a status only when it is new, on one line."""
    name = f"@cdn-listener-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        notifier = NotifySocket({"NOTIFY_SOCKET": name})
        notifier.ready()
        notifier.reloading()
        notifier.status("one\ntwo")
        notifier.status("one two")
        notifier.more_time(1.5)
        notifier.alive()
        notifier.stopping()
        ready, reloading, *rest = received(manager)
        assert ready == "READY=1"
        assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert reloading.partition("USEC=")[2].isdecimal()
        assert rest == ["STATUS=one two", "EXTEND_TIMEOUT_USEC=1500000", "WATCHDOG=1", "STOPPING=1"]


def test_nobody_there_is_no_failure(tmp_path: Path) -> None:
    """Without a socket, or with one that nobody reads, telling does nothing."""
    NotifySocket({}).ready()
    NotifySocket({"NOTIFY_SOCKET": str(tmp_path / "nothing")}).ready()


def test_the_watchdog_is_for_this_process() -> None:
    """Its time is in microseconds; another process's is not ours."""
    assert watchdog_seconds({"WATCHDOG_USEC": "1500000"}) == 1.5
    assert watchdog_seconds({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}) == 1.5
    assert watchdog_seconds({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}) is None
    for nothing in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}):
        assert watchdog_seconds(nothing) is None
