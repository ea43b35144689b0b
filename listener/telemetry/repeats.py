"""
A rate limit for repeated log events: a client that can cause an event again and again must not fill the disk.

Within one interval an event with the same fields is written a few times, and an event of one name (whatever its
fields) a hundred times. What goes beyond is counted, and ``log.repeated`` states the count once the interval is over.
Events of level ``debug`` are never suppressed.
"""

from __future__ import annotations

import logging
import reprlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog

__all__ = ["INTERVAL_SECONDS", "MOST_IDENTICAL", "MOST_OF_ONE_NAME", "RepeatLimiter"]

INTERVAL_SECONDS: Final = 30.0
"""Short enough that an operator who watches the log sees the count."""
MOST_IDENTICAL: Final = 10
"""The same event with the same fields, in one interval."""
MOST_OF_ONE_NAME: Final = 200
"""Events of one name in one interval: 200 lines of 2 kB in 30 s are 13 kB/s at most."""
SUMMARY: Final = "log.repeated"

log = structlog.get_logger()

_shortly: Final = reprlib.Repr()
"""Represents fields of any size and depth within bounds."""
_shortly.maxlevel = 4
_shortly.maxstring = _shortly.maxother = _shortly.maxlong = 2_000
_shortly.maxlist = _shortly.maxtuple = _shortly.maxdict = 50


class Suppressed(NamedTuple):
    """One event name and level, and how many of it were not written."""

    name: str
    level: str
    times: int


class RepeatLimiter:
    """Decides which events are written; used by all threads that log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a clock that never goes back, in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._end = clock() + INTERVAL_SECONDS
        self._identical: Counter[int] = Counter()
        self._of_name: Counter[str] = Counter()
        self._suppressed: Counter[tuple[str, str]] = Counter()

    def admit(self, name: str, level: str, fields: object) -> bool:
        """Return whether to write this event, and count it if not."""
        if level == "debug" or name == SUMMARY:
            return True
        with self._lock:
            same = hash((name, level, _shortly.repr(fields)))
            admitted = self._of_name[name] < MOST_OF_ONE_NAME and self._identical[same] < MOST_IDENTICAL
            if admitted:
                self._of_name[name] += 1
                self._identical[same] += 1
            else:
                self._suppressed[name, level] += 1
            return admitted

    def report(self, *, at_once: bool = False) -> None:
        """Log what the last interval suppressed, if it is over or ``at_once`` is set; begin the next one."""
        for name, level, times in self._take(at_once=at_once):
            if level == "info":
                log.info("log.repeated", repeated=name, count=times, within_seconds=INTERVAL_SECONDS)
            else:
                log.warning("log.repeated", repeated=name, count=times, within_seconds=INTERVAL_SECONDS)

    def _take(self, *, at_once: bool) -> list[Suppressed]:
        with self._lock:
            now = self._clock()
            if now < self._end and not at_once:
                return []
            taken = [Suppressed(*key, count) for key, count in self._suppressed.items()]
            self._end = now + INTERVAL_SECONDS
            for counter in (self._identical, self._of_name, self._suppressed):
                counter.clear()
            return taken

    def process(self, _logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Drop an event of our own that was repeated too often: a processor of structlog."""
        self.report()
        if not self.admit(str(event.get("event")), method, _comparable(event)):
            raise structlog.DropEvent
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop such a record of a library: a filter of :mod:`logging`."""
        self.report()
        return self.admit(f"library.{record.name}", record.levelname.lower(), (record.msg, record.args))


def _comparable(event: Mapping[str, Any]) -> list[tuple[str, Any]]:
    raised = sys.exception() if event.get("exc_info") else None
    return [*sorted(event.items()), ("exception", repr(raised))]
