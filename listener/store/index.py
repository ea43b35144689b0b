"""The index: what each storage is known to hold, directory by directory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.store.names import Names, prefix_end_bytes

__all__ = ["IndexWriter", "remove_doomed", "weight_below"]

_PUT_NEW = """
INSERT OR IGNORE INTO object (tree, name, size_bytes, mtime_ns, ctime_ns, inode, etag, sequence)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
"""
_PUT_KNOWN = """
UPDATE object SET size_bytes = ?3, mtime_ns = ?4, ctime_ns = ?5, inode = ?6, etag = ?7, sequence = ?8
WHERE tree = ?1 AND name = ?2 AND sequence <> ?8
"""
_UNKNOWN = Fingerprint()
ObjectRow = tuple[int, bytes, int | None, int | None, int | None, int | None, str | None, int]


def _split(key: str) -> tuple[bytes, bytes]:
    """Return the directory of a key (``b""`` or ending with ``/``) and the rest."""
    raw = key_to_bytes(key)
    at = raw.rfind(b"/") + 1
    return raw[:at], raw[at:]


class IndexWriter:
    """The index as one batch changes it; rows are gathered by directory and written by :meth:`flush`."""

    def __init__(self, connection: sqlite3.Connection, names: Names) -> None:
        """Take the writing connection, inside a transaction."""
        self._connection = connection
        self._names = names
        self._puts: dict[int, list[ObjectRow]] = {}

    def _place(self, root: str, key: str) -> tuple[int, bytes]:
        path, name = _split(key)
        return self._names.tree(self._connection, self._names.root(self._connection, root), path), name

    def put(self, root: str, key: str, fingerprint: Fingerprint | None, sequence: int) -> None:
        """Note that the storage holds this object."""
        tree, name = self._place(root, key)
        self._puts.setdefault(tree, []).append((tree, name, *(fingerprint or _UNKNOWN), sequence))

    def flush(self) -> None:
        """Write what was put; each directory's count follows from what was new in it."""
        for tree, rows in self._puts.items():
            rows.sort(key=lambda row: row[1])
            new = self._connection.executemany(_PUT_NEW, rows).rowcount
            if new < len(rows):
                self._connection.executemany(_PUT_KNOWN, rows)
            if new:
                self._connection.execute("UPDATE tree SET objects = objects + ? WHERE id = ?", (new, tree))
        self._puts.clear()

    def remove(self, root: str, key: str, sequence: int, now: float) -> None:
        """Note that the storage no longer holds this object."""
        self.flush()
        tree, name = self._place(root, key)
        removed = self._connection.execute("DELETE FROM object WHERE tree = ? AND name = ?", (tree, name)).rowcount
        if removed:
            self._connection.execute("UPDATE tree SET objects = objects - 1 WHERE id = ?", (tree,))
        self._connection.execute(
            "INSERT OR REPLACE INTO gone (root, key, sequence, at) VALUES (?, ?, ?, ?)",
            (self._names.root(self._connection, root), key_to_bytes(key), sequence, now),
        )

    def newer(self, root: str, key: str, sequence: int) -> bool:
        """Tell whether the index learned of this key after ``sequence``."""
        self.flush()
        tree, name = self._place(root, key)
        row = self._connection.execute(
            "SELECT sequence FROM object WHERE tree = ?1 AND name = ?2 UNION ALL"
            " SELECT sequence FROM gone WHERE root = ?3 AND key = ?4",
            (tree, name, self._names.root(self._connection, root), key_to_bytes(key)),
        ).fetchall()
        return any(found > sequence for (found,) in row)

    def fingerprint(self, root: str, key: str) -> Fingerprint | None:
        """Return what was last known of an object, ``None`` where it is not known."""
        row = self._connection.execute(
            "SELECT size_bytes, mtime_ns, ctime_ns, inode, etag FROM object WHERE tree = ? AND name = ?",
            self._place(root, key),
        ).fetchone()
        return None if row is None else Fingerprint(*row)

    def seeded(self, root: str) -> bool:
        """Tell whether a first listing of this root was finished."""
        root_id = self._names.root(self._connection, root)
        return bool(self._connection.execute("SELECT seeded FROM root WHERE id = ?", (root_id,)).fetchone()[0])

    def count_below(self, root: str, prefix: str) -> int:
        """Return how many objects are known below a prefix."""
        return weight_below(self._connection, root, prefix)

    def keys_below(self, root: str, prefix: str) -> list[str]:
        """Return the keys known below a prefix; only for small subtrees."""
        self.flush()
        return list(_keys_below(self._connection, root, prefix))

    def doom(self, root: str, prefix: str, sequence: int) -> None:
        """Have everything known below a prefix removed, later and in slices."""
        self.flush()
        self._connection.execute(
            "INSERT OR REPLACE INTO doomed (root, prefix, sequence) VALUES (?, ?, ?)",
            (self._names.root(self._connection, root), key_to_bytes(prefix), sequence),
        )


def weight_below(connection: sqlite3.Connection, root: str, prefix: str) -> int:
    """Return how many objects the index knows below a prefix (``""`` or ending with ``/``)."""
    raw = key_to_bytes(prefix)
    row = connection.execute(
        "SELECT coalesce(sum(objects), 0) FROM tree WHERE root = (SELECT id FROM root WHERE name = ?)"
        " AND path >= ? AND path < ?",
        (root, raw, prefix_end_bytes(raw)),
    ).fetchone()
    return int(row[0])


def _keys_below(connection: sqlite3.Connection, root: str, prefix: str) -> Iterator[str]:
    raw = key_to_bytes(prefix)
    rows = connection.execute(
        "SELECT path, object.name FROM tree JOIN object ON object.tree = tree.id"
        " WHERE root = (SELECT id FROM root WHERE name = ?) AND path >= ? AND path < ? ORDER BY path, object.name",
        (root, raw, prefix_end_bytes(raw)),
    )
    for path, name in rows:
        yield key_to_text(path + name)


def remove_doomed(connection: sqlite3.Connection, limit: int) -> bool:
    """Remove up to ``limit`` index rows of doomed subtrees; return whether any may be left."""
    doomed = connection.execute("SELECT root, prefix, sequence FROM doomed LIMIT 1").fetchone()
    if doomed is None:
        return False
    root, prefix, sequence = doomed
    rows = connection.execute(
        "SELECT tree.id, object.name FROM tree JOIN object ON object.tree = tree.id"
        " WHERE root = ? AND path >= ? AND path < ? AND object.sequence <= ? LIMIT ?",
        (root, prefix, prefix_end_bytes(prefix), sequence, limit),
    ).fetchall()
    connection.executemany("DELETE FROM object WHERE tree = ? AND name = ?", rows)
    connection.executemany("UPDATE tree SET objects = objects - 1 WHERE id = ?", [(tree,) for tree, _ in rows])
    if len(rows) < limit:
        connection.execute("DELETE FROM doomed WHERE root = ? AND prefix = ?", (root, prefix))
    return True
