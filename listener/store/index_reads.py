"""What sources and scans read of the index, and whether a storage was listed once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.store.names import Names, prefix_end_bytes

__all__ = [
    "directories_below",
    "directory_objects",
    "directory_page",
    "is_seeded",
    "mark_seeded",
    "objects_named",
]

_MARKS = (1, 8, 64, 512)
_NAMES_AT_ONCE = _MARKS[-1]


_PENDING_DELETE = """
SELECT coalesce(max(sequence), -1) FROM pending_delete WHERE root = (SELECT id FROM root WHERE name = ?1)
  AND (prefix = x'' OR prefix = substr({path}, 1, length(prefix)))
"""
"""Rows up to this sequence are gone, although they still stand."""


def directory_objects(connection: sqlite3.Connection, root: str, directory: str) -> dict[str, Fingerprint]:
    """Return the objects known directly in a directory: name to fingerprint."""
    rows = connection.execute(
        "SELECT name, size_bytes, mtime_ns, ctime_ns, inode, etag, access FROM object WHERE tree ="
        " (SELECT id FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1) AND path = ?2)"
        f" AND sequence > ({_PENDING_DELETE.format(path='?2')})",
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
        f" AND sequence > ({_PENDING_DELETE.format(path='?2')}) AND name IN ({', '.join('?' * marks)})",
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
        f" AND {above} AND sequence > ({_PENDING_DELETE.format(path='?2')}) ORDER BY name LIMIT ?4",
        (root, key_to_bytes(directory), None if after is None else key_to_bytes(after), limit),
    )
    return [(key_to_text(name), Fingerprint(*rest)) for name, *rest in rows]


def directories_below(connection: sqlite3.Connection, root: str, prefix: str) -> list[str]:
    """Return every directory at or below ``prefix`` that holds known objects, in order."""
    raw = key_to_bytes(prefix)
    rows = connection.execute(
        "SELECT path FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1)"
        " AND path >= ?2 AND path < ?3 AND objects > 0"
        " AND (NOT EXISTS (SELECT 1 FROM pending_delete) OR EXISTS (SELECT 1 FROM object WHERE tree = tree.id"
        f" AND sequence > ({_PENDING_DELETE.format(path='path')}))) ORDER BY path",
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
