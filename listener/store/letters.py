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
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from listener.change import key_to_text
from listener.contracts import Unreadable
from listener.refresh import NeedState, directory_of
from listener.store.connection import Connection
from listener.store.index import above, bounded_text, next_sequence, note_revision

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
    "discard",
    "dropped",
    "letter",
    "letters",
    "retry",
]


MAX_SUBJECT_BYTES: Final = 2_000
MAX_BODY_BYTES: Final = 256 * 1024
"""Of a message this much is kept: the largest that MNS carries, and SQS by default."""
MAX_BODIES = 1_000
"""Of so many messages the body is kept: a misrouted queue shows its fault in the first ones."""
MAX_BODIES_BYTES = 64 * 1024 * 1024
MAX_LETTERS = 100_000
SLICE_ROWS: Final = 500
_NAMED_DIGEST: Final = re.compile(rb" bytes, SHA-256 ([0-9a-f]{64})\]\Z")


_PARKED: Final = f"state >= {NeedState.PARKED:d} AND state = {NeedState.PARKED:d}"
"""The first part names the index."""


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


# -- writing ---------------------------------------------------------------------------------------

_PUT = (
    "INSERT INTO dead_letter (at, source, kind, digest, subject, reason, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (digest, source, kind) DO UPDATE"
    " SET at = excluded.at, reason = excluded.reason, body = excluded.body"
)


def _row(source: str, kind: LetterKind, subject: bytes, reason: str, body: bytes | None) -> tuple[Any, ...]:
    digest = hashlib.sha256(subject).digest()
    return source, kind.value, digest, bounded_subject(subject), bounded_text(reason), body


def add_keys(connection: Connection, keys: Iterable[tuple[str, bytes, str]], *, now: float) -> None:
    """Keep keys (source, key, reason) that can never be a URL; drop the oldest where there are too many."""
    connection.executemany(
        _PUT, [(now, *_row(source, LetterKind.KEY, key, reason, None)) for source, key, reason in keys]
    )
    bound_letters(connection, now=now)


def add_messages(connection: Connection, *, source: str, messages: Sequence[Unreadable], now: float) -> None:
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


def bound_letters(connection: Connection, *, now: float) -> int:
    """Drop a slice of what is beyond the bounds, and count it; return how many rows were touched."""
    return _drop_letters(connection, now) + _drop_bodies(connection, now)


def _drop_letters(connection: Connection, now: float) -> int:
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


def _drop_bodies(connection: Connection, now: float) -> int:
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


def _count(connection: Connection, source: str, kind: str, *, letters: int, bodies: int, now: float) -> None:
    connection.execute(
        "INSERT INTO dropped (source, kind, letters, bodies, last_at) VALUES (?1, ?2, ?3, ?4, ?5)"
        " ON CONFLICT (source, kind) DO UPDATE"
        " SET letters = dropped.letters + ?3, bodies = dropped.bodies + ?4, last_at = ?5",
        (source, kind, letters, bodies, now),
    )


# -- deciding --------------------------------------------------------------------------------------


def retry(connection: Connection, *, url: str | None) -> int:
    """Send rejected URLs once more, or one of them; return how many. Keys and messages cannot be sent as they are."""
    where, values = _that(url)
    note_revision(connection)
    return connection.execute(
        f"UPDATE need SET state = {NeedState.READY:d}, reason = NULL, open = 0, sequence = ? WHERE {_PARKED}{where}",
        (next_sequence(connection), *values),
    ).rowcount


def discard(connection: Connection, *, subject: str | None) -> int:
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


_REJECTED: Final = (
    "SELECT d.id, n.name, n.scope, t.name, d.url || n.name, coalesce(n.reason, ''), n.stale_since"
    " FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target"
    f" WHERE {_PARKED}"
)


def letters(connection: Connection, wanted: LetterFilter, *, limit: int) -> list[DeadLetter]:
    """
    Return up to ``limit`` dead letters: rejected URLs, then messages, then keys, the newest of each first.

    Raises:
        ValueError: ``after`` is no id of a dead letter.
    """
    kinds = list(LetterKind) if wanted.kind is None else [wanted.kind]
    after = _position(connection, wanted.after) if wanted.after else None
    if after is not None:
        kinds = [kind for kind in kinds if list(LetterKind).index(kind) >= list(LetterKind).index(after[0])]
    found: list[DeadLetter] = []
    for kind in kinds:
        if len(found) < limit:
            read = _rejected_urls if kind is LetterKind.URL else _kept
            place = after[1] if after is not None and after[0] is kind else None
            found += read(connection, kind, wanted, place, limit - len(found))
    return found


_Place = tuple[Any, ...]


def _position(connection: Connection, id_: str) -> tuple[LetterKind, _Place] | None:
    """Return after what the listing goes on; None where that is gone: it begins at the top then."""
    if (url := _url_id(id_)) is not None:
        row = connection.execute(
            "SELECT stale_since FROM need WHERE directory = ? AND scope = ? AND name = ?", url
        ).fetchone()
        directory, scope, name = url
        return None if row is None else (LetterKind.URL, (row[0], directory, name, scope))
    number = _letter_id(id_)
    row = connection.execute("SELECT kind FROM dead_letter WHERE id = ?", (number,)).fetchone()
    return None if row is None else (LetterKind(row[0]), (number,))


def _letter_id(id_: str) -> int:
    word, _, number = id_.partition("-")
    if word != "letter" or not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise ValueError(f"{id_[:80]!r} is no id of a dead letter")
    return int(number)


def _url_id(id_: str) -> tuple[int, int, str] | None:
    word, directory, scope, name = [*id_.split("-", 3), "", "", ""][:4]
    if word != "url" or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in (directory, scope)):
        return None
    return int(directory), int(scope), name


def _rejected_urls(
    connection: Connection, _: LetterKind, wanted: LetterFilter, after: _Place | None, limit: int
) -> list[DeadLetter]:
    where, values = "", []
    if wanted.source is not None:
        where, values = " AND t.name = ?", [wanted.source]
    if wanted.prefix:
        where += " AND d.url || n.name >= ? AND d.url || n.name < ?"
        values += [wanted.prefix, above(wanted.prefix)]
    if after is not None:
        where += " AND (n.stale_since, n.directory, n.name, n.scope) < (?, ?, ?, ?)"
        values += list(after)
    rows = connection.execute(
        f"{_REJECTED}{where} ORDER BY n.stale_since DESC, n.directory DESC, n.name DESC, n.scope DESC LIMIT ?",
        (*values, limit),
    )
    return [
        DeadLetter(f"url-{directory}-{scope}-{name}", since, target, LetterKind.URL.value, url, reason)
        for directory, name, scope, target, url, reason, since in rows
    ]


def _kept(
    connection: Connection, kind: LetterKind, wanted: LetterFilter, after: _Place | None, limit: int
) -> list[DeadLetter]:
    where = ""
    values: list[object] = []
    if wanted.source is not None:
        where, values = " AND source = ?", [wanted.source]
    if wanted.prefix:
        raw = wanted.prefix.encode("utf-8", "surrogateescape")
        where += " AND substr(subject, 1, length(?)) = ?"
        values += [raw, raw]
    if after is not None:
        where += " AND id < ?"
        values += list(after)
    rows = connection.execute(
        f"SELECT id, at, source, subject, reason FROM dead_letter WHERE kind = ?{where} ORDER BY id DESC LIMIT ?",
        (kind.value, *values, limit),
    )
    return [
        DeadLetter(f"letter-{id_}", at, source, kind.value, key_to_text(bytes(subject)), reason)
        for id_, at, source, subject, reason in rows
    ]


def letter(connection: Connection, id_: str) -> DeadLetter | None:
    """Return the dead letter of this id, None where there is none (any more)."""
    try:
        at = _position(connection, id_)
    except ValueError:
        return None
    if at is None:
        return None
    kind, place = at
    if kind is LetterKind.URL:
        row = connection.execute(
            f"{_REJECTED} AND n.directory = ? AND n.name = ? AND n.scope = ?", place[1:]
        ).fetchone()
        if row is None:
            return None
        _, _, _, target, url, reason, since = row
        return DeadLetter(id_, since, target, kind.value, url, reason)
    when, source, subject, reason = connection.execute(
        "SELECT at, source, subject, reason FROM dead_letter WHERE id = ?", place
    ).fetchone()
    return DeadLetter(id_, when, source, kind.value, key_to_text(bytes(subject)), reason)


def body(connection: Connection, id_: str) -> bytes | None:
    """Return what was received, of the dead letter of this id; None where nothing was kept."""
    try:
        number = _letter_id(id_)
    except ValueError:
        return None
    row = connection.execute("SELECT body FROM dead_letter WHERE id = ?", (number,)).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def dropped(connection: Connection) -> list[Dropped]:
    """Return what was dropped for lack of room, by source and kind."""
    return [Dropped(*row) for row in connection.execute("SELECT source, kind, letters, bodies, last_at FROM dropped")]
