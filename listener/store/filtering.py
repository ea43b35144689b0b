"""
Changes that make no need: received before, overtaken, of the same content, or nothing that a file can hold.

Each is counted and kept by URL with its reason, so that ``status --url`` shows it. What no file can hold is bounded or
set aside, so that one such change keeps no others from being written.

**Order tokens.** A key has two. ``covered`` is the newest state that needs cover: they were made when an event of it,
or of an older state, was recorded. ``newest`` is the newest token of any event. They differ only while rewrites with
the same content are skipped: those move ``newest`` alone::

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

**Messages** of queues are known by a digest of their id once everything in them is recorded, also after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes
from listener.store.bulk import Bulk, delete_rows, in_sizes, select_wanted
from listener.store.connection import Connection
from listener.store.index import IndexWriter
from listener.store.names import Names

__all__ = [
    "CAME_AND_WENT",
    "ENCODED_BYTES",
    "MAX_KEY_BYTES",
    "MESSAGE_SECONDS",
    "MOST_MESSAGES",
    "MOST_SUPPRESSED",
    "OLD_NEWS",
    "REDELIVERED",
    "SAME_BYTES",
    "SAME_CONTENT",
    "TOKEN_SECONDS",
    "KeyTokens",
    "OrderTokens",
    "Suppressed",
    "SuppressedWriter",
    "add_messages",
    "is_plausible",
    "known_messages",
    "note_redelivered",
    "raw_key",
    "sanitized",
    "suppressed_of",
]


ENCODED_BYTES = 3
"""Of one byte that a URL holds as ``%FF``."""
MAX_KEY_BYTES = 4_096
"""The longest key that is stored: no path on Linux and no object of a store is longer (S3 and OSS: 1,024 bytes)."""


def sanitized(
    changes: Iterable[Change], set_aside: Callable[[Change, str], None], longest_path_bytes: int | None = None
) -> Iterator[Change]:
    """Yield what can be stored: fingerprints bounded; keys that are too long, or neither text nor bytes, set aside."""
    for change in changes:
        try:
            raw = key_to_bytes(change.key)
        except UnicodeEncodeError:
            set_aside(change, "the key is no text: it holds half of a UTF-16 surrogate pair")
            continue
        if len(raw) > MAX_KEY_BYTES:
            set_aside(change, f"the key has {len(raw)} bytes; {MAX_KEY_BYTES} is the longest that any storage takes")
            continue
        if longest_path_bytes is not None and len(raw) * ENCODED_BYTES > longest_path_bytes < len(quote(raw)):
            set_aside(change, f"its path in a URL has {len(quote(raw))} bytes; the database takes {longest_path_bytes}")
            continue
        yield change if change.fingerprint is None else change._replace(fingerprint=_bounded(change.fingerprint))


def raw_key(key: str) -> bytes:
    """Return the bytes of a key, also of one that is no text."""
    try:
        return key_to_bytes(key)
    except UnicodeEncodeError:
        return key.encode("utf-8", "surrogatepass")


def _text(text: str) -> str:
    """Return a text as a database can hold it; PostgreSQL takes no NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _bounded(fingerprint: Fingerprint) -> Fingerprint:
    size, mtime, ctime, inode = (
        one if one is not None and -(2**63) <= one < 2**63 else None for one in fingerprint[:4]
    )
    return Fingerprint(size, mtime, ctime, inode, None if fingerprint.etag is None else _text(fingerprint.etag))


MOST_MESSAGES: Final = 200_000
"""Messages that are kept, some 60 bytes each; the oldest go first. An older one makes its refresh once more."""
MESSAGE_SECONDS: Final = 15 * 24 * 3600.0
"""How long they are kept: queues redeliver for 14 days at most."""

_TRIM_MESSAGES = "DELETE FROM message WHERE number <= (SELECT max(number) FROM message) - ?"


def _digest(message_id: str) -> bytes:
    """Return a short digest: ids are up to 2,048 characters long."""
    return hashlib.sha256(message_id.encode("utf-8", "surrogateescape")).digest()[:16]


def add_messages(connection: Connection, ids: Sequence[str], *, now: float) -> None:
    """Note that everything in these messages is recorded; called in the transaction that records the last of it."""
    if ids:
        rows = [(_digest(one), now) for one in ids]
        connection.executemany("INSERT INTO message (digest, at) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
        connection.execute(_TRIM_MESSAGES, (MOST_MESSAGES,))


def known_messages(connection: Connection, ids: Sequence[str]) -> frozenset[str]:
    """Return which of these messages were recorded."""
    id_of = {_digest(one): one for one in ids}
    found: set[str] = set()
    for size, digests in in_sizes([*id_of]):
        rows = connection.execute(f"SELECT digest FROM message WHERE digest IN ({', '.join('?' * size)})", digests)
        found.update(id_of[digest] for (digest,) in rows)
    return frozenset(found)


TOKEN_SECONDS = 15 * 24 * 3600.0
"""How long tokens are kept: SQS redelivers for 14 days at most. A later redelivery makes a need again."""

AHEAD_SECONDS = 600.0
"""How far ahead of our clock an order token may be: clocks of storages are set by NTP."""

_PUT = (
    "INSERT INTO order_token (root, key, covered, newest, etag, sequence, at) {} ON CONFLICT (root, key) DO UPDATE SET"
)
_ROW = "({0}, {1}, {2}, {3}, {4}, {5}, {6})"
_KEEP = Bulk(
    f"{_PUT} covered = excluded.covered, newest = excluded.newest, etag = excluded.etag,"
    " sequence = excluded.sequence, at = excluded.at",
    _ROW,
    columns=7,
)
_ADD = Bulk(
    f"{_PUT} covered = max(order_token.covered, excluded.covered), newest = max(order_token.newest, excluded.newest),"
    " etag = NULL, sequence = max(order_token.sequence, excluded.sequence), at = max(order_token.at, excluded.at)",
    _ROW,
    columns=7,
)
"""Of a key that had no row: another instance may have made one since, and of two contents neither is sure."""


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
    """The tokens as one batch changes them, in its transaction; written by :meth:`flush`."""

    def __init__(self, connection: Connection, names: Names, index: IndexWriter) -> None:
        """Take the writing connection, inside a transaction, and the id cache and index of the writing thread."""
        self._connection = connection
        self._names = names
        self._index = index
        self._changed: dict[tuple[int, bytes], KeyTokens] = {}
        self._locked: set[tuple[int, bytes]] = set()
        """Places whose row was read, and is changed by nobody else before the commit."""
        self.look_up(())

    def look_up(self, changes: Sequence[Change]) -> None:
        """Read what is known of the keys of these changes; what follows may ask of these only."""
        self._asked = changes
        self._known: dict[tuple[str, str], Fingerprint] | None = None
        self._latest: dict[tuple[str, str], int] | None = None
        rows = select_wanted(
            self._connection,
            [*{self._place(change) for change in changes}],
            "SELECT root, key, covered, newest, etag, sequence, at FROM wanted"
            " CROSS JOIN order_token ON root = column1 AND key = column2"
            " /*! ORDER BY root, key FOR UPDATE OF order_token */",
        )
        self._stored = {(root, key): KeyTokens(*tokens) for root, key, *tokens in rows}
        self._locked.update(self._stored)

    def _place(self, change: Change) -> tuple[int, bytes]:
        return self._names.root(self._connection, change.root), key_to_bytes(change.key)

    def of(self, change: Change, now: float) -> KeyTokens | None:
        """Return the tokens of the change's key; ``None`` where no event with a plausible token was recorded."""
        place = self._place(change)
        tokens = self._changed.get(place) or self._stored.get(place)
        return tokens if tokens is not None and is_plausible(tokens.newest, now) else None

    def is_old(self, change: Change, tokens: KeyTokens, order: str) -> bool:
        """Return whether recorded needs cover this event: they were made for it or for a later state of its key."""
        if order > tokens.covered:
            return False
        if order <= f"{int(tokens.at):08X}FFFFFFFF":
            return True  # it happened before the need was made: nothing was fetched for that yet
        known = self._fingerprint(change)
        etag = None if change.kind is ChangeKind.DELETED or change.fingerprint is None else change.fingerprint.etag
        return order == tokens.covered and etag == (None if known is None else known.etag)

    def same_content(self, change: Change, tokens: KeyTokens) -> bool:
        """Return whether the change left the bytes as the covered event left them, and nothing else is known."""
        fingerprint = change.fingerprint
        if change.kind is not ChangeKind.CONTENT or change.mixed or not change.finished:
            return False
        if fingerprint is None or fingerprint.etag is None or fingerprint.etag != tokens.etag:
            return False
        known = self._fingerprint(change)
        return known is not None and known.etag == tokens.etag and self._is_unchanged(tokens.sequence, change)

    def _fingerprint(self, change: Change) -> Fingerprint | None:
        if self._known is None:
            self._known = self._index.fingerprints(self._asked)
        return self._known.get(change[:2])

    def _is_unchanged(self, sequence: int, change: Change) -> bool:
        if self._latest is None:
            self._latest = self._index.latest(self._asked)
        return self._latest.get(change[:2], -1) <= sequence

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
        for statement, is_locked in ((_KEEP, True), (_ADD, False)):
            changed = sorted(item for item in self._changed.items() if (item[0] in self._locked) is is_locked)
            statement.write(self._connection, [(*place, *tokens[:-1], now) for place, tokens in changed])
        self._changed = {}


MOST_SUPPRESSED: Final = 10_000
"""URLs that are kept, some 200 bytes each; those whose last suppressed change is oldest go first."""
OLD_NEWS: Final = "reported before, or older than a change that was refreshed"
SAME_CONTENT: Final = "the same content once more (ignore_rewrites)"
REDELIVERED: Final = "a message of the queue that was recorded before"
SAME_BYTES: Final = "written again with the same bytes (skip_unchanged): the digest equals the index"
CAME_AND_WENT: Final = "came and was deleted again before it was refreshed"

_ADD_SUPPRESSED = (
    "INSERT INTO suppressed (url, times, at, reason) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (url) DO UPDATE SET times = suppressed.times + excluded.times, at = excluded.at,"
    " reason = excluded.reason"
)
_TRIM_SUPPRESSED = "DELETE FROM suppressed WHERE id <= (SELECT max(id) FROM suppressed) - ?"


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

    def flush(self, connection: Connection, now: float) -> None:
        """Write what was noted, and drop the oldest beyond :data:`MOST_SUPPRESSED`."""
        if self._noted:
            known = "SELECT url, times FROM wanted CROSS JOIN suppressed ON url = column1"
            before: dict[str, int] = dict(select_wanted(connection, [(url,) for url in self._noted], known))
            delete_rows(connection, "suppressed", ("url",), [(url,) for url in sorted(before)])  # to be the newest
            rows = [
                (url, times + before.get(url, 0), now, reason) for url, (times, reason) in sorted(self._noted.items())
            ]
            connection.executemany(_ADD_SUPPRESSED, rows)
            connection.execute(_TRIM_SUPPRESSED, (MOST_SUPPRESSED,))
            self._noted = {}


def note_redelivered(connection: Connection, urls: Iterable[str], *, now: float) -> None:
    """Note a redelivered change of each of these URLs."""
    writer = SuppressedWriter()
    for url in urls:
        writer.note(url, REDELIVERED)
    writer.flush(connection, now)


def suppressed_of(connection: Connection, url: str) -> Suppressed | None:
    """Return what is kept of this URL's suppressed changes; ``None`` where there were none."""
    row = connection.execute("SELECT times, at, reason FROM suppressed WHERE url = ?", (url,)).fetchone()
    return None if row is None else Suppressed(*row)
