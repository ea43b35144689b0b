"""
Dead letters: keys and messages that could not be used, and URLs that the CDN rejected, until a person decides.

Everything that comes from outside is stored bounded, so that a sender costs a known amount of disk and no view grows
with what is sent:

- of a subject the first bytes, and a digest of the whole, by which it is found again;
- of a body the first 256 KiB; of all bodies together the newest 64 MiB, and at most 1,000;
- at most 100,000 keys and messages. Beyond that the oldest of whichever source and kind has most are dropped, so that
  one sender cannot push out another's. What is dropped is counted, by source and kind.

Rejected URLs are needs, as many as there are stale URLs; they are listed first, because only a person can end them.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from listener.contracts import Unreadable
from listener.refresh import NeedState, directory_of
from listener.store.batches import next_sequence

__all__ = [
    "EVERY_LETTER",
    "DeadLetter",
    "Dropped",
    "LetterFilter",
    "LetterKind",
    "add_keys",
    "add_messages",
    "bound_letters",
    "bounded_subject",
    "bounded_text",
    "discard",
    "retry",
]

MAX_SUBJECT_BYTES: Final = 2_000
MAX_TEXT_CHARACTERS: Final = 1_000
"""Of a reason or a detail that quotes what others sent; a sentence of ours is far shorter."""
MAX_BODY_BYTES: Final = 256 * 1024
"""Of a message this much is kept: the largest that MNS carries, and SQS by default."""
MAX_BODIES = 1_000
"""Of so many messages the body is kept: a misrouted queue shows its fault in the first ones."""
MAX_BODIES_BYTES = 64 * 1024 * 1024
MAX_LETTERS = 100_000
SLICE_ROWS: Final = 500
_NAMED_DIGEST: Final = re.compile(rb" bytes, SHA-256 ([0-9a-f]{64})\]\Z")


class LetterKind(StrEnum):
    """What was set aside, in the order in which it is listed."""

    URL = "url"
    """The CDN rejected it; stale until somebody decides."""
    MESSAGE = "message"
    """In no known form."""
    KEY = "key"
    """Can never be a URL."""


class LetterFilter(NamedTuple):
    """Which dead letters are asked for, and where to go on."""

    kind: LetterKind | None = None
    source: str | None = None
    """The source it came from, or the target that rejected it."""
    prefix: str = ""
    """How the subject begins."""
    after: str = ""
    """The id of the last one that was seen."""


EVERY_LETTER: Final = LetterFilter()


class DeadLetter(NamedTuple):
    """Something that was set aside and waits for a decision."""

    id: str
    at: float | None
    """Seconds since the epoch; of a rejected URL, since when it is stale."""
    source: str
    """The source it came from, or the target that rejected it."""
    kind: str
    """A :class:`LetterKind`."""
    subject: str
    """The URL, the key, or where the message came from; of a long one the beginning and a digest."""
    reason: str


class Dropped(NamedTuple):
    """What was dropped for lack of room since the file was made."""

    source: str
    kind: str
    letters: int
    bodies: int
    last_at: float
    """Seconds since the epoch."""


def bounded_subject(subject: bytes) -> bytes:
    """Return the subject, or of a long one its beginning with length and digest, at most 2,000 bytes."""
    if len(subject) <= MAX_SUBJECT_BYTES:
        return subject
    rest = f"… [{len(subject)} bytes, SHA-256 {hashlib.sha256(subject).hexdigest()}]".encode()
    return _beginning(subject, MAX_SUBJECT_BYTES - len(rest)) + rest


def _beginning(text: bytes, most: int) -> bytes:
    """Return the first bytes, not cut within a character."""
    while most > 0 and text[most] & 0xC0 == 0x80:
        most -= 1
    return text[:most]


def bounded_text(text: str) -> str:
    """Return a text as a file can hold it, at most 1,000 characters."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= MAX_TEXT_CHARACTERS else f"{plain[: MAX_TEXT_CHARACTERS - 1]}…"


# -- writing ---------------------------------------------------------------------------------------

_PUT = (
    "INSERT INTO dead_letter (at, source, kind, digest, subject, reason, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET at = excluded.at, reason = excluded.reason, body = excluded.body"
)


def _row(source: str, kind: LetterKind, subject: bytes, reason: str, body: bytes | None) -> tuple[Any, ...]:
    digest = hashlib.sha256(subject).digest()
    return source, kind.value, digest, bounded_subject(subject), bounded_text(reason), body


def add_keys(connection: sqlite3.Connection, keys: Iterable[tuple[str, bytes, str]], *, now: float) -> None:
    """Keep keys (source, key, reason) that can never be a URL; drop the oldest where there are too many."""
    connection.executemany(
        _PUT, [(now, *_row(source, LetterKind.KEY, key, reason, None)) for source, key, reason in keys]
    )
    bound_letters(connection, now=now)


def add_messages(connection: sqlite3.Connection, *, source: str, messages: Sequence[Unreadable], now: float) -> None:
    """Keep messages that cannot be read, each with its body as far as that is bounded."""
    rows = []
    for one in messages:
        cut = (
            f"; the first {MAX_BODY_BYTES} of {len(one.body)} bytes are kept" if len(one.body) > MAX_BODY_BYTES else ""
        )
        row = _row(source, LetterKind.MESSAGE, one.subject, one.reason + cut, one.body[:MAX_BODY_BYTES])
        rows.append((now, *row))
    connection.executemany(_PUT, rows)
    bound_letters(connection, now=now)


def bound_letters(connection: sqlite3.Connection, *, now: float) -> int:
    """Drop a slice of what is beyond the bounds, and count it; return how many rows were touched."""
    return _drop_letters(connection, now) + _drop_bodies(connection, now)


def _drop_letters(connection: sqlite3.Connection, now: float) -> int:
    (total,) = connection.execute("SELECT count(*) FROM dead_letter").fetchone()
    beyond = min(total - MAX_LETTERS, SLICE_ROWS)
    if beyond <= 0:
        return 0
    source, kind = connection.execute(
        "SELECT source, kind FROM dead_letter GROUP BY source, kind ORDER BY count(*) DESC LIMIT 1"
    ).fetchone()
    gone = connection.execute(
        "DELETE FROM dead_letter WHERE id IN"
        " (SELECT id FROM dead_letter WHERE source = ? AND kind = ? ORDER BY id LIMIT ?)",
        (source, kind, beyond),
    ).rowcount
    _count(connection, source, kind, letters=gone, bodies=0, now=now)
    return gone


def _drop_bodies(connection: sqlite3.Connection, now: float) -> int:
    with_body = "FROM dead_letter WHERE body IS NOT NULL"
    count, size = connection.execute(f"SELECT count(*), coalesce(sum(length(body)), 0) {with_body}").fetchone()
    if count <= MAX_BODIES and size <= MAX_BODIES_BYTES:
        return 0
    chosen = []
    for id_, length, source, kind in connection.execute(
        f"SELECT id, length(body), source, kind {with_body} ORDER BY id LIMIT {SLICE_ROWS}"
    ).fetchall():
        if count <= MAX_BODIES and size <= MAX_BODIES_BYTES:
            break
        count, size = count - 1, size - length
        chosen.append((id_, source, kind))
    connection.executemany("UPDATE dead_letter SET body = NULL WHERE id = ?", [(id_,) for id_, _, _ in chosen])
    for _, source, kind in chosen:
        _count(connection, source, kind, letters=0, bodies=1, now=now)
    return len(chosen)


def _count(connection: sqlite3.Connection, source: str, kind: str, *, letters: int, bodies: int, now: float) -> None:
    connection.execute(
        "INSERT INTO dropped (source, kind, letters, bodies, last_at) VALUES (?1, ?2, ?3, ?4, ?5)"
        " ON CONFLICT DO UPDATE SET letters = letters + ?3, bodies = bodies + ?4, last_at = ?5",
        (source, kind, letters, bodies, now),
    )


_PARKED: Final = f"state >= 3 AND state = {NeedState.PARKED:d}"

# -- deciding --------------------------------------------------------------------------------------


def retry(connection: sqlite3.Connection, *, url: str | None) -> int:
    """Send rejected URLs once more, or one of them; return how many. Keys and messages cannot be sent as they are."""
    where, values = _that(url)
    return connection.execute(
        f"UPDATE need SET state = {NeedState.READY:d}, reason = NULL, open = 0, sequence = ? WHERE {_PARKED}{where}",
        (next_sequence(connection), *values),
    ).rowcount


def discard(connection: sqlite3.Connection, *, subject: str | None) -> int:
    """Forget what was set aside, or one of it; return how many."""
    where, values = _that(subject)
    count = connection.execute(f"DELETE FROM need WHERE {_PARKED}{where}", values).rowcount
    if subject is None:
        return count + connection.execute("DELETE FROM dead_letter").rowcount
    digests = _digests(subject.encode("utf-8", "surrogateescape"))
    return count + connection.execute("DELETE FROM dead_letter WHERE digest IN (?, ?)", digests).rowcount


def _digests(subject: bytes) -> tuple[bytes, bytes]:
    """Return the digests by which a subject may be kept: its own, and the one that a bounded subject names."""
    own = hashlib.sha256(subject).digest()
    named = _NAMED_DIGEST.search(subject) if len(subject) <= MAX_SUBJECT_BYTES else None
    return own, own if named is None else bytes.fromhex(named[1].decode())


def _that(url: str | None) -> tuple[str, tuple[str, ...]]:
    if url is None:
        return "", ()
    place = directory_of(url) if "/" in url else url
    return " AND name = ? AND directory IN (SELECT id FROM directory WHERE url = ?)", (url[len(place) :], place)
