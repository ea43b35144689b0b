"""
What events with order tokens told of each key: which of them are old news, and which of them overtaken.

A key has two tokens. ``told`` is the newest state of which a cache is sure to learn, since needs were made when
it, or something older, was heard; ``seen`` is the newest that was heard at all. They differ only while
rewrites with the same content are left alone: those are seen, and not told::

    ── told ──────────── seen ────────▶ order of the storage
     old news │ new, but overtaken │ new
     no need  │ need, index stays  │ need, index follows

An event up to ``told`` is old news: its need was made in the transaction that noted the token, and whatever was
fetched for that need is not older. A rewrite with the content of ``told`` may go without a need, as long as
everything between is still to be heard of: should an event arrive from between, its token is above
``told``, and it makes the need. That argument asks that nobody else (a scan, an event without token) brought
news of the key since; the index's sequences tell.

A token is a claim of whoever sent the event. One that is more than :data:`AHEAD_SECONDS` ahead of our clock orders
nothing, and one that was ahead when it came makes nothing old that happened after it came: else a single event could
silence a key for as long as its sender likes. Only its exact repetition is old news, where the index agrees.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from listener.change import Change, ChangeKind, key_to_bytes
from listener.store.index import IndexWriter
from listener.store.names import Names

__all__ = ["HEARD_SECONDS", "Heard", "Mark", "is_plausible"]

HEARD_SECONDS = 15 * 24 * 3600.0
"""How long tokens are kept: SQS redelivers for 14 days at most. What comes later makes a need again."""

AHEAD_SECONDS = 600.0
"""How far ahead of our clock an order token may be: clocks of storages are set by NTP."""

_FIND = "SELECT told, seen, etag, sequence, at FROM heard WHERE root = ? AND key = ?"
_KEEP = "INSERT OR REPLACE INTO heard (root, key, told, seen, etag, sequence, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"


class Mark(NamedTuple):
    """What is known of a key by its events."""

    told: str
    seen: str
    etag: str | None
    """The content at ``told``, and at whatever was left alone since; ``None`` where it is not known, or gone."""
    sequence: int
    """With which ``told`` was written to the index."""
    at: float
    """When the last of its events was recorded, in seconds since the epoch."""


def is_plausible(order: str, now: float) -> bool:
    """Return whether an order token, which begins with seconds in hexadecimal, is not in the future."""
    try:
        return int(order[:8], 16) <= now + AHEAD_SECONDS
    except ValueError:
        return False


class Heard:
    """The tokens as batches change them, written by :meth:`flush`. Lives in the writing thread."""

    def __init__(self, names: Names, index: IndexWriter) -> None:
        """Take the id cache and the index of the writing thread."""
        self._names = names
        self._index = index
        self._marks: dict[tuple[int, bytes], Mark] = {}

    def begin(self, connection: sqlite3.Connection) -> None:
        """Take the connection, in a transaction; what an undone batch left is forgotten."""
        self._connection = connection
        self._marks = {}

    def _place(self, change: Change) -> tuple[int, bytes]:
        return self._names.root(self._connection, change.root), key_to_bytes(change.key)

    def mark(self, change: Change, now: float) -> Mark | None:
        """Return what is known of the change's key; ``None`` where no event with a plausible token reported it."""
        place = self._place(change)
        mark = self._marks.get(place)
        if mark is None and (row := self._connection.execute(_FIND, place).fetchone()) is not None:
            mark = Mark(*row)
        return mark if mark is not None and is_plausible(mark.seen, now) else None

    def is_old(self, change: Change, mark: Mark, order: str) -> bool:
        """Return whether needs were made for this event, or for a later state of its key, when that was recorded."""
        if order > mark.told:
            return False
        if order <= f"{int(mark.at):08X}FFFFFFFF":
            return True  # it happened before the need was made: nothing was fetched for that yet
        known = self._index.fingerprint(change.root, change.key)
        etag = None if change.kind is ChangeKind.DELETED or change.fingerprint is None else change.fingerprint.etag
        return order == mark.told and etag == (None if known is None else known.etag)

    def same_content(self, change: Change, mark: Mark) -> bool:
        """Return whether the change left the bytes as the last told event left them, and nothing else is known."""
        fingerprint = change.fingerprint
        if change.kind is not ChangeKind.CONTENT or change.mixed or not change.finished:
            return False
        if fingerprint is None or fingerprint.etag is None or fingerprint.etag != mark.etag:
            return False
        known = self._index.fingerprint(change.root, change.key)
        return known is not None and known.etag == mark.etag and self._is_as(mark.sequence, change)

    def _is_as(self, sequence: int, change: Change) -> bool:
        return not self._index.newer(change.root, change.key, sequence)

    def see(self, change: Change, mark: Mark, order: str) -> None:
        """Note a change that was left alone."""
        self._marks[self._place(change)] = mark._replace(seen=max(mark.seen, order))

    def tell(self, change: Change, mark: Mark | None, order: str, *, sequence: int, contents: bool, now: float) -> bool:
        """
        Note a change for which needs are made; return whether the index is to follow it.

        It does not where the change was overtaken; the needs cover all that was seen before them, too. The
        content is noted (``contents``) unless the index may know better, from elsewhere.
        """
        if mark is not None and order < mark.seen:
            self._marks[self._place(change)] = mark._replace(told=mark.seen)
            return False
        etag = None
        if contents and change.kind is not ChangeKind.DELETED and change.fingerprint is not None:
            etag = change.fingerprint.etag if self._is_as(-1 if mark is None else mark.sequence, change) else None
        self._marks[self._place(change)] = Mark(order, order, etag, sequence, now)
        return True

    def flush(self, now: float) -> None:
        """Write what was noted."""
        rows = [(*place, *mark[:-1], now) for place, mark in sorted(self._marks.items())]
        self._connection.executemany(_KEEP, rows)
        self._marks = {}
