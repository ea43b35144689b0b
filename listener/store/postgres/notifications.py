"""
How instances learn of each other's commits before they look by themselves: NOTIFY after commits, and LISTEN.

A thread with a connection of its own does both, so that no commit and no reader waits for it. Nothing depends on what
it is notified of: whoever waits looks again each second anyway, so that a lost notification costs that second. It is
sent apart from the commit that it is about, since with it every such commit in the cluster would take one lock.

A pool in transaction mode hands each transaction to another server connection, where LISTEN does nothing and says so
to nobody. It also gives its clients process ids of its own, by which it is known here: behind one only NOTIFY is used.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import psycopg

from listener.errors import ListenerError
from listener.event_loop import call_in_loop
from listener.store.postgres.connection import PostgresConnection, quoted

__all__ = ["Notifications"]

LEAST_SECONDS: Final = 0.1
"""Between two notifications: what is committed in between is in the second."""
STATEMENT_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 5.0
_NOTIFY: Final = "BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {channel}; COMMIT"
"""A notification that a crash of the server takes back is one that is lost."""


class Notifications:
    """Commits of other instances, as they announce them; until it is closed."""

    of_others = False
    """They may be lost, so that whoever waits looks again by itself."""

    def __init__(self, connect: Callable[[], PostgresConnection], schema: str, changed: Callable[[], None]) -> None:
        """
        Begin to listen.

        Args:
            connect: returns a connection that nobody else uses.
            schema: that the instances share; names the channel.
            changed: called in the event loop of the caller after commits of others.
        """
        self._connect = connect
        self._channel = quoted(schema)
        self._changed = partial(call_in_loop, asyncio.get_running_loop(), changed)
        self._is_pending = self._is_closed = False
        self._sent_at = -LEAST_SECONDS
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.is_listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store notifications", daemon=True)
        self._thread.start()

    def announce(self) -> None:
        """Let other instances know of a commit of this one, soon; may be called in any thread."""
        self._is_pending = True
        self._wake_thread()

    def close(self) -> None:
        """Call back no more; returns at once. Safe to call twice."""
        self._is_closed = True
        self._wake_thread()

    def join(self) -> None:
        """Wait until the connection is closed."""
        self._thread.join(STATEMENT_SECONDS)

    def _wake_thread(self) -> None:
        with suppress(OSError):  # the thread has ended
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        connection = self._connect()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._wake, selectors.EVENT_READ)
            while not self._is_closed:
                with suppress(psycopg.Error, ListenerError):
                    self._serve(connection, waiting)
                self.is_listening.clear()
                connection.close()
                self._rest(waiting)
        connection.end()
        os.close(self._wake)

    def _rest(self, waiting: selectors.BaseSelector) -> None:
        """Wait before the next connection, or until closed."""
        until = time.monotonic() + RETRY_SECONDS
        while not self._is_closed and (left := until - time.monotonic()) > 0:
            waiting.select(left)
            self._drain()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _serve(self, connection: PostgresConnection, waiting: selectors.BaseSelector) -> None:
        """Listen and notify with one connection, until it is lost or this is closed."""
        with connection.limited(STATEMENT_SECONDS) as raw:
            own = raw.info.backend_pid
            row = raw.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
            is_direct = row is not None and row[0] == own
            if is_direct:
                raw.execute(f"LISTEN {self._channel}".encode(), prepare=False)
        raw.add_notify_handler(lambda notify: None if notify.pid == own else self._changed())
        if is_direct:
            self._changed()  # for what was committed before
            self.is_listening.set()
        wire = raw.fileno()
        waiting.register(wire, selectors.EVENT_READ)
        try:
            while not self._is_closed:
                self._turn(connection, raw, waiting)
        finally:
            waiting.unregister(wire)

    def _turn(
        self, connection: PostgresConnection, raw: psycopg.Connection[Any], waiting: selectors.BaseSelector
    ) -> None:
        """Wait for what is next, and do it."""
        wait = max(0.0, self._sent_at + LEAST_SECONDS - time.monotonic()) if self._is_pending else None
        for key, _ in waiting.select(wait):
            if key.fileobj != self._wake:
                raw.pgconn.consume_input()
                while (notify := raw.pgconn.notifies()) is not None:
                    if notify.be_pid != raw.info.backend_pid:
                        self._changed()
            else:
                self._drain()
        if self._is_pending and time.monotonic() >= self._sent_at + LEAST_SECONDS:
            self._is_pending, self._sent_at = False, time.monotonic()
            with connection.limited(STATEMENT_SECONDS):
                raw.execute(_NOTIFY.format(channel=self._channel).encode(), prepare=False)
