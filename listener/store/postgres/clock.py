"""
The database's clock as one instance keeps it: all instances of a fleet agree on when something is due.

Between two readings the machine's steady clock carries it on, so that neither a wrong host clock nor setting it changes
anything. A reading bounds the difference of the two clocks: the server looked at its clock between the question and the
answer. The difference in use is changed by no more than that proves, so that slow answers do not shake it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import psycopg

from listener.clock import SystemClock
from listener.event_loop import call_in_loop

__all__ = ["DatabaseClock", "boottime"]

REPORTED_STEP_SECONDS: Final = 1.0
"""A correction by more than this is reported as a step: what waits for a time looks again."""
HELD_BACK_SECONDS: Final = 60.0
"""A correction back by up to this much lets the time stand still instead; after a larger one it goes back."""
_READ: Final = b"SELECT extract(epoch FROM clock_timestamp())::double precision"


def boottime() -> float:
    """Return seconds of a clock that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock(SystemClock):
    """The time by a PostgreSQL server's clock; may be used in any thread."""

    def __init__(self, host: Callable[[], float] = boottime) -> None:
        """Take the clock of this host; until the first reading its wall clock is taken to be right."""
        self._host = host
        self._ahead_seconds = super().now() - host()
        """How far the database's clock is ahead of the host's steady one."""
        self._is_read = False
        self._latest = 0.0
        self._lock = threading.Lock()
        self._followers: list[Callable[[], None]] = []

    def now(self) -> float:
        """Return seconds since the epoch; goes back only with a clock that was set back by much."""
        with self._lock:
            now = self._host() + self._ahead_seconds
            if not 0 < self._latest - now <= HELD_BACK_SECONDS:
                self._latest = now
            return self._latest

    def read(self, raw: psycopg.Connection[Any]) -> float:
        """Read the server's clock on a connection in autocommit mode; return what it showed."""
        asked_at = self._host()
        row = psycopg.Cursor(raw).execute(_READ, prepare=False).fetchone()
        answered_at = self._host()
        assert row is not None
        self._take(float(row[0]) - answered_at, float(row[0]) - asked_at)
        return float(row[0])

    def follow_steps(self, stepped: Callable[[], None]) -> Callable[[], None]:
        """Call ``stepped`` in the running event loop after each large correction; return what ends that."""
        follower = partial(call_in_loop, asyncio.get_running_loop(), stepped)
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    def _take(self, least: float, most: float) -> None:
        """Correct the difference, which is between these two, as little as that allows; first to the middle."""
        with self._lock:
            before = self._ahead_seconds
            inner = min(max(before, least), most) if self._is_read else (least + most) / 2
            self._ahead_seconds, self._is_read = inner, True
        if abs(inner - before) > REPORTED_STEP_SECONDS:
            for follower in list(self._followers):
                follower()
