"""The index: what each storage is known to hold, directory by directory."""

from __future__ import annotations

import sqlite3
from collections import Counter
from operator import itemgetter

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.store.names import Names, prefix_end_bytes
from listener.store.rows import Upsert, missed_rows
from listener.urls import decode_path

__all__ = ["IndexWriter", "objects_in", "objects_named", "remove_pending", "weight_below"]

_PUT_NEW = """
INSERT OR IGNORE INTO object (tree, name, size_bytes, mtime_ns, ctime_ns, inode, etag, access, sequence)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
"""
_PUT_KNOWN = """
UPDATE object SET size_bytes = ?3, mtime_ns = ?4, ctime_ns = ?5, inode = ?6, access = ?8, sequence = ?9,
  -- what says nothing of the content leaves what is known of an untouched file
  etag = CASE WHEN ?7 IS NULL AND size_bytes = ?3 AND mtime_ns = ?4 AND ctime_ns = ?5 AND inode = ?6
    THEN etag ELSE ?7 END
WHERE tree = ?1 AND name = ?2
"""
_TOMBSTONE = "INSERT OR REPLACE INTO tombstone (root, key, below, sequence, at) VALUES (?, ?, ?, ?, ?)"
_UNKNOWN = Fingerprint()
_TREE = itemgetter(0)
_PLACE = itemgetter(0, 1)
ObjectRow = tuple[int, bytes, int | None, int | None, int | None, int | None, str | None, int | None, int]


class IndexWriter:
    """The index as batches change it; rows are gathered and written by :meth:`flush`. Lives in the writing thread."""

    def __init__(self, names: Names) -> None:
        """Take the id cache of the writing thread."""
        self._names = names
        self._upsert = Upsert()
        self._puts: list[ObjectRow] = []
        self._removed: dict[tuple[int, bytes], tuple[object, ...]] = {}

    def begin(self, connection: sqlite3.Connection) -> None:
        """Take the connection, in a transaction; what an undone batch left is forgotten."""
        self._connection = connection
        self._puts = []
        self._removed = {}

    def _place(self, root: str, key: str) -> tuple[int, bytes]:
        at = key.rfind("/") + 1
        return self._names.tree(self._connection, root, key[:at]), key_to_bytes(key[at:])

    def put(self, root: str, key: str, fingerprint: Fingerprint | None, sequence: int) -> None:
        """Note that the storage holds this object."""
        at = key.rfind("/") + 1
        tree, name = self._names.tree(self._connection, root, key[:at]), key[at:].encode("utf-8", "surrogateescape")
        if self._removed and (tree, name) in self._removed:
            self.flush()
        size, mtime, ctime, inode, etag, access = fingerprint or _UNKNOWN
        self._puts.append((tree, name, size, mtime, ctime, inode, etag, access, sequence))

    def flush(self) -> None:
        """Write what was put and removed; each directory's count follows from what was new in it."""
        if self._puts:
            self._flush_puts()
        if self._removed:
            self._flush_removed()

    def _flush_puts(self) -> None:
        rows = sorted(self._puts, key=_PLACE)
        self._puts = []
        tried, known = self._upsert.write(self._connection, rows, insert=_PUT_NEW, updates=(_PUT_KNOWN,))
        new = Counter(map(_TREE, tried))
        new.subtract(map(_TREE, known))
        self._count(new)

    def _flush_removed(self) -> None:
        rows = sorted(self._removed)
        missed = missed_rows(self._connection, "DELETE FROM object WHERE tree = ? AND name = ?", rows)
        less = Counter(map(_TREE, missed))
        less.subtract(map(_TREE, rows))
        self._count(less)
        self._connection.executemany(_TOMBSTONE, list(self._removed.values()))
        self._removed = {}

    def _count(self, more: Counter[int]) -> None:
        self._connection.executemany(
            "UPDATE tree SET objects = objects + ?2 WHERE id = ?1", [item for item in more.items() if item[1]]
        )

    def remove(self, root: str, key: str, sequence: int, now: float) -> None:
        """Note that the storage no longer holds this object."""
        root_id = self._names.root(self._connection, root)
        self._removed[self._place(root, key)] = (root_id, key_to_bytes(key), False, sequence, now)

    def newer(self, root: str, key: str, sequence: int) -> bool:
        """Return whether the index, apart from what waits to be flushed, learned of this key after ``sequence``."""
        if self._newest("SELECT sequence FROM object WHERE tree = ? AND name = ?", self._place(root, key)) > sequence:
            return True
        root_id, raw = self._names.root(self._connection, root), key_to_bytes(key)
        if (
            self._newest("SELECT sequence FROM tombstone WHERE root = ? AND key = ? AND below = 0", (root_id, raw))
            > sequence
        ):
            return True
        below = "SELECT sequence FROM tombstone WHERE root = ? AND key = ? AND below = 1"
        return any(self._newest(below, (root_id, above)) > sequence for above in _above(raw))

    def _newest(self, query: str, values: tuple[object, ...]) -> int:
        row = self._connection.execute(query, values).fetchone()
        return -1 if row is None else int(row[0])

    def fingerprint(self, root: str, key: str) -> Fingerprint | None:
        """Return what was last known of an object, ``None`` where it is not known."""
        row = self._connection.execute(
            "SELECT size_bytes, mtime_ns, ctime_ns, inode, etag, access FROM object WHERE tree = ? AND name = ?",
            self._place(root, key),
        ).fetchone()
        return None if row is None else Fingerprint(*row)

    def seeded(self, root: str) -> bool:
        """Return whether a first listing of this root was finished."""
        root_id = self._names.root(self._connection, root)
        return bool(self._connection.execute("SELECT seeded FROM root WHERE id = ?", (root_id,)).fetchone()[0])

    def keys_below(self, root: str, prefix: str, *, most: int) -> list[str] | None:
        """Return the keys known below a prefix, ``None`` when they are more than ``most``."""
        raw = key_to_bytes(prefix)
        rows = self._connection.execute(
            "SELECT path, object.name FROM tree JOIN object ON object.tree = tree.id"
            " WHERE root = ? AND path >= ? AND path < ? AND objects > 0 ORDER BY path, object.name LIMIT ?",
            (self._names.root(self._connection, root), raw, prefix_end_bytes(raw), most + 1),
        ).fetchall()
        return None if len(rows) > most else [key_to_text(path + name) for path, name in rows]

    def delete_below(self, root: str, prefix: str, *, known_to: int, sequence: int, now: float) -> None:
        """Have everything below a prefix that was known up to ``known_to`` removed, later and in slices."""
        root_id, raw = self._names.root(self._connection, root), key_to_bytes(prefix)
        self._connection.execute(
            "INSERT INTO pending_delete (root, prefix, sequence) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET sequence = max(sequence, excluded.sequence), after = x''",
            (root_id, raw, known_to),
        )
        self._connection.execute(_TOMBSTONE, (root_id, raw, True, sequence, now))


def _above(key: bytes) -> list[bytes]:
    """Return the directories that hold a key, the storage itself first."""
    parts = key.split(b"/")[:-1]
    return [b"".join(part + b"/" for part in parts[:depth]) for depth in range(len(parts) + 1)]


def weight_below(connection: sqlite3.Connection, root: str, prefix: str) -> int:
    """Return how many objects the index knows below a prefix (``""`` or ending with ``/``)."""
    raw = key_to_bytes(prefix)
    row = connection.execute(
        "SELECT coalesce(sum(objects), 0) FROM tree WHERE root = (SELECT id FROM root WHERE name = ?)"
        " AND path >= ? AND path < ?",
        (root, raw, prefix_end_bytes(raw)),
    ).fetchone()
    return int(row[0])


def objects_in(connection: sqlite3.Connection, root: str, folder: str) -> int:
    """Return how many objects the index knows directly in a folder (``""`` or ending with ``/``)."""
    row = connection.execute(_IN_FOLDER.format("objects"), (root, key_to_bytes(folder))).fetchone()
    return 0 if row is None else int(row[0])


def objects_named(connection: sqlite3.Connection, root: str, folder: str, directory: int) -> int:
    """
    Return how many of a folder's known objects the ready needs of a directory URL are about.

    An object with several URLs counts once, one that was deleted not at all.
    """
    connection.create_function("object_name", 1, _object_name, deterministic=True)
    row = connection.execute(
        f"SELECT count(*) FROM object WHERE tree = ({_IN_FOLDER.format('id')}) AND name IN"
        " (SELECT object_name(name) FROM need WHERE directory = ? AND state = 1 AND scope IN (0, 1))",
        (root, key_to_bytes(folder), directory),
    ).fetchone()
    return int(row[0])


_IN_FOLDER = "SELECT {} FROM tree WHERE root = (SELECT id FROM root WHERE name = ?) AND path = ?"


def _object_name(url_name: str) -> bytes:
    return decode_path(url_name.partition("?")[0])


def remove_pending(connection: sqlite3.Connection, limit: int) -> bool:
    """Remove up to ``limit`` index rows of deleted subtrees; return whether any may be left."""
    pending = connection.execute("SELECT root, prefix, after, sequence FROM pending_delete LIMIT 1").fetchone()
    if pending is None:
        return False
    root, prefix, after, sequence = pending
    rows = connection.execute(
        "SELECT tree.id, object.name, path FROM tree JOIN object ON object.tree = tree.id"
        " WHERE root = ? AND path >= max(?, ?) AND path < ? AND object.sequence <= ? ORDER BY path LIMIT ?",
        (root, prefix, after, prefix_end_bytes(prefix), sequence, limit),
    ).fetchall()
    connection.executemany("DELETE FROM object WHERE tree = ? AND name = ?", [row[:2] for row in rows])
    connection.executemany(
        "UPDATE tree SET objects = objects - ?2 WHERE id = ?1", list(Counter(map(_TREE, rows)).items())
    )
    if len(rows) < limit:
        connection.execute("DELETE FROM pending_delete WHERE root = ? AND prefix = ?", (root, prefix))
    else:
        connection.execute(
            "UPDATE pending_delete SET after = ? WHERE root = ? AND prefix = ?", (rows[-1][2], root, prefix)
        )
    return True
