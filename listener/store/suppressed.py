"""Changes for which no refresh was made: kept by URL, with the reason, so that a person can see them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = [
    "CAME_AND_WENT",
    "MOST",
    "OLD_NEWS",
    "REDELIVERED",
    "SAME_BYTES",
    "SAME_CONTENT",
    "Suppressed",
    "SuppressedWriter",
    "note_redelivered",
    "suppressed_of",
]

MOST: Final = 10_000
"""URLs that are kept, some 200 bytes each; those whose last suppressed change is oldest go first."""
OLD_NEWS: Final = "reported before, or older than a change that was refreshed"
SAME_CONTENT: Final = "the same content once more (ignore_rewrites)"
REDELIVERED: Final = "a message of the queue that was recorded before"
SAME_BYTES: Final = "written again with the same bytes (skip_unchanged): the digest equals the index"
CAME_AND_WENT: Final = "came and was deleted again before it was refreshed"

_ADD = (
    "INSERT OR REPLACE INTO suppressed (url, times, at, reason)"
    " VALUES (?1, ?2 + coalesce((SELECT times FROM suppressed WHERE url = ?1), 0), ?3, ?4)"
)
_TRIM = "DELETE FROM suppressed WHERE id <= (SELECT max(id) FROM suppressed) - ?"


class Suppressed(NamedTuple):
    """The changes of one URL for which no refresh was made."""

    times: int
    at: float
    """When the last of them was recorded, in seconds since the epoch."""
    reason: str
    """Of the last."""


class SuppressedWriter:
    """What one batch suppresses; written by :meth:`flush`, in its transaction."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._noted: dict[str, tuple[int, str]] = {}

    def note(self, url: str, reason: str) -> None:
        """Note a change of this URL for which no refresh is made."""
        times, _ = self._noted.get(url, (0, ""))
        self._noted[url] = times + 1, reason

    def flush(self, connection: sqlite3.Connection, now: float) -> None:
        """Write what was noted, and drop the oldest beyond :data:`MOST`."""
        if self._noted:
            rows = [(url, times, now, reason) for url, (times, reason) in self._noted.items()]
            connection.executemany(_ADD, rows)
            connection.execute(_TRIM, (MOST,))
            self._noted = {}


def note_redelivered(connection: sqlite3.Connection, urls: Iterable[str], *, now: float) -> None:
    """Note a redelivered change of each of these URLs."""
    writer = SuppressedWriter()
    for url in urls:
        writer.note(url, REDELIVERED)
    writer.flush(connection, now)


def suppressed_of(connection: sqlite3.Connection, url: str) -> Suppressed | None:
    """Return what is kept of this URL's suppressed changes; ``None`` where there were none."""
    row = connection.execute("SELECT times, at, reason FROM suppressed WHERE url = ?", (url,)).fetchone()
    return None if row is None else Suppressed(*row)
