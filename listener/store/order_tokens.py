"""
The order tokens of events, by key: which events are old news, and which were overtaken by newer ones.

A key has two tokens. ``covered`` is the newest state that needs cover: they were made when an event of it, or of an
older state, was recorded. ``newest`` is the newest token of any event. They differ only while rewrites with the same
content are skipped: those move ``newest`` alone::

    ── covered ───────── newest ───────▶ order of the storage
     old news │ new, but overtaken │ new
     no need  │ need, index stays  │ need, index follows

An event up to ``covered`` is old news: its need was made in the transaction that wrote the token, and whatever was
fetched for that need is not older. A rewrite with the content of ``covered`` needs nothing as long as every event
in between is still to come: one that arrives later has a token above ``covered`` and makes the need. That requires
that nothing else (a scan, an event without token) changed the key since; the sequences of the index show it.

A token is a claim of whoever sent the event. One more than :data:`AHEAD_SECONDS` ahead of our clock orders nothing.
One that was ahead when it came does not make old what happened after it came: a single event could otherwise silence
a key for as long as its sender likes. Only its exact repetition is old news, where the index agrees.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from listener.change import Change, ChangeKind, key_to_bytes
from listener.store.index import IndexWriter
from listener.store.names import Names

__all__ = ["TOKEN_SECONDS", "KeyTokens", "OrderTokens", "is_plausible"]

TOKEN_SECONDS = 15 * 24 * 3600.0
"""How long tokens are kept: SQS redelivers for 14 days at most. A later redelivery makes a need again."""

AHEAD_SECONDS = 600.0
"""How far ahead of our clock an order token may be: clocks of storages are set by NTP."""

_FIND = "SELECT told, seen, etag, sequence, at FROM heard WHERE root = ? AND key = ?"
_KEEP = "INSERT OR REPLACE INTO heard (root, key, told, seen, etag, sequence, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"


class KeyTokens(NamedTuple):
    """What is known of a key by its events."""

    covered: str
    newest: str
    etag: str | None
    """The content at ``covered``, and of every rewrite skipped since; ``None``: not known, or deleted."""
    sequence: int
    """With which ``covered`` was written to the index."""
    at: float
    """When the last of its events was recorded, in seconds since the epoch."""


def is_plausible(order: str, now: float) -> bool:
    """Return whether an order token, which begins with seconds in hexadecimal, is not in the future."""
    try:
        return int(order[:8], 16) <= now + AHEAD_SECONDS
    except ValueError:
        return False


class OrderTokens:
    """The tokens as batches change them, written by :meth:`flush`. Lives in the writing thread."""

    def __init__(self, names: Names, index: IndexWriter) -> None:
        """Take the id cache and the index of the writing thread."""
        self._names = names
        self._index = index
        self._changed: dict[tuple[int, bytes], KeyTokens] = {}

    def begin(self, connection: sqlite3.Connection) -> None:
        """Take the connection, in a transaction, and forget what a rolled back batch left."""
        self._connection = connection
        self._changed = {}

    def _place(self, change: Change) -> tuple[int, bytes]:
        return self._names.root(self._connection, change.root), key_to_bytes(change.key)

    def of(self, change: Change, now: float) -> KeyTokens | None:
        """Return the tokens of the change's key; ``None`` where no event with a plausible token was recorded."""
        place = self._place(change)
        tokens = self._changed.get(place)
        if tokens is None and (row := self._connection.execute(_FIND, place).fetchone()) is not None:
            tokens = KeyTokens(*row)
        return tokens if tokens is not None and is_plausible(tokens.newest, now) else None

    def is_old(self, change: Change, tokens: KeyTokens, order: str) -> bool:
        """Return whether recorded needs cover this event: they were made for it or for a later state of its key."""
        if order > tokens.covered:
            return False
        if order <= f"{int(tokens.at):08X}FFFFFFFF":
            return True  # it happened before the need was made: nothing was fetched for that yet
        known = self._index.fingerprint(change.root, change.key)
        etag = None if change.kind is ChangeKind.DELETED or change.fingerprint is None else change.fingerprint.etag
        return order == tokens.covered and etag == (None if known is None else known.etag)

    def same_content(self, change: Change, tokens: KeyTokens) -> bool:
        """Return whether the change left the bytes as the covered event left them, and nothing else is known."""
        fingerprint = change.fingerprint
        if change.kind is not ChangeKind.CONTENT or change.mixed or not change.finished:
            return False
        if fingerprint is None or fingerprint.etag is None or fingerprint.etag != tokens.etag:
            return False
        known = self._index.fingerprint(change.root, change.key)
        return known is not None and known.etag == tokens.etag and self._is_unchanged(tokens.sequence, change)

    def _is_unchanged(self, sequence: int, change: Change) -> bool:
        return not self._index.newer(change.root, change.key, sequence)

    def skip(self, change: Change, tokens: KeyTokens, order: str) -> None:
        """Note a change that makes no need because its content is covered."""
        self._changed[self._place(change)] = tokens._replace(newest=max(tokens.newest, order))

    def cover(
        self, change: Change, tokens: KeyTokens | None, order: str, *, sequence: int, contents: bool, now: float
    ) -> bool:
        """
        Note a change for which needs are made; return whether the index is to follow it.

        It does not where the change was overtaken; the needs then cover all events before them, too. The
        content is noted (``contents``) unless the index may know better from another source.
        """
        if tokens is not None and order < tokens.newest:
            self._changed[self._place(change)] = tokens._replace(covered=tokens.newest)
            return False
        etag = None
        if contents and change.kind is not ChangeKind.DELETED and change.fingerprint is not None:
            since = -1 if tokens is None else tokens.sequence
            etag = change.fingerprint.etag if self._is_unchanged(since, change) else None
        self._changed[self._place(change)] = KeyTokens(order, order, etag, sequence, now)
        return True

    def flush(self, now: float) -> None:
        """Write what was noted."""
        rows = [(*place, *tokens[:-1], now) for place, tokens in sorted(self._changed.items())]
        self._connection.executemany(_KEEP, rows)
        self._changed = {}
