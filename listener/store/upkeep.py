"""Index reads for sources, progress of backfills, and the removal of what is of no more use."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.clock import window_start
from listener.store.database import INCREMENTAL
from listener.store.heard import HEARD_SECONDS
from listener.store.index import remove_doomed
from listener.store.messages import KEPT_SECONDS
from listener.store.names import Names, prefix_end_bytes

__all__ = [
    "Configured",
    "Progress",
    "directories_below",
    "directory_objects",
    "directory_page",
    "give_back",
    "is_seeded",
    "mark_seeded",
    "objects_named",
    "progress",
    "remove_empty",
    "remove_old",
    "retire",
    "save_progress",
]

GONE_SECONDS = 24 * 3600.0
"""How long a deleted key is remembered: longer than any scan runs."""

_MARKS = (1, 8, 64, 512)
_NAMES_AT_ONCE = _MARKS[-1]


_DOOMED = """
SELECT coalesce(max(sequence), -1) FROM doomed WHERE root = (SELECT id FROM root WHERE name = ?1)
  AND (prefix = x'' OR prefix = substr({path}, 1, length(prefix)))
"""
"""Rows up to this sequence are gone, although they still stand."""


def directory_objects(connection: sqlite3.Connection, root: str, directory: str) -> dict[str, Fingerprint]:
    """Return the objects known directly in a directory: name to fingerprint."""
    rows = connection.execute(
        "SELECT name, size_bytes, mtime_ns, ctime_ns, inode, etag, access FROM object WHERE tree ="
        " (SELECT id FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1) AND path = ?2)"
        f" AND sequence > ({_DOOMED.format(path='?2')})",
        (root, key_to_bytes(directory)),
    )
    # Twice as fast as the class's own constructor, which counts at a million objects.
    new = tuple.__new__
    return {row[0].decode("utf-8", "surrogateescape"): new(Fingerprint, row[1:]) for row in rows}


def objects_named(connection: sqlite3.Connection, root: str, keys: Sequence[str]) -> dict[str, Fingerprint]:
    """Return those of these objects that are known: key to fingerprint."""
    by_directory: dict[str, list[bytes]] = {}
    for key in keys:
        cut = key.rfind("/") + 1
        by_directory.setdefault(key[:cut], []).append(key_to_bytes(key[cut:]))
    found: dict[str, Fingerprint] = {}
    for directory, names in by_directory.items():
        for start in range(0, len(names), _NAMES_AT_ONCE):
            found.update(_named(connection, root, directory, names[start : start + _NAMES_AT_ONCE]))
    return found


def _named(
    connection: sqlite3.Connection, root: str, directory: str, names: Sequence[bytes]
) -> Iterator[tuple[str, Fingerprint]]:
    # As many marks as names would make a statement of its own for each number; a few sizes are kept compiled.
    marks = next(size for size in _MARKS if size >= len(names))
    rows = connection.execute(
        "SELECT name, size_bytes, mtime_ns, ctime_ns, inode, etag, access FROM object WHERE tree ="
        " (SELECT id FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1) AND path = ?2)"
        f" AND sequence > ({_DOOMED.format(path='?2')}) AND name IN ({', '.join('?' * marks)})",
        (root, key_to_bytes(directory), *names, *[names[0]] * (marks - len(names))),
    )
    for name, *rest in rows:
        yield directory + key_to_text(name), Fingerprint(*rest)


def directory_page(
    connection: sqlite3.Connection, root: str, directory: str, after: str | None, *, limit: int
) -> list[tuple[str, Fingerprint]]:
    """
    Return up to ``limit`` of the objects known directly in a directory, in order, from behind a name on.

    ``None`` is the beginning: an object whose key ends with ``/`` has the empty name, which comes first.
    """
    above = "name > ?3" if after is not None else "?3 IS NULL"
    rows = connection.execute(
        "SELECT name, size_bytes, mtime_ns, ctime_ns, inode, etag, access FROM object WHERE tree ="
        " (SELECT id FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1) AND path = ?2)"
        f" AND {above} AND sequence > ({_DOOMED.format(path='?2')}) ORDER BY name LIMIT ?4",
        (root, key_to_bytes(directory), None if after is None else key_to_bytes(after), limit),
    )
    return [(key_to_text(name), Fingerprint(*rest)) for name, *rest in rows]


def directories_below(connection: sqlite3.Connection, root: str, prefix: str) -> list[str]:
    """Return every directory at or below ``prefix`` that holds known objects, in order."""
    raw = key_to_bytes(prefix)
    rows = connection.execute(
        "SELECT path FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1)"
        " AND path >= ?2 AND path < ?3 AND objects > 0"
        " AND (NOT EXISTS (SELECT 1 FROM doomed) OR EXISTS (SELECT 1 FROM object WHERE tree = tree.id"
        f" AND sequence > ({_DOOMED.format(path='path')}))) ORDER BY path",
        (root, raw, prefix_end_bytes(raw)),
    )
    return [key_to_text(path) for (path,) in rows]


def is_seeded(connection: sqlite3.Connection, root: str) -> bool:
    """Return whether a first listing of this root was finished."""
    row = connection.execute("SELECT seeded FROM root WHERE name = ?", (root,)).fetchone()
    return bool(row and row[0])


def mark_seeded(connection: sqlite3.Connection, names: Names, root: str) -> None:
    """Note that the first listing of this root is finished."""
    connection.execute("UPDATE root SET seeded = 1 WHERE id = ?", (names.root(connection, root),))


class Progress(NamedTuple):
    """How far a backfill got."""

    after: str
    """The last key whose needs are durable."""
    listed: int
    finished: bool


def progress(connection: sqlite3.Connection, listing: str) -> Progress | None:
    """Return how far a backfill of this listing got, ``None`` where none was begun."""
    row = connection.execute("SELECT after, listed, finished FROM backfill WHERE id = ?", (listing,)).fetchone()
    return None if row is None else Progress(key_to_text(row[0]), row[1], bool(row[2]))


def save_progress(connection: sqlite3.Connection, listing: str, state: Progress, *, now: float) -> None:
    """Keep how far a backfill got."""
    connection.execute(
        "INSERT OR REPLACE INTO backfill (id, after, listed, finished, updated_at) VALUES (?, ?, ?, ?, ?)",
        (listing, key_to_bytes(state.after), state.listed, state.finished, now),
    )


_OLD = (
    """DELETE FROM attempt WHERE id IN
       (SELECT id FROM attempt WHERE active = 0 AND finished_at < :before LIMIT :limit)""",
    """DELETE FROM ledger WHERE (account, kind, window_start) IN
       (SELECT account, kind, window_start FROM ledger WHERE window_start < :before AND held = 0 LIMIT :limit)""",
    """DELETE FROM backfill WHERE id IN (SELECT id FROM backfill WHERE updated_at < :before LIMIT :limit)""",
    """DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < :before LIMIT :limit)""",
    """DELETE FROM control WHERE (kind, target, prefix) IN
       (SELECT kind, target, prefix FROM control WHERE until <= :now LIMIT :limit)""",
    """DELETE FROM dropped WHERE (source, kind) IN
       (SELECT source, kind FROM dropped WHERE last_at < :before LIMIT :limit)""",
    """DELETE FROM gone WHERE (root, key, below) IN
       (SELECT root, key, below FROM gone WHERE at < :gone_before LIMIT :limit)""",
    """DELETE FROM heard WHERE (root, key) IN (SELECT root, key FROM heard WHERE at < :heard_before LIMIT :limit)""",
    """DELETE FROM message WHERE number IN
       (SELECT number FROM message WHERE at < :message_before ORDER BY number LIMIT :limit)""",
)
_EMPTY = (
    """DELETE FROM directory WHERE id > :after AND id <= :to AND ready = 0
       AND NOT EXISTS (SELECT 1 FROM need WHERE need.directory = directory.id)""",
    """DELETE FROM tree WHERE id > :after AND id <= :to AND objects = 0
       AND NOT EXISTS (SELECT 1 FROM object WHERE object.tree = tree.id)""",
)


def remove_old(connection: sqlite3.Connection, *, before: float, now: float, limit: int) -> bool:
    """
    Remove one slice of what is older than ``before`` or of no more use; return whether to go on.

    What the running quota day was spent on is still to be counted, and stays however short the history is.
    """
    if remove_doomed(connection, limit):
        return True
    # An unconfirmed file attempt whose need was changed, settled or discarded since covers nothing any more.
    connection.execute(
        "UPDATE attempt SET active = 0, finished_at = :now WHERE active = 1 AND state = 'unconfirmed'"
        " AND kind <> 'directory' AND NOT EXISTS (SELECT 1 FROM need WHERE need.attempt = attempt.id)",
        {"now": now},
    )
    left = limit
    for statement in _OLD:
        values = {
            "before": min(before, window_start(now)),
            "gone_before": now - GONE_SECONDS,
            "heard_before": now - HEARD_SECONDS,
            "message_before": now - KEPT_SECONDS,
            "now": now,
            "limit": left,
        }
        left -= connection.execute(statement, values).rowcount
    return left <= 0


class Configured(NamedTuple):
    """The names that the configuration has."""

    sources: frozenset[str]
    accounts: frozenset[str]
    roots: frozenset[str]
    """Of storages, as changes name them."""


def retire(
    connection: sqlite3.Connection, *, names: Names, configured: Configured, before: float, now: float, limit: int
) -> bool:
    """
    Remove one slice of what is kept of names that are configured no longer, and were not since ``before``.

    Of a storage that is its index; a source that returns later begins with a first scan. Needs stay: a URL is stale
    whatever the configuration says. Return whether to go on.
    """
    sources, accounts, roots = (json.dumps(sorted(each)) for each in configured)
    for table, kept in (("source", sources), ("account", accounts)):
        connection.execute(
            f"DELETE FROM {table} WHERE told_at < ? AND name NOT IN (SELECT value FROM json_each(?))", (before, kept)
        )
    connection.execute(
        "UPDATE root SET used_at = ? WHERE used_at IS NULL OR name IN (SELECT value FROM json_each(?))", (now, roots)
    )
    for (root,) in connection.execute("SELECT id FROM root WHERE used_at < ?", (before,)).fetchall():
        if _retire_root(connection, root, limit):
            return True
        names.clear()  # its id may be gone
    return False


def _retire_root(connection: sqlite3.Connection, root: int, limit: int) -> bool:
    """Remove one slice of a storage's rows, at last its name; return whether to go on."""
    has_objects = "SELECT 1 FROM tree JOIN object ON object.tree = tree.id WHERE root = ? LIMIT 1"
    if connection.execute(has_objects, (root,)).fetchone():
        connection.execute(
            "INSERT OR REPLACE INTO doomed (root, prefix, sequence) SELECT ?, x'', sequence FROM meta", (root,)
        )
        return remove_doomed(connection, limit)
    gone = 0
    for table in ("gone", "heard", "doomed"):
        key = {"gone": "key, below", "heard": "key", "doomed": "prefix"}[table]
        gone += connection.execute(
            f"DELETE FROM {table} WHERE (root, {key}) IN (SELECT root, {key} FROM {table} WHERE root = ? LIMIT ?)",
            (root, limit),
        ).rowcount
    if gone:
        return True
    connection.execute("DELETE FROM root WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM tree WHERE root = ?1)", (root,))
    return False


GIVEN_BACK_PAGES = 256
"""Pages (of 4 KiB) that one commit gives back: a MiB, some milliseconds."""


def give_back(connection: sqlite3.Connection) -> bool:
    """Give a slice of the file's free pages back to the disk; return whether to go on. A twentieth stays for reuse."""
    pages, free, mode = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "auto_vacuum")
    )
    if mode != INCREMENTAL or free <= max(GIVEN_BACK_PAGES, pages // 20):
        return False
    connection.execute(f"PRAGMA incremental_vacuum({GIVEN_BACK_PAGES})").fetchall()
    return True


def remove_empty(connection: sqlite3.Connection, names: Names, *, after: int, limit: int) -> int | None:
    """Remove the empty directories among the next ``limit`` ids; return where to go on, ``None`` at the end."""
    last = connection.execute("SELECT max((SELECT max(id) FROM directory), (SELECT max(id) FROM tree))").fetchone()[0]
    if sum(connection.execute(statement, {"after": after, "to": after + limit}).rowcount for statement in _EMPTY):
        names.clear()
    return after + limit if last is not None and after + limit < last else None
